"""An archive that was moved, renamed or mounted elsewhere: its workspace goes on with it. No pixel is read."""

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

LOOKED_FOR = 20  # files of the workspace of which one has to lie in the new place
Locate = Callable[[str, str], str]  # (URI, path until now) -> path from now on, as the ledger has it


def take_over(root: str, old: str, new: str, say: Callable[[str], None] = print) -> None:
    """Make `root`, the workspace of archive `old`, that of `new`, where the same files lie under the same names.

    URIs are relative to the archive, so every id and result stays; the paths of the files and the marker are written
    anew. When it is killed in between, it can be done again. ValueError where `root` is of neither archive and where
    its files do not lie in `new`.
    """
    workspace = Workspace(root)
    old = absolute_source(old)
    new = absolute_source(new)
    owner = marker.read_source(root)
    if owner == new:
        return
    if owner != old:
        raise ValueError(f"{root} belongs to {owner}, not to {old}: give {shlex.join(['--moved-from', owner])}")
    locate = _locator(new)
    _check_files(workspace, new, locate)
    with lock.hold_lock(root, say):
        for name in parts.list_parts(root, SURVEY_FRAMES):  # of a survey that was killed
            rows = parts.read_part(root, SURVEY_FRAMES, name, tables.MICROGRAPHS)
            parts.write_part(root, SURVEY_FRAMES, name, _move(rows, locate), tables.MICROGRAPHS)
        uri = workspace.micrographs
        if files.exists(uri):
            with parts.open_table_writer(uri, tables.MICROGRAPHS) as write:
                for rows in parts.iterate_table(uri, tables.MICROGRAPHS):
                    write(_move(rows, locate))
        marker.write_marker(root, new)
    say(f"{root} was of {old}, from now on it is of {new}")


def absolute_source(source: str) -> str:
    """`source` as a workspace's marker has it."""
    return source if "://" in source else os.path.abspath(source)


def _locator(source: str) -> Locate:
    """Where the files of the archive `source` lie; FileNotFoundError or ValueError where there is none."""
    first = next(iter(scan.scan_archive(source)))
    if first.uri == ".":
        raise PermissionError(f"{source}: {first.problem}; ask its owner")
    is_remote = "://" in source
    if first.path != source and not is_remote and os.path.isfile(source):  # a list, whose files may lie anywhere
        paths = {entry.uri: name_escapes.escape_name(entry.path) for entry in scan.scan_archive(source)}
        return paths.get
    if first.path == source:
        return lambda uri, path: name_escapes.escape_name(source)
    head, link, rest = first.path.partition("::") if is_remote else (first.path, "", "")
    folder = head.removesuffix(name_escapes.unescape_name(first.uri))
    return lambda uri, path: name_escapes.escape_name(f"{folder}{name_escapes.unescape_name(uri)}{link}{rest}")


def _move(rows: pd.DataFrame, locate: Locate) -> pd.DataFrame:
    return rows.assign(path=[locate(uri, path) for uri, path in zip(rows["uri"], rows["path"], strict=True)])


def _check_files(workspace: Workspace, new: str, locate: Locate) -> None:
    """ValueError where none of the first files of the workspace lies in `new`."""
    batches = parts.iterate_table(workspace.micrographs, tables.MICROGRAPHS, ["uri", "path"], LOOKED_FOR)
    for rows in itertools.islice(batches, 1):
        paths = [name_escapes.unescape_name(path) for path in _move(rows, locate)["path"]]
        if not any(files.exists(path) or files.list_names(path) for path in paths):
            raise ValueError(
                f"{new} is not the archive of {workspace.uri}: {rows['uri'].iloc[0]!r} should lie in it; give the "
                "folder in which it does"
            )
