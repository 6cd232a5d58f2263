"""Ingest: surveys new files and assigns their micrographs to stacks, slots and partitions.

Tables that grow with the archive are processed in batches; memory holds only digests of files and micrographs.
"""

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.archive.entries import Entry
from emqa_dask.pipeline.tasks import survey
from emqa_dask.pipeline.tasks.survey import survey_files
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles
from emqa_dask.pipeline.workspace.batches import iter_batches, iter_new_files
from emqa_dask.pipeline.workspace.file_catalog import _drop_failures, _remove, _rewrite_catalog
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FAILURES, SURVEY_FILES, SURVEY_FRAMES
from emqa_dask.run.executor import Executor
from emqa_dask.run.supervise import CallFailed
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import aside, digests, files, parts, plan, stacks
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace
from emqa_dask.store.marker import Sources, describe_sources

# threads that read a survey's parts, and how many parts each at a time
READERS = 4
PARTS = 8


def ingest(
    workspace: Workspace,
    archive: str | Sources,
    settings: Settings,
    execute: Executor,
    watched_files: ArchiveFiles | None = None,
) -> str:
    """A line on files that the settings leave out; "" for none. Surveys new files and writes catalog and ledger.

    micrographs.parquet is a ledger: rows are added and never changed, because a slot is never assigned again.
    `iter_current` lists the micrographs that the archive still contains. Raises ValueError when the archive contains no
    file outside the workspace, or none of the files whose images are stored. `watched_files` are the files to look at,
    by default all of the archive; a folder that is watched may be emptied.
    """
    names = []
    uris = DigestSet()
    present = DigestSet()
    counts = Counter()
    sources = {archive: ""} if isinstance(archive, str) else archive
    archive_files = ArchiveFiles(sources, settings.archive) if watched_files is None else watched_files
    entries = iter_new_files(workspace, archive_files, settings.archive, uris, present)
    for result in execute(survey_files, _make_survey_tasks(workspace, entries, settings, names), "survey"):
        if result.outcome == "failed":  # the whole task failed, not a single file
            died = CallFailed(result.failure_kind, result.error, result.traceback, result.event["attempt"])
            task_root, name, entries = result.task.args[:3]
            survey.survey_lost(task_root, name, entries, died, result.event["worker"])
        else:
            counts.update(result.value["stacks"])
    if watched_files is None and (not counts or len(sources) > 1):
        _check_not_all_gone(workspace, archive_files, names, present)
    if names:
        _enter_micrographs(workspace, names, counts, settings, is_watched=watched_files is not None)
        _enter_files(workspace, names, uris)
    _note_presence(workspace, present)
    if not parts.count_rows(workspace.catalog):
        raise ValueError(
            f"{describe_sources(sources)}: there is no file in it beside the workspace; name a folder of micrographs"
        )
    for folder in (SURVEY_FILES, SURVEY_FRAMES):  # catalog and ledger contain all their rows, also those of killed runs
        _remove(workspace, folder, parts.list_parts(workspace.uri, folder))
    return archive_files.describe_left_out()


def _make_survey_tasks(
    workspace: Workspace, new_files: Iterable[tuple[Entry, bytes]], settings: Settings, names: list[str]
) -> Iterator[Task]:
    """A task for each batch of new files, in the order of the scan; notes their names."""
    # The rows of files depend on these settings, too.
    archive = settings.archive
    inputs = (archive.max_megapixels, archive.nm_per_pixel, archive.read_scale_bars, archive.lattice_spacing_nm)
    settings_key = repr(inputs).encode()
    for entries, keys in iter_batches(new_files, settings.archive.files_per_task):
        names.append(hashlib.sha256(settings_key + b"".join(keys)).hexdigest()[:16])
        yield Task(names[-1], (workspace, names[-1], entries, settings), len(entries))


def _enter_micrographs(
    workspace: Workspace, names: Sequence[str], counts: Counter, settings: Settings, *, is_watched: bool
) -> None:
    """Assigns slots to the surveyed micrographs, after those in the ledger and in the stacks."""
    uri = workspace.micrographs
    ids = DigestSet()
    occupied_slots = plan.OccupiedSlots()
    for rows in parts.iterate_table(uri, tables.MICROGRAPHS, ["micrograph_id", "stack", "index"]):
        ids.add(digests.parse_hex_ids(rows["micrograph_id"]))
        occupied_slots.add(rows)
    lengths = plan.choose_shard_lengths(
        counts, stacks.read_shard_lengths(workspace.uri), occupied_slots, settings.store, is_watched=is_watched
    )

    def new() -> Iterator[pd.DataFrame]:
        for rows in _read_surveyed(workspace, SURVEY_FRAMES, names):
            is_planned = ids.has(digests.parse_hex_ids(rows["micrograph_id"]))  # before: the file was only touched
            yield rows[~is_planned]

    planned = plan.plan_partitions(new(), occupied_slots, lengths)
    first = next(planned, None)
    if first is None:
        return
    partitions_planned = set()
    with parts.open_table_writer(uri, tables.MICROGRAPHS) as write:
        for rows in parts.iterate_table(uri, tables.MICROGRAPHS):
            write(rows)
        for rows in itertools.chain([first], planned):
            write(rows)
            partitions_planned.update(rows["partition"])
        aside.put_aside_parts(workspace.uri, partitions_planned)
        stacks.prepare_stacks(
            workspace.uri,
            occupied_slots.runs,
            {s: n for s, n in lengths.items() if s in occupied_slots.runs},
            settings.store,
        )

    aside.copy_ledger(workspace.uri)


def _check_not_all_gone(
    workspace: Workspace, archive_files: ArchiveFiles, names: Sequence[str], present: DigestSet
) -> None:
    """Raises ValueError when a source has none of its images any more, for example because it is not mounted.

    A source with new images is there.
    """
    sources = archive_files.sources
    n_gone: Counter[str] = Counter()  # images by the name of the source
    names_present: set[str] = set()
    columns = ["uri", "n_frames", "is_present"]
    for rows in parts.iterate_table(workspace.catalog, tables.CATALOG, columns):
        rows = rows[rows["n_frames"].gt(0) & rows["is_present"].ne(False)]
        source_names = _name_sources_of_files(rows["uri"], sources)
        is_present = present.has(digests.digest_texts(rows["uri"]))
        names_present |= set(source_names[is_present])
        n_gone.update(source_names[~is_present])
    absent_names = set(n_gone) - names_present
    if absent_names and len(sources) > 1:
        for frames in _read_surveyed(workspace, SURVEY_FRAMES, names):
            absent_names -= set(_name_sources_of_files(frames["uri"], sources))
    if absent_names:
        absent_sources = {source: name for source, name in sources.items() if name in absent_names}
        n_images = sum(n_gone[name] for name in absent_names)
        left_out = archive_files.describe_left_out()
        raise ValueError(
            f"{files.redact(describe_sources(absent_sources))} has none of the {n_images:,} images of "
            f"{files.redact(workspace.uri)} any more: mount it or put them back, and run the same command again; "
            "all results are kept" + (f" ({left_out})" if left_out else "")
        )


def _name_sources_of_files(file_uris: pd.Series, sources: Sources) -> np.ndarray:
    """Name of the source of each file."""
    is_single = len(sources) == 1
    return np.array(["" if is_single else uri.partition("/")[0] for uri in file_uris], dtype=object)


def _note_presence(workspace: Workspace, present: DigestSet) -> None:
    """Updates the columns is_present and status of the catalog: files in `present` are still in the archive.

    A removed file that comes back has images and is "ok"; one without images is surveyed again before this.
    """
    uri = workspace.catalog

    def note(rows: pd.DataFrame) -> pd.DataFrame:
        is_present = present.has(digests.digest_texts(rows["uri"]))
        status = rows["status"].mask(rows["status"].eq("removed") & is_present, "ok").where(is_present, "removed")
        return rows.assign(is_present=is_present, status=status)

    columns = ["uri", "status", "is_present"]
    if any(not rows.equals(note(rows)) for rows in parts.iterate_table(uri, tables.CATALOG, columns)):
        with parts.open_table_writer(uri, tables.CATALOG) as write:
            for rows in parts.iterate_table(uri, tables.CATALOG):
                write(note(rows))


def _enter_files(workspace: Workspace, names: Sequence[str], uris: DigestSet) -> None:
    """Adds the surveyed files (digests `uris`) to the end of the catalog."""

    def is_surveyed(rows: pd.DataFrame) -> np.ndarray:
        return uris.has(digests.digest_texts(rows["uri"]))

    _drop_failures(workspace, is_surveyed, sorted(set(parts.list_parts(workspace.uri, SURVEY_FAILURES)) - set(names)))
    _rewrite_catalog(workspace, is_surveyed, plan.rebatch(_read_surveyed(workspace, SURVEY_FILES, names)))


def _read_surveyed(workspace: Workspace, folder: str, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The parts `names` in order, a few at a time. Threads read ahead, because a bucket has a long latency."""
    schema = tables.CATALOG if folder == SURVEY_FILES else tables.MICROGRAPHS
    with ThreadPoolExecutor(READERS) as pool:
        pending_tables: deque[Future[pd.DataFrame]] = deque()
        for start in range(0, len(names), PARTS):
            batch_names = names[start : start + PARTS]
            pending_tables.append(pool.submit(parts.read_table, workspace.uri, folder, schema, partitions=batch_names))
            if len(pending_tables) == READERS:
                yield pending_tables.popleft().result()
        while pending_tables:
            yield pending_tables.popleft().result()
