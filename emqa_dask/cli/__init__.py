"""emqa <verb>: parse, call, print. Exit codes: 0 all ok, 2 finished with failures, 1 fatal, 130 interrupted."""

import argparse
import ast
import dataclasses
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence

from emqa_dask.cli.arguments import STEPS, parser
from emqa_dask.cli.machine import check_local
from emqa_dask.cli.messages import quiet_libraries, say, tell_error
from emqa_dask.settings import Settings, SettingsError, load_settings, replace

LEAVE_S = 8.0  # that closing the workers may take once a run is told to stop


def _changes(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    changes: dict[str, dict[str, object]] = {}
    for text in options.changes:
        key, equals, value = text.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot):
            raise SettingsError(f"--set {text}: write it as section.key=value, e.g. detect.threshold=0.2")
        try:
            parsed = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parsed = value
        changes.setdefault(section, {})[name] = parsed
    if options.detectors and options.verb != "calibrate":
        changes.setdefault("detect", {})["detectors"] = options.detectors
    if options.classifier is not None:
        changes.setdefault("classify", {})["model"] = options.classifier
    for name in ("scheduler", "workers"):
        if getattr(options, name) is not None:
            changes.setdefault("run", {})[name] = getattr(options, name)
    return changes


def _settings(options: argparse.Namespace, workspace: str | None) -> Settings:
    """Explicit options over the workspace's own settings over the defaults."""
    if options.settings is None and options.template is None and workspace:
        from emqa_dask.store import layout  # a workspace may be on a bucket

        return replace(layout.settings_of(workspace), _changes(options), "command line")
    return replace(load_settings(options.settings, options.template), _changes(options), "command line")


def _default_workspace(source: str) -> str:
    """./<name of the archive>.emqa; the name is that of the folder, also for "." and "..", and not a hidden one."""
    if "://" not in source:
        source = os.path.abspath(source)
    name = re.split("[?#]", source.rstrip("/").rpartition("/")[2])[0] if "://" in source else os.path.basename(source)
    name = "".join(c if c.isprintable() else "_" for c in name).strip(". ")
    return f"./{name.rstrip(':') or 'archive'}.emqa"


def _synthesise(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from emqa_dask.synthetic.archive import synthesise

    with tqdm(desc="synthesise", unit=" images", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = synthesise(options.out, options.profile, options.n, options.seed, progress=progress)
    say(f"{made['n_micrographs']} micrographs in {made['n_files']} files in {options.out}; truth: {made['truth']}")
    say("formats: " + ", ".join(f"{name} {n}" for name, n in sorted(made["formats"].items())))
    say("faults: " + ", ".join(f"{name} {n}" for name, n in sorted(made["faults"].items())))
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.verb == "synthesise":
        return _synthesise(options)
    if options.verb == "doctor":
        from emqa_dask.run.doctor import examine

        return examine(say, _settings(options, None))

    if options.verb == "certificates":
        from emqa_dask.run.tls import write_certificates

        say(f"certificates in {write_certificates(options.folder)}; use them with --set run.tls={options.folder}")
        return 0
    if options.verb == "tune":
        return _tune(options)
    if options.verb in ("train", "import"):
        return {"train": _train, "import": _import}[options.verb](options)
    if options.verb == "verify":
        from emqa_dask.pipeline.workspace.integrity import verify

        return verify(options.workspace, say)
    if options.verb == "status":
        from emqa_dask.pipeline.commands.status import status, watch

        return watch(options.workspace, options.every, say) if options.watch else status(options.workspace, say)
    if options.verb in ("triage", "ingest") and options.workspace is None:
        options.workspace = _default_workspace(options.source)
        say(f"workspace: {options.workspace}")
    if options.verb not in ("triage", "ingest"):
        from emqa_dask.store import layout

        layout.source_of(options.workspace)  # of another format, or none at all: nothing is read or written
    elif options.moved_from and not (options.verb == "triage" and options.dry_run):
        from emqa_dask.pipeline.workspace.moving import take_over

        take_over(options.workspace, options.moved_from, options.source, say)
    settings = _settings(options, options.workspace)
    is_dry = options.verb == "triage" and options.dry_run
    if settings.run.scheduler == "local" and options.verb not in ("report", "calibrate", "rescore") and not is_dry:
        from emqa_dask.pipeline import PRELOAD
        from emqa_dask.run.cluster import n_cores, warm_up

        check_local(settings, n_cores())
        warm_up(PRELOAD)
    if is_dry:
        from emqa_dask.pipeline.commands.estimate import estimate

        return estimate(options.source, settings, say)
    if options.verb == "calibrate":
        from emqa_dask.pipeline.commands.calibrate import calibrate

        of = {"detectors": options.detectors, "iou_threshold": options.iou, "out": options.out}
        return calibrate(options.workspace, options.labels, settings, **of, say=say)
    if options.verb == "rescore":
        from emqa_dask.pipeline.commands.rescore import rescore

        return rescore(options.workspace, settings, say=say)
    if options.verb == "retry":
        from emqa_dask.pipeline.commands.status import retry

        return retry(options.workspace, settings, options.stage, say)
    from emqa_dask.pipeline.commands.triage import run

    steps = tuple(STEPS) if options.verb == "triage" else (options.verb,)
    return run(getattr(options, "source", None), options.workspace, settings, steps=steps, say=say)


def _tune(options: argparse.Namespace) -> int:
    """SRC is a workspace, or an archive that is read into one first, as triage would."""
    from emqa_dask.pipeline.commands.triage import run
    from emqa_dask.store import layout

    is_workspace = layout.is_workspace(options.source)
    root = options.source if is_workspace else options.workspace or _default_workspace(options.source)
    settings = _settings(options, root)
    wanted = _checked_tuning(options)
    if not is_workspace:
        run(options.source, root, settings, steps=("ingest",), say=say)
    if wanted is None:
        from emqa_dask.pipeline.commands.tune_order import map_order

        return map_order(root, options.out, settings, tuple(options.cohorts), say=say)
    from emqa_dask.pipeline.commands.tune_log import tune_log

    tune_log(root, options.out, settings, wanted, say=say)
    return 0


def _checked_tuning(options: argparse.Namespace):
    """The options of emqa tune log, None for tune order; ValueError or OSError for what cannot be, before any work."""
    if options.kind == "order":
        from emqa_dask.pipeline.commands import tune_order

        tune_order.check_out(options.out)
        return None
    from emqa_dask.pipeline.commands import tune_log, tune_log_files

    known = {field.name for field in dataclasses.fields(tune_log.TuneOptions)}
    chosen = {name: value for name, value in vars(options).items() if name in known}
    wanted = tune_log.TuneOptions(**{name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items()})
    wanted.check()
    tune_log_files.check_out(options.out)
    return wanted


def _train_ensemble(options: argparse.Namespace) -> int:
    from emqa_dask.pipeline.commands.train_domain import Wanted
    from emqa_dask.pipeline.commands.train_ensemble import train_ensemble
    from emqa_dask.train.member_fit import MemberSchedule
    from emqa_dask.windows import WindowSettings

    settings = _settings(options, None)
    if settings.run.scheduler == "local":
        from emqa_dask.run.cluster import warm_up

        warm_up(("emqa_dask.pipeline.commands.train_ensemble",))
    dropout = options.dropout if options.dropout is not None else 0.3 if options.method == "dropout" else 0.0
    architecture = {"backbone": options.backbone, "dropout": dropout}
    if options.backbone == "wide_resnet":
        architecture |= {"depth": options.depth, "widen": options.widen}
    kept = ("epochs", "patience", "batch", "learning_rate", "halve_every", "precision")
    train_ensemble(
        options.labels,
        options.out,
        settings,
        images=options.images,
        view=WindowSettings(options.window, options.whole, max_windows=options.windows_per_image),
        members=options.members if options.method == "ensemble" else 1,
        schedule=MemberSchedule(**{name: getattr(options, name) for name in kept}),
        architecture=architecture,
        windows_per_image=options.windows_per_image,
        wanted=Wanted(options.false_flags, options.examples, _shifted(options.shifted), settings.featurise.cs_mm),
        **{name: getattr(options, name) for name in ("method", "seed", "min_members", "licence")},
        say=say,
    )
    return 0


def _shifted(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """KIND=DIR as pairs; SettingsError for another kind and a folder that is not there."""
    from emqa_dask.tables import SHIFTS

    found = []
    for text in texts:
        kind, _, where = text.partition("=")
        if kind not in SHIFTS[1:] or not os.path.isdir(where):
            raise SettingsError(f"--shifted {text}: write KIND=DIR with {', '.join(SHIFTS[1:])} and a folder of images")
        found.append((kind, where))
    return tuple(found)


def _train(options: argparse.Namespace) -> int:
    if options.kind == "ensemble":
        return _train_ensemble(options)
    from emqa_dask.pipeline.commands.train_detector import train_detector

    if len(options.coco) != len(options.images):
        raise SettingsError(f"{len(options.coco)} --coco and {len(options.images)} --images: give one folder for each")
    sets = list(zip(options.coco, options.images, strict=True))
    kept = ("start", "frozen", "steps", "learning_rate", "validation", "device", "seed", "licence", "resume")
    train_detector(sets, options.out, **{name: getattr(options, name) for name in kept}, say=say)
    return 0


def _import(options: argparse.Namespace) -> int:
    from emqa_dask.pipeline.commands.train_detector import import_detector

    import_detector(options.checkpoint, options.out, options.classes, options.config, options.architecture)
    say(f"model directory {options.out}: emqa triage SRC --detector {options.out}")
    return 0


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


def script() -> int:
    """main() as a process of its own, whose exit code no signal in the interpreter's last moments changes."""
    quiet_libraries()
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Python gives its own handlers up before it ends
    return code


def _task(options: argparse.Namespace) -> str:
    """What the command line asks for, in a few words: the verb, its kind, and what it is done to."""
    subjects = [getattr(options, name, None) for name in ("source", "checkpoint", "labels", "workspace", "out")]
    words = [options.verb, getattr(options, "kind", None), next(filter(None, subjects), None)]
    return " ".join(filter(None, words))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Every error is one line on stderr, with the remedy."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
    options = parser().parse_args(arguments)
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
    except Exception as error:
        if os.environ.get("EMQA_TRACEBACK"):
            raise
        tell_error(error, _task(options))
        return 1
