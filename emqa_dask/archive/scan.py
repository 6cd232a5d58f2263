"""Files of an archive: a folder, a list file or an fsspec URI, as a stream of entries in a fixed order."""

import os
import re
import stat
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from emqa_dask.archive.entries import ZARR_SUFFIXES, Entry, describe_os_error
from emqa_dask.archive.file_lists import LIST_SUFFIXES, is_remote_name, read_listed_paths
from emqa_dask.archive.name_escapes import escape_name, escape_uri
from emqa_dask.archive.rows import clip_integer
from emqa_dask.archive.scan_remote import scan_remote
from emqa_dask.archive.selection import FileSelection

_ZARR_MARKERS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_SPECIAL_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def scan_archive(source: str | Path, selection: FileSelection | None = None) -> Iterator[Entry]:
    """Every file of `source` as an Entry, in the same order each time; one folder's listing in memory at a time.

    source: a folder; a list file (.txt, .lst, .list, .csv, .tsv; see file_lists); one file; or an fsspec URI
    (s3://bucket/folder). selection: which files are read, all by default; folders that it excludes are not listed.
    A Zarr folder is one entry. Symbolic links are followed within the folder `source`. A link that loops or leads out
    of it is an entry with a problem, because the owner of an archive must not choose which other files are read; a
    list file may name any file.
    Raises FileNotFoundError for a missing source, PermissionError for one that may not be read, and ValueError when no
    file is found.
    """
    name = os.fspath(source)
    selection = selection or FileSelection()
    entries = scan_remote(name, selection) if "://" in name else _scan_local(Path(name), selection)
    selected_entries = filter(selection.has_entry, entries)
    first = next(selected_entries, None)
    if first is None:
        if selection.n_files or selection.n_folders:
            raise ValueError(f"{name}: archive.exclude and archive.include leave out every file; change these patterns")
        raise ValueError(f"{name}: there is no file in it; give a folder that holds micrographs")
    return chain([first], selected_entries)


def _scan_local(path: Path, selection: FileSelection) -> Iterator[Entry]:
    try:
        exists = path.exists()
    except PermissionError:
        raise PermissionError(f"{path}: no permission to read it; ask its owner, or copy it") from None
    if not exists:
        raise FileNotFoundError(
            f"{path}: no such file or folder; give the folder that holds the micrographs{_describe_mount(path.name)}"
        )
    if path.is_dir() and not is_zarr_folder(str(path)):
        return _scan_folder(str(path), "", selection)
    if path.suffix.lower() in LIST_SUFFIXES:
        return _scan_list(path, selection)
    return iter([_make_local_entry(str(path), path.name)])


def _describe_mount(name: str) -> str:
    """Where a path of Windows is in WSL, as a hint; "" for another path."""
    drive = re.match(r"([A-Za-z]):[\\/]", name)
    inner_path = name[drive.end() :].replace("\\", "/") if drive else ""
    return f" (in WSL it is /mnt/{drive[1].lower()}/{inner_path})" if drive else ""


def is_zarr_folder(folder: str) -> bool:
    """Whether a folder on this machine is a Zarr array or group, which counts as a file."""
    return folder.lower().endswith(ZARR_SUFFIXES) or any(os.path.lexists(f"{folder}/{m}") for m in _ZARR_MARKERS)


def _list_folder(folder: str, uri: str) -> tuple[list[os.DirEntry], Entry | None]:
    """Items of one folder by name, or an entry that says why it cannot be listed."""
    try:
        with os.scandir(folder) as listing:
            items = list(listing)
    except OSError as error:
        return [], Entry(escape_name(uri), folder, problem=f"folder: {describe_os_error(error)}")
    is_ascii = all(item.name.isascii() for item in items)  # text and bytes of ASCII names have the same order
    return sorted(items, key=lambda item: item.name if is_ascii else os.fsencode(item.name)), None


def _identify_folder(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _scan_folder(folder: str, prefix: str, selection: FileSelection) -> Iterator[Entry]:
    """Files below `folder`, depth first. An explicit stack allows folders deeper than Python's recursion limit."""
    root = os.path.join(os.path.realpath(folder), "")
    items, problem = _list_folder(folder, prefix.rstrip("/") or ".")
    if problem is not None:
        yield problem
    stack = [(iter(items), prefix, _identify_folder(folder))]
    while stack:
        listing, prefix, _ = stack[-1]
        item = next(listing, None)
        if item is None:
            stack.pop()
            continue
        uri = f"{prefix}{item.name}"
        open_folders = {identity for _, _, identity in stack} if item.is_symlink() else set()
        entry = _make_item_entry(item, uri, root, open_folders)
        if entry is not None:
            yield entry
            continue
        if not selection.has_folder(escape_name(uri)):
            continue
        items, problem = _list_folder(item.path, uri)
        if problem is not None:
            yield problem
        stack.append((iter(items), f"{uri}/", _identify_folder(item.path)))


def _make_item_entry(item: os.DirEntry, uri: str, root: str, open_folders: set[tuple[int, int]]) -> Entry | None:
    """Entry of one item of a folder; None for a folder that has to be listed."""
    try:
        is_folder = item.is_dir()
    except OSError:  # a loop of links
        is_folder = False
    if item.is_symlink() and (target := _find_outside_target(item.path, root)):
        remedy = "not followed; name it in a list file to have it read"
        problem = f"symbolic link to {target}, outside the archive: {remedy}"
        return Entry(escape_name(uri), item.path, problem=problem)
    if not is_folder or is_zarr_folder(item.path):
        return _make_local_entry(item.path, uri)
    if item.is_symlink() and _identify_folder(item.path) in open_folders:
        return Entry(escape_name(uri), item.path, problem="symbolic link loop")
    return None


def _find_outside_target(link: str, root: str) -> str:
    """Target of `link` when it exists and is outside of folder `root`; else ""."""
    try:
        target = os.path.realpath(link)
    except OSError:  # a link that may not be read, as in /proc
        return ""
    is_outside = os.path.exists(target) and not os.path.join(target, "").startswith(root)
    return escape_name(target) if is_outside else ""


def _make_local_entry(path: str, uri: str) -> Entry:
    """Entry of one file; never raises."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Entry(escape_name(uri), path, problem=describe_os_error(error))
    file_mode = stat.S_IFMT(status.st_mode)
    modified_ns = clip_integer(status.st_mtime_ns)  # file systems allow dates outside of 1678 to 2262
    if file_mode == stat.S_IFDIR:
        return Entry(escape_name(uri), path, 0, modified_ns)
    problem = "" if file_mode == stat.S_IFREG else f"{_SPECIAL_FILES.get(file_mode, 'something')}, not a file"
    return Entry(escape_name(uri), path, status.st_size, modified_ns, problem)


def _scan_list(path: Path, selection: FileSelection) -> Iterator[Entry]:
    """Files that a list names, in its order. Repeated lines are dropped, and folders are scanned."""
    folder = str(path.parent)
    paths: dict[int, int] = {}  # hash of a URI -> hash of its path; no texts, since a list may have a million lines
    for full_path in read_listed_paths(path):
        uri = _list_uri(full_path, folder)
        if paths.get(hash(uri), hash(full_path)) != hash(full_path):  # "/a/b.tif" and "a/b.tif" in the list's folder
            uri = escape_uri(full_path.replace(os.sep, "/"))
        if hash(uri) not in paths:
            paths[hash(uri)] = hash(full_path)
            yield from _read_listed_entries(full_path, uri, selection)


def _list_uri(full_path: str, folder: str) -> str:
    """Archive-relative URI of a file in a list: its path from the list's folder, or the whole path outside of it."""
    relative = os.path.relpath(full_path, folder)
    uri = relative if not relative.startswith("..") else full_path.lstrip("/")
    return uri.replace(os.sep, "/")


def _read_listed_entries(full_path: str, uri: str, selection: FileSelection) -> Iterator[Entry]:
    if os.path.isdir(full_path) and not is_zarr_folder(full_path):
        if selection.has_folder(escape_name(uri)):
            yield from _scan_folder(full_path, f"{uri}/", selection)
    elif not os.path.lexists(full_path):
        remedy = "; a list cannot name a bucket's files: give their folder as a source" if is_remote_name(uri) else ""
        yield Entry(escape_name(uri), full_path, problem=f"named in the list, but there is no such file{remedy}")
    else:
        yield _make_local_entry(full_path, uri)
