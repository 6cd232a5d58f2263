"""Plug-in filters of HDF5: read where installed, else named with the remedy; hostile chunks are refused."""

from contextlib import suppress

import h5py
import hdf5plugin
import numpy as np
import pytest
from bad_files import image

from emqa_dask.archive.checks import hdf5_filters
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError

FILTERS = {
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "blosc": hdf5plugin.Blosc(),
    "blosc2": hdf5plugin.Blosc2(),
    "bzip2": hdf5plugin.BZip2(),
    "lz4": hdf5plugin.LZ4(),
    "zstd": hdf5plugin.Zstd(),
}
N_CLAIMED = 2**40  # bytes that a hostile chunk states


@pytest.mark.parametrize("name", FILTERS)
def test_arrays_of_plugin_filters_are_read(tmp_path, name):
    stack = np.stack([image(k, (48, 64)) for k in range(3)])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("d", data=stack, chunks=(2, 16, 64), **FILTERS[name])
    frames = open_source(tmp_path / "x.h5").frames
    np.testing.assert_array_equal([frame.read() for frame in frames], stack)


def test_absent_filter_is_named_with_its_remedy(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("d", data=image(1, (48, 64)), chunks=(16, 64), **FILTERS["bitshuffle"])
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(ReadError, match=r"/d is .* filter bitshuffle \(32008\).*pip install hdf5plugin"):
        open_source(tmp_path / "x.h5")


def claim_size(name: str, data: bytes) -> bytes:
    """The chunk with a header that states a huge size."""
    if name == "blosc":
        return data[:4] + (2**31 - 1).to_bytes(4, "little") + data[8:]
    if name == "blosc2":
        return data[:30] + N_CLAIMED.to_bytes(8, "big") + data[38:]
    if name == "zstd":
        return data[:4] + bytes([0xE0]) + N_CLAIMED.to_bytes(8, "little") + data[8:]
    return N_CLAIMED.to_bytes(8, "big") + data[8:]


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("name", ["bitshuffle", "blosc", "blosc2", "lz4", "zstd"])
def test_chunks_that_state_a_huge_size_are_refused(tmp_path, name, userblock):
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=userblock) as file:
        dataset = file.create_dataset("d", data=image(1, (48, 64)) // 4096, chunks=(16, 64), **FILTERS[name])
        mask, data = dataset.id.read_direct_chunk((16, 0))
        dataset.id.write_direct_chunk((16, 0), claim_size(name, data), mask)
    with pytest.raises(ReadError, match=r"a chunk of /d decodes to"):
        open_source(tmp_path / "x.h5")


def test_two_compressors_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((16, 64))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        plist.set_deflate(4)
        space = h5py.h5s.create_simple((48, 64))
        h5py.Dataset(h5py.h5d.create(file.id, b"d", h5py.h5t.NATIVE_UINT16, space, plist))[:] = image(1, (48, 64))
    with pytest.raises(ReadError, match="compressed twice"):
        open_source(tmp_path / "x.h5")


@pytest.mark.parametrize("name", FILTERS)
def test_flipped_bits_in_chunks_never_crash(tmp_path, name):
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "good.h5", "w") as file:
        dataset = file.create_dataset("d", data=image(1, (48, 64)), chunks=(48, 64), **FILTERS[name])
        _, data = dataset.id.read_direct_chunk((0, 0))
    good = (tmp_path / "good.h5").read_bytes()
    start = good.index(data[:32])
    for _ in range(40):
        broken = bytearray(good)
        broken[start + int(rng.integers(min(len(data), 200)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "x.h5").write_bytes(broken)
        with suppress(ReadError):
            assert open_source(tmp_path / "x.h5").frames[0].read().shape == (48, 64)


def test_filters_of_a_dataset_are_listed(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("d", data=image(1, (48, 64)), chunks=(16, 64), shuffle=True, **FILTERS["zstd"])
        assert [code for code, _, _ in hdf5_filters.list_filters(dataset)] == [2, 32015]


def test_real_bitshuffle_file(real):
    path = real / "formats_more" / "bitshuffle.h5"
    if not path.is_file():
        pytest.skip("formats_more is not on this machine")
    (frame,) = open_source(path).frames
    with h5py.File(path) as file:
        np.testing.assert_array_equal(frame.read(), file["data"][:])
