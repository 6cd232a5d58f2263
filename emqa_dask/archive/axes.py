"""Axes of arrays: which of them are the rows, columns and colours of an image, and which count images."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from emqa_dask.archive.metadata.units import is_reciprocal

MIN_IMAGE_PX = 16  # of a side; an array of unnamed axes whose last two are shorter is no stack of images
MAX_SAMPLES = 16  # along a last axis that counts detectors or colours
MAX_ASPECT = 4.0  # of an image in an array of unnamed axes; longer ones may be spectra
MAX_TABLE_ASPECT = 20.0  # of an array of unnamed axes; longer ones are tables
SMALL_SIDE_PX = 256  # of patterns and of boxed particles
MIN_SMALL_IMAGES = 1024  # so many small images in an array of unnamed axes are no series of micrographs
MAX_SMALL_IMAGES = 2**24  # a scan of 4096 x 4096; more are no data but a header that lies
_Y_NAMES = ("y", "height", "row", "rows", "scan y", "scan_y", "dim_y", "lines", "line", "r_y", "image_y")
_X_NAMES = ("x", "width", "column", "columns", "col", "scan x", "scan_x", "dim_x", "samples_x", "r_x", "image_x")
_STACK_NAMES = ("t", "time", "z", "depth", "frame", "frames", "image", "images", "slice", "slices", "tilt", "tilts",
                "angle", "tilt angle", "theta", "focus", "defocus", "index", "series", "page", "detector", "detectors",
                "stack", "n", "i")  # fmt: skip
_COLOUR_NAMES = ("rgb", "rgba", "colour", "color", "s", "samples", "sample")
_CHANNEL_NAMES = ("c", "channel", "channels")
_SPECTRUM_NAMES = ("e", "energy", "energy loss", "eloss", "energyloss", "wavelength", "lambda", "x-ray energy")
_SPECTRUM_UNITS = ("ev", "kev", "mev", "wavelength", "cm^-1", "1/cm")
_DEGREES = ("°", "deg", "degree", "degrees")
_RECIPROCAL_NAMES = ("kx", "ky", "qx", "qy", "kx'", "ky'", "q_x", "q_y", "k_x", "k_y", "dpx", "dpy")


class ImageAxes(NamedTuple):
    """Positions of the axes of the images in an array."""

    y: int
    x: int
    colour: int | None = None  # red, green, blue and perhaps alpha
    stack: tuple[int, ...] = ()  # they count images, the slowest one first; axes of length 1 are among them


class NoImage(NamedTuple):
    """Why an array holds no images, or why its axes cannot be known; `kind` as in tables.CATALOG."""

    kind: str
    reason: str


def identify_axes(
    shape: Sequence[int], dtype: Any, names: Sequence[str | None] = (), units: Sequence[str | None] = ()
) -> ImageAxes | NoImage:
    """Axes of the images in an array, by the names and units of its axes where they are known, else by its shape.

    names, units: one per axis, or empty. Without names, the last two axes are the rows and columns, and others of
    length above 1 count images; a last axis of at most 16 behind two long ones counts colours (3 or 4 of uint8) or
    detectors. Arrays of four dimensions without names are taken for 4D-STEM data.
    """
    shape = tuple(int(n) for n in shape)
    dtype = np.dtype(dtype)
    size = " x ".join(map(str, shape))
    if dtype.kind == "c":
        return NoImage("signal", f"complex values of {size} pixels (a Fourier transform or a wave), not a micrograph")
    if dtype.kind not in "biuf":
        return NoImage("signal", f"values of type {dtype}, not an image")
    if 0 in shape:
        return NoImage("signal", f"an image of {size} pixels")
    if len(shape) < 2 or sum(n > 1 for n in shape) == 0:
        return NoImage("spectrum", f"a spectrum or profile of {size} points, not an image")
    clean_names = [str(name or "").strip().lower() for name in names] if len(names) == len(shape) else []
    clean_units = [str(unit or "").strip().lower() for unit in units] if len(units) == len(shape) else []
    not_image = _find_other_kind(shape, size, clean_names, clean_units)
    if not_image is not None:
        return not_image
    y, x = _find_named_pair(shape, clean_names)
    if y is not None and x is not None:
        return _identify_named(shape, clean_names, y, x)
    return _identify_by_shape(shape, size, dtype)


def _find_named_pair(shape: tuple[int, ...], names: list[str]) -> tuple[int | None, int | None]:
    """Positions of the rows and columns by names; by the names of the other axes where all those are known."""
    y = next((k for k, name in enumerate(names) if name in _Y_NAMES), None)
    x = next((k for k, name in enumerate(names) if name in _X_NAMES), None)
    is_counted = [name in _STACK_NAMES or name in _COLOUR_NAMES + _CHANNEL_NAMES for name in names]
    image_axes = [k for k in range(len(names)) if not is_counted[k] and (shape[k] > 1 or k in (y, x))]
    if (y is not None and x is not None) or not any(is_counted) or len(image_axes) != 2:
        return y, x
    first, second = image_axes
    return (second, first) if x == first or y == second else (first, second)


def _find_other_kind(shape: tuple[int, ...], size: str, names: list[str], units: list[str]) -> NoImage | None:
    """What an array is whose axes are energies or of reciprocal space."""
    is_spectral = [name in _SPECTRUM_NAMES for name in names] or [False] * len(shape)
    is_spectral = [a or unit in _SPECTRUM_UNITS for a, unit in itertools.zip_longest(is_spectral, units, fillvalue="")]
    if any(spectral and n > 1 for spectral, n in zip(is_spectral, shape)):
        description = "a spectrum image" if len(shape) >= 3 else "a series of spectra"
        return NoImage("spectrum", f"{description} of {size} values, not a micrograph")
    reciprocal = [k for k, name in enumerate(names) if name in _RECIPROCAL_NAMES]
    is_counted = [name in _STACK_NAMES for name in names] or [False] * len(shape)  # such as the tilt, in radians
    reciprocal += [k for k, unit in enumerate(units) if is_reciprocal(unit) and not is_counted[k]]
    in_degrees = [k for k, unit in enumerate(units) if unit.strip("[]") in _DEGREES and not is_counted[k]]
    reciprocal += in_degrees if len(in_degrees) > 1 else []  # a single one may count tilts
    if reciprocal:
        n_long = sum(n > 1 for n in shape)
        description = {2: "a diffraction pattern", 3: "a stack of diffraction patterns"}.get(n_long, "4D-STEM data")
        return NoImage("diffraction", f"{description} of {size} pixels, not a micrograph")
    return None


def _identify_named(shape: tuple[int, ...], names: list[str], y: int, x: int) -> ImageAxes:
    def is_colour(k: int) -> bool:
        is_samples = names[k] in _COLOUR_NAMES or (names[k] in _CHANNEL_NAMES and k > max(y, x))
        return shape[k] in (3, 4) and is_samples

    others = [k for k in range(len(shape)) if k not in (y, x)]
    colour = next((k for k in others if is_colour(k)), None)
    return ImageAxes(y, x, colour, tuple(k for k in others if k != colour))


def _identify_by_shape(shape: tuple[int, ...], size: str, dtype: np.dtype) -> ImageAxes | NoImage:
    if len(shape) == 2:
        return ImageAxes(0, 1)
    long_axes = [k for k, n in enumerate(shape) if n > 1]
    single_axes = tuple(k for k in range(len(shape)) if k not in long_axes)
    if len(long_axes) == 4 and shape[long_axes[3]] in (3, 4) and dtype in (np.uint8, np.uint16):
        y, x, colour = long_axes[1:]
        if min(shape[y], shape[x]) >= MIN_IMAGE_PX:
            return ImageAxes(y, x, colour, (*single_axes, long_axes[0]))
    if len(long_axes) > 3:
        return NoImage("diffraction", f"{len(long_axes)}-dimensional data of {size} values (4D-STEM?), not micrographs")
    if len(long_axes) < 3:
        long_axes = sorted([*long_axes, *single_axes[len(long_axes) - 2 :]]) if len(long_axes) < 2 else long_axes
        y, x = long_axes
        return ImageAxes(y, x, None, tuple(k for k in range(len(shape)) if k not in (y, x)))
    first, second, last = long_axes
    n_last = shape[last]
    if n_last <= MAX_SAMPLES and min(shape[first], shape[second]) >= max(MIN_IMAGE_PX, 2 * n_last):
        if n_last in (3, 4) and dtype in (np.uint8, np.uint16):
            return ImageAxes(first, second, last, single_axes)
        return ImageAxes(first, second, None, (*single_axes, last))
    height, width = shape[second], shape[last]
    if min(height, width) < MIN_IMAGE_PX or max(height, width) > MAX_ASPECT * min(height, width):
        return NoImage(
            "signal",
            f"an array of {size} values whose axes have no names: a stack of images or spectra, which nothing says",
        )
    return ImageAxes(second, last, None, (*single_axes, first))


def find_other_array(shape: Sequence[int], axes: ImageAxes) -> NoImage | None:
    """What an array whose axes have no names is by its sides: a table, patterns, particles; None for images."""
    short_px, long_px = sorted((int(shape[axes.y]), int(shape[axes.x])))
    n_images = count_planes(shape, axes)
    if MIN_SMALL_IMAGES <= n_images <= MAX_SMALL_IMAGES and long_px <= SMALL_SIDE_PX and axes.colour is None:
        size = f"{shape[axes.y]} x {shape[axes.x]} pixels"
        reason = f"{n_images:,} images of only {size}: 4D-STEM data or boxed particles, not micrographs"
        return NoImage("diffraction", reason)
    if short_px >= MIN_IMAGE_PX and long_px <= MAX_TABLE_ASPECT * short_px:
        return None
    return NoImage("signal", f"a table of {' x '.join(map(str, shape))} numbers")


def count_planes(shape: Sequence[int], axes: ImageAxes) -> int:
    """Number of images in an array of `shape`."""
    return math.prod(int(shape[k]) for k in axes.stack)


def iterate_planes(shape: Sequence[int], axes: ImageAxes) -> Iterator[tuple[int, ...]]:
    """Position of each image along the axes that count images, in the order of a C array."""
    return itertools.product(*(range(int(shape[k])) for k in axes.stack))


def list_spans(
    shape: Sequence[int], axes: ImageAxes, plane: tuple[int, ...], y0: int, y1: int
) -> list[tuple[int, int]]:
    """(first, last + 1) index along each axis of an array of `shape`, for rows y0:y1 of one of its images."""
    spans = [(0, int(n)) for n in shape]
    for k, position in zip(axes.stack, plane, strict=True):
        spans[k] = (position, position + 1)
    spans[axes.y] = (y0, y1)
    return spans


def read_plane(array: Any, axes: ImageAxes, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    """Rows y0:y1 of one image as (h, w) or (h, w, 3), from an array that is sliced (numpy, h5py, zarr, dask).

    plane: as iterate_planes() gives it.
    """
    index: list[Any] = [slice(None)] * len(array.shape)
    for k, position in zip(axes.stack, plane, strict=True):
        index[k] = position
    index[axes.y] = slice(y0, y1)
    if axes.colour is not None:
        index[axes.colour] = slice(0, 3)
    rows = array[tuple(index)]
    if hasattr(rows, "compute"):  # a dask array; in this thread, whatever scheduler is set
        rows = rows.compute(scheduler="synchronous")
    image_axes = sorted(k for k in (axes.y, axes.x, axes.colour) if k is not None)
    order = [image_axes.index(k) for k in (axes.y, axes.x, axes.colour) if k is not None]
    return np.transpose(np.asarray(rows), order)
