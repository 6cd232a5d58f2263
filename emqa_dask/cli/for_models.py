"""Arguments of the verbs that make models or fit them: calibrate, rescore, train, import."""

import argparse

from emqa_dask.cli.options import add_settings


def add_models(verbs) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    calibrate = verbs.add_parser(
        "calibrate",
        help="fit the predicted F1, precision and recall to a few labelled images of a run",
        description="Fit what predicts F1, precision and recall to the micrographs of WS that LABELS, a COCO file, has "
        "true boxes for; 20 to 50 are worth the while. No detector runs. The models go into the workspace and its "
        "settings; `emqa rescore WS` shows what they change.",
    )
    calibrate.add_argument("workspace", metavar="WS")
    calibrate.add_argument("labels", metavar="LABELS", help="COCO JSON; file_name is the micrograph's URI or its end")
    calibrate.add_argument("--iou", metavar="X", type=float, help="IoU from which a box counts as found")
    calibrate.add_argument("--out", metavar="DIR", default="", help="folder for the models; default: WS/models")
    add_settings(calibrate)

    rescore = verbs.add_parser(
        "rescore",
        help="replay score floor, models and verdicts on what the detectors have left",
        description="Evidence, predictions, verdicts and the report of WS anew, in seconds: no pixel is read and no "
        "detector runs. Takes other models, score floors and limits.",
        epilog="example: emqa rescore session.emqa --set triage.trust_f1=0.7 --set featurise.score_floor=0.3",
    )
    rescore.add_argument("workspace", metavar="WS")
    add_settings(rescore)

    train = verbs.add_parser("train", help="train the networks that other verbs run", description="Train networks.")
    kinds = train.add_subparsers(dest="kind", metavar="WHAT", required=True)
    detector = kinds.add_parser(
        "detector",
        help="a Mask R-CNN from COCO JSON and images",
        formatter_class=raw,
        description="""Train a Mask R-CNN on labelled micrographs: a model directory for `emqa triage --detector`.
Masks are polygons or run lengths; an annotation with a box alone counts as the ellipse that fills it. A share of the
images is held back, and the network that does best on them is kept. Interrupted, it goes on with --resume.""",
        epilog="""examples:
  emqa train detector --coco labels.json --images scans --out my-detector
  emqa train detector --coco labels.json --images scans --start cavity-tem --out my-detector    fine-tune: fewer labels
  emqa train detector --coco a.json --images a --coco b.json --images b --out both""",
    )
    detector.add_argument("--coco", metavar="FILE", action="append", required=True, help="may be given several times")
    detector.add_argument("--images", metavar="DIR", action="append", required=True, help="one for each --coco")
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

    _add_ensemble(kinds)

    imports = verbs.add_parser("import", help="take over a checkpoint", description="Take over a checkpoint.")
    kinds = imports.add_subparsers(dest="kind", metavar="WHAT", required=True)
    detector = kinds.add_parser(
        "detector",
        help="a Mask R-CNN's .pth or .pkl as a model directory",
        description="Convert a checkpoint of detectron2 (with its config.yaml) or torchvision (with an "
        "architecture.toml, keys as in a bundled card's [architecture]) to a model directory. Nothing but tensors is "
        "read from it.",
    )
    detector.add_argument("checkpoint", metavar="CHECKPOINT", help=".pth, .pkl or .safetensors")
    how = detector.add_mutually_exclusive_group(required=True)
    how.add_argument("--config", metavar="YAML", help="detectron2's configuration")
    how.add_argument("--architecture", metavar="TOML", help="torchvision's architecture")
    detector.add_argument("--classes", metavar="NAME", nargs="+", required=True, help="in the order of the network")
    detector.add_argument("--out", metavar="MODEL_DIR", required=True)


def _add_ensemble(kinds) -> None:
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
    ensemble.add_argument("--seed", metavar="S", type=int, default=0)
    ensemble.add_argument("--licence", metavar="TEXT", default="not stated", help="of the weights, for the card")
    add_settings(ensemble)
