"""The verbs that run steps on a workspace or say how it stands: triage, ingest to report, status, verify, retry."""

import argparse

from emqa_dask.cli.messages import say, say_error
from emqa_dask.cli.options import add_settings, name_default_workspace, read_settings, warm_up_workers
from emqa_dask.settings import Settings

STEP_HELP = {  # by `emqa STEP`, as pipeline.workspace.stages.STEPS has them
    "ingest": "read an archive into the workspace: catalog, OME-Zarr stacks, thumbnails",
    "detect": "find blobs in every stored micrograph",
    "classify": "let a classifier ensemble look at every stored micrograph",
    "featurise": "turn detections and pixels into features",
    "predict": "predict each micrograph's detection F1 and its distance from the known domain",
    "measure": "measure the objects of each micrograph: number, density, diameters, area fraction, swelling",
    "report": "give every file a verdict, write triage.parquet, triage.csv and the page",
}


def _add_sources(step: argparse.ArgumentParser) -> None:
    step.add_argument("sources", metavar="SRC", nargs="+", help="a folder, a list of files, or an fsspec URI")
    step.add_argument("--workspace", metavar="WS", help="where results go; default: ./<name of SRC>.emqa")


def _add_moved_from(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--moved-from",
        metavar="OLD",
        help="SRC is the archive that was OLD, moved, renamed or mounted elsewhere: go on with its workspace",
    )


def _add_selection(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        help="leave out the files and folders that match, e.g. thumbs/ or '*.jpg'; may be given several times, and "
        "replaces archive.exclude",
    )
    step.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        help="read only files that match, or whose folder does, e.g. '*.dm4'; replaces archive.include",
    )


def add_triage(verbs) -> None:
    """`emqa triage`."""
    triage = verbs.add_parser(
        "triage",
        help="do it all: ingest, detect, classify, featurise, predict, measure, report",
        description=(
            "Triage SRC: a folder, a list of files, or an fsspec URI; or several of these as one archive, in which the "
            "path of each file starts with the name of its source. It can be run again: finished work is kept, new "
            "files are added."
        ),
    )
    _add_sources(triage)
    _add_moved_from(triage)
    _add_selection(triage)
    triage.add_argument(
        "--dry-run", action="store_true", help="say what there is and what it would cost; write nothing"
    )
    add_settings(triage)

    triage.set_defaults(run=run_triage)


def run_triage(options: argparse.Namespace) -> int:
    """All steps on an archive, or with --dry-run what they would cost."""
    _choose_workspace(options)
    if options.dry_run:
        from emqa_dask.pipeline.commands.dry_run import estimate_run

        settings = read_settings(options, options.workspace)
        return estimate_run(options.sources, settings, say, workspace=options.workspace)
    _take_over_workspace(options)
    return _run_steps(options, tuple(STEP_HELP))


def add_watch(verbs) -> None:
    """`emqa watch`."""
    watch = verbs.add_parser(
        "watch",
        help="triage new files as they come, and raise an alarm when a session's images change",
        description=(
            "Watch SRC and triage each file seconds after it is complete, until Ctrl-C. The tables are those of "
            "`emqa triage`, and a later watch or triage goes on with the workspace. Files that are written again are "
            "judged again."
        ),
    )
    _add_sources(watch)
    _add_selection(watch)
    watch.add_argument("--every", metavar="S", type=float, default=0.5, help="seconds between looks; default 0.5")
    watch.add_argument(
        "--settle",
        metavar="S",
        type=float,
        default=1.0,
        help="a file is complete when its size and date are the same for so many seconds; default 1, more where files "
        "arrive over a slow network",
    )
    watch.add_argument("--report-every", metavar="S", type=float, default=60.0, help="between reports; default 60")
    watch.add_argument(
        "--gap", metavar="S", type=float, default=1800.0, help="seconds without images that end a session; default 1800"
    )
    watch.add_argument(
        "--false-alarms",
        metavar="P",
        type=float,
        default=0.01,
        help="probability of an alarm in a session whose images do not change; default 0.01",
    )
    watch.add_argument("--webhook", metavar="URL", default="", help="address that gets each alarm as a POST of JSON")
    watch.add_argument("--json", action="store_true", help="a line of JSON for each verdict and alarm on stdout")
    add_settings(watch)
    watch.set_defaults(run=run_watch)


def run_watch(options: argparse.Namespace) -> int:
    """Watch an archive until Ctrl-C."""
    say_here = say_error if options.json else say
    if options.workspace is None:
        options.workspace = name_default_workspace(options.sources)
        say_here(f"workspace: {options.workspace}")
    settings = read_settings(options, options.workspace)
    _warm_up(settings)
    from emqa_dask.pipeline.commands.watch import watch
    from emqa_dask.pipeline.commands.watch_options import WatchOptions

    times_s = {"every_s": options.every, "settle_s": options.settle, "report_every_s": options.report_every}
    watch_options = WatchOptions(
        **times_s,
        gap_s=options.gap,
        false_alarms=options.false_alarms,
        webhook=options.webhook,
        is_json=options.json,
    )
    return watch(options.sources, options.workspace, settings, watch_options, say=say_here, show=say)


def add_steps(verbs) -> None:
    """`emqa ingest` to `emqa report`: one step of a run."""
    for name, text in STEP_HELP.items():
        step = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == "ingest":
            _add_sources(step)
            _add_moved_from(step)
            _add_selection(step)
        elif name == "report":
            step.add_argument("workspace", metavar="WS", nargs="+")
            out_help = "one report of the verdicts of all WS, in the new folder DIR; the verdicts stay as they are"
            step.add_argument("--out", metavar="DIR", help=out_help)
        else:
            step.add_argument("workspace", metavar="WS")
        add_settings(step)
        step.set_defaults(run=run_step)


def run_step(options: argparse.Namespace) -> int:
    """One step on a workspace."""
    if options.verb == "ingest":
        _choose_workspace(options)
        _take_over_workspace(options)
    elif options.verb == "report" and not isinstance(options.workspace, str):
        if options.out:
            return _report_several(options)
        if len(options.workspace) > 1:
            raise ValueError("several workspaces have one report in a folder of its own: give --out DIR")
        options.workspace = options.workspace[0]
    if options.verb != "ingest":
        check_workspace(options.workspace)
    return _run_steps(options, (options.verb,))


def _report_several(options: argparse.Namespace) -> int:
    from emqa_dask.pipeline.commands.report_several import report_several

    return report_several(options.workspace, options.out, say)


def _choose_workspace(options: argparse.Namespace) -> None:
    """Fill in and say the workspace of an archive where none is given."""
    if options.workspace is None:
        options.workspace = name_default_workspace(options.sources)
        say(f"workspace: {options.workspace}")


def _take_over_workspace(options: argparse.Namespace) -> None:
    """With --moved-from: let the workspace of the archive's old place go on with its new one."""
    if options.moved_from:
        from emqa_dask.pipeline.workspace.moving import take_over_workspace

        take_over_workspace(options.workspace, options.moved_from, options.sources, say)


def check_workspace(root: str) -> None:
    """ValueError for what is no workspace, or one of another format: nothing is read or written."""
    from emqa_dask.store import marker

    marker.read_source(root)


def _run_steps(options: argparse.Namespace, steps: tuple[str, ...]) -> int:
    settings = read_settings(options, options.workspace)
    if steps != ("report",):
        _warm_up(settings)
    from emqa_dask.pipeline.commands.triage import run

    return run(getattr(options, "sources", None), options.workspace, settings, steps=steps, say=say)


def _warm_up(settings: Settings) -> None:
    from emqa_dask.pipeline import PRELOAD

    warm_up_workers(settings, PRELOAD)


def add_status(verbs) -> None:
    """`emqa status`."""
    status = verbs.add_parser("status", help="say what is done and what failed", description="State of a workspace.")
    status.add_argument("workspace", metavar="WS")
    status.add_argument("--watch", action="store_true", help="say it again and again until no run is at work")
    status.add_argument("--every", metavar="SECONDS", type=float, default=10.0, help="with --watch; default 10")
    status.set_defaults(run=run_status)


def run_status(options: argparse.Namespace) -> int:
    """How a workspace stands, once or as a run goes on."""
    from emqa_dask.pipeline.commands.status import status, watch

    return watch(options.workspace, options.every, say) if options.watch else status(options.workspace, say)


def add_verify(verbs) -> None:
    """`emqa verify`."""
    verify = verbs.add_parser(
        "verify",
        help="read every stored file and say which are damaged",
        description="Hold every file of WS against its checksum: tables, pixels, settings, models, outputs. What is "
        "damaged is put aside in WS/damaged/, and the next `emqa triage` makes it again. Every run does this, too, for "
        "stored pixels up to store.verify_gib.",
    )
    verify.add_argument("workspace", metavar="WS")
    verify.set_defaults(run=run_verify)


def run_verify(options: argparse.Namespace) -> int:
    """Every stored file against its checksum."""
    from emqa_dask.pipeline.workspace.integrity import verify

    return verify(options.workspace, say)


def add_retry(verbs) -> None:
    """`emqa retry`."""
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
    retry.set_defaults(run=run_retry)


def run_retry(options: argparse.Namespace) -> int:
    """What failed, tried again."""
    check_workspace(options.workspace)
    settings = read_settings(options, options.workspace)
    _warm_up(settings)
    from emqa_dask.pipeline.commands.retry import retry

    return retry(options.workspace, settings, options.stage, say)
