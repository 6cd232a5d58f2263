"""emqa study uncertainty."""

import argparse

from emqa_dask.cli.ensemble_verb import make_curve_options, parse_shift_folders
from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings

DESCRIPTION = """What is a classifier's uncertainty worth on your labels (Zhang et al., ACS Omega 6 (2021) 12711)? One
network, MC dropout and a deep ensemble are trained on LABELS.csv (as for emqa train ensemble: uri, label and, if
wanted, split and group). Accuracy, likelihood and calibration (Table 1), accuracy under a shift (Table 2), learning
curves and labels needed (figure 4), risk and coverage (figure 5), ROC curves of entropy for each kind of shift (figures
7 to 9), histograms of entropy (figures 10 to 12). Kinds of shift without a folder of yours are made from the test
images."""
EXAMPLES = """examples:
  emqa study uncertainty labels.csv --out lots --target 0.95
  emqa study uncertainty labels.csv --shifted acquisition=new_filament --shifted new_class=other_powders
  emqa study uncertainty labels.csv --depth 10 --widen 1 --epochs 15 --members 4 --minutes 20     a quick one
  emqa study uncertainty labels.csv --scheduler cuda --set run.device=cuda     networks on every GPU"""


def add_uncertainty(kinds) -> None:
    """`emqa study uncertainty`."""
    study = kinds.add_parser(
        "uncertainty",
        help="what softmax, MC dropout and deep ensembles know of their errors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    study.add_argument("labels", metavar="LABELS.csv")
    study.add_argument("--out", metavar="DIR", default="study-uncertainty", help="default: study-uncertainty")
    study.add_argument("--images", metavar="DIR", default="", help="what uris start from; default: the CSV's folder")
    study.add_argument(
        "--shifted",
        metavar="KIND=DIR",
        action="append",
        default=[],
        help="images of your own that are out of domain: acquisition, new_class or unrelated; may be given several "
        "times; subfolders with names of classes hold images of that class",
    )
    study.add_argument("--target", metavar="X", type=float, default=0.95, help="accuracy for figure 4, default 0.95")
    study.add_argument(
        "--shares", metavar="X", type=float, nargs="+", help="of the labels for figure 4; default 0.1 0.2 ... 1"
    )
    study.add_argument("--unlabelled", metavar="DIR", default="", help="images for figure 4; default: the test images")
    _add_size(study)
    add_settings(study)
    study.set_defaults(run=run_study_uncertainty)


def _add_size(study: argparse.ArgumentParser) -> None:
    """The options that decide how long the study takes."""
    size = study.add_argument_group("size of the study")
    size.add_argument("--members", metavar="N", type=int, default=16, help="of the ensemble, default 16")
    size.add_argument("--curve-members", metavar="N", type=int, default=3, help="of ensembles of figure 4, default 3")
    size.add_argument("--minutes", metavar="M", type=float, help="begin no network after M minutes; run again for more")
    size.add_argument("--epochs", metavar="N", type=int, default=200, help="at most, of all labels; default 200")
    size.add_argument("--patience", metavar="N", type=int, default=100, help="without improvement; default 100")
    size.add_argument("--halve-every", metavar="N", type=int, default=50, help="epochs; default 50")
    size.add_argument("--batch", metavar="N", type=int, default=64, help="windows a step; default 64")
    size.add_argument("--learning-rate", metavar="X", type=float, default=1e-3, help="default 0.001")
    size.add_argument("--depth", metavar="N", type=int, default=16, help="of the wide ResNet; default 16")
    size.add_argument("--widen", metavar="N", type=int, default=2, help="of the wide ResNet; default 2")
    size.add_argument("--window", metavar="PX", type=int, default=64, help="side of what is looked at; default 64")
    size.add_argument("--whole", action="store_true", help="shrink images to a window instead of cutting them up")
    size.add_argument("--windows-per-image", metavar="N", type=int, default=4, help="at most; default 4")
    size.add_argument("--seed", metavar="S", type=int, default=0, help="of splits and networks, default 0")


def run_study_uncertainty(options: argparse.Namespace) -> int:
    """The study of uncertainty."""
    from emqa_dask.pipeline.studies.uncertainty.study import UncertaintyOptions, study_uncertainty
    from emqa_dask.train.ensemble_plan import EnsembleOptions
    from emqa_dask.train.schedules import MemberSchedule
    from emqa_dask.windows import WindowSettings

    settings = read_settings(options, None)
    schedule_names = ("epochs", "patience", "batch", "learning_rate", "halve_every")
    networks = EnsembleOptions(
        WindowSettings(options.window, options.whole, max_windows=options.windows_per_image),
        n_members=options.members,
        architecture={"depth": options.depth, "widen": options.widen},
        schedule=MemberSchedule(**{name: getattr(options, name) for name in schedule_names}),
        seed=options.seed,
    )
    study_options = UncertaintyOptions(
        networks,
        make_curve_options(options),
        parse_shift_folders(options.shifted),
        options.images,
        options.windows_per_image,
        options.minutes,
    )
    study_uncertainty(options.labels, options.out, settings, study_options, say)
    return 0
