"""Refuse, before it is decoded, what a file must not do: run code, read other files, fill the memory from a few bytes.

What one image needs in memory is bounded by archive.max_megapixels; these are the ways around it.
"""

import bz2
import itertools
import json
import lzma
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from emqa_dask.archive.source import ReadError

MAX_FRAMES = 100_000
MAX_PAGES = 20_000  # of a TIFF: each costs kilobytes before its pixels are read
MAX_SEGMENTS = 2**20  # strips or tiles of an image
MAX_TAG_BYTES = 64 * 2**20
MAX_CHUNK_BYTES = 2 * 2**30
MAX_ELID_BYTES = 2**29  # unpacked; those of instruments have some megabytes
SLACK_BYTES = 256 * 2**20  # that a chunk may decode to beyond its size
MAX_DEFLATE_RATIO = 1032  # at most, by the format
MAX_BLANK_LINES = 1000
COMPRESSORS = ("zlib", "gzip", "bz2", "lzma", "zstd", "blosc", "lz4")


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

    def node(name: str, found: object) -> None:
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            return
        others.extend(source[0] for source in found.external or ())
        if found.is_virtual:
            others.extend(source.file_name for source in found.virtual_sources())
            return
        try:
            _check_dataset(found)
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
    stored = dataset.id.get_storage_size()
    if n_bytes > 2**30 and stored * MAX_DEFLATE_RATIO < n_bytes and not dataset.external:
        raise ReadError(f"{dataset.name} says that it has {n_bytes:,} bytes, and {stored:,} are stored")
    if not dataset.chunks:
        return
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > MAX_CHUNK_BYTES:
        raise ReadError(f"{dataset.name} has chunks of {chunk:,} bytes")
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    if filters.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise ReadError(f"{dataset.name} is compressed twice")
    if h5py.h5z.FILTER_DEFLATE in filters and stored * MAX_DEFLATE_RATIO > chunk + SLACK_BYTES:
        skipped = 1 << filters.index(h5py.h5z.FILTER_DEFLATE)
        large = []

        def note(info) -> None:
            if info.size * MAX_DEFLATE_RATIO > chunk + SLACK_BYTES and not info.filter_mask & skipped:
                large.append(info.chunk_offset)

        dataset.id.chunk_iter(note)
        for offset in large:
            check_decompressed_size("zlib", dataset.id.read_direct_chunk(offset)[1], chunk, dataset.name)


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


def check_zarr(folder: Path) -> None:
    """ReadError for a Zarr folder with links out of it, pickles, or chunks that decode to more than they should."""
    inside = os.path.join(os.path.realpath(folder), "")
    packers: dict[str, tuple[str, int]] = {}  # folder of an array: what packed its chunks, and their bytes
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            if os.path.islink(path) and not os.path.realpath(path).startswith(inside):
                raise ReadError(f"{os.path.relpath(path, folder)} is a symbolic link to another folder: not followed")
        for name in {"zarr.json", ".zarray", ".zmetadata"} & set(names):
            document = _load_metadata(os.path.join(parent, name))
            if any("pickle" in str(codec).lower() for codec in _find_values(document, ("id", "name"))):
                raise ReadError("its chunks are pickles, which run any code that they hold: not read")
            if "shape" in document:
                packers[parent] = _read_compression(document)
        array = next((p for p in (parent, *map(str, Path(parent).parents)) if p in packers), None)
        if array is not None:
            for name in set(names) - {"zarr.json", ".zarray", ".zattrs", ".zmetadata", ".zgroup"}:
                _check_chunk(os.path.join(parent, name), *packers[array])


def _load_metadata(path: str) -> dict:
    if os.path.getsize(path) > MAX_TAG_BYTES:
        raise ReadError("its metadata are too large")
    with open(path, "rb") as file:
        found = json.load(file)
    return found if isinstance(found, dict) else {}


def _find_values(tree: object, keys: tuple[str, ...]) -> list:
    """What `keys` hold anywhere in a tree of dictionaries and lists."""
    found = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            found += [node[key] for key in keys if key in node]
        stack += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return found


def _read_compression(array: dict) -> tuple[str, int]:
    """(what packs an array's chunks, bytes of a chunk); ReadError where that is more than one thing, or too much."""
    if array.get("zarr_format") == 2:
        codecs = [c for c in (*(array.get("filters") or ()), array.get("compressor")) if c]
        names = [c.get("id") for c in codecs]
        shape = array.get("chunks", [])
        dtype = array.get("dtype")
    else:
        codecs = array.get("codecs", [])
        names = [c.get("name") for c in codecs]
        dtype = array.get("data_type")
        shape = array.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape", [])
    names = [str(name).removeprefix("numcodecs.") for name in names]
    try:
        itemsize = np.dtype(dtype).itemsize
    except TypeError:
        itemsize = 8
    n_bytes = math.prod(int(n) for n in shape) * itemsize
    if n_bytes > MAX_CHUNK_BYTES:
        raise ReadError(f"its chunks are of {n_bytes:,} bytes")
    packers = [name for name in names if name in COMPRESSORS]
    if len(packers) > 1:
        raise ReadError("its chunks are compressed twice")
    return (packers[0] if packers else "", n_bytes)


def _check_chunk(path: str, packer: str, n_bytes: int) -> None:
    if packer not in COMPRESSORS:
        return
    with open(path, "rb") as file:
        is_small = os.path.getsize(path) * MAX_DEFLATE_RATIO <= n_bytes + SLACK_BYTES
        if packer in ("zlib", "gzip") and is_small:
            return
        data = file.read(32 if packer in ("zstd", "blosc", "lz4") else n_bytes + SLACK_BYTES)
    check_decompressed_size(packer, data, n_bytes, os.path.basename(path))


def check_decompressed_size(packer: str, data: bytes, n_bytes: int, name: str) -> None:
    """ReadError where packed `data` say that they are, or turn out to be, much larger than `n_bytes`."""
    limit = n_bytes + SLACK_BYTES
    try:
        size = (
            _read_stated_size(packer, data)
            if packer in ("zstd", "blosc", "lz4")
            else _measure_decompressed(packer, data, limit)
        )
    except (zlib.error, lzma.LZMAError, OSError, EOFError, struct.error):
        return  # broken: the reader says so
    if size > limit:
        raise ReadError(f"a chunk of {name} decodes to over {limit:,} bytes instead of {n_bytes:,}: refused")


def _measure_decompressed(packer: str, data: bytes, limit: int) -> int:
    """Bytes that `data` unpack to, at most a little over `limit`, a block in memory at a time."""
    make: Callable = {"bz2": bz2.BZ2Decompressor, "lzma": lzma.LZMADecompressor}.get(packer, zlib.decompressobj)
    size = 0
    while data and size <= limit:
        inflate = make(47) if packer in ("zlib", "gzip") else make()
        while not inflate.eof and size <= limit:
            block = inflate.decompress(data, 2**24)
            data = inflate.unconsumed_tail if packer in ("zlib", "gzip") else b""
            size += len(block)
            if not block:
                break
        if not inflate.eof:
            break
        data = inflate.unused_data
    return size


def _read_stated_size(packer: str, head: bytes) -> int:
    """The decoded size that a chunk's own header states; 0 for none."""
    if packer == "blosc":
        return struct.unpack_from("<I", head, 4)[0]
    if packer == "lz4":
        return struct.unpack_from("<I", head, 0)[0]
    flags = head[4]
    kind = flags >> 6
    single = flags >> 5 & 1
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    width = (single, 2, 4, 8)[kind]
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)


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
        seen = set()
        size = struct.calcsize
        while queue:
            at = queue.pop()
            if at in seen or not at:
                continue
            seen.add(at)
            if len(seen) > MAX_PAGES:
                raise ReadError(f"a TIFF of over {MAX_PAGES:,} pages is not read: split it")
            file.seek(at)
            data = file.read(size(order + count))
            if len(data) < size(order + count):
                continue
            n = min(struct.unpack(order + count, data)[0], 4096)
            data = file.read(n * size("<" + entry) + size("<" + offset))
            for k in range(len(data) // size("<" + entry)):
                tag, kind, n_values, value = struct.unpack_from(order + entry, data, k * size("<" + entry))
                if tag in (273, 279, 324, 325) and n_values > MAX_SEGMENTS:
                    raise ReadError(f"a TIFF with {n_values:,} strips or tiles is not read")
                if n_values * (1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)[min(kind, 18)] > MAX_TAG_BYTES:
                    raise ReadError(f"tag {tag} says that it has {n_values:,} values: not read")
                if tag in (330, 34665, 34853, 40965) and n_values == 1:
                    queue.append(value)
            if len(data) == n * size("<" + entry) + size("<" + offset):
                queue.append(struct.unpack_from(order + offset, data, n * size("<" + entry))[0])
