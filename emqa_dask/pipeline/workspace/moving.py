"""Adapts a workspace to an archive that was moved, renamed or mounted elsewhere. No pixel is read."""

import itertools
import os
from collections.abc import Callable

import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import name_escapes, scan
from emqa_dask.pipeline.workspace.archive_sources import Archives, list_sources, make_source_absolute
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FRAMES
from emqa_dask.store import files, lock, marker, parts
from emqa_dask.store.layout import Workspace

N_CHECKED_FILES = 20  # first files of the workspace; the new archive must contain one of them
PathLocator = Callable[[str, str], str]  # (URI, path until now) -> path from now on, as the ledger has it


def take_over_workspace(root: str, old_source: str, archive: Archives, say: Callable[[str], None] = print) -> None:
    """Makes `root`, whose archive had the source `old_source`, the workspace of `archive`, which has the same files.

    `archive` has one source in place of `old_source`. URIs are relative to the archive, so every id and result stays.
    The paths of the files and the marker are written anew. An interrupted call can be repeated. Raises ValueError where
    `root` belongs to neither archive, and where its files are not in the new source.
    """
    workspace = Workspace(root)
    old_source = make_source_absolute(old_source)
    sources = list_sources(archive)
    owner = marker.read_sources(root)
    if set(owner) == set(sources):
        return
    new_sources = [source for source in sources if source not in owner]
    if old_source not in owner or old_source in sources or len(new_sources) != 1 or len(owner) != len(sources):
        missing = next((source for source in owner if source not in sources), next(iter(owner)))
        raise ValueError(
            f"{root} belongs to {marker.describe_sources(owner)}, not to {old_source}: give "
            f"{marker.format_moved_option(missing)}"
        )
    (new_source,) = new_sources
    locate = _make_path_locator(new_source)
    if len(owner) > 1:
        locate = _limit_to_source(locate, owner, old_source)
    _check_files(workspace, new_source, f"{owner[old_source]}/" if len(owner) > 1 else "", locate)
    with lock.hold_lock(root, say):
        for name in parts.list_parts(root, SURVEY_FRAMES):  # of a survey that was killed
            rows = parts.read_part(root, SURVEY_FRAMES, name, tables.MICROGRAPHS)
            parts.write_part(root, SURVEY_FRAMES, name, _move_paths(rows, locate), tables.MICROGRAPHS)
        uri = workspace.micrographs
        if files.exists(uri):
            with parts.open_table_writer(uri, tables.MICROGRAPHS) as write:
                for rows in parts.iterate_table(uri, tables.MICROGRAPHS):
                    write(_move_paths(rows, locate))
        marker.write_marker(root, {new_source if s == old_source else s: name for s, name in owner.items()})
    say(f"{root} was of {old_source}, from now on it is of {new_source}")


def _limit_to_source(locate: PathLocator, owner: marker.Sources, old_source: str) -> PathLocator:
    """`locate` for the files of `old_source`, whose URIs start with its name; other files keep their paths."""
    prefix = f"{owner[old_source]}/"
    is_file = list(owner.values()).count(owner[old_source]) > 1  # files of one folder have one name
    old_path = name_escapes.escape_name(old_source)

    def locate_file(uri: str, path: str) -> str:
        is_moved = path == old_path if is_file else uri.startswith(prefix)
        return locate(uri.removeprefix(prefix), path) if is_moved else path

    return locate_file


def _make_path_locator(source: str) -> PathLocator:
    """A function that locates files of the archive `source`; FileNotFoundError or ValueError for a missing archive."""
    first_entry = next(iter(scan.scan_archive(source)))
    if first_entry.uri == ".":
        raise PermissionError(f"{source}: {first_entry.problem}; ask its owner")
    is_remote = "://" in source
    if first_entry.path != source and not is_remote and os.path.isfile(source):  # a list, whose files may lie anywhere
        paths = {entry.uri: name_escapes.escape_name(entry.path) for entry in scan.scan_archive(source)}
        return paths.get
    if first_entry.path == source:
        return lambda uri, path: name_escapes.escape_name(source)
    head, link, inner_path = first_entry.path.partition("::") if is_remote else (first_entry.path, "", "")
    folder = head.removesuffix(name_escapes.unescape_name(first_entry.uri))
    return lambda uri, path: name_escapes.escape_name(f"{folder}{name_escapes.unescape_name(uri)}{link}{inner_path}")


def _move_paths(rows: pd.DataFrame, locate: PathLocator) -> pd.DataFrame:
    return rows.assign(path=[locate(uri, path) for uri, path in zip(rows["uri"], rows["path"], strict=True)])


def _check_files(workspace: Workspace, new_source: str, prefix: str, locate: PathLocator) -> None:
    """Raises ValueError where `new_source` has none of the first files of the workspace that start with `prefix`."""
    batches = parts.iterate_table(workspace.micrographs, tables.MICROGRAPHS, ["uri", "path"])
    own_rows = (rows[rows["uri"].str.startswith(prefix)].head(N_CHECKED_FILES) for rows in batches)
    for rows in itertools.islice((rows for rows in own_rows if len(rows)), 1):
        paths = [name_escapes.unescape_name(path) for path in _move_paths(rows, locate)["path"]]
        if not any(files.exists(path) or files.list_names(path) for path in paths):
            raise ValueError(
                f"{new_source} is not the archive of {workspace.uri}: {rows['uri'].iloc[0]!r} should lie in it; "
                "give the folder in which it does"
            )
