"""ZIP archives that are one data set: Zarr, NumPy's .npz, Nion Swift's .ndata, or one image (as ImageJ saves it)."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from emqa_dask.archive.checks.zip_members import check_member, iterate_blocks, list_members, read_member
from emqa_dask.archive.formats.nion import open_ndata
from emqa_dask.archive.formats.numpy_arrays import open_npz
from emqa_dask.archive.formats.packed import TemporaryCopy, keep_copy, limit_unpacked_bytes
from emqa_dask.archive.formats.zarr_images import find_zarr_prefix, open_zarr_zip
from emqa_dask.archive.source import Source

_IGNORED_PREFIXES = ("__MACOSX/", "._", ".DS_Store")  # what macOS adds to archives


def open_zip_file(path: Path, detect_image: Callable[[bytes, str], str | None], open_image: Callable) -> Source | None:
    """The data set in the ZIP archive at `path` -> Source; None for an archive of other files.

    detect_image: the image format of a file by its first bytes and its name, or None. open_image: opens a file of it.
    """
    members = [info for info in list_members(path) if not info.filename.startswith(_IGNORED_PREFIXES)]
    names = [info.filename for info in members]
    prefix = find_zarr_prefix(names)
    if prefix is not None:
        source = open_zarr_zip(path, members, prefix)
        return replace(source, format=f"{source.format} in ZIP")
    if "data.npy" in names and "metadata.json" in names:
        return open_ndata(path, {info.filename: info for info in members})
    if names and all(name.endswith(".npy") for name in names):
        return open_npz(path, members)
    return _open_only_image(path, members[0], detect_image, open_image) if len(members) == 1 else None


def _open_only_image(
    path: Path, member: zipfile.ZipInfo, detect_image: Callable, open_image: Callable
) -> Source | None:
    limit = limit_unpacked_bytes(path.stat().st_size)
    check_member(member, limit)
    name = member.filename.rpartition("/")[2]
    format = detect_image(read_member(path, member, 4096), name)
    if format is None:
        return None
    copy = TemporaryCopy(name, iterate_blocks(path, member, member.file_size), limit)
    source = open_image(copy.path, format)
    return keep_copy(replace(source, format=f"{source.format} in ZIP"), copy)
