"""The survey of a batch of files: writes parts of the survey's tables of files and of micrographs."""

import math
from collections import Counter

import pyarrow as pa

from emqa_dask import tables
from emqa_dask.archive.entries import Entry
from emqa_dask.archive.measured_scale import MEASURED_SOURCES
from emqa_dask.archive.name_escapes import escape_name
from emqa_dask.archive.rows import fit_row
from emqa_dask.archive.survey import survey_file
from emqa_dask.pipeline.workspace.failures import make_failure_row
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FAILED, SURVEY_FAILURES, SURVEY_FILES, SURVEY_FRAMES
from emqa_dask.run.supervise import Call, CallFailed, call_directly, describe_error
from emqa_dask.run.task import get_worker_address
from emqa_dask.settings import Settings
from emqa_dask.store import files, layout, parts
from emqa_dask.store.layout import Workspace

UNFIT = (ValueError, TypeError, ArithmeticError, pa.ArrowException)  # errors of values that fit no column
UNSTORABLE = "a value of it fits into no table; this is a fault of its reader: please report it with the error"
REASONS = {
    "crash": "the reader crashed on it; the file is probably damaged",
    "timeout": "its reader was not done in time; raise run.timeout_s if it only is slow",
    "memory": "reading it took more memory than there is; lower archive.max_megapixels or give the workers more",
    "error": "its reader failed on it",
}


def survey_files(
    workspace: Workspace, name: str, entries: list[Entry], settings: Settings, call: Call = call_directly
) -> dict:
    """Record of the survey of `entries`. Writes the parts `name` of its failures, micrographs and files.

    A file that cannot be surveyed (`call` raises CallFailed) gets a row with the status failed. The record has
    n_images, bytes, n_failed, and the number of micrographs by stack under "stacks".
    """
    if parts.has_part(workspace.uri, SURVEY_FILES, name, tables.CATALOG):
        stacks = parts.read_part(workspace.uri, SURVEY_FRAMES, name, tables.MICROGRAPHS, ["stack"])["stack"]
        return {"outcome": "found", "n_images": len(entries), "stacks": dict(Counter(stacks))}
    rows = []
    frames = []
    failures = []
    for entry in entries:
        try:
            pixels = entry.size_bytes / 2  # as far as can be told before it is read
            row, frames_of_file = call(survey_file, entry, settings.archive, label=entry.uri, megapixels=pixels / 1e6)
        except CallFailed as died:
            row = make_failed_file_row(entry, died)
            frames_of_file = []
            failures.append(make_reader_failure(entry, died, get_worker_address()))
        rows.append(row)
        for frame in frames_of_file:
            frames.append(frame | {"stack": _name_stack(frame), "path": escape_name(entry.path)})
    write(workspace, name, rows, frames, failures)
    n_bytes = sum(entry.size_bytes for entry in entries)
    stacks = dict(Counter(frame["stack"] for frame in frames))
    return {"n_images": len(entries), "bytes": n_bytes, "stacks": stacks, "n_failed": len(failures)}


def _name_stack(frame: dict) -> str:
    """The stack for `frame`. Measured pixel sizes are not in its name: each image would have a stack of its own."""
    is_measured = frame["nm_per_pixel_source"] in MEASURED_SOURCES
    sizes_nm = [math.nan] * 2 if is_measured else [frame["nm_per_pixel"], frame["nm_per_pixel_y"]]
    return layout.name_stack(frame["height_px"], frame["width_px"], frame["dtype"], *sizes_nm)


def survey_lost(workspace: Workspace, name: str, entries: list[Entry], died: CallFailed, worker: str) -> None:
    """Writes failed rows for all files of a batch whose task failed; no single file caused the failure."""
    write(
        workspace,
        name,
        [make_failed_file_row(e, died) | {"reason": SURVEY_FAILED} for e in entries],
        [],
        [make_reader_failure(e, died, worker) for e in entries],
    )


def write(workspace: Workspace, name: str, rows: list[dict], frames: list[dict], failures: list[dict]) -> None:
    """Writes the parts of a batch; a file whose rows do not fit the schema gets a failed row."""
    try:
        _write(workspace, name, rows, frames, failures)
    except UNFIT:
        rows, frames = select_storable_rows(rows, frames)
        _write(workspace, name, rows, frames, failures)


def select_storable_rows(rows: list[dict], frames: list[dict]) -> tuple[list[dict], list[dict]]:
    """`rows` and `frames`, in which files that do not fit the schema are failed and have no frames."""
    storable_rows = []
    storable_frames = []
    for row in rows:
        file_frames = [frame for frame in frames if frame["uri"] == row["uri"]]
        try:
            tables.conform([row], tables.CATALOG)
            tables.conform(file_frames, tables.MICROGRAPHS)
        except UNFIT as error:
            died = CallFailed("error", describe_error(error))
            entry = Entry(str(row["uri"]), "", row["size_bytes"], row["modified_ns"])
            row = fit_row(make_failed_file_row(entry, died) | {"reason": UNSTORABLE}, tables.CATALOG)
            file_frames = []
        storable_rows.append(row)
        storable_frames += file_frames
    return storable_rows, storable_frames


def _write(workspace: Workspace, name: str, rows: list[dict], frames: list[dict], failures: list[dict]) -> None:
    """Writes the parts of a batch. The part of files is the last, because it marks a finished batch."""
    if failures:
        parts.write_part(workspace.uri, SURVEY_FAILURES, name, failures, tables.FAILURES)
    else:  # a killed attempt may have written this part
        files.remove_file(workspace.part(SURVEY_FAILURES, name))
    parts.write_part(workspace.uri, SURVEY_FRAMES, name, frames, tables.MICROGRAPHS)
    parts.write_part(workspace.uri, SURVEY_FILES, name, rows, tables.CATALOG)


def make_failed_file_row(entry: Entry, died: CallFailed) -> dict:
    """The row of tables.CATALOG of a file whose reader crashed."""
    columns = {"format": None, "kind": "unknown", "status": "failed", "content_sha256": None}
    columns |= {"n_frames": 0, "n_frames_lost": 0, "is_present": True}
    columns |= {"reason": REASONS.get(died.failure_kind, REASONS["error"]), "error": died.error}
    return {key: getattr(entry, key) for key in ("uri", "size_bytes", "modified_ns")} | columns


def make_reader_failure(entry: Entry, died: CallFailed, worker: str) -> dict:
    """The row of tables.FAILURES of a file whose reader crashed."""
    return make_failure_row(entry.uri, None, "ingest", died, worker)
