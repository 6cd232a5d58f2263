"""Files of an archive in a bucket, or below any other fsspec URI."""

from collections.abc import Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from emqa_dask import uris
from emqa_dask.archive.companions import MAX_SIDECAR_BYTES, find_sidecars, index_sidecars, is_sidecar_name
from emqa_dask.archive.entries import ZARR_SUFFIXES, Entry, describe_os_error
from emqa_dask.archive.name_escapes import escape_uri
from emqa_dask.archive.rows import clip_integer
from emqa_dask.archive.selection import FileSelection


def scan_remote(uri: str, selection: FileSelection) -> Iterator[Entry]:
    """Files below an fsspec URI. S3 lists a thousand keys per request, other file systems one folder per request.

    Folders that `selection` excludes are not listed; on S3 only the first page with their keys is.
    """
    fs, root = uris.locate(uri)
    root = root.rstrip("/")
    if root.lower().endswith(ZARR_SUFFIXES) and not fs.isfile(root) and fs.exists(root):
        return iter([Entry(escape_uri(root.rpartition("/")[2]), uri.rstrip("/"))])
    entries = _scan_root(fs, uri, root, selection)
    first = next(entries, None)
    if first is not None:
        return chain([first], entries)
    if not fs.exists(root):
        raise FileNotFoundError(f"{uri}: there is nothing; give the URI of the folder that holds the micrographs")
    return iter([_make_remote_entry(fs.info(root), uri, root.rpartition("/")[2])] if fs.isfile(root) else ())


def _scan_root(fs: Any, uri: str, root: str, selection: FileSelection) -> Iterator[Entry]:
    if "s3" in fs.protocol:
        return _scan_s3(fs, uri, root, selection)
    return _scan_remote_folder(fs, uri, root, "", selection) if fs.isdir(root) else iter(())


def _scan_s3(fs: Any, uri: str, root: str, selection: FileSelection) -> Iterator[Entry]:
    """Files below an S3 URI, by key. S3 has no folders, so a key with any slashes is found."""
    bucket, folder, _ = fs.split_path(root)
    prefix = f"{folder}/" if folder else ""
    zarr_folder = ""
    for items, indices in _index_pages(_list_s3_pages(fs, bucket, prefix, selection)):
        for item in items:
            name = item["Key"][len(prefix) :]
            if zarr_folder and name.startswith(zarr_folder):
                continue
            zarr_folder = _find_zarr_folder(name)
            (parent, slash, file_name) = name.rpartition("/")
            index = indices.get(f"{prefix}{parent}{slash}", {})
            sidecars = tuple(_join_uri(uri, f"{parent}{slash}{n}") for n in find_sidecars(file_name, index))
            yield from _make_key_entries(item, uri, name, zarr_folder, sidecars)


def _list_s3_pages(fs: Any, bucket: str, prefix: str, selection: FileSelection) -> Iterator[list[dict]]:
    """The pages of an S3 listing, of a thousand keys each.

    Most chunks of a Zarr folder and most keys of a folder that `selection` excludes are left out.
    """
    last_key = ""
    while True:
        start = {"StartAfter": last_key} if last_key else {}
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **start)
        items = page.get("Contents", [])
        yield items
        if not page.get("IsTruncated") or not items:
            return
        last_key = items[-1]["Key"]
        name = last_key[len(prefix) :]
        if folder := _find_zarr_folder(name) or _find_excluded_folder(name, selection):
            last_key = f"{prefix}{folder}\U0010ffff"


def _index_pages(pages: Iterator[list[dict]]) -> Iterator[tuple[list[dict], dict[str, dict[str, list[str]]]]]:
    """Each page with the sidecars of this page and both its neighbours: {folder: index_sidecars()}.

    Keys are in order, so that a sidecar and its image are neighbours in the listing.
    """
    previous_page: list[dict] = []
    page = next(pages, [])
    for next_page in chain(pages, [[]]):
        yield page, _index_keys([*previous_page, *page, *next_page])
        previous_page = page
        page = next_page


def _index_keys(items: list[dict]) -> dict[str, dict[str, list[str]]]:
    names: dict[str, list[str]] = {}
    for item in items:
        (parent, slash, name) = item["Key"].rpartition("/")
        if is_sidecar_name(name) and item["Size"] <= MAX_SIDECAR_BYTES:
            names.setdefault(f"{parent}{slash}", []).append(name)
    return {parent: index_sidecars(in_folder) for parent, in_folder in names.items()}


def _make_key_entries(item: dict, uri: str, name: str, zarr_folder: str, sidecars: tuple[str, ...]) -> Iterator[Entry]:
    """The entry of one S3 key; none for a key without bytes that only marks a folder."""
    if zarr_folder:
        yield Entry(escape_uri(zarr_folder[:-1]), _join_uri(uri, zarr_folder[:-1]))
    elif not name.endswith("/"):
        yield _make_remote_entry(item, _join_uri(uri, name), name, sidecars)
    elif item["Size"]:
        yield Entry(escape_uri(name), _join_uri(uri, name), item["Size"], problem="its key ends with a slash")


def _find_zarr_folder(name: str) -> str:
    """Zarr folder that contains `name`, with a slash at its end; "" for none."""
    for parent in reversed(PurePosixPath(name).parents[:-1]):
        if parent.name.lower().endswith(ZARR_SUFFIXES) and name.startswith(f"{parent}/"):
            return f"{parent}/"
    return ""


def _find_excluded_folder(name: str, selection: FileSelection) -> str:
    """Excluded folder that contains `name`, with a slash at its end; "" for none, and for names that are escaped."""
    folder = selection.find_excluded_folder(name) if escape_uri(name) == name else ""
    return f"{folder}/" if folder else ""


def _join_uri(uri: str, name: str) -> str:
    """The URI of `name` below `uri`, which may be a chain (zip://::s3://bucket/a.zip)."""
    head, link, inner_path = uri.partition("::")
    return f"{head}{'' if head.endswith('/') else '/'}{name}{link}{inner_path}"


def _scan_remote_folder(fs: Any, uri: str, folder: str, prefix: str, selection: FileSelection) -> Iterator[Entry]:
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
    index = index_sidecars(
        item["name"].rpartition("/")[2]
        for item in listing
        if item["type"] != "directory" and (item.get("size") or 0) <= MAX_SIDECAR_BYTES
    )
    for item in listing:
        name = item["name"].rstrip("/").rpartition("/")[2]
        if not name or item["name"].rstrip("/") == folder:
            continue
        if item["type"] != "directory":
            sidecars = tuple(_join_uri(uri, f"{prefix}{n}") for n in find_sidecars(name, index))
            yield _make_remote_entry(item, _join_uri(uri, f"{prefix}{name}"), f"{prefix}{name}", sidecars)
        elif name.lower().endswith(ZARR_SUFFIXES):
            yield Entry(escape_uri(f"{prefix}{name}"), _join_uri(uri, f"{prefix}{name}"))
        elif selection.has_folder(escape_uri(f"{prefix}{name}")):
            yield from _scan_remote_folder(fs, uri, item["name"].rstrip("/"), f"{prefix}{name}/", selection)


def _make_remote_entry(item: dict, path: str, name: str, sidecars: tuple[str, ...] = ()) -> Entry:
    dates = (item.get(key) for key in ("LastModified", "mtime", "created", "last_modified"))
    modified = next(filter(None, dates), 0)
    size = clip_integer(item.get("size") or item.get("Size") or 0) or 0
    return Entry(escape_uri(name), path, size, _to_nanoseconds(modified), sidecars=sidecars)


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
