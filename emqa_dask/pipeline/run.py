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
from emqa_dask.partition import Partition
from emqa_dask.pipeline import PRELOAD, ingest, integrity, journal, preconditions, provenance
from emqa_dask.pipeline.folders import OF_STEP, failures_dir, folders, upstream
from emqa_dask.pipeline.predicting import predict_all, tell_unfit, weigh_all
from emqa_dask.pipeline.report import report
from emqa_dask.pipeline.surveys import SURVEY_FILES, SURVEY_FRAMES
from emqa_dask.run import preflight
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import clock, watch
from emqa_dask.run.task import IN_PROCESS, Limits, Result, Task
from emqa_dask.run.waiting import waiting_for
from emqa_dask.settings import Settings, SettingsError
from emqa_dask.store import files, layout, lock, parts

STEPS = ("ingest", "detect", "classify", "featurise", "predict", "report")
# What a task is told of its micrographs: not their headers, which would go through the scheduler, a million times 1 kB.
OF_TASK = ("micrograph_id", "uri", "frame", "path", "pixel_sha256", "stack", "index", "height_px", "width_px", "dtype")
OF_TASK += ("colour_fraction", "instrument", "magnification", "nm_per_pixel", "voltage_kv")
OF_PIXELS = {"ingest", "detect", "classify"}  # steps that read pixels, of an archive or the store
GIB = 2**30
NO_NEEDS = {"partition_bytes": 0, "output_bytes": 0, "image_px": 0}
# of Dask: partitions are bundled where there are many more than these
WANTED_TASKS = 4096
LARGEST_BUNDLE = 8
STORED = {False: 1, True: 2}  # pixels of one byte, or of more, per byte that the store takes (see store.stacks)
Say = Callable[[str], None]


def triage(source: str, workspace: str, settings: Settings | None = None, *, say: Say = print) -> pd.DataFrame:
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
        from emqa_dask.predict import classified

        found = card.read(settings.classify.model)
        classified.load(found.directory)  # what is missing or was changed is said now
        if found.faults:
            left_out = "; ".join(f"{file}: {why}" for file, why in found.faults.items())
            say(f"{found.name}: {len(found.files)} of {found.n_members} members are used ({left_out})")
    if "predict" in steps:
        tell_unfit(settings, say)
    if is_here:  # no GPU where one is asked for: say so now; of workers, preflight does
        to_device(np.zeros(1), settings.detect.device)
    if "ingest" in steps:
        source = source if "://" in source else os.path.abspath(source)
        next(iter(scan.scan(source, settings.archive.exclude)))  # an archive that is not there makes no workspace
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
                _make(root, settings, making, execute_here)
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
) -> Callable:
    """execute(function, tasks, stage, total, needs, n_tasks) -> iterator of results; the first starts the workers.

    `needs` is what preflight.check() is told of the work before it begins.
    """
    client = None
    limits = Limits(settings.run.timeout_s, int(settings.run.memory_gib * GIB))
    resources = {"GPU": 1} if settings.detect.device == "cuda" else None

    def execute_all(
        function: Callable,
        tasks: Iterable[Task],
        stage: str,
        total: int | None = None,
        needs: dict | None = None,
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
        preflight.check(client, settings, root=root, say=say, **(needs or NO_NEEDS))
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


def _make(root: str, settings: Settings, steps: list[str], execute_here: Callable) -> None:
    """One task for every partition that lacks a table of `steps`, or of what those are made from.

    Where all that takes pixels is there, evidence is made before, and then predictions, of many partitions in a task;
    what fails there is left to the partitions' own tasks.
    """
    where = folders(settings)
    needed = upstream([table for step in steps for table in OF_STEP[step] if table in where], where)
    judging = [table for table in ("evidence", "predictions") if "predictions" in needed]
    done: set[str] | None = None
    judged: dict[str, set[str]] = {}
    stored: set[str] = set()  # partitions of which the first table, made with the shard, is there
    existing = set(layout.table_folders(root))  # a bucket is asked once for them all
    for table in needed:  # few listings in memory at a time: a million images are 60,000 names
        there = set(parts.part_names(root, where[table])) if where[table] in existing else set()
        if failures_dir(where[table]) in existing:
            journal.forget_unfinished(root, where, table, there)
        stored = there if done is None else stored
        if table in judging:
            judged[table] = there
        else:
            done = there if done is None else done & there
    for table in judging:
        make = weigh_all if table == "evidence" else predict_all
        done = (done & judged[table]) | make(root, settings, done - judged[table], execute_here)
    total = 0
    n_tasks = 0
    needs = NO_NEEDS
    for partition in ingest.every_partition(root):
        if partition.name not in done:
            total += len(partition)
            n_tasks += 1
            needs = _add(needs, partition, partition.name in stored)
    if not total:
        return
    todo = (
        Task(partition.name, (root, partition, rows, settings, needed), len(partition))
        for partition, rows in ingest.partitions(root, OF_TASK)
        if partition.name not in done
    )
    stage = "triage" if "predict" in steps else steps[-1]
    for result in execute_here(work, todo, stage, total, needs, n_tasks):
        if result.outcome == "failed":
            journal.fail_partition(root, settings, result)


def _add(needs: dict, partition: Partition, is_stored: bool) -> dict:
    """What preflight.check() has to know, of one more partition."""
    height, width, dtype = layout.shape_of(partition.stack)
    n_bytes = len(partition) * height * width * np.dtype(dtype).itemsize
    return {
        "partition_bytes": max(needs["partition_bytes"], n_bytes),
        "output_bytes": needs["output_bytes"] + (0 if is_stored else n_bytes // STORED[np.dtype(dtype).itemsize > 1]),
        "image_px": max(needs["image_px"], height * width),
    }


def work(*args, **named) -> dict:
    """tasks.work(); imported where it runs, since a driver of many workers does well without 170 MB of libraries."""
    from emqa_dask.pipeline import tasks

    return tasks.work(*args, **named)


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
