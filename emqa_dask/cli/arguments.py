"""What the command line takes: every verb, its arguments and the help that teaches them."""

import argparse
import sys

from emqa_dask import __version__
from emqa_dask.cli.for_models import add_models
from emqa_dask.cli.for_tuning import add_tune
from emqa_dask.cli.options import add_settings

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
  emqa verify session.emqa                             is every stored byte as it was written?
  emqa report session.emqa --set triage.trust_f1=0.8   a stricter verdict; no pixel is read again
  emqa synthesise demo --profile demo --n 60 --seed 1  an archive with known answers

exit codes: 0 all ok; 2 finished, but some files failed (failures.parquet says why); 1 fatal; 130 interrupted (run the
same command again to go on)"""


class _Parser(argparse.ArgumentParser):
    """argparse leaves with 2 on a wrong command line; here 2 means finished with failures, so a usage error is 1."""

    def error(self, message: str):
        self.print_usage(sys.stderr)
        from emqa_dask.uris import printable

        self.exit(1, f"{self.prog}: {printable(message)}; `{self.prog} --help` explains\n")


def _add_moved_from(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--moved-from",
        metavar="OLD",
        help="SRC is the archive that was OLD, moved, renamed or mounted elsewhere: go on with its workspace",
    )


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
    _add_moved_from(triage)
    triage.add_argument(
        "--dry-run", action="store_true", help="say what there is and what it would cost; write nothing"
    )
    add_settings(triage)

    for name, text in STEPS.items():
        step = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == "ingest":
            step.add_argument("source", metavar="SRC")
            step.add_argument("--workspace", metavar="WS", help="default: ./<name of SRC>.emqa")
            _add_moved_from(step)
        else:
            step.add_argument("workspace", metavar="WS")
        add_settings(step)

    status = verbs.add_parser("status", help="say what is done and what failed", description="State of a workspace.")
    status.add_argument("workspace", metavar="WS")
    status.add_argument("--watch", action="store_true", help="say it again and again until no run is at work")
    status.add_argument("--every", metavar="SECONDS", type=float, default=10.0, help="with --watch; default 10")

    verify = verbs.add_parser(
        "verify",
        help="read every stored file and say which are damaged",
        description="Hold every file of WS against its checksum: tables, pixels, settings, models, outputs. What is "
        "damaged is put aside in WS/damaged/, and the next `emqa triage` makes it again. Every run does this, too, for "
        "stored pixels up to store.verify_gib.",
    )
    verify.add_argument("workspace", metavar="WS")

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
    add_settings(retry)

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
    add_settings(doctor)
    add_tune(verbs)
    add_models(verbs)
    return whole
