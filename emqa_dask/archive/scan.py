"""scan(): stream every file of a folder, a list file or an fsspec URI as Entry rows, whatever state they are in."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from emqa_dask import uris
from emqa_dask.archive.rows import clip_integer

ZARR_SUFFIXES = (".zarr", ".zspy")
_ZARR_MARKERS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_ESCAPED = re.compile(r"\\x(?:[89a-f][0-9a-f]|2[ef])")
_UNSAFE_COMPONENT = re.compile(r"(?:^|/)(?:\.{0,2}(?:/|$))")  # a component that is empty, "." or ".."
_LIST_SUFFIXES = (".txt", ".lst", ".list")


class Entry(NamedTuple):
    """One file of the archive (or one Zarr folder, which counts as a file)."""

    uri: str  # archive-relative, forward slashes, valid UTF-8
    path: str  # what open() or fsspec takes
    size_bytes: int = 0  # 0 for Zarr folders: nobody has walked through their chunks yet
    modified_ns: int = 0
    problem: str = ""  # why it cannot be read, as far as the folder's listing tells
    sidecar: str = ""  # path of the text that may lie beside an image in a bucket; a local one is found by its name


def scan_archive(source: str | Path, exclude: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every file of `source` as an Entry, in the same order each time; one directory's listing in memory at a time.

    source: a folder; a list file (.txt, .lst, .list: one path a line, absolute or relative to the list's folder); one
    file; or an fsspec URI (s3://bucket/folder). exclude: glob patterns on the archive-relative URI ("*.txt", "raw/*").
    Folders that hold Zarr are one entry. Symbolic links are followed within the folder that was named; one that loops
    or leads out is one entry with a problem: who fills an archive must not choose what else is read and shown. A list
    file may name what it likes.
    Raises FileNotFoundError for a missing source, PermissionError for one that may not be read, ValueError where no
    file is found.
    """
    text = os.fspath(source)
    if "://" in text:
        entries = _scan_remote(text)
    else:
        path = Path(text)
        try:
            is_there = path.exists()
        except PermissionError:
            raise PermissionError(f"{text}: no permission to read it; ask its owner, or copy it") from None
        if not is_there:
            raise FileNotFoundError(f"{text}: no such file or folder; give the folder that holds the micrographs")
        if path.is_dir() and not _is_zarr(str(path)):
            entries = _scan_folder(str(path), "")
        elif path.suffix.lower() in _LIST_SUFFIXES:
            entries = _scan_list(path)
        else:
            entries = iter([_local_entry(str(path), path.name)])
    kept = (e for e in entries if not any(fnmatchcase(e.uri, pattern) for pattern in exclude))
    first = next(kept, None)
    if first is None:
        cause = "every file is excluded (archive.exclude)" if exclude else "there is no file in it"
        raise ValueError(f"{text}: {cause}; give a folder that holds micrographs")
    return chain([first], kept)


def escape_name(name: str) -> str:
    r"""A file name as valid UTF-8: bytes that are not UTF-8 become \xNN. Injective; unescape() gives the name back."""
    if name.isascii() and "\\" not in name:  # nearly every name, and there may be millions
        return name
    if not _ESCAPED.search(name) and not any("\ud800" <= c <= "\udfff" for c in name):
        return name
    out = name.replace("\\", "\\\\")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in out)


def escape_uri(name: str) -> str:
    r"""escape(name) of a path in the archive, without components that are empty, "." or "..": it leads nowhere else.

    A bucket's keys and a ZIP's members may be called so: those dots are \x2e, those slashes \x2f.
    """
    out = escape_name(name)
    if not _UNSAFE_COMPONENT.search(out):
        return out
    if out == name:
        out = out.replace("\\", "\\\\")
    out = re.sub(r"^/|(?<=/)/|/$", r"\\x2f", out)
    return re.sub(r"(?:^|(?<=/))\.{1,2}(?=/|$)", lambda dots: r"\x2e" * len(dots[0]), out)


def unescape_name(uri: str) -> str:
    """The name that escape() or archive_uri() was given."""
    if not _ESCAPED.search(uri):
        return uri
    return re.sub(r"\\(?:\\|x([89a-f][0-9a-f]|2[ef]))", lambda m: _decode_escape(m[1]) if m[1] else "\\", uri)


def _decode_escape(code: str) -> str:
    return chr(int(code, 16) if code[0] == "2" else 0xDC00 + int(code, 16))


def _is_zarr(folder: str) -> bool:
    return folder.lower().endswith(ZARR_SUFFIXES) or any(os.path.lexists(f"{folder}/{m}") for m in _ZARR_MARKERS)


def _list_folder(folder: str, uri: str) -> tuple[list[os.DirEntry], Entry | None]:
    """The entries of one folder by name, or the row that says why it cannot be listed."""
    try:
        with os.scandir(folder) as listing:
            found = list(listing)
            is_ascii = all(item.name.isascii() for item in found)  # then text and bytes have one order
            return sorted(found, key=lambda item: item.name if is_ascii else os.fsencode(item.name)), None
    except OSError as error:
        return [], Entry(escape_name(uri), folder, problem=f"folder: {_describe_os_error(error)}")


def _folder_identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _scan_folder(folder: str, prefix: str) -> Iterator[Entry]:
    """Files below `folder`, depth first, by an explicit stack: folders may lie deeper than Python recurses."""
    inside = os.path.join(os.path.realpath(folder), "")
    found, problem = _list_folder(folder, prefix.rstrip("/") or ".")
    if problem is not None:
        yield problem
    stack = [(iter(found), prefix, _folder_identity(folder))]
    while stack:
        listing, prefix, _ = stack[-1]
        item = next(listing, None)
        if item is None:
            stack.pop()
            continue
        uri = f"{prefix}{item.name}"
        path = item.path
        try:
            is_folder = item.is_dir()
        except OSError:  # a loop of links
            is_folder = False
        if item.is_symlink() and (target := _find_outside_target(path, inside)):
            why = (
                f"symbolic link to {target}, outside the archive: not followed; name it in a list file to have it read"
            )
            yield Entry(escape_name(uri), path, problem=why)
        elif not is_folder or _is_zarr(path):
            yield _local_entry(path, uri)
        elif item.is_symlink() and _folder_identity(path) in {identity for _, _, identity in stack}:
            yield Entry(escape_name(uri), path, problem="symbolic link loop")
        else:
            found, problem = _list_folder(path, uri)
            if problem is not None:
                yield problem
            stack.append((iter(found), f"{uri}/", _folder_identity(path)))


def _find_outside_target(link: str, inside: str) -> str:
    """Where `link` leads, if there is something and it lies outside of folder `inside`; else ""."""
    target = os.path.realpath(link)
    return escape_name(target) if os.path.exists(target) and not os.path.join(target, "").startswith(inside) else ""


def _local_entry(path: str, uri: str) -> Entry:
    """The entry of one file; never raises."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Entry(escape_name(uri), path, problem=_describe_os_error(error))
    kind = stat.S_IFMT(status.st_mode)
    modified_ns = clip_integer(status.st_mtime_ns)  # file systems hold dates outside of 1678 to 2262
    if kind == stat.S_IFDIR:
        return Entry(escape_name(uri), path, 0, modified_ns)
    names = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
    }
    problem = "" if kind == stat.S_IFREG else f"{names.get(kind, 'something')}, not a file"
    return Entry(escape_name(uri), path, status.st_size, modified_ns, problem)


def _describe_os_error(error: OSError) -> str:
    known = {
        errno.ELOOP: "symbolic link loop",
        errno.EACCES: "no permission to read",
        errno.EPERM: "no permission to read",
        errno.ENOENT: "dangling symbolic link, or the file is gone",
        errno.ENAMETOOLONG: "the path is too long",
    }
    return known.get(error.errno or 0, f"cannot be read: {error.strerror or error}")


def _scan_list(path: Path) -> Iterator[Entry]:
    """The files that a list names, in its order; lines that name a file again are dropped, folders are opened up."""
    folder = str(path.parent)
    seen: dict[int, int] = {}  # hash of the URI: hash of the path; no texts, since a list may have a million lines
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            name = line.rstrip("\r\n")
            if not name.strip():
                continue
            full = os.path.normpath(os.path.join(folder, name))
            relative = os.path.relpath(full, folder) if not os.path.isabs(name) else None
            inside = relative if relative and not relative.startswith("..") else None
            if inside is None:
                within = os.path.relpath(full, folder)
                inside = within if not within.startswith("..") else full.lstrip("/")
            uri = inside.replace(os.sep, "/")
            if seen.get(hash(uri), hash(full)) != hash(full):  # "/a/b.tif", where "a/b.tif" lies beside the list too
                uri = escape_uri(full.replace(os.sep, "/"))
            if hash(uri) in seen:
                continue
            seen[hash(uri)] = hash(full)
            if os.path.isdir(full) and not _is_zarr(full):
                yield from _scan_folder(full, f"{uri}/")
            elif not os.path.lexists(full):
                yield Entry(escape_name(uri), full, problem="named in the list, but there is no such file")
            else:
                yield _local_entry(full, uri)


def _scan_remote(uri: str) -> Iterator[Entry]:
    """Files below an fsspec URI: of S3 a thousand keys a request, of others one folder a request."""
    fs, root = uris.locate(uri)
    root = root.rstrip("/")
    is_s3 = "s3" in fs.protocol
    found = _scan_s3(fs, uri, root) if is_s3 else _scan_remote_folder(fs, uri, root, "") if fs.isdir(root) else iter(())
    first = next(found, None)
    if first is not None:
        return chain([first], found)
    if not fs.exists(root):
        raise FileNotFoundError(f"{uri}: there is nothing; give the URI of the folder that holds the micrographs")
    return iter([_remote_entry(fs.info(root), uri, root.rpartition("/")[2])] if fs.isfile(root) else ())


def _scan_s3(fs: Any, uri: str, root: str) -> Iterator[Entry]:
    """Files below an S3 URI, by key: "folders" do not exist there, so no key is lost, whatever slashes it has."""
    bucket, folder, _ = fs.split_path(root)
    prefix = f"{folder}/" if folder else ""
    zarr = ""
    after = ""
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **({"StartAfter": after} if after else {}))
        for _, group in groupby(page.get("Contents", []), key=lambda item: item["Key"].rpartition(".")[0]):
            items = list(group)
            texts = [item["Key"] for item in items if item["Key"].endswith(".txt")]
            for item in items:
                after = item["Key"]
                name = item["Key"][len(prefix) :]
                if zarr and name.startswith(zarr):
                    continue
                zarr = _find_zarr_folder(name)
                if zarr:
                    yield Entry(escape_uri(zarr[:-1]), _join_uri(uri, zarr[:-1]))
                elif not name.endswith("/"):
                    beside = _join_uri(uri, texts[0][len(prefix) :]) if texts and after != texts[0] else ""
                    yield _remote_entry(item, _join_uri(uri, name), name, beside)
                elif item["Size"]:  # without bytes it is a folder that somebody made by hand
                    yield Entry(
                        escape_uri(name), _join_uri(uri, name), item["Size"], problem="its key ends with a slash"
                    )
        if not page.get("IsTruncated"):
            return
        if zarr and after[len(prefix) :].startswith(zarr):  # do not list its chunks
            after = f"{prefix}{zarr}\U0010ffff"


def _find_zarr_folder(name: str) -> str:
    """The Zarr folder that `name` lies in, with its slash; "" for none."""
    for parent in reversed(PurePosixPath(name).parents[:-1]):
        if parent.name.lower().endswith(ZARR_SUFFIXES) and name.startswith(f"{parent}/"):
            return f"{parent}/"
    return ""


def _join_uri(uri: str, name: str) -> str:
    """The URI of `name` below `uri`, which may be a chain (zip://::s3://bucket/a.zip)."""
    head, link, rest = uri.partition("::")
    return f"{head}{'' if head.endswith('/') else '/'}{name}{link}{rest}"


def _scan_remote_folder(fs: Any, uri: str, folder: str, prefix: str) -> Iterator[Entry]:
    try:
        listing = sorted(fs.ls(folder, detail=True), key=lambda item: item["name"])
    except OSError as error:
        yield Entry(
            escape_uri(prefix.rstrip("/")) or ".",
            _join_uri(uri, prefix),
            problem=f"folder: {_describe_os_error(error)}",
        )
        return
    names = {item["name"].rpartition("/")[2] for item in listing}
    for item in listing:
        name = item["name"].rstrip("/").rpartition("/")[2]
        if not name or item["name"].rstrip("/") == folder:
            continue
        if item["type"] != "directory":
            text = f"{name.rpartition('.')[0]}.txt"
            beside = _join_uri(uri, f"{prefix}{text}") if text in names and text != name else ""
            yield _remote_entry(item, _join_uri(uri, f"{prefix}{name}"), f"{prefix}{name}", beside)
        elif name.lower().endswith(ZARR_SUFFIXES):
            yield Entry(escape_uri(f"{prefix}{name}"), _join_uri(uri, f"{prefix}{name}"))
        else:
            yield from _scan_remote_folder(fs, uri, item["name"].rstrip("/"), f"{prefix}{name}/")


def _remote_entry(item: dict, path: str, name: str, sidecar: str = "") -> Entry:
    when = next((item[k] for k in ("LastModified", "mtime", "created", "last_modified") if item.get(k)), 0)
    size = clip_integer(item.get("size") or item.get("Size") or 0) or 0
    return Entry(escape_uri(name), path, size, _to_nanoseconds(when), sidecar=sidecar)


def _to_nanoseconds(when: Any) -> int:
    """A date, or seconds since the epoch, as nanoseconds that fit into 64 bits; 0 for what is neither."""
    try:
        seconds = (
            when.timestamp() if hasattr(when, "timestamp") else float(when) if isinstance(when, int | float) else 0
        )
    except (ValueError, OverflowError, OSError):
        return 0
    return clip_integer(seconds * 1e9) or 0
