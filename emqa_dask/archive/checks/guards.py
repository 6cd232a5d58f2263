"""Refuse, before it is decoded, what a file must not do: run code, read other files, fill the memory from a few bytes.

What one image needs in memory is bounded by archive.max_megapixels; these are the ways around it.
"""

import bz2
import itertools
import math
import os
import struct
from pathlib import Path

import h5py

from emqa_dask.archive.checks.decompressed_size import (
    MAX_DEFLATE_RATIO,
    SLACK_BYTES,
    check_decompressed_size,
    fits_deflate_chunk,
)
from emqa_dask.archive.checks.hdf5_filters import check_plugin_chunks
from emqa_dask.archive.checks.zarr_guard import MAX_CHUNK_BYTES
from emqa_dask.archive.source import ReadError

MAX_FRAMES = 100_000
MAX_PAGES = 20_000  # of a TIFF: each costs kilobytes before its pixels are read
MAX_SEGMENTS = 2**20  # strips or tiles of an image
MAX_TAG_BYTES = 64 * 2**20
MAX_ELID_BYTES = 2**29  # unpacked; those of instruments have some megabytes
MAX_BLANK_LINES = 1000


def check_frames(n: int) -> None:
    """ReadError for more frames than a file may have: a header of some bytes can claim any number."""
    if n > MAX_FRAMES:
        raise ReadError(f"says that it has {n:,} images; over {MAX_FRAMES:,} are not read: split it")


def check_hdf5(file: h5py.File, path: Path) -> None:
    """ReadError for an HDF5 file that reads files of other folders, or is far larger in memory than on disk."""
    folder = os.path.join(os.path.realpath(path.parent), "")

    others: list[str | bytes] = []  # gathered, since h5py makes nonsense of what is raised in a visit
    problems: list[ReadError] = []

    def link(name: str, kind: object) -> None:
        if isinstance(kind, h5py.ExternalLink):
            others.append(kind.filename)

    def node(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            return
        others.extend(source[0] for source in item.external or ())
        if item.is_virtual:
            others.extend(source.file_name for source in item.virtual_sources())
            return
        try:
            _check_dataset(item)
        except ReadError as error:
            problems.append(error)

    file.visititems_links(link)
    file.visititems(node)
    for name in map(os.fsdecode, others):
        if name != "." and not os.path.realpath(os.path.join(folder, name)).startswith(folder):
            raise ReadError("keeps data in a file of another folder, which is not read")
    if problems:
        raise problems[0]


def _check_dataset(dataset: h5py.Dataset) -> None:
    n_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored_bytes = dataset.id.get_storage_size()
    if n_bytes > 2**30 and stored_bytes * MAX_DEFLATE_RATIO < n_bytes and not dataset.external:
        raise ReadError(f"{dataset.name} says that it has {n_bytes:,} bytes, and {stored_bytes:,} are stored")
    if not dataset.chunks:
        return
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > MAX_CHUNK_BYTES:
        raise ReadError(f"{dataset.name} has chunks of {chunk:,} bytes")
    check_plugin_chunks(dataset)
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    if filters.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise ReadError(f"{dataset.name} is compressed twice")
    if h5py.h5z.FILTER_DEFLATE in filters and stored_bytes * MAX_DEFLATE_RATIO > chunk + SLACK_BYTES:
        skipped = 1 << filters.index(h5py.h5z.FILTER_DEFLATE)
        large = []

        def note(info) -> None:
            if info.size * MAX_DEFLATE_RATIO > chunk + SLACK_BYTES and not info.filter_mask & skipped:
                large.append(info.chunk_offset)

        dataset.id.chunk_iter(note)
        for offset in large:
            data = dataset.id.read_direct_chunk(offset)[1]
            if not fits_deflate_chunk(data, chunk):
                check_decompressed_size("zlib", data, chunk, dataset.name)


def check_elid(path: str | Path) -> None:
    """ReadError for an ELID whose bzip2 stream is cut, broken or too long: RosettaSciIO would wait for its end."""
    n_bytes = 0
    inflate = bz2.BZ2Decompressor()
    with open(path, "rb") as file:
        while not inflate.eof:
            data = file.read(2**20) if inflate.needs_input else b""
            if inflate.needs_input and not data:
                raise ReadError(f"truncated ELID: its bzip2 stream has no end, after {n_bytes:,} bytes of data")
            try:
                n_bytes += len(inflate.decompress(data, 2**22))
            except OSError as error:
                raise ReadError(f"broken ELID: its bzip2 stream is damaged after {n_bytes:,} bytes of data") from error
            if n_bytes > MAX_ELID_BYTES:
                raise ReadError(f"an ELID of over {MAX_ELID_BYTES:,} bytes of data is not read")


def check_dens(path: str | Path) -> None:
    """ReadError for a DENS log of blank lines alone, in which RosettaSciIO looks for a first line for ever."""
    with open(path, "rb") as file:
        if not any(line.strip() for line in itertools.islice(file, MAX_BLANK_LINES)):
            raise ReadError("a DENS log without a line of text")


def check_tiff(path: str | Path) -> None:
    """ReadError for a TIFF with more pages, strips or bytes in a tag than any image has; from its directories alone."""
    with open(path, "rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = head[2:4] in (b"+\0", b"\0+")
        count, entry, offset = ("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")
        if len(head) < 16:
            return
        queue = [struct.unpack_from(order + offset, head, 8 if is_big else 4)[0]]
        visited = set()
        size = struct.calcsize
        n_bytes = file.seek(0, 2)
        while queue:
            directory_offset = queue.pop()
            if directory_offset in visited or not 0 < directory_offset < n_bytes:
                continue
            visited.add(directory_offset)
            if len(visited) > MAX_PAGES:
                raise ReadError(f"a TIFF of over {MAX_PAGES:,} pages is not read: split it")
            file.seek(directory_offset)
            data = file.read(size(order + count))
            if len(data) < size(order + count):
                continue
            n = min(struct.unpack(order + count, data)[0], 4096)
            data = file.read(n * size("<" + entry) + size("<" + offset))
            for k in range(len(data) // size("<" + entry)):
                fields = struct.unpack_from(order + entry, data, k * size("<" + entry))
                tag, kind = fields[:2]
                n_values, value = fields[2:]
                if tag in (273, 279, 324, 325) and n_values > MAX_SEGMENTS:
                    raise ReadError(f"a TIFF with {n_values:,} strips or tiles is not read")
                if n_values * (1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)[min(kind, 18)] > MAX_TAG_BYTES:
                    raise ReadError(f"tag {tag} says that it has {n_values:,} values: not read")
                if tag in (330, 34665, 34853, 40965) and n_values == 1:
                    queue.append(value)
            if len(data) == n * size("<" + entry) + size("<" + offset):
                queue.append(struct.unpack_from(order + offset, data, n * size("<" + entry))[0])
