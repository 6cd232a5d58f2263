"""emqa study conditions: F1 over dose, defocus and pixel size."""

import argparse

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings
from emqa_dask.settings import SettingsError

EXAMPLES = """examples:
  emqa study conditions session.emqa/models/log --template hrtem-particles --specimens
  emqa study conditions MODEL --specimens 48 --dose 50 200 800 3200 --defocus -300 0 300 --pixel-size 0.1 0.15 0.2
  emqa study conditions MODEL --workspace session.emqa --labels labels.json --dose 100 200 400 --pixel-size 0.1 0.2 0.3

then, with the model that it writes:
  emqa triage /data/session --set predict.models='["study-conditions-model"]'"""


def add_conditions(studies) -> None:
    """`emqa study conditions`."""
    conditions = studies.add_parser(
        "conditions",
        help="how F1 depends on dose, defocus and pixel size, and what an image's conditions cost",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Acquire labelled images again under every combination of dose, defocus and pixel size, and
compare the detections of MODEL's detector with the truth. A smooth surface through the F1 goes onto the card of a copy
of MODEL. Drawn images are gold particles on carbon in HRTEM. Micrographs of a workspace get lower doses and larger
pixels only: no electron is added to a noisy image, and the defocus of a recorded one is not changed. Interrupted, the
same command goes on.""",
        epilog=EXAMPLES,
    )
    conditions.add_argument("model", metavar="MODEL", help="a quality model (emqa calibrate), which names its detector")
    conditions.add_argument(
        "--specimens", metavar="N", type=int, nargs="?", const=24, help="draw N labelled specimens, default 24"
    )
    conditions.add_argument("--workspace", metavar="WS", default="", help="take labelled micrographs of a workspace")
    conditions.add_argument(
        "--labels", metavar="FILE", nargs="+", default=[], help="with --workspace: boxes, in a format of emqa calibrate"
    )
    conditions.add_argument("--dose", metavar="X", type=float, nargs="+", help="of the grid, electrons per nm2")
    conditions.add_argument(
        "--defocus",
        metavar="X",
        type=float,
        nargs="+",
        help="of the grid, nm, negative for underfocus; with --specimens",
    )
    conditions.add_argument("--pixel-size", metavar="X", type=float, nargs="+", help="of the grid, nm")
    conditions.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same images; default 0")
    conditions.add_argument("--out", metavar="DIR", default="study-conditions", help="default: study-conditions")
    conditions.add_argument("--model-out", metavar="DIR", default="", help="the copy of MODEL; default: OUT-model")
    add_settings(conditions)
    conditions.set_defaults(run=run_study_conditions)


def run_study_conditions(options: argparse.Namespace) -> int:
    """F1 over imaging conditions."""
    from emqa_dask.pipeline.studies.conditions.study import ConditionsOptions, study_conditions

    if (options.specimens is None) == (not options.workspace):
        raise SettingsError(
            f"{options.model} comes without labelled images: give --specimens N to draw them, or --workspace WS and "
            "--labels FILE"
        )
    if options.workspace and options.defocus:
        raise SettingsError(
            "--defocus with --workspace: the defocus of a recorded image cannot be changed; leave it out"
        )
    if options.labels and not options.workspace:
        raise SettingsError("--labels without --workspace: name the workspace that has the labelled micrographs")
    axes = {"doses_e_per_nm2": options.dose, "defoci_nm": options.defocus, "pixels_nm": options.pixel_size}
    study_options = ConditionsOptions(
        seed=options.seed,
        **({} if options.specimens is None else {"n_images": options.specimens}),
        **{name: tuple(values) for name, values in axes.items() if values},
    )
    study_conditions(
        options.model,
        options.out,
        options.model_out or f"{options.out.rstrip('/')}-model",
        read_settings(options, options.workspace or None),
        study_options,
        workspace=options.workspace,
        labels=options.labels,
        say=say,
    )
    return 0
