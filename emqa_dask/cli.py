"""emqa <verb>: parse, call, print. Exit codes: 0 all ok, 2 finished with failures, 1 fatal, 130 interrupted."""

import argparse
import ast
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence

from emqa_dask import __version__
from emqa_dask.settings import Settings, SettingsError, load_settings, replace, template_names

LEAVE_S = 8.0  # that closing the workers may take once a run is told to stop
STEPS = {
    "ingest": "read an archive into the workspace: catalog, OME-Zarr stacks, thumbnails",
    "detect": "find blobs in every stored micrograph",
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
    group.add_argument("--workers", metavar="N", type=int, help="worker processes; default: one per core, or per GPU")


class _Parser(argparse.ArgumentParser):
    """argparse leaves with 2 on a wrong command line; here 2 means finished with failures, so a usage error is 1."""

    def error(self, message: str):
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}; `{self.prog} --help` explains\n")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("emqa", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"emqa_dask {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    triage = verbs.add_parser(
        "triage",
        help="do it all: ingest, detect, featurise, predict, report",
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
        "--stage", metavar="STAGE", help="only what failed in: ingest, store, thumbnail, detect, featurise"
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
    return parser


def _changes(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    changes: dict[str, dict[str, object]] = {}
    for text in options.changes:
        key, equals, value = text.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot):
            raise SettingsError(f"--set {text}: write it as section.key=value, e.g. detect.threshold=0.2")
        try:
            parsed = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError):
            parsed = value
        changes.setdefault(section, {})[name] = parsed
    for name in ("scheduler", "workers"):
        if getattr(options, name) is not None:
            changes.setdefault("run", {})[name] = getattr(options, name)
    return changes


def _settings(options: argparse.Namespace, workspace: str | None) -> Settings:
    """Explicit options over the workspace's own settings over the defaults."""
    if options.settings is None and options.template is None and workspace:
        from emqa_dask.store import layout  # a workspace may be on a bucket

        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return replace(layout.settings_of(workspace), _changes(options), "command line")
    return replace(load_settings(options.settings, options.template), _changes(options), "command line")


def _default_workspace(source: str) -> str:
    name = source.rstrip("/").rpartition("/")[2] or "archive"
    return f"./{name}.emqa"


def _synthesise(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from emqa_dask.synthetic.archive import synthesise

    with tqdm(desc="synthesise", unit=" images", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = synthesise(options.out, options.profile, options.n, options.seed, progress=progress)
    print(f"{made['n_micrographs']} micrographs in {made['n_files']} files in {options.out}; truth: {made['truth']}")
    print("formats: " + ", ".join(f"{name} {n}" for name, n in sorted(made["formats"].items())))
    print("faults: " + ", ".join(f"{name} {n}" for name, n in sorted(made["faults"].items())))
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.verb == "synthesise":
        return _synthesise(options)
    if options.verb == "doctor":
        from emqa_dask.run.doctor import examine

        return examine(print, _settings(options, None))

    if options.verb == "certificates":
        from emqa_dask.run.tls import write_certificates

        print(f"certificates in {write_certificates(options.folder)}; use them with --set run.tls={options.folder}")
        return 0
    if options.verb == "status":
        from emqa_dask.pipeline.status import status, watch

        return watch(options.workspace, options.every, _say) if options.watch else status(options.workspace, print)
    if options.verb in ("triage", "ingest") and options.workspace is None:
        options.workspace = _default_workspace(options.source)
        print(f"workspace: {options.workspace}")
    settings = _settings(options, options.workspace)
    is_dry = options.verb == "triage" and options.dry_run
    if settings.run.scheduler == "local" and options.verb != "report" and not is_dry:
        from emqa_dask.pipeline import PRELOAD
        from emqa_dask.run.cluster import warm_up

        warm_up(PRELOAD)
    if is_dry:
        from emqa_dask.pipeline.estimate import estimate

        return estimate(options.source, settings, print)
    if options.verb == "retry":
        from emqa_dask.pipeline.status import retry

        return retry(options.workspace, settings, options.stage, print)
    from emqa_dask.pipeline.run import run

    steps = tuple(STEPS) if options.verb == "triage" else (options.verb,)
    return run(getattr(options, "source", None), options.workspace, settings, steps=steps, say=print)


def _say(text: str) -> None:
    print(text, flush=True)


def _stop_on_signals() -> None:
    """Ctrl-C and SIGTERM (a batch system's walltime) both stop cleanly; the second one, or LEAVE_S later, at once."""

    def stop(*_) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(130))
        clock = threading.Timer(LEAVE_S, os._exit, (130,))
        clock.daemon = True
        clock.start()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Expected errors are one line on stderr, with the remedy."""
    options = _parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        _stop_on_signals()
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("emqa: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("EMQA_TRACEBACK"):
            raise
        text = " ".join(str(error).split())
        if getattr(error, "errno", None) == errno.ENOSPC and "free some space" not in text:
            text += ": free some space and run the same command again; what is finished is kept"
        print(f"emqa: {text} (EMQA_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
