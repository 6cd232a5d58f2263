"""run(): the steps one after the other on a workspace; triage() is the same for Python; status() and estimate()."""

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import readers, scan
from emqa_dask.archive.survey import local_file, survey
from emqa_dask.backend import to_device
from emqa_dask.detect import log
from emqa_dask.partition import Partition
from emqa_dask.pipeline import PRELOAD, ingest, tasks
from emqa_dask.pipeline.folders import SCHEMAS, folders
from emqa_dask.pipeline.report import report
from emqa_dask.run.cluster import n_cores, open_cluster
from emqa_dask.run.execute import Result, Task, execute
from emqa_dask.run.progress import clock, watch
from emqa_dask.settings import Settings, dump, parse
from emqa_dask.store import files, layout, parts

STEPS = ("ingest", "detect", "featurise", "predict", "report")
TABLE_OF = {"ingest": "thumbnails", "detect": "detections", "featurise": "features", "predict": "predictions"}
Say = Callable[[str], None]


def triage(source: str, workspace: str, settings: Settings | None = None, *, say: Say = print) -> pd.DataFrame:
    """Triage the archive `source` into `workspace`; returns the table of tables.TRIAGE, one row or more per file.

    Raises ValueError or OSError, with the remedy, for what makes the run impossible; files that cannot be read are
    rows, not exceptions.
    """
    run(source, workspace, settings or Settings(), say=say)
    return parts.load_table(layout.triage(workspace), tables.TRIAGE)


def run(source: str | None, root: str, settings: Settings, *, steps: Iterable[str] = STEPS, say: Say = print) -> int:
    """Run `steps` on workspace `root`, saying what happens; 0 when all went well, 2 when a file or a task failed.

    `source` is the archive, which only the step ingest needs. What is done already is not done again.
    """
    started, steps = time.time(), tuple(steps)
    to_device(np.zeros(1), settings.detect.device)  # no GPU where one is asked for: say so before the work, not after
    if "ingest" in steps:
        source = source if "://" in source else os.path.abspath(source)
        next(iter(scan.scan(source, settings.archive.exclude)))  # an archive that is not there makes no workspace
        layout.claim(root, source)
    source = layout.source_of(root)
    files.write_text(layout.settings(root), dump(settings))
    results, seconds = [], {}
    with ExitStack() as stack:
        execute_here = _executor(stack, settings, say)
        if "ingest" in steps:
            results += ingest.ingest(root, source, settings, execute_here)
            seconds["survey"] = time.time() - started
        if wanted := [TABLE_OF[step] for step in steps if step in TABLE_OF]:
            clock_ = time.time()
            results += _process(root, settings, wanted, execute_here)
            seconds[", ".join(s for s in steps if s in TABLE_OF and s != "ingest") or "store"] = time.time() - clock_
    failures = _record(root, results, is_processed=bool(wanted))
    if "report" in steps:
        clock_ = time.time()
        facts = {"started": started, "seconds": _stage_seconds(root), "failures": failures}
        table, is_new = report(root, source, settings, facts)
        seconds["report"] = time.time() - clock_
        _tell(root, table, is_new, say)
    say("time: " + ", ".join(f"{name} {clock(s)}" for name, s in seconds.items()))
    return 2 if len(failures) else 0


def _executor(stack: ExitStack, settings: Settings, say: Say) -> Callable:
    """execute(function, tasks, stage, total) -> results; the first task of all starts the workers."""
    client = None

    def execute_all(function: Callable, tasks: Iterator[Task], stage: str, total: int | None = None) -> list[Result]:
        nonlocal client
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return []
        if client is None and settings.run.scheduler != "in-process":
            client = stack.enter_context(open_cluster(settings.run, PRELOAD))
            say(f"{len(client.nthreads())} workers; dashboard: {client.dashboard_link}")

        def every() -> Iterator[Task]:
            yield first
            yield from tasks

        results = execute(function, every(), stage=stage, client=client, tasks_per_worker=settings.run.tasks_per_worker)
        done = []
        for result in watch(results, stage, total, unit="files" if stage == "survey" else "images"):
            if f"[Errno {errno.ENOSPC}]" in result.error:  # every other task would fail of it, too
                raise OSError(
                    errno.ENOSPC,
                    "no space left on the disk; what is finished is kept, so free some space and "
                    "run the same command again",
                    result.task.args[0],
                )
            done.append(result)
        return done

    return execute_all


def _process(root: str, settings: Settings, wanted: list[str], execute_all: Callable) -> list[Result]:
    """One task for every partition that lacks a table of `wanted`, or of what those are made from."""
    order = list(SCHEMAS)
    needed = order[: 1 + max(order.index(table) for table in wanted)]
    where = folders(settings)
    there = {table: set(parts.part_names(root, where[table])) for table in needed}
    partitions, rows = ingest.partition_rows(root)
    lacking = [p for p in partitions if any(p.name not in there[table] for table in needed)]
    paths = ingest.paths(root) if lacking else {}

    def task(partition: Partition) -> Task:
        of = rows[partition.name]
        of = of.assign(path=of["uri"].map(paths))
        return Task(partition.name, (root, partition, of, settings, tuple(needed)), len(partition))

    todo = map(task, lacking)
    return execute_all(tasks.work, todo, "triage" if "predictions" in needed else wanted[-1], sum(map(len, lacking)))


def _record(root: str, results: list[Result], is_processed: bool) -> pd.DataFrame:
    """Add to events.parquet, rewrite failures.parquet, return the failures."""
    events = [row for result in results for row in _events(result)]
    if events:
        before = parts.load_table(layout.events(root), tables.EVENTS)
        new = pd.DataFrame(events)
        parts.write_table(layout.events(root), pd.concat([before, new]) if len(before) else new, tables.EVENTS)
    catalog = parts.load_table(layout.catalog(root), tables.CATALOG)
    unread = catalog[catalog["status"] == "failed"]
    failures = [
        {"uri": f.uri, "stage": "ingest", "kind": "error", "error": f.error or f.reason, "traceback": "", "attempts": 1}
        for f in unread.itertuples()
    ]
    ledger = parts.load_table(layout.micrographs(root), tables.MICROGRAPHS, ["uri", "partition"])
    for result in results:
        if result.outcome == "failed":
            of_task = {"stage": result.event["stage"], "kind": result.kind, "error": result.error}
            of_task |= {"traceback": result.traceback, "attempts": result.event["attempt"]}
            uris = ledger.loc[ledger["partition"] == result.task.name, "uri"].unique()
            failures += [{"uri": uri} | of_task for uri in uris]
        of_store = {"stage": "store", "kind": "error", "traceback": "", "attempts": 1}
        failures += [{"uri": uri, "error": why} | of_store for uri, why in result.value.get("lost", {}).items()]
    # What could not be stored stays so, until the file changes; other failures are tried again by a run that can.
    before = parts.load_table(layout.failures(root), tables.FAILURES)
    before = before[before["uri"].isin(ingest.current(root)["uri"]) & ~before["uri"].isin([f["uri"] for f in failures])]
    keep = before["stage"].eq("store") if is_processed else before["stage"].ne("ingest")
    failures += before[keep].to_dict("records")
    table = pd.DataFrame(failures) if failures else tables.empty(tables.FAILURES)
    parts.write_table(layout.failures(root), table, tables.FAILURES)
    return table


def _events(result: Result) -> list[dict]:
    """A task's event; of a task with several stages, an event for each, one after the other."""
    stages = result.value.get("stages")
    if not stages:
        return [result.event]
    rows, started = [], result.event["started"]
    for stage, seconds in stages.items():
        rows.append(result.event | {"stage": stage, "started": started, "seconds": seconds})
        started += seconds
    return rows


def _stage_seconds(root: str) -> dict[str, float]:
    """Worker-seconds of every stage so far."""
    events = parts.load_table(layout.events(root), tables.EVENTS, ["stage", "seconds"])
    return events.groupby("stage", sort=False)["seconds"].sum().round(3).to_dict()


def _tell(root: str, table: pd.DataFrame, is_new: bool, say: Say) -> None:
    counts = table["verdict"].value_counts()
    width = max(map(len, tables.VERDICTS))
    for verdict in tables.VERDICTS:
        of = table[table["verdict"] == verdict]
        reasons = Counter(codes[0] for codes in of["reasons"] if len(codes)).most_common(4)
        why = ", ".join(f"{code} {n}" for code, n in reasons)
        say(f"  {verdict:<{width}} {counts.get(verdict, 0):>7,}" + (f"   {why}" if why and verdict != "trust" else ""))
    say(f"report: {layout.report(root)}" + ("" if is_new else " (nothing was new)"))


def status(root: str, say: Say = print) -> int:
    """Say what a workspace holds and what is missing; 0, or 2 when files or tasks failed."""
    source = layout.source_of(root)
    catalog = parts.load_table(layout.catalog(root), tables.CATALOG)
    settings = parse(files.read_bytes(layout.settings(root)).decode(), layout.settings(root))
    partitions, rows = ingest.partition_rows(root)
    say(f"workspace {root} of archive {source}")
    states = catalog["status"].value_counts()
    say(f"  files {len(catalog):,}: " + ", ".join(f"{states.get(s, 0):,} {s}" for s in tables.STATUSES))
    say(f"  micrographs {sum(map(len, rows.values())):,} in {len(partitions):,} partitions")
    for table, folder in folders(settings).items():
        done = set(parts.part_names(root, folder))
        n = sum(p.name in done for p in partitions)
        say(
            f"  {table:<12} {n:,} of {len(partitions):,} partitions"
            + ("" if n == len(partitions) else "  (unfinished)")
        )
    failures = parts.load_table(layout.failures(root), tables.FAILURES)
    for row in failures.head(10).itertuples():
        say(f"  failed: {row.uri!r} ({row.stage}): {row.error}")
    if len(failures) > 10:
        say(f"  and {len(failures) - 10:,} more in {layout.failures(root)}")
    if files.exists(layout.triage(root)):
        _tell(root, parts.load_table(layout.triage(root), tables.TRIAGE), True, say)
    return 2 if len(failures) else 0


def estimate(source: str, settings: Settings, say: Say = print, n_sample: int = 16) -> int:
    """--dry-run: count the archive, try a sample of it in this process, and say what the whole would cost."""
    rng, sample, n_files, n_bytes = random.Random(0), [], 0, 0
    for entry in scan.scan(source, settings.archive.exclude):
        n_files, n_bytes = n_files + 1, n_bytes + entry.size_bytes
        if len(sample) < n_sample:
            sample.append(entry)
        elif (k := rng.randrange(n_files)) < n_sample:  # reservoir: every file is as likely
            sample[k] = entry
    started, megapixels, pixel_bytes, n_micrographs, n_detections = time.perf_counter(), 0.0, 0, 0, 0
    kinds = Counter()
    for entry in sample:
        row, frames = survey(entry, settings.archive)
        kinds[row["kind"] if row["status"] == "ok" else row["status"]] += 1
        for frame in frames:
            with local_file(entry.path) as path:
                image = readers.open_source(path).frames[frame["frame"]].read()
            blobs = log.detect_image(image, settings.detect)
            tasks.features_of(image, frame, blobs, settings)
            megapixels, pixel_bytes = megapixels + image.size / 1e6, pixel_bytes + image.nbytes
            n_micrographs, n_detections = n_micrographs + 1, n_detections + len(blobs)
    seconds = time.perf_counter() - started
    scale, workers = n_files / max(len(sample), 1), settings.run.workers or n_cores()
    per_megapixel = 1000 * seconds / max(megapixels, 1e-9)
    shard = f"{settings.store.shard_mib:,.0f} MiB of pixels in memory per worker"
    say(f"{n_files:,} files, {n_bytes / 1e9:,.2f} GB")
    say(f"a sample of {len(sample)}: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}")
    say(f"about {n_micrographs * scale:,.0f} micrographs, {megapixels * scale:,.0f} megapixels")
    say(f"about {clock(seconds * scale / workers)} on {workers} workers ({per_megapixel:,.0f} ms per megapixel)")
    say(f"at most {pixel_bytes * scale / 1e9:,.2f} GB of disk before compression; {shard}")
    return 0
