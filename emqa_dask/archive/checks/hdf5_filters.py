"""Compression filters of HDF5 that are plug-ins: loaded when a dataset needs them, and named where one is absent."""

import math
from contextlib import suppress
from typing import IO

import h5py

from emqa_dask.archive.checks.decompressed_size import SLACK_BYTES, check_decompressed_size
from emqa_dask.archive.source import ReadError

_BUILTIN_FILTERS = 32_000  # ids up to this one are those of libhdf5 and h5py, except bzip2
_BZIP2 = 307
_BLOSC = 32_001
_LZ4 = 32_004
_BITSHUFFLE = 32_008
_ZSTD = 32_015
_BLOSC2 = 32_026
_NAMES = {
    _BZIP2: "bzip2", _BLOSC: "Blosc", _LZ4: "LZ4", _BITSHUFFLE: "bitshuffle", 32_013: "ZFP", _ZSTD: "Zstandard",
    32_017: "SZ", 32_018: "FCIDECOMP", 32_024: "SZ3", _BLOSC2: "Blosc2", 32_028: "SPERR",
}  # fmt: skip
_HEADER_BYTES = 64  # of a chunk: they contain its stated size


def list_filters(dataset: h5py.Dataset) -> list[tuple[int, tuple[int, ...], str]]:
    """(id, options, name) of each filter of `dataset`, in the order of writing."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k) for k in range(plist.get_nfilters())]
    return [(code, tuple(options), name.decode("utf-8", "replace")) for code, _, options, name in filters]


def load_filters(dataset: h5py.Dataset) -> None:
    """Load the plug-ins that `dataset` needs; ReadError that names the filter and the remedy where one is absent."""
    for code, _, name in list_filters(dataset):
        if h5py.h5z.filter_avail(code):
            continue
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401 - its import registers the filters
        if not h5py.h5z.filter_avail(code):
            label = _NAMES.get(code) or name or "of an unknown name"
            raise ReadError(
                f"{dataset.name} is compressed by the HDF5 filter {label} ({code}), which is not installed: "
                "install it (pip install hdf5plugin has the usual ones) or write the file anew with gzip"
            )


def check_plugin_chunks(dataset: h5py.Dataset) -> None:
    """ReadError for chunks of a plug-in filter that state a far larger size than a chunk of `dataset` has."""
    filters = list_filters(dataset)
    is_plugin = [code > _BUILTIN_FILTERS or code == _BZIP2 for code, _, _ in filters]
    if not any(is_plugin) or not dataset.chunks:
        return
    compressors = [code for code, options, _ in filters if _is_compressor(code, options)]
    if len(compressors) > 1:
        raise ReadError(f"{dataset.name} is compressed twice")
    if not compressors:
        return
    code = compressors[0]
    n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    is_skipped = 1 << [f[0] for f in filters].index(code)
    offsets: list[tuple[int, int, tuple[int, ...]]] = []

    def note(info: h5py.h5d.StoreInfo) -> None:
        if not info.filter_mask & is_skipped:
            offsets.append((info.byte_offset, info.size, info.chunk_offset))

    dataset.id.chunk_iter(note)
    with open(dataset.file.filename, "rb", buffering=0) as file:
        base = _find_base_offset(dataset, file, offsets)
        for offset, size, position in offsets:
            if code == _BZIP2:
                check_decompressed_size("bz2", dataset.id.read_direct_chunk(position)[1], n_bytes, dataset.name)
                continue
            file.seek(base + offset)
            _check_stated_size(code, file.read(min(size, _HEADER_BYTES)), n_bytes, dataset.name)


def _is_compressor(code: int, options: tuple[int, ...]) -> bool:
    if code == _BITSHUFFLE:
        return len(options) > 4 and options[4] != 0
    return code in (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_LZF) or code in _NAMES


def _find_base_offset(dataset: h5py.Dataset, file: IO[bytes], offsets: list) -> int:
    """Bytes before the HDF5 data in the file (a user block) that the offsets of chunks do not count."""
    if not offsets or not dataset.file.userblock_size:
        return 0
    offset, size, position = offsets[0]
    file.seek(offset)
    head = dataset.id.read_direct_chunk(position)[1][:_HEADER_BYTES]
    return 0 if file.read(min(size, _HEADER_BYTES)) == head else dataset.file.userblock_size


def _check_stated_size(code: int, head: bytes, n_bytes: int, name: str) -> None:
    """ReadError where the head of a chunk states a size much larger than `n_bytes`."""
    if code in (_ZSTD, _BLOSC) and len(head) >= 18:
        check_decompressed_size("zstd" if code == _ZSTD else "blosc", head, n_bytes, name)
    stated_bytes = 0
    if code in (_LZ4, _BITSHUFFLE):
        stated_bytes = int.from_bytes(head[:8], "big")
    elif code == _BLOSC2 and head[2:9] == b"b2frame":
        stated_bytes = int.from_bytes(head[30:38], "big")
    if stated_bytes > n_bytes + SLACK_BYTES:
        raise ReadError(f"a chunk of {name} decodes to {stated_bytes:,} bytes instead of {n_bytes:,}: refused")
