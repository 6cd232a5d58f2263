"""run(): the steps one after the other on a workspace; triage() is the same for Python."""

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import scan
from emqa_dask.backend import to_device
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands import ingest
from emqa_dask.pipeline.commands.bundled_tables import tell_unfit
from emqa_dask.pipeline.commands.make_tables import make_tables
from emqa_dask.pipeline.commands.report import report
from emqa_dask.pipeline.workspace import integrity, journal, preconditions, provenance
from emqa_dask.pipeline.workspace.stages import OF_STEP, SURVEY_FILES, SURVEY_FRAMES, folders
from emqa_dask.run import preflight
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.executor import Executor
from emqa_dask.run.progress import clock, watch
from emqa_dask.run.task import IN_PROCESS, Limits, Result, Task
from emqa_dask.run.waiting import waiting_for
from emqa_dask.settings import Settings, SettingsError
from emqa_dask.store import files, layout, lock, parts

STEPS = ("ingest", "detect", "classify", "featurise", "predict", "report")
OF_PIXELS = {"ingest", "detect", "classify"}  # steps that read pixels, of an archive or the store
GIB = 2**30
# of Dask: partitions are bundled where there are many more than these
WANTED_TASKS = 4096
LARGEST_BUNDLE = 8
Say = Callable[[str], None]


def triage_archive(source: str, workspace: str, settings: Settings | None = None, *, say: Say = print) -> pd.DataFrame:
    """Triage the archive `source` into `workspace`; returns the table of tables.TRIAGE, one row or more per file.

    Raises ValueError or OSError, with the remedy, for what makes the run impossible; files that cannot be read are
    rows, not exceptions.
    """
    run(source, workspace, settings or Settings(), say=say)
    return parts.load_table(layout.triage(workspace), tables.TRIAGE)


def run(
    source: str | None,
    root: str,
    settings: Settings,
    *,
    steps: Iterable[str] = STEPS,
    is_here: bool = False,
    say: Say = print,
) -> int:
    """Run `steps` on workspace `root`, saying what happens; 0 when all went well, 2 when a file or a task failed.

    `source` is the archive, which only the step ingest needs. What is done already is not done again. `is_here`: no
    worker is started, whatever scheduler the settings name for the runs to come. RuntimeError when another run works on
    `root`.
    """
    is_here = is_here or settings.run.scheduler == IN_PROCESS
    started = time.time()
    steps = tuple(step for step in steps if step != "classify" or settings.classify.model)
    if not steps:
        raise SettingsError("nothing is classified without a model: give --classifier MODEL_DIR")
    preconditions.verify_models(settings, steps)
    if settings.classify.model:
        from emqa_dask.classify import card  # a run without a classifier does well without these
        from emqa_dask.uncertainty import classification

        found = card.read_classifier_card(settings.classify.model)
        classification.load_classifier(found.directory)  # what is missing or was changed is said now
        if found.faults:
            left_out = "; ".join(f"{file}: {why}" for file, why in found.faults.items())
            say(f"{found.name}: {len(found.files)} of {found.n_members} members are used ({left_out})")
    if "predict" in steps:
        tell_unfit(settings, say)
    if is_here:  # no GPU where one is asked for: say so now; of workers, preflight does
        to_device(np.zeros(1), settings.run.device)
    if "ingest" in steps:
        source = source if "://" in source else os.path.abspath(source)
        next(
            iter(scan.scan_archive(source, settings.archive.exclude))
        )  # an archive that is not there makes no workspace
        layout.claim(root, source)
    source = layout.source_of(root)
    seconds = {}
    with lock.hold(root, say) as held, ExitStack() as stack:
        for folder in ("", journal.EVENTS, SURVEY_FILES, SURVEY_FRAMES, *folders(settings).values()):
            files.sweep(files.join(root, folder))  # what a run that was killed has left half-written
        integrity.examine(root, settings, say, has_pixels=bool(OF_PIXELS.intersection(steps)))
        if "ingest" not in steps:
            preconditions.require_tables(root, source)
        layout.write_settings(root, settings)
        with journal.recording(root, held.check) as record:
            execute_here = _executor(stack, root, settings, is_here, record, say)
            if "ingest" in steps:
                ingest.ingest(root, source, settings, execute_here)
                seconds["survey"] = time.time() - started
            if making := [step for step in steps if step in OF_STEP]:
                clock_ = time.time()
                make_tables(root, settings, making, execute_here)
                names = ", ".join(step for step in making if step != "ingest") or "store"
                seconds[names] = time.time() - clock_
        n_failures = journal.write_failures(root, settings)
        if "report" in steps:
            clock_ = time.time()
            failures = parts.load_table(layout.failures(root), tables.FAILURES)
            facts = {"started": started, "seconds": journal.stage_seconds(root), "failures": failures}
            if steps == ("report",):
                preconditions.require_parts(root, settings)
            _, is_new = report(root, source, settings, facts)
            seconds["report"] = time.time() - clock_
            tell(root, say)
            say(f"report: {layout.report(root)}" + ("" if is_new else " (nothing was new)"))
            n_failures += provenance.n_unfinished(root)
    say("time: " + ", ".join(f"{name} {clock(s)}" for name, s in seconds.items()))
    return 2 if n_failures else 0


def _executor(
    stack: ExitStack, root: str, settings: Settings, is_here: bool, record: Callable[[Result], None], say: Say
) -> Executor:
    """An Executor whose first call starts the workers."""
    client = None
    limits = Limits(settings.run.timeout_s, int(settings.run.memory_gib * GIB))
    resources = {"GPU": 1} if settings.run.device == "cuda" else None

    def execute_all(
        function: Callable,
        tasks: Iterable[Task],
        stage: str,
        total: int | None = None,
        needs: preflight.Needs = preflight.NO_NEEDS,
        n_tasks: int = 0,
    ) -> Iterator[Result]:
        nonlocal client
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        if client is None and not is_here:
            client = stack.enter_context(open_cluster(settings, PRELOAD, say))
            say(f"{len(client.nthreads())} workers; dashboard: {client.dashboard_link}")
        preflight.check(client, settings, needs, root=root, say=say)
        bundle = max(1, min(LARGEST_BUNDLE, n_tasks // WANTED_TASKS))
        results = execute(
            function,
            itertools.chain([first], tasks),
            stage=stage,
            client=client,
            tasks_per_worker=settings.run.tasks_per_worker,
            bundle=bundle,
            limits=limits,
            resources=None if stage == "survey" else resources,
        )
        unit = "files" if stage == "survey" else "images"
        waits_for = waiting_for(client)
        for result in watch(results, stage, total, unit=unit, waits_for=waits_for):
            record(result)
            if f"[Errno {errno.ENOSPC}]" in result.error:  # every other task would fail of it, too
                raise OSError(
                    errno.ENOSPC,
                    "no space left on the disk; what is finished is kept, so free some space and "
                    "run the same command again",
                    result.task.args[0],
                )
            if result.outcome != "lost":
                yield result

    return execute_all


def tell(root: str, say: Say) -> None:
    """Say how many micrographs got which verdict, and the main reasons, as provenance.json has them."""
    told = provenance.read(root)
    if not told:
        say(f"  {files.redact(layout.provenance(root))} is damaged: {layout.command('report', root)} writes it again")
        return
    width = max(map(len, tables.VERDICTS))
    for verdict in tables.VERDICTS:
        main = list(told.get("first_reasons", {}).get(verdict, {}).items())[:4]
        why = ", ".join(f"{code} {n}" for code, n in main) if verdict != "trust" else ""
        say(f"  {verdict:<{width}} {told['verdicts'].get(verdict, 0):>7,}" + (f"   {why}" if why else ""))
