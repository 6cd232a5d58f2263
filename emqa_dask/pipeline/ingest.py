"""Ingest: which files are new, what is in them, and which stack, slot and partition their micrographs get."""

import posixpath
from collections.abc import Callable, Iterable, Iterator

import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import scan
from emqa_dask.partition import Partition
from emqa_dask.pipeline.surveys import SURVEY_FILES, SURVEY_FRAMES, SURVEYED, survey_crash, survey_files
from emqa_dask.run.execute import Result, Task
from emqa_dask.settings import Archive, Settings, digest
from emqa_dask.store import layout, parts, plan, stacks

Execute = Callable[[Callable, Iterator[Task], str], list[Result]]


def ingest(root: str, source: str, settings: Settings, execute: Execute) -> list[Result]:
    """Survey the files that the catalog does not know yet, then plan: catalog.parquet and micrographs.parquet.

    micrographs.parquet is a ledger: rows are added, never changed, since a slot that was given away stays so. Which of
    them the archive still holds, current() says.
    """
    known = parts.load_table(layout.catalog(root), tables.CATALOG)
    asked = (settings.archive.max_megapixels, settings.archive.nm_per_pixel)  # what a file's rows depend on beside it
    names: list[str] = []

    def tasks(batches: Iterable[list[scan.Entry]]) -> Iterator[Task]:
        for entries in batches:
            name = digest(asked, [(e.uri, e.size_bytes, e.modified_ns) for e in entries])
            yield Task(name, (root, name, entries, settings), len(entries))

    results = []
    new = _batches(_new(root, source, known, settings.archive), settings.archive.files_per_task)
    for result in list(execute(survey_files, tasks(new), "survey")):
        if result.outcome == "failed" and result.task.n_images > 1:
            # Bad data never raise, but a file can kill the worker that reads it: its neighbours must not pay.
            alone = tasks([entry] for entry in result.task.args[2])
            results += execute(survey_files, alone, "survey")
        else:
            results.append(result)
    for result in results:
        if result.outcome == "failed":
            survey_crash(*result.task.args[:3], result.error)
        names.append(result.task.name)
    if names:
        files = parts.read_table(root, SURVEY_FILES, SURVEYED, tables.CATALOG.names, partitions=names)
        frames = parts.read_table(root, SURVEY_FRAMES, tables.MICROGRAPHS, partitions=names)
        _enter(root, known, files, frames, settings)
    elif known.empty:
        raise ValueError(f"{source}: there is no file in it beside the workspace; name a folder of micrographs")
    return results


def _new(root: str, source: str, known: pd.DataFrame, settings: Archive) -> Iterator[scan.Entry]:
    """Entries of the archive that are not in the catalog with this size and date, nor in the workspace itself."""
    seen = dict(zip(known["uri"], zip(known["size_bytes"], known["modified_ns"], strict=True), strict=True))
    inside = posixpath.join(posixpath.abspath(root), "")
    for entry in scan.scan(source, settings.exclude):
        if posixpath.join(posixpath.abspath(str(entry.path)), "").startswith(inside):
            continue
        if seen.get(entry.uri) != (entry.size_bytes, entry.modified_ns):
            yield entry


def _batches(entries: Iterator[scan.Entry], n: int) -> Iterator[list[scan.Entry]]:
    batch = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch


def _enter(root: str, known: pd.DataFrame, files: pd.DataFrame, frames: pd.DataFrame, settings: Settings) -> None:
    """Enter surveyed files and their micrographs into the two tables, and make room in the stacks.

    micrographs.parquet first: killed in between, the next run surveys nothing twice and finds its slots taken.
    """
    ledger = parts.load_table(layout.micrographs(root), tables.MICROGRAPHS)
    added = frames[~frames["micrograph_id"].isin(ledger["micrograph_id"])]
    planned, lengths = plan.plan(added, ledger, settings.store, stacks.shard_lengths(root))
    ledger = pd.concat([ledger, planned], ignore_index=True) if len(planned) else ledger
    stacks.prepare(root, ledger, lengths, settings.store)
    parts.write_table(layout.micrographs(root), ledger, tables.MICROGRAPHS)
    catalog = pd.concat([known[~known["uri"].isin(files["uri"])], files], ignore_index=True)
    parts.write_table(layout.catalog(root), catalog.sort_values("uri", ignore_index=True), tables.CATALOG)


def current(root: str) -> pd.DataFrame:
    """Micrographs whose file, with this content, is in the catalog; sorted by URI and frame."""
    ledger = parts.load_table(layout.micrographs(root), tables.MICROGRAPHS)
    catalog = parts.load_table(layout.catalog(root), tables.CATALOG, ["uri", "content_sha256"])
    rows = ledger.merge(catalog, on=["uri", "content_sha256"], how="inner")
    return rows.sort_values(["uri", "frame"], ignore_index=True)


def partition_rows(root: str) -> tuple[list[Partition], dict[str, pd.DataFrame]]:
    """All partitions, and for each its ledger rows in the order of its slots."""
    ledger = parts.load_table(layout.micrographs(root), tables.MICROGRAPHS)
    return plan.partitions(ledger), dict(list(ledger.sort_values("index").groupby("partition")))


def paths(root: str) -> dict[str, str]:
    """Where the file of every URI lay when it was surveyed, as scan.escape() writes it."""
    surveyed = parts.read_table(root, SURVEY_FILES, SURVEYED, ["uri", "path"])
    return dict(zip(surveyed["uri"], surveyed["path"], strict=True))


def partitions(root: str, columns=None):
    """TEMPORARY."""
    cut, rows = partition_rows(root)
    where = paths(root)
    for partition in cut:
        of = rows[partition.name]
        yield partition, of.assign(path=of["uri"].map(where))
