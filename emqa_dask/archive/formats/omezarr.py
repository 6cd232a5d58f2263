"""OME-Zarr folders (0.4 and 0.5) and plain Zarr arrays: every 2-D plane of level 0 is a frame."""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.zarr_chunks import check_blosc, check_blosc_file, count_absent_chunks
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.pixel_size import set_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.source import (
    WINDOW_BYTES,
    Frame,
    ReadError,
    Source,
    add_damage,
    capture_warnings,
    is_damage_recorded,
    record_damage,
)


def open_zarr(path: str | Path) -> Source:
    """A Zarr folder -> Source; ReadError when it is broken or is no image."""
    import zarr

    with capture_warnings():
        try:
            node = zarr.open(store=str(path), mode="r")
            if isinstance(node, zarr.Array):
                return _make_source(str(path), node, "Zarr", has_axes=False, header=Header())
            return _open_multiscale(str(path), node)
        except ReadError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise ReadError(f"broken Zarr folder: {type(error).__name__}: {text}") from error


def _open_multiscale(path: str, group: Any) -> Source:
    """The finest level of the first image of an OME-Zarr group."""
    attributes = dict(group.attrs)
    multiscales = (attributes.get("ome") or attributes).get("multiscales")
    if not multiscales:
        return Source("Zarr", "signal", "a Zarr group without OME multiscales: nothing says which array is it")
    image = multiscales[0]
    level = image["datasets"][0]
    array = group[level["path"]]
    axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes") or []]
    scale = next((t["scale"] for t in level.get("coordinateTransformations", []) if "scale" in t), [])
    header = Header(foreign=flatten_metadata({k: v for k, v in image.items() if isinstance(v, str | dict)}))
    if axes and scale:
        header = set_pixel_size(header, length_to_nm(scale[-1], axes[-1].get("unit")))
    return _make_source(path, array, "OME-Zarr", has_axes=bool(axes), header=header)


def open_zspy(path: Path) -> Source:
    """A HyperSpy Zarr folder -> Source, by RosettaSciIO; its frames report absent chunks."""
    import zarr

    from emqa_dask.archive.formats.rosetta import open_rosetta

    source = open_rosetta(path, "ZSPY", "zspy", 2**62)
    with capture_warnings():
        for name, array in _iterate_arrays(zarr.open(store=str(path), mode="r")):
            if array.ndim < 2 or 0 in array.shape or array.shards is not None:
                continue
            if type(getattr(array.metadata, "compressor", None)).__name__ == "Blosc":
                _check_blosc_files(path / array.path)
            n_absent = array.nchunks - array.nchunks_initialized
            if n_absent > 0:
                sentence = f"{n_absent:,} of {array.nchunks:,} chunks of {name} are absent: they read as fill"
                source = add_damage(source, sentence, array.shape)
    return source


def _check_blosc_files(folder: Path) -> None:
    for chunk in folder.glob("**/[0-9]*"):
        if chunk.is_file():
            check_blosc_file(chunk)


def _iterate_arrays(group: Any) -> Iterator[tuple[str, Any]]:
    """(name, array) of every array in `group` and in its groups."""
    for name, node in group.members(max_depth=None):
        if hasattr(node, "chunks"):
            yield name, node


def _make_source(path: str, array: Any, format: str, *, has_axes: bool, header: Header) -> Source:
    """One frame for each 2-D plane of `array`."""
    if array.ndim < 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        return Source(format, "signal", f"a Zarr array of shape {array.shape} and type {array.dtype}, not an image")
    if array.ndim > 3 and not has_axes:
        return Source(format, "diffraction", f"a Zarr array of {array.ndim} dimensions without named axes")
    height, width = array.shape[-2:]
    chunk_rows = max(1, min(height, array.chunks[-2]))
    rows = max(1, WINDOW_BYTES // max(1, width * array.dtype.itemsize) // chunk_rows) * chunk_rows
    folder = Path(path) / array.path
    guards.check_frames(math.prod(array.shape[:-2]))
    planes = itertools.product(*(range(n) for n in array.shape[:-2]))
    dtype = np.dtype(array.dtype).newbyteorder("=").name
    frames = tuple(
        Frame(height, width, dtype, header, partial(_read_rows, array, folder, plane), min(rows, height))
        for plane in planes
    )
    assert len(frames) == math.prod(array.shape[:-2])
    return Source(format, "stack" if len(frames) > 1 else "micrograph", "", frames)


def _read_rows(array, folder: Path, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    check_blosc(folder, array, plane, y0, y1)
    try:
        rows = np.asarray(array[(*plane, slice(y0, y1))])
        if is_damage_recorded():
            n_absent, n_chunks = count_absent_chunks(folder, array, plane, y0, y1)
            if n_absent:
                record_damage(
                    f"{n_absent:,} of {n_chunks:,} chunks of rows {y0:,} to {y1:,} are absent: they read as fill"
                )
        return rows
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ReadError(f"Zarr chunks are broken: {type(error).__name__}: {text}") from error
