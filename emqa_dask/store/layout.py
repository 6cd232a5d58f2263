"""Where everything lies in a workspace, what stacks are called, and the marker that says whose workspace it is."""

import contextlib
import math
import re
import shlex

import numpy as np

from emqa_dask import checksummed_text
from emqa_dask.settings import Settings, SettingsError, dump, parse
from emqa_dask.store import files

FORMAT = 4  # of the workspace; a program refuses workspaces of another one
MARKER = "workspace.json"


def catalog_uri(root: str) -> str:
    return files.join(root, "catalog.parquet")


def micrographs_uri(root: str) -> str:
    return files.join(root, "micrographs.parquet")


def micrographs_copy_uri(root: str) -> str:
    """A second copy of the ledger, which no other file can replace."""
    return files.join(root, "micrographs-copy.parquet")


def damaged_folder(root: str) -> str:
    """Where damaged files are put aside."""
    return files.join(root, "damaged")


def stacks_folder(root: str) -> str:
    return files.join(root, "micrographs.zarr")


def stack_folder(root: str, name: str) -> str:
    return files.join(root, "micrographs.zarr", name)


def name_table_folder(stage: str, digest: str = "") -> str:
    """Name of the folder of a stage's parts: "detections-3fa2c1d0", or just "thumbnails" without a digest."""
    return f"{stage}-{digest}" if digest else stage


PART_FOLDER_PREFIXES = ("thumbnails", "detections", "evidence", "features", "predictions", "probabilities", "regions")
PART_FOLDER_PREFIXES += ("classifications", "survey", "failures", "events.parquet")  # how folders of parts begin


def list_table_folders(root: str) -> list[str]:
    """Names of the folders of parts in a workspace, of whatever settings."""
    return [name for name in files.list_names(root) if name.split("-")[0] in PART_FOLDER_PREFIXES]


def part_uri(root: str, table: str, name: str) -> str:
    return files.join(root, table, f"{name}.parquet")


def triage_uri(root: str) -> str:
    return files.join(root, "triage.parquet")


def triage_csv_uri(root: str) -> str:
    return files.join(root, "triage.csv")


def flags_uri(root: str) -> str:
    return files.join(root, "flags.parquet")


def drifts_uri(root: str) -> str:
    return files.join(root, "drifts.parquet")


def sessions_uri(root: str) -> str:
    return files.join(root, "sessions.parquet")


def failures_uri(root: str) -> str:
    return files.join(root, "failures.parquet")


def events_uri(root: str) -> str:
    return files.join(root, "events.parquet")


def provenance_uri(root: str) -> str:
    return files.join(root, "provenance.json")


def settings_uri(root: str) -> str:
    return files.join(root, "settings.toml")


def report_uri(root: str) -> str:
    return files.join(root, "report", "index.html")


def name_stack(height_px: int, width_px: int, dtype: str, nm_per_pixel: float) -> str:
    """Name of the stack for micrographs of one shape, dtype and pixel size: "2048x2048-uint16-0.31nm".

    Pixel sizes that differ in their first six digits get different names; NaN, infinite, zero and negative ones are
    unknown: "nopx". Only letters, digits, ".", "-" and "x" occur, so that it can be a folder, a key and a part's name.
    """
    size = float(nm_per_pixel) if nm_per_pixel is not None else math.nan
    scale = f"{size:.6g}nm".replace("+", "") if math.isfinite(size) and size > 0 else "nopx"
    return f"{int(height_px)}x{int(width_px)}-{np.dtype(dtype).name}-{scale}"


def parse_shape(name: str) -> tuple[int, int, str]:
    """(height, width, dtype) of a stack's micrographs, which its name says."""
    height, width, dtype = re.match(r"(\d+)x(\d+)-([^-]+)-", name).groups()
    return int(height), int(width), dtype


def parse_pixel_size_nm(name: str) -> float:
    """The pixel size in nm that a stack's name says; NaN for "nopx"."""
    found = re.search(r"-([0-9.e-]+)nm$", name)
    return float(found.group(1)) if found else math.nan


class DamagedMarker(ValueError):
    """The marker of a workspace cannot be read."""


def claim_workspace(root: str, source: str) -> None:
    """Make `root` the workspace of archive `source`, or see that it already is.

    A marker that is damaged or gone is written again where the folder has our tables of that archive. ValueError with
    the remedy for a folder that is not empty and not a workspace, a workspace of another archive or format, and a file
    in its place.
    """
    fs, path = files.locate(root)
    if fs.isfile(path):
        raise ValueError(f"{root} is a file, not a folder: give another --workspace")
    for name in (str(root), source):
        if any("\ud800" <= c <= "\udfff" for c in name):
            raise ValueError(
                f"{name!r} is no UTF-8, as tables and the page have to be: rename it, or give a link to it"
            )
    try:
        marker = _read_marker(root)
    except DamagedMarker:
        if not _has_workspace_tables(root):
            raise
        marker = None
    if marker is not None:
        _check_owner(root, _check_format(root, *marker), source)
        return
    if names := files.list_names(root):
        if not _has_workspace_tables(root):
            raise ValueError(
                f"{root} is not an emqa workspace and not empty (it has {names[0]!r}): "
                "give --workspace a new or an empty folder"
            )
        _check_tables(root, source)
    write_marker(root, source)


def read_source(root: str) -> str:
    """The archive whose workspace `root` is. Every verb asks for it before it reads or writes anything in `root`.

    ValueError, with the remedy, for what is no workspace, one of another format, and a damaged marker.
    """
    marker = _read_marker(root)
    if marker is not None:
        return _check_format(root, *marker)
    if _has_workspace_tables(root):
        raise DamagedMarker(_describe_marker_remedy(root, "is missing"))
    fs, path = files.locate(root)
    why = f"there is no {MARKER} in it" if files.list_names(root) else "it is empty, or does not exist"
    why = "it is a file" if fs.isfile(path) else why
    raise ValueError(f"{root} is not an emqa workspace: {why}; give the folder that emqa triage has made")


def is_workspace(root: str) -> bool:
    """Is `root` a workspace, of whatever archive, be its marker damaged or gone?"""
    return files.exists(files.join(root, MARKER)) or _has_workspace_tables(root)


def write_marker(root: str, source: str) -> None:
    """Write down that `root` is the workspace of archive `source`."""
    files.write_bytes(files.join(root, MARKER), checksummed_text.format_marker(FORMAT, source))


def _read_marker(root: str) -> tuple[int, str] | None:
    """(format version, archive); None where there is no marker, DamagedMarker where it cannot be read."""
    try:
        data = files.read_bytes(files.join(root, MARKER))
    except (FileNotFoundError, NotADirectoryError):
        return None
    marker = checksummed_text.parse_marker(data)
    if marker is None:
        raise DamagedMarker(_describe_marker_remedy(root, "is damaged"))
    return marker


def _describe_marker_remedy(root: str, fault: str) -> str:
    return (
        f"{files.join(root, MARKER)} {fault}: run `emqa triage SRC {shlex.join(['--workspace', str(root)])}`, with the "
        "archive that this workspace is of as SRC; it writes the file again"
    )


def _check_format(root: str, version: int, source: str) -> str:
    """`source`; ValueError where the workspace is of another format."""
    if version > FORMAT:
        raise ValueError(
            f"{root} has workspace format {version}, this emqa knows {FORMAT}: update emqa_dask to the one that made it"
        )
    if version < FORMAT:
        raise ValueError(
            f"{root} has workspace format {version}, of an older emqa_dask: run "
            f"{format_triage_command('NEW', source)} with a "
            "new folder NEW; this one stays as it is"
        )
    return source


def _check_owner(root: str, owner: str, source: str) -> None:
    if owner != source:
        raise ValueError(
            f"{root} belongs to {owner}, not to {source}: give --workspace another folder or, if the archive was only "
            f"moved or renamed, {shlex.join(['--moved-from', owner])}"
        )


def format_command(*words: str) -> str:
    """The command `emqa WORDS` as a shell takes it, without passwords, between backticks: a remedy."""
    return f"`{files.redact(shlex.join(['emqa', *map(str, words)]))}`"


def format_triage_command(root: str, source: str) -> str:
    """The command that makes what workspace `root` of archive `source` lacks."""
    return format_command("triage", source, "--workspace", root)


def _has_workspace_tables(root: str) -> bool:
    """Are there files in `root` that only a workspace has, whatever its marker says?"""
    names = set(files.list_names(root))
    if {"catalog.parquet", "micrographs.parquet"} <= names:
        return True
    return "settings.toml" in names and checksummed_text.has_checksum(files.read_bytes(settings_uri(root)))


def _check_tables(root: str, source: str) -> None:
    """ValueError where the ledger in `root` is of files that do not lie in archive `source`; a list may name any.

    Where the ledger is damaged or missing, its copy tells; without both nothing does.
    """
    from emqa_dask import tables
    from emqa_dask.store import parts  # which imports this module

    if source.lower().endswith((".txt", ".lst", ".list")):
        return
    for uri in (micrographs_uri(root), micrographs_copy_uri(root)):
        with contextlib.suppress(parts.DamagedTable):
            for rows in parts.iterate_table(uri, tables.MICROGRAPHS, ["path"], rows=1):
                path = rows["path"].iloc[0]
                if "\\" not in path and not path.startswith(source.partition("::")[0]):
                    raise ValueError(
                        f"{root} has results of {path}, which is not in {source}: give the archive that it is in"
                    )
                return


def write_settings(root: str, changed: Settings) -> None:
    """Write `changed` as the settings of the workspace, with a checksum in the last line."""
    files.write_bytes(settings_uri(root), checksummed_text.add_checksum(dump(changed), checksummed_text.SETTINGS_HEAD))


def read_settings(root: str) -> Settings:
    """The settings that the workspace was last run with; the defaults for one without a catalog.

    ValueError, with the remedy, for a workspace of another format, and SettingsError for a settings.toml that is lost
    or not as emqa has written it.
    """
    source = "SRC"
    uri = settings_uri(root)
    with contextlib.suppress(DamagedMarker):
        if marker := _read_marker(root):
            source = _check_format(root, *marker)
    again = (
        f"run {format_triage_command(root, source)} "
        "with the --template or --settings of before (defaults: --template generic)"
    )
    try:
        data = files.read_bytes(uri)
    except (FileNotFoundError, NotADirectoryError):
        if not any(
            files.exists(table) for table in (catalog_uri(root), micrographs_uri(root), micrographs_copy_uri(root))
        ):
            return Settings()
        raise SettingsError(f"{uri} is missing, and other settings would give other results: {again}") from None
    text = checksummed_text.strip_checksum(data)
    if text is None:
        option = shlex.join(["--settings", uri]) if files.is_local(uri) else "--settings and a copy on this machine"
        raise SettingsError(
            f"{uri} was changed since emqa wrote it: to have it as it is, run {format_triage_command(root, source)} "
            f"with {option}; if it was not you, it is damaged: {again}"
        )
    try:
        return parse(text, uri)
    except SettingsError as error:
        raise SettingsError(f"{error}; another version of emqa_dask wrote it: {again}") from error
