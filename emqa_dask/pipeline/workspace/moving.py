"""Adapts a workspace to an archive that was moved, renamed or mounted elsewhere. No pixel is read."""

import itertools
import os
import shlex
from collections.abc import Callable

import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import name_escapes, scan
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FRAMES
from emqa_dask.store import files, lock, marker, parts
from emqa_dask.store.layout import Workspace

N_CHECKED_FILES = 20  # first files of the workspace; the new archive must contain one of them
PathLocator = Callable[[str, str], str]  # (URI, path until now) -> path from now on, as the ledger has it


def take_over_workspace(root: str, old_source: str, new_source: str, say: Callable[[str], None] = print) -> None:
    """Makes `root`, the workspace of archive `old_source`, that of `new_source`, which has the same files.

    URIs are relative to the archive, so every id and result stays. The paths of the files and the marker are written
    anew. An interrupted call can be repeated. Raises ValueError where `root` belongs to neither archive, and where its
    files are not in `new_source`.
    """
    workspace = Workspace(root)
    old_source = make_source_absolute(old_source)
    new_source = make_source_absolute(new_source)
    owner = marker.read_source(root)
    if owner == new_source:
        return
    if owner != old_source:
        raise ValueError(f"{root} belongs to {owner}, not to {old_source}: give {shlex.join(['--moved-from', owner])}")
    locate = _make_path_locator(new_source)
    _check_files(workspace, new_source, locate)
    with lock.hold_lock(root, say):
        for name in parts.list_parts(root, SURVEY_FRAMES):  # of a survey that was killed
            rows = parts.read_part(root, SURVEY_FRAMES, name, tables.MICROGRAPHS)
            parts.write_part(root, SURVEY_FRAMES, name, _move_paths(rows, locate), tables.MICROGRAPHS)
        uri = workspace.micrographs
        if files.exists(uri):
            with parts.open_table_writer(uri, tables.MICROGRAPHS) as write:
                for rows in parts.iterate_table(uri, tables.MICROGRAPHS):
                    write(_move_paths(rows, locate))
        marker.write_marker(root, new_source)
    say(f"{root} was of {old_source}, from now on it is of {new_source}")


def make_source_absolute(source: str) -> str:
    """`source` in the form of a workspace's marker: an absolute path or a URI."""
    return source if "://" in source else os.path.abspath(source)


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


def _check_files(workspace: Workspace, new_source: str, locate: PathLocator) -> None:
    """Raises ValueError where `new_source` has none of the first files of the workspace."""
    batches = parts.iterate_table(workspace.micrographs, tables.MICROGRAPHS, ["uri", "path"], N_CHECKED_FILES)
    for rows in itertools.islice(batches, 1):
        paths = [name_escapes.unescape_name(path) for path in _move_paths(rows, locate)["path"]]
        if not any(files.exists(path) or files.list_names(path) for path in paths):
            raise ValueError(
                f"{new_source} is not the archive of {workspace.uri}: {rows['uri'].iloc[0]!r} should lie in it; "
                "give the folder in which it does"
            )
