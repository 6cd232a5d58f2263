"""Files of an archive in a bucket, or below any other fsspec URI."""

from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import PurePosixPath
from typing import Any

from emqa_dask import uris
from emqa_dask.archive.entries import ZARR_SUFFIXES, Entry, describe_os_error
from emqa_dask.archive.name_escapes import escape_uri
from emqa_dask.archive.rows import clip_integer


def scan_remote(uri: str) -> Iterator[Entry]:
    """Files below an fsspec URI. S3 lists a thousand keys per request, other file systems one folder per request."""
    fs, root = uris.locate(uri)
    root = root.rstrip("/")
    entries = _scan_root(fs, uri, root)
    first = next(entries, None)
    if first is not None:
        return chain([first], entries)
    if not fs.exists(root):
        raise FileNotFoundError(f"{uri}: there is nothing; give the URI of the folder that holds the micrographs")
    return iter([_make_remote_entry(fs.info(root), uri, root.rpartition("/")[2])] if fs.isfile(root) else ())


def _scan_root(fs: Any, uri: str, root: str) -> Iterator[Entry]:
    if "s3" in fs.protocol:
        return _scan_s3(fs, uri, root)
    return _scan_remote_folder(fs, uri, root, "") if fs.isdir(root) else iter(())


def _scan_s3(fs: Any, uri: str, root: str) -> Iterator[Entry]:
    """Files below an S3 URI, by key. S3 has no folders, so a key with any slashes is found."""
    bucket, folder, _ = fs.split_path(root)
    prefix = f"{folder}/" if folder else ""
    zarr_folder = ""
    last_key = ""
    while True:
        start = {"StartAfter": last_key} if last_key else {}
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **start)
        for item, text_key in _pair_with_texts(page.get("Contents", [])):
            last_key = item["Key"]
            name = last_key[len(prefix) :]
            if zarr_folder and name.startswith(zarr_folder):
                continue
            zarr_folder = _find_zarr_folder(name)
            sidecar = _join_uri(uri, text_key[len(prefix) :]) if text_key else ""
            yield from _make_key_entries(item, uri, name, zarr_folder, sidecar)
        if not page.get("IsTruncated"):
            return
        if zarr_folder and last_key[len(prefix) :].startswith(zarr_folder):  # do not list its chunks
            last_key = f"{prefix}{zarr_folder}\U0010ffff"


def _pair_with_texts(items: list[dict]) -> Iterator[tuple[dict, str]]:
    """Items of an S3 listing, each with the key of the text file that has the same name; "" without one."""
    for _, group in groupby(items, key=lambda item: item["Key"].rpartition(".")[0]):
        same_name = list(group)
        text_key = next((item["Key"] for item in same_name if item["Key"].endswith(".txt")), "")
        for item in same_name:
            yield item, text_key if item["Key"] != text_key else ""


def _make_key_entries(item: dict, uri: str, name: str, zarr_folder: str, sidecar: str) -> Iterator[Entry]:
    """The entry of one S3 key; none for a key without bytes that only marks a folder."""
    if zarr_folder:
        yield Entry(escape_uri(zarr_folder[:-1]), _join_uri(uri, zarr_folder[:-1]))
    elif not name.endswith("/"):
        yield _make_remote_entry(item, _join_uri(uri, name), name, sidecar)
    elif item["Size"]:
        yield Entry(escape_uri(name), _join_uri(uri, name), item["Size"], problem="its key ends with a slash")


def _find_zarr_folder(name: str) -> str:
    """Zarr folder that contains `name`, with a slash at its end; "" for none."""
    for parent in reversed(PurePosixPath(name).parents[:-1]):
        if parent.name.lower().endswith(ZARR_SUFFIXES) and name.startswith(f"{parent}/"):
            return f"{parent}/"
    return ""


def _join_uri(uri: str, name: str) -> str:
    """The URI of `name` below `uri`, which may be a chain (zip://::s3://bucket/a.zip)."""
    head, link, inner_path = uri.partition("::")
    return f"{head}{'' if head.endswith('/') else '/'}{name}{link}{inner_path}"


def _scan_remote_folder(fs: Any, uri: str, folder: str, prefix: str) -> Iterator[Entry]:
    """Files below one folder of a file system with folders."""
    try:
        listing = sorted(fs.ls(folder, detail=True), key=lambda item: item["name"])
    except OSError as error:
        yield Entry(
            escape_uri(prefix.rstrip("/")) or ".",
            _join_uri(uri, prefix),
            problem=f"folder: {describe_os_error(error)}",
        )
        return
    names = {item["name"].rpartition("/")[2] for item in listing}
    for item in listing:
        name = item["name"].rstrip("/").rpartition("/")[2]
        if not name or item["name"].rstrip("/") == folder:
            continue
        if item["type"] != "directory":
            text = f"{name.rpartition('.')[0]}.txt"
            sidecar = _join_uri(uri, f"{prefix}{text}") if text in names and text != name else ""
            yield _make_remote_entry(item, _join_uri(uri, f"{prefix}{name}"), f"{prefix}{name}", sidecar)
        elif name.lower().endswith(ZARR_SUFFIXES):
            yield Entry(escape_uri(f"{prefix}{name}"), _join_uri(uri, f"{prefix}{name}"))
        else:
            yield from _scan_remote_folder(fs, uri, item["name"].rstrip("/"), f"{prefix}{name}/")


def _make_remote_entry(item: dict, path: str, name: str, sidecar: str = "") -> Entry:
    dates = (item.get(key) for key in ("LastModified", "mtime", "created", "last_modified"))
    modified = next(filter(None, dates), 0)
    size = clip_integer(item.get("size") or item.get("Size") or 0) or 0
    return Entry(escape_uri(name), path, size, _to_nanoseconds(modified), sidecar=sidecar)


def _to_nanoseconds(date: Any) -> int:
    """A date, or seconds since the epoch, in ns that fit into 64 bits; 0 for any other value."""
    try:
        if hasattr(date, "timestamp"):
            seconds = date.timestamp()
        else:
            seconds = float(date) if isinstance(date, int | float) else 0
    except (ValueError, OverflowError, OSError):
        return 0
    return clip_integer(seconds * 1e9) or 0
