"""Frames of HDF5 datasets that are images, and the Source of a file from its images and the arrays left out."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, count_planes, iterate_planes
from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.hdf5_chunks import check_lzf, find_hdf5_damage
from emqa_dask.archive.checks.hdf5_filters import load_filters
from emqa_dask.archive.frame_blocks import read_last_block, read_plane_of_block
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.source import (
    WINDOW_BYTES,
    Frame,
    ReadError,
    Source,
    is_damage_recorded,
    record_damage,
)

MAX_NAMED_ARRAYS = 3  # of those left out, in the reason


@dataclass(frozen=True)
class ImageDataset:
    """A dataset whose planes are images, and what is known about them."""

    name: str  # path in the file
    axes: ImageAxes
    header: Header
    shape: tuple[int, ...]  # that holds pixels; the dataset may be larger where it is padded
    dtype: np.dtype  # by which the stored values are taken


@dataclass(frozen=True)
class OtherArray:
    """An array that is no image, and why."""

    name: str
    no_image: NoImage


@dataclass(frozen=True)
class Contents:
    """What the arrays of a file are: images in the order of their frames, and arrays left out."""

    format: str
    images: tuple[ImageDataset, ...] = ()
    others: tuple[OtherArray, ...] = ()
    remark: str = ""
    n_lost: int = 0  # images that could not be opened


def make_image(
    dataset: h5py.Dataset, axes: ImageAxes, header: Header, shape: Sequence[int] = (), dtype: Any = None
) -> ImageDataset:
    """ImageDataset of a whole dataset, or of its first `shape` elements; `dtype`: by which values are taken."""
    stored_shape = tuple(int(n) for n in dataset.shape)
    valid_shape = tuple(min(int(n), m) for n, m in zip(shape, stored_shape)) if len(shape) else stored_shape
    return ImageDataset(dataset.name, axes, header, valid_shape, np.dtype(dtype or dataset.dtype))


def make_source(path: Path, file: h5py.File, contents: Contents) -> Source:
    """The frames of all images of `contents`, with a remark about the arrays left out."""
    guards.check_frames(sum(count_planes(image.shape, image.axes) for image in contents.images))
    frames = tuple(frame for image in contents.images for frame in _iterate_frames(path, file, image))
    if not frames:
        return _describe_no_image(contents)
    remark = "; ".join(filter(None, (contents.remark, _describe_others(contents.others))))
    kind = "stack" if len(frames) > 1 else "micrograph"
    return Source(contents.format, kind, remark, frames, n_frames_lost=contents.n_lost)


def _describe_no_image(contents: Contents) -> Source:
    if not contents.others:
        reason = contents.remark or "HDF5 in which no array of numbers is an image or a stack"
        return Source(contents.format, "signal", reason)
    first = contents.others[0]
    reason = f"{first.no_image.reason} ({first.name})"
    if len(contents.others) > 1:
        reason = f"no array is an image: {_list_others(contents.others)}"
    return Source(contents.format, first.no_image.kind, "; ".join(filter(None, (reason, contents.remark))))


def _describe_others(others: Sequence[OtherArray]) -> str:
    if not others:
        return ""
    noun = "array" if len(others) == 1 else "arrays"
    return f"{len(others)} other {noun} left out: {_list_others(others)}"


def _list_others(others: Sequence[OtherArray]) -> str:
    names = [f"{other.name} is {other.no_image.reason}" for other in others[:MAX_NAMED_ARRAYS]]
    n_more = len(others) - len(names)
    return ", ".join([*names, f"and {n_more} more"] if n_more else names)


def _iterate_frames(path: Path, file: h5py.File, image: ImageDataset) -> Iterator[Frame]:
    dataset = file[image.name]
    load_filters(dataset)
    height = image.shape[image.axes.y]
    width = image.shape[image.axes.x]
    n_samples = 1 if image.axes.colour is None else 3
    row_bytes = max(1, width * n_samples * image.dtype.itemsize)
    chunk_rows = min(height, dataset.chunks[image.axes.y]) if dataset.chunks else 1
    rows_per_read = min(height, max(1, WINDOW_BYTES // row_bytes // chunk_rows) * chunk_rows)
    dtype = image.dtype.newbyteorder("=").name
    for plane in iterate_planes(image.shape, image.axes):
        read_rows = partial(_read_rows, path, image, plane)
        yield Frame(height, width, dtype, image.header, read_rows, rows_per_read, image.axes.colour is not None)


class _ValidPart:
    """A dataset without its padding, its values taken by another type where the image has one.

    Where damage is recorded, chunks that LZF would decode to too few bytes raise ReadError.
    """

    def __init__(self, dataset: h5py.Dataset, image: ImageDataset):
        self._dataset = dataset
        self._is_checked = is_damage_recorded()
        self.shape = image.shape
        self.dtype = image.dtype

    def __getitem__(self, index: tuple) -> np.ndarray:
        values = self._dataset[self._check(index)]
        return values if values.dtype == self.dtype else values.view(self.dtype)

    def read_into(self, index: tuple, out: np.ndarray) -> None:
        """Write the values at `index` to `out`, of the dtype and the shape of what self[index] would return."""
        if self._dataset.dtype.kind in "iuf":
            self._dataset.read_direct(out.view(self._dataset.dtype.newbyteorder("=")), self._check(index))
        else:
            out[...] = self[index]

    def _check(self, index: tuple) -> tuple:
        """`index` within the valid part, whose chunks are checked."""
        bounded_index = tuple(
            slice(*part.indices(n)) if isinstance(part, slice) else part for part, n in zip(index, self.shape)
        )
        if self._is_checked:
            check_lzf(self._dataset, bounded_index)
        return bounded_index


class _LastCount(threading.local):
    """Whether the dataset that this thread read last is complete."""

    key: tuple[str, int, str] | None = None
    is_complete: bool = False


_LAST_COUNT = _LastCount()


def _read_rows(path: Path, image: ImageDataset, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    modified_ns = os.stat(path).st_mtime_ns
    key = (str(path), modified_ns, image.name)
    if not is_damage_recorded():
        rows = read_last_block(plane, y0, y1, key=key)
        if rows is not None:
            return rows
    try:
        with h5py.File(path, "r") as file:
            dataset = file[image.name]
            load_filters(dataset)
            is_linked = dataset.is_virtual or bool(dataset.external)  # other files, which can change meanwhile
            if is_damage_recorded() and (is_linked or not _is_complete(dataset, key)):
                damage = find_hdf5_damage(dataset, _make_index(image, plane, y0, y1))
                if damage:
                    record_damage(damage)
            part = _ValidPart(dataset, image)
            return read_plane_of_block(part, image.axes, plane, y0, y1, chunks=dataset.chunks, key=key)
    except ReadError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ReadError(f"HDF5 data are broken: {' '.join(str(error).split())[:200]}") from error


def _make_index(image: ImageDataset, plane: tuple[int, ...], y0: int, y1: int) -> tuple[int | slice, ...]:
    """Rows y0:y1 of one image as an index of its dataset."""
    index: list[int | slice] = [slice(0, n) for n in image.shape]
    for k, position in zip(image.axes.stack, plane, strict=True):
        index[k] = position
    index[image.axes.y] = slice(y0, y1)
    return tuple(index)


def _is_complete(dataset: h5py.Dataset, key: tuple[str, int, str]) -> bool:
    """Whether the file holds all values of a dataset; counted once, since a file can have millions of chunks.

    key: path, time of modification and name. Frames are read in their order, so that one answer per thread is enough.
    """
    if _LAST_COUNT.key != key:
        _LAST_COUNT.is_complete = not find_hdf5_damage(dataset)
        _LAST_COUNT.key = key
    return _LAST_COUNT.is_complete
