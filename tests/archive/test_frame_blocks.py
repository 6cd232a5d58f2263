"""Blocks of frames: equal to plane-wise reading, each chunk decoded once, memory and errors as without blocks."""

import h5py
import numpy as np
import pytest

from emqa_dask.archive import frame_blocks
from emqa_dask.archive.axes import ImageAxes, iterate_planes, read_plane
from emqa_dask.archive.frame_blocks import read_plane_of_block
from emqa_dask.archive.readers import open_source


class CountedArray:
    """An array that counts the elements it gives."""

    def __init__(self, values: np.ndarray):
        self.values = values
        self.shape = values.shape
        self.dtype = values.dtype
        self.n_elements = 0

    def __getitem__(self, index):
        part = self.values[index]
        self.n_elements += part.size
        return part


@pytest.fixture(autouse=True)
def empty_block():
    frame_blocks._release_block()
    yield
    frame_blocks._release_block()


def read_all(array, axes, chunks, key, step=5):
    height = array.shape[axes.y]
    for plane in iterate_planes(array.shape, axes):
        windows = [
            read_plane_of_block(array, axes, plane, y, min(y + step, height), chunks=chunks, key=key)
            for y in range(0, height, step)
        ]
        yield plane, np.concatenate(windows)


CASES = [
    ((7, 12, 9), ImageAxes(1, 2, None, (0,)), (3, 4, 9)),
    ((12, 9, 7), ImageAxes(0, 1, None, (2,)), (4, 9, 7)),
    ((12, 9, 7), ImageAxes(0, 1, None, (2,)), None),
    ((7, 12, 9), ImageAxes(1, 2, None, (0,)), None),
    ((2, 5, 12, 9), ImageAxes(2, 3, None, (0, 1)), (2, 2, 4, 4)),
    ((5, 12, 9, 4), ImageAxes(1, 2, 3, (0,)), (2, 12, 9, 4)),
    ((5, 9, 12), ImageAxes(2, 1, None, (0,)), (4, 9, 6)),
]


@pytest.mark.parametrize("limit", ["memory", "file", "part"])
@pytest.mark.parametrize(("shape", "axes", "chunks"), CASES)
def test_blocks_equal_planes_and_decode_once(shape, axes, chunks, limit, monkeypatch):
    values = np.random.default_rng(1).integers(0, 60_000, shape).astype(">u2")
    if limit != "memory":
        monkeypatch.setattr(frame_blocks, "MAX_MEMORY_BYTES", 0)
    if limit == "part":
        monkeypatch.setattr(frame_blocks, "MAX_FILE_BYTES", 2 * 12 * 9 * 3 * 2)
    monkeypatch.setattr(frame_blocks, "_PIECE_BYTES", 100)
    array = CountedArray(values)
    for plane, rows in read_all(array, axes, chunks, "a"):
        expected = read_plane(values, axes, plane, 0, shape[axes.y])
        np.testing.assert_array_equal(rows, expected)
        assert rows.flags.writeable
        assert rows.dtype == np.dtype("u2")
    n_used = values.size if axes.colour is None else values.size * 3 // 4
    assert array.n_elements == n_used


def test_another_key_or_frame_order_gives_right_values():
    axes = ImageAxes(1, 2, None, (0,))
    first, second = (CountedArray(np.random.default_rng(k).normal(size=(6, 8, 8))) for k in range(2))
    for position in (5, 0, 3, 1, 5):
        for name, array in (("first", first), ("second", second)):
            rows = read_plane_of_block(array, axes, (position,), 2, 6, chunks=(4, 8, 8), key=name)
            np.testing.assert_array_equal(rows, array.values[position, 2:6])


def test_block_is_released_after_its_last_rows():
    values = CountedArray(np.zeros((4, 8, 8), "u1"))
    for _ in read_all(values, ImageAxes(1, 2, None, (0,)), (4, 8, 8), "a"):
        pass
    assert frame_blocks._LAST_BLOCK.frames is None


def test_changes_of_a_returned_frame_stay_outside():
    axes = ImageAxes(1, 2, None, (0,))
    values = np.arange(4 * 8 * 8, dtype="u2").reshape(4, 8, 8)
    rows = read_plane_of_block(values, axes, (0,), 0, 8, chunks=(4, 8, 8), key="a")
    rows[:] = 0
    again = read_plane_of_block(values, axes, (0,), 0, 8, chunks=(4, 8, 8), key="a")
    np.testing.assert_array_equal(again, values[0])


def test_full_disk_falls_back_to_single_planes(monkeypatch):
    def fail(self, y0, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_blocks, "MAX_MEMORY_BYTES", 0)
    monkeypatch.setattr(frame_blocks.FileBlock, "write", fail)
    values = np.arange(4 * 8 * 8, dtype="u2").reshape(4, 8, 8)
    for plane, rows in read_all(values, ImageAxes(1, 2, None, (0,)), (4, 8, 8), "a"):
        np.testing.assert_array_equal(rows, values[plane[0]])


def test_hdf5_dataset_is_read_through_blocks(tmp_path):
    values = np.random.default_rng(1).integers(0, 255, (9, 40, 30)).astype("u1")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("d", data=values, chunks=(4, 16, 16), compression="gzip")
        for plane, rows in read_all(dataset, ImageAxes(1, 2, None, (0,)), dataset.chunks, "d", 16):
            np.testing.assert_array_equal(rows, values[plane[0]])


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "f4"])
def test_hdf5_file_is_opened_once_per_block(tmp_path, monkeypatch, dtype):
    values = np.random.default_rng(1).integers(0, 60_000, (8, 40, 30)).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("stack", data=values, chunks=(3, 16, 16))
    frames = open_source(tmp_path / "x.h5").frames
    opened_paths = []
    open_file = h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, mode: opened_paths.append(path) or open_file(path, mode))
    for frame, expected in zip(frames, values, strict=True):
        np.testing.assert_array_equal(frame.read(), expected)
    assert len(opened_paths) == 3
    assert frame_blocks._LAST_BLOCK.frames is None
