"""Marker of a workspace, workspace.json: its format and the archive whose results it holds.

An archive is one source (a folder, a list, a URI) or several, each with a name with which its files' URIs start.
"""

import contextlib
import shlex

from emqa_dask import checksummed_text, tables
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

WORKSPACE_FORMAT = 6  # of workspaces; those of another format are refused


MARKER_NAME = "workspace.json"
Sources = dict[str, str]  # each source of an archive and its name; one source alone has the name ""
N_SHOWN_SOURCES = 3  # of an archive, in a line of text


class DamagedMarkerError(ValueError):
    """The marker of a workspace cannot be read."""


def claim_workspace(root: str, archive: str | Sources) -> None:
    """Make `root` the workspace of `archive` (a source, or several with their names), or check that it is.

    A marker that is damaged or missing is written again if the folder has tables of that archive. Raises ValueError,
    with the remedy, for a folder that is neither empty nor a workspace, for a workspace of another archive or format,
    and for a file.
    """
    sources = _name_single_source(archive)
    fs, path = files.locate(root)
    if fs.isfile(path):
        raise ValueError(f"{root} is a file, not a folder: give another --workspace")
    for name in (str(root), *sources):
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
        _check_owner(root, check_format(root, *marker), sources)
        return
    if names := files.list_names(root):
        if not _has_workspace_tables(root):
            raise ValueError(
                f"{root} is not an emqa workspace and not empty (it has {names[0]!r}): "
                "give --workspace a new or an empty folder"
            )
        _check_ledger(root, sources)
    write_marker(root, sources)


def _name_single_source(archive: str | Sources) -> Sources:
    return {archive: ""} if isinstance(archive, str) else archive


def describe_sources(sources: Sources) -> str:
    """The archive in a line of text: its source, or its first sources."""
    remainder = f" and {len(sources) - N_SHOWN_SOURCES:,} more" if len(sources) > N_SHOWN_SOURCES else ""
    return ", ".join(list(sources)[:N_SHOWN_SOURCES]) + remainder


def read_source(root: str) -> str:
    """The archive whose workspace `root` is, in a line of text."""
    return describe_sources(read_sources(root))


def read_sources(root: str) -> Sources:
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


def write_marker(root: str, archive: str | Sources) -> None:
    """Write the marker that makes `root` the workspace of `archive`."""
    sources = _name_single_source(archive)
    stored = next(iter(sources)) if len(sources) == 1 else dict(sorted(sources.items()))
    files.write_bytes(files.join(root, MARKER_NAME), checksummed_text.format_marker(WORKSPACE_FORMAT, stored))


def load_marker(root: str) -> tuple[int, Sources] | None:
    """(format version, archive); None where there is no marker, DamagedMarkerError where it cannot be read."""
    try:
        data = files.read_bytes(files.join(root, MARKER_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return None
    marker = checksummed_text.parse_marker(data)
    if marker is None:
        raise DamagedMarkerError(_describe_marker_remedy(root, "is damaged"))
    version, archive = marker
    return version, _name_single_source(archive)


def _describe_marker_remedy(root: str, fault: str) -> str:
    return (
        f"{files.join(root, MARKER_NAME)} {fault}: run `emqa triage SRC {shlex.join(['--workspace', str(root)])}`, "
        "with the archive that this workspace is of as SRC; it writes the file again"
    )


def check_format(root: str, version: int, sources: Sources) -> Sources:
    """`sources`; ValueError where the workspace is of another format."""
    if version > WORKSPACE_FORMAT:
        raise ValueError(
            f"{root} has workspace format {version}, this emqa knows {WORKSPACE_FORMAT}: "
            "update emqa_dask to the one that made it"
        )
    if version < WORKSPACE_FORMAT:
        raise ValueError(
            f"{root} has workspace format {version}, of an older emqa_dask: run "
            f"{format_triage_command('NEW', sources)} with a "
            "new folder NEW; this one stays as it is"
        )
    return sources


def _check_owner(root: str, owner: Sources, sources: Sources) -> None:
    if set(owner) == set(sources):
        return
    moved_sources = [source for source in owner if source not in sources]
    if len(owner) == len(sources) and len(moved_sources) == 1:
        remedy = f"another folder or, if the archive was only moved or renamed, {format_moved_option(*moved_sources)}"
    else:
        remedy = "another folder, or give all sources of before"
    raise ValueError(
        f"{root} belongs to {describe_sources(owner)}, not to {describe_sources(sources)}: give --workspace {remedy}"
    )


def format_moved_option(source: str) -> str:
    """The option of the command line that says where the source of a workspace was before."""
    return shlex.join(["--moved-from", source])


def format_command(*arguments: str) -> str:
    """The command `emqa ARGUMENTS` as a shell takes it, without passwords, between backticks: a remedy."""
    return f"`{files.redact(shlex.join(['emqa', *map(str, arguments)]))}`"


def format_triage_command(root: str, archive: str | Sources) -> str:
    """The command that makes what workspace `root` of `archive` lacks."""
    return format_command("triage", *_name_single_source(archive), "--workspace", root)


def _has_workspace_tables(root: str) -> bool:
    """Whether `root` has files that only a workspace has; its marker is not read."""
    names = set(files.list_names(root))
    if {"catalog.parquet", "micrographs.parquet"} <= names:
        return True
    return "settings.toml" in names and checksummed_text.has_checksum(files.read_bytes(Workspace(root).settings_file))


def _check_ledger(root: str, sources: Sources) -> None:
    """Raises ValueError when the ledger in `root` lists files outside of the archive, unless a source is a list file.

    If the ledger is damaged or missing, its copy is read; without both there is no check.
    """
    if any(source.lower().endswith((".txt", ".lst", ".list", ".csv", ".tsv")) for source in sources):
        return
    places = tuple(source.partition("::")[0] for source in sources)
    for uri in (Workspace(root).micrographs, Workspace(root).micrographs_copy):
        with contextlib.suppress(parts.DamagedTable):
            for rows in parts.iterate_table(uri, tables.MICROGRAPHS, ["path"], rows=1):
                path = rows["path"].iloc[0]
                if "\\" not in path and not path.startswith(places):
                    raise ValueError(
                        f"{root} has results of {path}, which is not in {describe_sources(sources)}: "
                        "give the archive that it is in"
                    )
                return
