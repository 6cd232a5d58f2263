"""Pixel sizes that an image shows itself: those of a burnt-in scale bar, or of a crystal with a known lattice."""

import math
from dataclasses import replace

from numpy.typing import NDArray

from emqa_dask.archive.lattice_scale import measure_spacing_px
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import PLAUSIBLE_NM, set_pixel_size
from emqa_dask.archive.scale_bar.reading import AGREEMENT, ScaleReading, read_scale_bar
from emqa_dask.settings import Archive

MEASURED_SOURCES = ("scale_bar", "lattice")  # of pixel sizes that differ slightly from image to image
MAX_FRAMES = 16  # of a file whose images are searched: longer ones are series of a camera, without any bar
DTYPES = ("uint8", "uint16", "int16")  # of images that software burns bars into


def complete_pixel_size(header: Header, pixels: NDArray | None, settings: Archive) -> tuple[Header, str | None]:
    """`header` with a pixel size from the settings or from `pixels` where it has none, and what its scale bar states.

    The settings count before the scale bar, the scale bar before the lattice. A scale bar that contradicts the pixel
    size by more than 5 % becomes its problem. `pixels` (h, w) is None for an image that is not searched.
    """
    if not header.nm_per_pixel > 0 and settings.nm_per_pixel > 0:
        header = set_pixel_size(header, settings.nm_per_pixel, "user")
    if pixels is None:
        return header, None
    bar = ScaleReading()
    if settings.read_scale_bars and pixels.dtype.name in DTYPES:
        bar = read_scale_bar(pixels)
    if not header.nm_per_pixel > 0:
        header = set_pixel_size(header, bar.nm_per_pixel, "scale_bar")
    if not header.nm_per_pixel > 0:
        header = set_pixel_size(header, measure_lattice_scale(pixels, settings.lattice_spacing_nm), "lattice")
    return _compare(header, bar), bar.description or None


def measure_lattice_scale(pixels: NDArray, lattice_spacing_nm: float) -> float:
    """Pixel size in nm at which the lattice in `pixels` has this spacing; NaN without one, or without clear peaks."""
    if not lattice_spacing_nm > 0:
        return math.nan
    nm = lattice_spacing_nm / measure_spacing_px(pixels)
    return nm if PLAUSIBLE_NM[0] <= nm <= PLAUSIBLE_NM[1] else math.nan


def _compare(header: Header, bar: ScaleReading) -> Header:
    if not bar.nm_per_pixel > 0 or abs(bar.nm_per_pixel / header.nm_per_pixel - 1) <= AGREEMENT:
        return header
    problem = (
        f"the scale bar ({bar.description}) states {bar.nm_per_pixel:.4g} nm per pixel, the "
        f"{'settings' if header.nm_per_pixel_source == 'user' else header.nm_per_pixel_source} "
        f"{header.nm_per_pixel:.4g} nm"
    )
    return replace(header, pixel_size_problem="; ".join(filter(None, (header.pixel_size_problem, problem))))
