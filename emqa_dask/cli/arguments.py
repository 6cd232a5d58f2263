"""What the command line takes: every verb, its arguments and the help that teaches them."""

import argparse
import sys

from emqa_dask import __version__
from emqa_dask.settings import template_names

STEPS = {
    "ingest": "read an archive into the workspace: catalog, OME-Zarr stacks, thumbnails",
    "detect": "find blobs in every stored micrograph",
    "classify": "let a classifier ensemble look at every stored micrograph",
    "featurise": "turn detections and pixels into features",
    "predict": "predict each micrograph's detection F1 and its distance from the known domain",
    "report": "give every file a verdict, write triage.parquet, triage.csv and the page",
}
DESCRIPTION = """Triage an archive of electron micrographs: which images can be trusted to a detector, which need a
person, which are outside what the detector knows, which are junk. One row, one verdict and a reason for every file."""
EPILOG = """examples:
  emqa triage /data/session --template cavity-tem      everything; the report is in ./session.emqa/report/
  emqa triage /data/session --dry-run                  what there is, and what it would cost
  emqa triage /data/session --scheduler slurm --settings slurm.toml     on a cluster, see cluster/README.md
  emqa status session.emqa --watch                     how far a run is
  emqa retry session.emqa --failed                     try again what failed
  emqa report session.emqa --set report.trust_f1=0.8   a stricter verdict; no pixel is read again
  emqa synthesise demo --profile demo --n 60 --seed 1  an archive with known answers

exit codes: 0 all ok; 2 finished, but some files failed (failures.parquet says why); 1 fatal; 130 interrupted (run the
same command again to go on)"""


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument("--settings", metavar="FILE", help="a TOML file; the one in the workspace shows every key")
    group.add_argument("--template", metavar="NAME", help=f"start from a use case: {', '.join(template_names())}")
    group.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change one setting, e.g. detect.threshold=0.2; may be given several times",
    )
    group.add_argument(
        "--scheduler",
        metavar="NAME",
        help="where the workers are: local (this machine), cuda (its GPUs), slurm, kubernetes, tcp://host:port or "
        "file:scheduler.json (a Dask scheduler that runs already), in-process (nowhere); most have a settings section",
    )
    group.add_argument(
        "--detector",
        metavar="NAME",
        action="append",
        default=[],
        dest="detectors",
        help="log, a bundled network by name (cavity-tem), or a model directory; several look side by side, and the "
        "verdict rests on the one that can be trusted more",
    )
    group.add_argument(
        "--classifier",
        metavar="MODEL_DIR",
        help="an ensemble (emqa train ensemble) that says each image's class, how sure that is, and what is out of "
        "domain, in which way",
    )
    group.add_argument("--workers", metavar="N", type=int, help="worker processes; default: one per core, or per GPU")


class _Parser(argparse.ArgumentParser):
    """argparse leaves with 2 on a wrong command line; here 2 means finished with failures, so a usage error is 1."""

    def error(self, message: str):
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}; `{self.prog} --help` explains\n")


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    whole = _Parser("emqa", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    whole.add_argument("--version", action="version", version=f"emqa_dask {__version__}")
    verbs = whole.add_subparsers(dest="verb", metavar="VERB", required=True)

    triage = verbs.add_parser(
        "triage",
        help="do it all: ingest, detect, classify, featurise, predict, report",
        description=(
            "Triage SRC: a folder, a .txt list of files, or an fsspec URI. It can be run again: finished work is kept, "
            "new files are added."
        ),
    )
    triage.add_argument("source", metavar="SRC")
    triage.add_argument("--workspace", metavar="WS", help="where results go; default: ./<name of SRC>.emqa")
    triage.add_argument(
        "--dry-run", action="store_true", help="say what there is and what it would cost; write nothing"
    )
    _add_settings(triage)

    for name, text in STEPS.items():
        step = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == "ingest":
            step.add_argument("source", metavar="SRC")
            step.add_argument("--workspace", metavar="WS", help="default: ./<name of SRC>.emqa")
        else:
            step.add_argument("workspace", metavar="WS")
        _add_settings(step)

    status = verbs.add_parser("status", help="say what is done and what failed", description="State of a workspace.")
    status.add_argument("workspace", metavar="WS")
    status.add_argument("--watch", action="store_true", help="say it again and again until no run is at work")
    status.add_argument("--every", metavar="SECONDS", type=float, default=10.0, help="with --watch; default 10")

    retry = verbs.add_parser(
        "retry",
        help="try again what failed",
        description="Try failed files and images again, with the workspace's settings or those given; finished work of "
        "other partitions is kept. Raise run.timeout_s or run.memory_gib for what hung or took too much memory.",
    )
    retry.add_argument("workspace", metavar="WS")
    retry.add_argument("--failed", action="store_true", required=True, help="what failures.parquet lists")
    retry.add_argument(
        "--stage", metavar="STAGE", help="only what failed in: ingest, store, thumbnail, detect, classify, featurise"
    )
    _add_settings(retry)

    synthesise = verbs.add_parser(
        "synthesise",
        help="write an archive of micrographs with known answers",
        description=(
            "Write synthetic micrographs with faults, in the formats people have, to OUT; the truth (COCO JSON, CSV of "
            "faults) goes beside it, into OUT.truth."
        ),
    )
    synthesise.add_argument("out", metavar="OUT")
    synthesise.add_argument("--profile", default="demo", help="default: demo; an unknown name lists them all")
    synthesise.add_argument("--n", type=int, default=60, help="micrographs to write, default 60")
    synthesise.add_argument("--seed", type=int, default=0, help="same seed, same archive; default 0")

    certificates = verbs.add_parser(
        "certificates",
        help="write certificates for TLS between client, scheduler and workers",
        description="Write ca.pem, cert.pem and key.pem into FOLDER, for --set run.tls=FOLDER: then client, scheduler "
        "and workers speak TLS only, and only with one another. Whoever has key.pem is let in; keep it to yourself.",
    )
    certificates.add_argument("folder", metavar="FOLDER")

    doctor = verbs.add_parser(
        "doctor",
        help="check this machine: versions, memory, disk, GPU; with --scheduler its workers, too",
        description="Check that this machine can run emqa_dask, and say what to do where it cannot. With --scheduler, "
        "look at the workers there, too.",
    )
    _add_settings(doctor)
    _add_tune(verbs)
    _add_models(verbs)
    return whole


def _add_models(verbs) -> None:
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
    _add_settings(calibrate)

    rescore = verbs.add_parser(
        "rescore",
        help="replay score floor, models and verdicts on what the detectors have left",
        description="Evidence, predictions, verdicts and the report of WS anew, in seconds: no pixel is read and no "
        "detector runs. Takes other models, score floors and limits.",
        epilog="example: emqa rescore session.emqa --set report.trust_f1=0.7 --set featurise.score_floor=0.3",
    )
    rescore.add_argument("workspace", metavar="WS")
    _add_settings(rescore)

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
  emqa train ensemble labels.csv --out lots --scheduler cuda --set detect.device=cuda     one member per GPU
  emqa triage scans --classifier lots""",
    )
    ensemble.add_argument("labels", metavar="LABELS.csv")
    ensemble.add_argument("--out", metavar="MODEL_DIR", required=True)
    ensemble.add_argument("--images", metavar="DIR", default="", help="what uris start from; default: the CSV's folder")
    ensemble.add_argument("--members", metavar="N", type=int, default=16, help="default 16")
    ensemble.add_argument("--min-members", metavar="N", type=int, default=0, help="be content with N; default: all")
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
    ensemble.add_argument("--seed", metavar="S", type=int, default=0)
    ensemble.add_argument("--licence", metavar="TEXT", default="not stated", help="of the weights, for the card")
    _add_settings(ensemble)


def _add_tune(verbs) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    tune = verbs.add_parser(
        "tune",
        help="choose the detector's settings by what physics says of the result; map disorder",
        description="Tools that tune themselves by rewards (Barakati et al.): emqa tune log, emqa tune order.",
    )
    kinds = tune.add_subparsers(dest="kind", metavar="WHAT", required=True)
    log = kinds.add_parser(
        "log",
        help="settings of the blob detector for every cohort",
        formatter_class=raw,
        description="""Tune the Laplacian-of-Gaussian detector for each cohort (instrument x magnification x folder) of
SRC, an archive or a workspace, and write a settings file that `emqa triage --settings` takes. Rewards judge what is
found: by default how far the number of objects is from the expected one, and how many lie too close together (with a
lattice) or end where the image has no edge (with a density; without either that alone). A Gaussian process asks for
the settings to try next. Rewards: count_error, signed_count_error, crowding, lattice_residual, disagreement,
size_prior, doubtful_count, doubtful_area.""",
        epilog="""examples:
  emqa tune log /data/session --lattice srtio3.toml --out tuned.toml
  emqa tune log session.emqa --count-per-um2 400 --cohort 'day1/*' --evaluations 60 --baselines
  emqa tune log session.emqa --reward mypackage.rewards:roundness --reward size_prior

a lattice file says one of
  a_nm = 0.3905, b_nm = 0.3905, gamma_deg = 90, columns = [[0, 0], [0.5, 0.5]]      the projected cell
  spacings_nm = [0.23, 0.20], angle_deg = 90, columns_per_cell = 1                  two spacings
  [crystal] a_nm, b_nm, c_nm, alpha_deg, beta_deg, gamma_deg, atoms = [[x, y, z], ...], zone_axis = [0, 0, 1]""",
    )
    log.add_argument("source", metavar="SRC")
    log.add_argument("--out", metavar="FILE", default="tuned.toml", help="default: tuned.toml")
    physics = log.add_mutually_exclusive_group()
    physics.add_argument("--lattice", metavar="FILE", default="", help="a TOML file with the crystal that is seen")
    physics.add_argument("--count-per-um2", metavar="X", type=float, default=0.0, help="expected objects per um^2")
    log.add_argument("--nm-per-pixel", metavar="NM", type=float, default=0.0, help="where headers do not say it")
    log.add_argument(
        "--reward",
        metavar="NAME",
        action="append",
        default=[],
        dest="rewards",
        help="what to minimise: a name, or package.module:function; several give a Pareto front",
    )
    log.add_argument("--evaluations", metavar="N", type=int, default=48, help="settings to try per cohort, default 48")
    log.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same search; default 0")
    log.add_argument("--method", choices=("bayes", "random", "evolution"), default="bayes", help="default: bayes")
    log.add_argument("--baselines", action="store_true", help="run the other methods, too, to compare with")
    log.add_argument(
        "--choose",
        choices=("euclidean", "chebyshev"),
        default="euclidean",
        help="distance to the ideal point by which one of the front is chosen; default: euclidean",
    )
    log.add_argument("--images", metavar="K", type=int, default=6, help="micrographs of each cohort, default 6")
    log.add_argument(
        "--windows",
        metavar="PX",
        type=int,
        default=0,
        help="map the best settings over each image, in windows of PX px",
    )
    order = kinds.add_parser(
        "order",
        help="disordered regions of lattice images",
        description="Map the disordered regions of the lattice images in SRC, an archive or a workspace: a row per "
        "image, a table of windows, a table of atoms and overlays, in OUT.",
    )
    order.add_argument("source", metavar="SRC")
    order.add_argument("--out", metavar="DIR", default="order", help="default: order")
    for parser in (log, order):
        parser.add_argument(
            "--cohort",
            metavar="GLOB",
            action="append",
            default=[],
            dest="cohorts",
            help="only micrographs whose URI matches, as one cohort; may be given several times",
        )
        parser.add_argument("--workspace", metavar="WS", help="where SRC is stored; default: ./<name of SRC>.emqa")
        _add_settings(parser)
