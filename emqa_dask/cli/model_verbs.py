"""The verbs that make models or fit them: calibrate, rescore, train detector, import detector."""

import argparse

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings
from emqa_dask.cli.run_verbs import check_workspace
from emqa_dask.settings import Settings, SettingsError


def add_calibrate(verbs) -> None:
    """`emqa calibrate`."""
    calibrate = verbs.add_parser(
        "calibrate",
        help="fit trust and predicted F1 to a few labelled images of a run",
        description="Choose detector, score floor, quality model and limit of trust by micrographs of WS in LABELS; "
        "20 to 50 are worth the while. No detector runs. All of it goes into the workspace and its settings; `emqa "
        "rescore WS` shows what changes.",
        epilog="example: emqa calibrate session.emqa labels.json --figures f1",
    )
    calibrate.add_argument("workspace", metavar="WS")
    calibrate.add_argument(
        "labels",
        metavar="LABELS",
        nargs="+",
        help="labels of COCO, CVAT, VIA, YOLO, LabelMe or Fiji, or CSV files with the columns uri,y0,x0,y1,x1 (boxes), "
        "uri,y,x (points, px) or uri,n_objects (counts); a file's content tells its format; several together. The word "
        "reviewed: the decisions of emqa review serve",
    )
    calibrate.add_argument("--iou", metavar="X", type=float, help="IoU from which a box counts as found")
    calibrate.add_argument("--out", metavar="DIR", default="", help="folder for the models; default: WS/models")
    calibrate.add_argument(
        "--figures",
        metavar="DIR",
        default="",
        help="before that, write tables and figures of how well F1 is predicted to DIR, as `emqa study f1 WS LABELS "
        "--short` does, at the score floor that the run has",
    )
    add_settings(calibrate)
    calibrate.set_defaults(run=run_calibrate)


def run_calibrate(options: argparse.Namespace) -> int:
    """Quality models fitted to a few labelled micrographs of a workspace."""
    check_workspace(options.workspace)
    settings = read_settings(options, options.workspace)
    from emqa_dask.pipeline.commands.calibrate import calibrate

    arguments = {"detectors": options.detectors, "iou_threshold": options.iou, "out": options.out}
    if options.figures:
        _draw_figures(options, settings)
    return calibrate(options.workspace, options.labels, settings, **arguments, say=say)


def _draw_figures(options: argparse.Namespace, settings: Settings) -> None:
    """The short study of the labels, before anything of the workspace changes: it may refuse the labels."""
    from emqa_dask.pipeline.studies.f1.compute import F1Options
    from emqa_dask.pipeline.studies.f1.splits import SplitPlan
    from emqa_dask.pipeline.studies.f1.study import study_workspace

    study_workspace(
        options.workspace,
        options.labels,
        options.figures,
        settings,
        F1Options(short=True),
        SplitPlan({}, {}),
        options.detectors,
        options.iou,
        say,
    )


def add_rescore(verbs) -> None:
    """`emqa rescore`."""
    rescore = verbs.add_parser(
        "rescore",
        help="replay score floor, models and verdicts on what the detectors have left",
        description="Evidence, predictions, verdicts and the report of WS anew, in seconds: no pixel is read and no "
        "detector runs. Takes other models, score floors and limits.",
        epilog="example: emqa rescore session.emqa --set triage.trust_f1=0.7 --set featurise.score_floor=0.3",
    )
    rescore.add_argument("workspace", metavar="WS")
    add_settings(rescore)
    rescore.set_defaults(run=run_rescore)


def run_rescore(options: argparse.Namespace) -> int:
    """Evidence, predictions, verdicts and the report anew, without reading pixels."""
    check_workspace(options.workspace)
    settings = read_settings(options, options.workspace)
    from emqa_dask.pipeline.commands.rescore import rescore

    return rescore(options.workspace, settings, say=say)


def add_train(verbs):
    """`emqa train detector`; returns the action that takes further kinds of training."""
    train = verbs.add_parser("train", help="train the networks that other verbs run", description="Train networks.")
    subcommands = train.add_subparsers(dest="kind", metavar="WHAT", required=True)
    _add_train_detector(subcommands)
    return subcommands


def _add_train_detector(kinds) -> None:
    detector = kinds.add_parser(
        "detector",
        help="a Mask R-CNN from COCO JSON and images, or from reviewed images",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Train a Mask R-CNN on labelled micrographs: a model directory for `emqa triage --detector`.
Masks are polygons or run lengths; an annotation with a box alone counts as the ellipse that fills it. A share of the
images is held back, and the network that does best on them is kept. Interrupted, it goes on with --resume.""",
        epilog="""examples:
  emqa train detector --coco labels.json --images scans --out my-detector
  emqa train detector --coco labels.json --images scans --start cavity-tem --out my-detector    fine-tune: fewer labels
  emqa train detector --coco a.json --images a --coco b.json --images b --out both
  emqa train detector --reviewed session.emqa --start cavity-tem --out my-detector       what people accepted""",
    )
    detector.add_argument("--coco", metavar="FILE", action="append", default=[], help="may be given several times")
    detector.add_argument("--images", metavar="DIR", action="append", default=[], help="one for each --coco")
    detector.add_argument(
        "--reviewed",
        metavar="WS",
        action="append",
        default=[],
        help="images of a workspace that reviewers accepted (emqa review serve), with their boxes; may be given "
        "several times",
    )
    detector.add_argument("--out", metavar="MODEL_DIR", required=True)
    detector.add_argument("--start", metavar="MODEL", help="fine-tune this model directory or bundled detector")
    detector.add_argument("--frozen", action="store_true", help="with --start: leave the backbone as it is")
    detector.add_argument("--steps", metavar="N", type=int, help="of four crops each; default 3000, with --start 600")
    detector.add_argument("--learning-rate", metavar="X", type=float)
    detector.add_argument("--validation", metavar="SHARE", type=float, default=0.2, help="held back; default 0.2")
    detector.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    detector.add_argument("--seed", metavar="S", type=int, default=0)
    detector.add_argument("--licence", metavar="TEXT", default="not stated", help="of the weights, for the card")
    detector.add_argument("--resume", action="store_true", help="go on with what an interrupted training left")
    detector.set_defaults(run=run_train_detector)


def run_train_detector(options: argparse.Namespace) -> int:
    """A Mask R-CNN from labelled micrographs."""
    from emqa_dask.pipeline.commands.train_detector import train_detector
    from emqa_dask.train.detector import DetectorOptions

    if len(options.coco) != len(options.images):
        raise SettingsError(f"{len(options.coco)} --coco and {len(options.images)} --images: give one folder for each")
    sets = list(zip(options.coco, options.images, strict=True))
    detector_options = DetectorOptions(
        start=options.start,
        is_backbone_frozen=options.frozen,
        n_steps=options.steps,
        learning_rate=options.learning_rate,
        validation_share=options.validation,
        seed=options.seed,
        device=options.device,
        resume=options.resume,
        licence=options.licence,
    )
    train_detector(sets, options.out, detector_options, say, reviewed=options.reviewed)
    return 0


def add_import(verbs) -> None:
    """`emqa import detector`."""
    imports = verbs.add_parser("import", help="take over a checkpoint", description="Take over a checkpoint.")
    subcommands = imports.add_subparsers(dest="kind", metavar="WHAT", required=True)
    detector = subcommands.add_parser(
        "detector",
        help="a Mask R-CNN's .pth or .pkl as a model directory",
        description="Convert a checkpoint of detectron2 (with its config.yaml) or torchvision (with an "
        "architecture.toml, keys as in a bundled card's [architecture]) to a model directory. Nothing but tensors is "
        "read from it.",
    )
    detector.add_argument("checkpoint", metavar="CHECKPOINT", help=".pth, .pkl or .safetensors")
    architecture = detector.add_mutually_exclusive_group(required=True)
    architecture.add_argument("--config", metavar="YAML", help="detectron2's configuration")
    architecture.add_argument("--architecture", metavar="TOML", help="torchvision's architecture")
    detector.add_argument("--classes", metavar="NAME", nargs="+", required=True, help="in the order of the network")
    detector.add_argument("--out", metavar="MODEL_DIR", required=True)
    detector.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """A model directory from somebody's checkpoint."""
    from emqa_dask.pipeline.commands.train_detector import import_detector

    import_detector(options.checkpoint, options.out, options.classes, options.config, options.architecture)
    say(f"model directory {options.out}: emqa triage SRC --detector {options.out}")
    return 0
