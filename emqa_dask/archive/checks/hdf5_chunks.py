"""find_hdf5_damage(): pixels that an HDF5 dataset does not hold; libhdf5 reads the fill value there without a word."""

import itertools
import math
import os

import h5py

from emqa_dask.archive.source import ReadError


def find_hdf5_damage(dataset: h5py.Dataset, index: tuple[int | slice, ...] | None = None) -> str:
    """Which values of `dataset` (of the part at `index`, where given) are absent, one phrase; "" for none."""
    folder = os.path.dirname(os.path.realpath(dataset.file.filename))
    if dataset.is_virtual:
        names = {source.file_name for source in dataset.virtual_sources()} - {"."}
        absent_files = sorted(name for name in names if not os.path.exists(os.path.join(folder, name)))
        if not absent_files:
            return ""
        return f"{len(absent_files)} of {len(names)} files that hold {dataset.name} are absent, first {absent_files[0]}"
    if dataset.external:
        return _find_external_damage(dataset, folder)
    if not dataset.chunks:
        is_absent = dataset.size and not dataset.id.get_storage_size()
        return f"the values of {dataset.name} were never written" if is_absent else ""
    n_chunks = math.prod(math.ceil(n / c) for n, c in zip(dataset.shape, dataset.chunks))
    if dataset.id.get_num_chunks() >= n_chunks:
        return ""
    if index is None:
        n_absent = n_chunks - dataset.id.get_num_chunks()
    else:
        n_absent, n_chunks = _count_absent(dataset, index)
    return f"{n_absent:,} of {n_chunks:,} chunks of {dataset.name} are absent: they read as fill" if n_absent else ""


def check_lzf(dataset: h5py.Dataset, index: tuple[int | slice, ...]) -> None:
    """ReadError for an LZF chunk of the part at `index` that does not decode to its size (h5py gives old memory)."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    if not filters or filters[-1] != h5py.h5z.FILTER_LZF:
        return
    import imagecodecs

    n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    for block in _list_chunks(dataset, index):
        if dataset.id.get_chunk_info_by_coord(block).byte_offset is None:
            continue
        mask, data = dataset.id.read_direct_chunk(block)
        if mask & 1 << len(filters) - 1:
            continue
        try:
            n_decoded = len(imagecodecs.lzf_decode(data, out=n_bytes + 1))
        except (RuntimeError, ValueError):
            n_decoded = 0
        if n_decoded != n_bytes:
            raise ReadError(f"HDF5 data are broken: a chunk of {dataset.name} decodes to other than {n_bytes:,} bytes")


def _count_absent(dataset: h5py.Dataset, index: tuple[int | slice, ...]) -> tuple[int, int]:
    blocks = _list_chunks(dataset, index)
    return sum(dataset.id.get_chunk_info_by_coord(b).byte_offset is None for b in blocks), len(blocks)


def _list_chunks(dataset: h5py.Dataset, index: tuple[int | slice, ...]) -> list[tuple[int, ...]]:
    """First indices of the chunks that the part at `index` touches."""
    starts = []
    for part, n, size in zip(index, dataset.shape, dataset.chunks, strict=True):
        first, stop, _ = part.indices(n) if isinstance(part, slice) else (part, part + 1, 1)
        starts.append(range(first // size * size, stop, size))
    return list(itertools.product(*starts))


def _find_external_damage(dataset: h5py.Dataset, folder: str) -> str:
    for name, offset, size in dataset.external:
        path = os.path.join(folder, os.fsdecode(name))
        n_present = max(0, os.path.getsize(path) - offset) if os.path.exists(path) else 0
        n_expected = min(size, dataset.nbytes)
        if n_present < n_expected:
            return f"the file {os.path.basename(path)} holds {n_present:,} of {n_expected:,} bytes of {dataset.name}"
    return ""
