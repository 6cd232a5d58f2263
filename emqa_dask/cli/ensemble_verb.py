"""emqa train ensemble."""

import argparse
import os
from collections.abc import Sequence

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings
from emqa_dask.settings import SettingsError


def add_train_ensemble(kinds) -> None:
    """`emqa train ensemble`."""
    ensemble = kinds.add_parser(
        "ensemble",
        help="a classifier ensemble from a CSV of labels",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Train a classifier ensemble on labelled micrographs: a model directory that triage takes with
--classifier. LABELS.csv has the columns uri and label, and may have split (train, validation, test) and group: images
of one group stay on one side. Each member is trained by itself on a worker and resumes where it was stopped. From the
images that are held out come the card's figures and what counts as out of domain.""",
        epilog="""examples:
  emqa train ensemble labels.csv --out lots --members 16
  emqa train ensemble labels.csv --images scans --out lots --whole --window 128 --epochs 60
  emqa train ensemble labels.csv --out lots --scheduler cuda --set run.device=cuda     one member per GPU
  emqa train ensemble labels.csv --out lots --learning-curve --target 0.95     how many labels are needed?
  emqa train ensemble labels.csv --out lots --search 20
  emqa triage scans --classifier lots""",
    )
    ensemble.add_argument("labels", metavar="LABELS.csv")
    ensemble.add_argument("--out", metavar="MODEL_DIR", required=True)
    ensemble.add_argument("--images", metavar="DIR", default="", help="what uris start from; default: the CSV's folder")
    ensemble.add_argument("--members", metavar="N", type=int, default=16, help="default 16")
    ensemble.add_argument("--min-members", metavar="N", type=int, help="be content with N; default: all")
    ensemble.add_argument(
        "--method", choices=("ensemble", "softmax", "dropout"), default="ensemble", help="the last two have one member"
    )
    ensemble.add_argument("--window", metavar="PX", type=int, default=64, help="side of what is looked at; default 64")
    ensemble.add_argument("--whole", action="store_true", help="shrink images to a window instead of cutting them up")
    ensemble.add_argument(
        "--windows-per-image", metavar="N", type=int, default=36, help="at most, evenly placed; default 36"
    )
    ensemble.add_argument("--backbone", metavar="NAME", default="wide_resnet", help="or a classifier of torchvision")
    ensemble.add_argument("--depth", metavar="N", type=int, default=16, help="of the wide ResNet; default 16")
    ensemble.add_argument("--widen", metavar="N", type=int, default=2, help="of the wide ResNet; default 2")
    ensemble.add_argument("--dropout", metavar="P", type=float, help="default 0; with --method dropout 0.3")
    ensemble.add_argument("--epochs", metavar="N", type=int, default=200, help="at most; default 200")
    ensemble.add_argument("--patience", metavar="N", type=int, default=100, help="without improvement; default 100")
    ensemble.add_argument("--batch", metavar="N", type=int, default=64, help="windows a step; default 64")
    ensemble.add_argument("--learning-rate", metavar="X", type=float, default=1e-3, help="default 0.001")
    ensemble.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of training; the second is faster"
    )
    ensemble.add_argument("--halve-every", metavar="N", type=int, default=50, help="epochs; default 50")
    ensemble.add_argument(
        "--false-flags", metavar="SHARE", type=float, default=0.05, help="of in-domain images; default 0.05"
    )
    ensemble.add_argument(
        "--examples", metavar="N", type=int, default=480, help="of each kind of shift, made from held-out images"
    )
    ensemble.add_argument(
        "--shifted",
        metavar="KIND=DIR",
        action="append",
        default=[],
        help="images of your own that are out of domain: acquisition, new_class or unrelated; kinds are told apart "
        "better with them than with made examples alone",
    )
    _add_remaining_options(ensemble)
    add_settings(ensemble)
    ensemble.set_defaults(run=run_train_ensemble)


def _add_remaining_options(ensemble: argparse.ArgumentParser) -> None:
    """The options of the learning curve and of the search of hyperparameters, seed and licence."""
    ensemble.add_argument("--seed", metavar="S", type=int, default=0)
    ensemble.add_argument("--licence", metavar="TEXT", default="not stated", help="of the weights, for the card")
    curve = ensemble.add_argument_group("learning curve and search of hyperparameters")
    curve.add_argument(
        "--learning-curve",
        action="store_true",
        help="train on shares of the labels, too: accuracy on held-out images and confidence on unlabelled ones "
        "against the number of labels, as learning_curve.csv and learning_curve.png in MODEL_DIR",
    )
    curve.add_argument(
        "--target", metavar="X", type=float, default=0.95, help="accuracy whose number of labels is asked for; 0.95"
    )
    curve.add_argument(
        "--shares", metavar="X", type=float, nargs="+", default=None, help="of the labels; default 0.1 0.2 ... 1"
    )
    curve.add_argument(
        "--curve-members", metavar="N", type=int, default=3, help="of each ensemble of the curve; default 3"
    )
    curve.add_argument(
        "--unlabelled",
        metavar="DIR",
        default="",
        help="images for the confidence; default: the test images without their labels",
    )
    curve.add_argument(
        "--search",
        metavar="N",
        type=int,
        default=0,
        help="first try N sets of learning rate, weight decay, mirroring and width, one network each, chosen by "
        "Bayesian optimisation; the lowest validation loss wins; the trials are search.csv in MODEL_DIR",
    )


def run_train_ensemble(options: argparse.Namespace) -> int:
    """A classifier ensemble from a CSV of labels."""
    from emqa_dask.pipeline.commands.train_domain import DomainOptions
    from emqa_dask.pipeline.commands.train_ensemble import train_ensemble
    from emqa_dask.train.ensemble_plan import EnsembleOptions
    from emqa_dask.train.schedules import MemberSchedule
    from emqa_dask.windows import WindowSettings

    settings = read_settings(options, None)
    if settings.run.scheduler == "local":
        from emqa_dask.run.cluster import start_fork_server

        start_fork_server(("emqa_dask.pipeline.commands.train_ensemble",))
    dropout = options.dropout if options.dropout is not None else 0.3 if options.method == "dropout" else 0.0
    architecture = {"backbone": options.backbone, "dropout": dropout}
    if options.backbone == "wide_resnet":
        architecture |= {"depth": options.depth, "widen": options.widen}
    schedule_options = ("epochs", "patience", "batch", "learning_rate", "halve_every", "precision")
    ensemble_options = EnsembleOptions(
        WindowSettings(options.window, options.whole, max_windows=options.windows_per_image),
        n_members=options.members if options.method == "ensemble" else 1,
        method=options.method,
        architecture=architecture,
        schedule=MemberSchedule(**{name: getattr(options, name) for name in schedule_options}),
        seed=options.seed,
        licence=options.licence,
    )
    shifted = parse_shift_folders(options.shifted)
    train_ensemble(
        options.labels,
        options.out,
        settings,
        ensemble_options,
        images=options.images,
        windows_per_image=options.windows_per_image,
        min_members=options.min_members,
        domain_options=DomainOptions(options.false_flags, options.examples, shifted, settings.featurise.cs_mm),
        curve_options=make_curve_options(options) if options.learning_curve else None,
        n_trials=options.search,
        say=say,
    )
    return 0


def make_curve_options(options: argparse.Namespace):
    """The options of the learning curve."""
    from emqa_dask.pipeline.commands.ensemble_curve import CurveOptions
    from emqa_dask.train.label_shares import SHARES

    shares = tuple(options.shares) if options.shares else SHARES
    return CurveOptions(options.target, shares, options.curve_members, options.unlabelled)


def parse_shift_folders(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """KIND=DIR as pairs; SettingsError for another kind and a folder that is not there."""
    from emqa_dask.tables import SHIFTS

    shift_folders = []
    for text in texts:
        kind, _, folder = text.partition("=")
        if kind not in SHIFTS[1:] or not os.path.isdir(folder):
            raise SettingsError(f"--shifted {text}: write KIND=DIR with {', '.join(SHIFTS[1:])} and a folder of images")
        shift_folders.append((kind, folder))
    return tuple(shift_folders)
