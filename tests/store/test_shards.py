"""Laws of one shard: what we write zarr-python reads, what it writes we read, and nothing missing reads as black."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from emqa_dask.store import shards
from emqa_dask.store.shards import Grid

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int64", "float16", "float32", "float64", "complex64")


def pixels(n, height, width, dtype, seed=0):
    raw = np.random.default_rng(seed).integers(0, 256, (n, height, width * np.dtype(dtype).itemsize), np.uint8)
    return (raw & 1).astype(bool) if dtype == "bool" else raw.view(dtype).reshape(n, height, width)


def codecs(name, itemsize):
    ours = {"none": None, "zstd": Zstd(level=1), "blosc": Blosc("lz4", 5, Blosc.BITSHUFFLE, 0, itemsize)}[name]
    theirs = {
        "none": [],
        "zstd": [ZstdCodec(level=1)],
        "blosc": [BloscCodec(typesize=itemsize, cname="lz4", clevel=5, shuffle="bitshuffle", blocksize=0)],
    }[name]
    return ours, [*theirs, Crc32cCodec()]


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(["none", "zstd", "blosc"]),
    n=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    rows=st.integers(1, 9),
    spare=st.integers(0, 2),
    heights=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_equals_zarr_python_in_both_directions(tmp_path_factory, dtype, codec, n, height, width, rows, spare, heights):
    folder = tmp_path_factory.mktemp("shard")
    images = pixels(n, height, width, dtype)
    ours, theirs = codecs(codec, images.itemsize)
    grid = Grid(height, width, images.dtype, min(rows, height), n + spare, ours)
    array = zarr.create_array(
        folder / "a.zarr",
        shape=images.shape,
        dtype=dtype,
        chunks=(1, grid.rows, width),
        shards=(grid.shard_length, grid.rows * grid.n_bands, width),
        compressors=theirs,
        config={"write_empty_chunks": True},
    )
    uri = str(folder / "a.zarr/c/0/0/0")

    array[:] = images
    np.testing.assert_array_equal(list(shards.read_micrographs(uri, grid, range(n))), images)

    cuts = np.cumsum(heights)
    size = shards.write_shard(uri, grid, (np.split(image, cuts[cuts < height]) for image in images))
    assert size == (folder / "a.zarr/c/0/0/0").stat().st_size
    assert array[:].tobytes() == images.tobytes()
    assert b"".join(image.tobytes() for image in shards.read_micrographs(uri, grid, range(n))) == images.tobytes()


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), rows=st.integers(1, 20), data=st.data())
def test_a_window_is_what_slicing_gives(tmp_path_factory, height, rows, data):
    images = pixels(3, height, 5, "uint16")
    grid = Grid(height, 5, images.dtype, min(rows, height), 4, Zstd(level=1))
    uri = str(tmp_path_factory.mktemp("shard") / "s")
    shards.write_shard(uri, grid, ([image] for image in images))
    start = data.draw(st.integers(0, height))
    stop = data.draw(st.integers(start, height))
    slots = data.draw(st.lists(st.integers(0, 2)))
    found = list(shards.read_micrographs(uri, grid, slots, (start, stop)))
    assert len(found) == len(slots)
    for slot, window in zip(slots, found):
        np.testing.assert_array_equal(window, images[slot, start:stop])


@pytest.fixture
def shard(tmp_path):
    images = np.zeros((2, 8, 8), np.uint8)
    images[0] = np.arange(64).reshape(8, 8)
    grid = Grid(8, 8, images.dtype, 4, 3, Zstd(level=1))
    shards.write_shard(str(tmp_path / "s"), grid, ([image] for image in images))
    return tmp_path / "s", grid, images


def test_black_micrographs_are_stored_and_empty_slots_are_absent(shard):
    path, grid, images = shard
    np.testing.assert_array_equal(next(shards.read_micrographs(str(path), grid, [1])), images[1])
    with pytest.raises(OSError, match="micrograph 2 is missing: its file could not be read"):
        next(shards.read_micrographs(str(path), grid, [2]))


def test_a_missing_shard_raises(shard):
    path, grid, _ = shard
    path.unlink()
    with pytest.raises(OSError, match="is missing: `emqa triage` on its workspace stores it again"):
        next(shards.read_micrographs(str(path), grid, [0]))


def test_one_flipped_bit_anywhere_raises(shard):
    path, grid, images = shard
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(OSError, match="damaged"):
            list(shards.read_micrographs(str(path), grid, range(2)))
    path.write_bytes(whole)
    np.testing.assert_array_equal(list(shards.read_micrographs(str(path), grid, range(2))), images)


def test_a_shard_cut_short_anywhere_raises(shard):
    path, grid, _ = shard
    whole = path.read_bytes()
    for stop in range(len(whole)):
        path.write_bytes(whole[:stop])
        with pytest.raises(OSError, match="damaged"):
            list(shards.read_micrographs(str(path), grid, range(2)))


@pytest.mark.parametrize("heights", [[8, 1], [7], [], [3, 3]])
def test_incomplete_windows_are_refused_and_leave_no_files(tmp_path, heights):
    grid = Grid(8, 8, np.dtype("uint8"), 4, 3, None)
    with pytest.raises(ValueError, match="rows"):
        shards.write_shard(str(tmp_path / "s"), grid, [[np.zeros((h, 8), np.uint8) for h in heights]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("window", [np.zeros((8, 7), np.uint8), np.zeros((8, 8), np.int8), np.zeros(8, np.uint8)])
def test_a_window_of_another_shape_or_dtype_is_refused(tmp_path, window):
    with pytest.raises(ValueError, match="window"):
        shards.write_shard(str(tmp_path / "s"), Grid(8, 8, np.dtype("uint8"), 8, 1, None), [[window]])


@given(height=st.integers(1, 10**6), width=st.integers(1, 10**6), itemsize=st.sampled_from([1, 2, 4, 8, 16]))
def test_a_chunk_is_a_micrograph_or_bounded_band(height, width, itemsize):
    rows = shards.choose_band_rows(height, width, itemsize)
    assert 1 <= rows <= height
    assert rows == 1 or (rows - 1) * width * itemsize <= shards.BAND_BYTES
    if height * width * itemsize <= shards.BAND_BYTES:
        assert rows == height
