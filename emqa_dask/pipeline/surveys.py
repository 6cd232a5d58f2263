"""What a worker does first: survey a batch of files, and write what is in them as parts of the survey's two tables."""

from emqa_dask import tables
from emqa_dask.archive.scan import Entry, escape
from emqa_dask.archive.survey import survey
from emqa_dask.settings import Settings
from emqa_dask.store import parts

SURVEY_FILES, SURVEY_FRAMES = "survey", "survey-micrographs"  # folders of the two tables that a survey writes
SURVEYED = tables.with_column(tables.CATALOG, "path", "where the file lies, as scan.escape() writes it")


def survey_files(root: str, name: str, entries: list[Entry], settings: Settings, call=None) -> dict:
    """Survey `entries` and write their rows as parts `name` of the survey's two tables."""
    if parts.has_part(root, SURVEY_FILES, name, SURVEYED):
        return {"outcome": "found", "n_images": len(entries)}
    surveyed = [survey(entry, settings.archive) for entry in entries]
    frames = [row for _, rows in surveyed for row in rows]
    files = [row | {"path": escape(entry.path)} for (row, _), entry in zip(surveyed, entries, strict=True)]
    parts.write_part(root, SURVEY_FRAMES, name, frames, tables.MICROGRAPHS)
    parts.write_part(root, SURVEY_FILES, name, files, SURVEYED)
    return {"n_images": len(entries), "bytes": sum(entry.size_bytes for entry in entries)}


def survey_crash(root: str, name: str, entries: list[Entry], error: str) -> None:
    """What survey_files() would have written, for entries (usually one) whose reading failed as a whole."""
    said = {"format": None, "kind": "unknown", "status": "failed", "content_sha256": None, "n_frames": 0}
    said |= {"reason": "the reader crashed on it; the file is probably damaged", "error": error}
    at = ("uri", "size_bytes", "modified_ns")
    files = [{key: getattr(e, key) for key in at} | said | {"path": escape(e.path)} for e in entries]
    parts.write_part(root, SURVEY_FRAMES, name, [], tables.MICROGRAPHS)
    parts.write_part(root, SURVEY_FILES, name, files, SURVEYED)
