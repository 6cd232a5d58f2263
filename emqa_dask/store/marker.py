"""Marker of a workspace, workspace.json: its format and the archive whose results it holds."""

import contextlib
import shlex

from emqa_dask import checksummed_text, tables
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

WORKSPACE_FORMAT = 6  # of workspaces; those of another format are refused


MARKER_NAME = "workspace.json"


class DamagedMarkerError(ValueError):
    """The marker of a workspace cannot be read."""


def claim_workspace(root: str, source: str) -> None:
    """Make `root` the workspace of archive `source`, or check that it is.

    A marker that is damaged or missing is written again if the folder has tables of that archive. Raises ValueError,
    with the remedy, for a folder that is neither empty nor a workspace, for a workspace of another archive or format,
    and for a file.
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
        marker = load_marker(root)
    except DamagedMarkerError:
        if not _has_workspace_tables(root):
            raise
        marker = None
    if marker is not None:
        _check_owner(root, check_format(root, *marker), source)
        return
    if names := files.list_names(root):
        if not _has_workspace_tables(root):
            raise ValueError(
                f"{root} is not an emqa workspace and not empty (it has {names[0]!r}): "
                "give --workspace a new or an empty folder"
            )
        _check_ledger(root, source)
    write_marker(root, source)


def read_source(root: str) -> str:
    """The archive whose workspace `root` is. Every verb calls this before it reads or writes anything in `root`.

    Raises ValueError, with the remedy, for a folder that is no workspace, another format, and a damaged marker.
    """
    marker = load_marker(root)
    if marker is not None:
        return check_format(root, *marker)
    if _has_workspace_tables(root):
        raise DamagedMarkerError(_describe_marker_remedy(root, "is missing"))
    fs, path = files.locate(root)
    reason = f"there is no {MARKER_NAME} in it" if files.list_names(root) else "it is empty, or does not exist"
    reason = "it is a file" if fs.isfile(path) else reason
    raise ValueError(f"{root} is not an emqa workspace: {reason}; give the folder that emqa triage has made")


def is_workspace(root: str) -> bool:
    """Whether `root` is a workspace of any archive, even if its marker is damaged or missing."""
    return files.exists(files.join(root, MARKER_NAME)) or _has_workspace_tables(root)


def write_marker(root: str, source: str) -> None:
    """Write the marker that makes `root` the workspace of archive `source`."""
    files.write_bytes(files.join(root, MARKER_NAME), checksummed_text.format_marker(WORKSPACE_FORMAT, source))


def load_marker(root: str) -> tuple[int, str] | None:
    """(format version, archive); None where there is no marker, DamagedMarkerError where it cannot be read."""
    try:
        data = files.read_bytes(files.join(root, MARKER_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return None
    marker = checksummed_text.parse_marker(data)
    if marker is None:
        raise DamagedMarkerError(_describe_marker_remedy(root, "is damaged"))
    return marker


def _describe_marker_remedy(root: str, fault: str) -> str:
    return (
        f"{files.join(root, MARKER_NAME)} {fault}: run `emqa triage SRC {shlex.join(['--workspace', str(root)])}`, "
        "with the archive that this workspace is of as SRC; it writes the file again"
    )


def check_format(root: str, version: int, source: str) -> str:
    """`source`; ValueError where the workspace is of another format."""
    if version > WORKSPACE_FORMAT:
        raise ValueError(
            f"{root} has workspace format {version}, this emqa knows {WORKSPACE_FORMAT}: "
            "update emqa_dask to the one that made it"
        )
    if version < WORKSPACE_FORMAT:
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


def format_command(*arguments: str) -> str:
    """The command `emqa ARGUMENTS` as a shell takes it, without passwords, between backticks: a remedy."""
    return f"`{files.redact(shlex.join(['emqa', *map(str, arguments)]))}`"


def format_triage_command(root: str, source: str) -> str:
    """The command that makes what workspace `root` of archive `source` lacks."""
    return format_command("triage", source, "--workspace", root)


def _has_workspace_tables(root: str) -> bool:
    """Whether `root` has files that only a workspace has; its marker is not read."""
    names = set(files.list_names(root))
    if {"catalog.parquet", "micrographs.parquet"} <= names:
        return True
    return "settings.toml" in names and checksummed_text.has_checksum(files.read_bytes(Workspace(root).settings_file))


def _check_ledger(root: str, source: str) -> None:
    """Raises ValueError when the ledger in `root` lists files outside of archive `source`, unless that is a list file.

    If the ledger is damaged or missing, its copy is read; without both there is no check.
    """

    if source.lower().endswith((".txt", ".lst", ".list", ".csv", ".tsv")):
        return
    for uri in (Workspace(root).micrographs, Workspace(root).micrographs_copy):
        with contextlib.suppress(parts.DamagedTable):
            for rows in parts.iterate_table(uri, tables.MICROGRAPHS, ["path"], rows=1):
                path = rows["path"].iloc[0]
                if "\\" not in path and not path.startswith(source.partition("::")[0]):
                    raise ValueError(
                        f"{root} has results of {path}, which is not in {source}: give the archive that it is in"
                    )
                return
