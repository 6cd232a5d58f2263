"""The pixel size of an image, chosen from what its file states, and what is doubtful about it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.values import parse_positive

PLAUSIBLE_NM = (1e-3, 1e6)  # pixel sizes: 1 pm, to 1 mm of a navigation camera in the chamber
FINEST_SCANNER_NM = 1e3  # per pixel: 25,400 dpi; the finest drum and film scanners have half as many
AGREEMENT = 0.02  # relative difference of two stated pixel sizes that are rounded forms of one


@dataclass(frozen=True)
class StatedSize:
    """A pixel size as one place in the metadata states it, in nm; NaN where it states none."""

    x_nm: float
    y_nm: float = math.nan  # NaN: the same as along x
    origin: str = ""  # the place, as the user finds it: "Scan.PixelWidth", "AP_IMAGE_PIXEL_SIZE"
    image_width_px: float = math.nan  # of the image that the size was stated for; NaN: it does not say


def set_pixel_size(header: Header, nm: float, source: str = "header", nm_y: float = math.nan) -> Header:
    """`header` with this pixel size, unless `nm` is NaN; `nm_y` NaN: the pixels are square."""
    if not nm > 0:
        return header
    y_nm = float(nm_y) if nm_y > 0 else float(nm)
    return replace(header, nm_per_pixel=float(nm), nm_per_pixel_y=y_nm, nm_per_pixel_source=source)


def choose_pixel_size(
    header: Header, stated_sizes: Iterable[StatedSize], width_px: int, source: str = "header"
) -> Header:
    """`header` with the first plausible one of `stated_sizes`, and the problem where something speaks against it.

    stated_sizes: the most reliable first. width_px: columns of the image as it is in the file. Sizes that no microscope
    has are left out and become the problem where no other size is stated. A size that another one contradicts by more
    than 2 %, or that was stated for an image of another width (which was cropped or resized since), is kept with the
    problem.
    """
    sizes = [_make_absolute(size) for size in stated_sizes]
    sizes = [size for size in sizes if size.x_nm > 0]
    plausible = [size for size in sizes if PLAUSIBLE_NM[0] <= size.x_nm <= PLAUSIBLE_NM[1]]
    if not plausible:
        if not sizes:
            return header
        problem = f"{sizes[0].origin or 'the file'} states {sizes[0].x_nm:.4g} nm per pixel, which no microscope has"
        return replace(header, pixel_size_problem=problem)
    first_size = plausible[0]
    problems = [_find_contradiction(first_size, plausible[1:]), _find_other_width(first_size, width_px)]
    header = set_pixel_size(header, first_size.x_nm, source, first_size.y_nm)
    return replace(header, pixel_size_problem="; ".join(filter(None, problems)) or None)


def refuse_impossible_size(header: Header) -> Header:
    """`header`, whose pixel size is unknown with the problem where no microscope has such a size."""
    sizes = (header.nm_per_pixel, header.nm_per_pixel_y)
    impossible = [nm for nm in sizes if not PLAUSIBLE_NM[0] <= nm <= PLAUSIBLE_NM[1] and not math.isnan(nm)]
    if not impossible:
        return header
    problem = f"the file states {impossible[0]:.4g} nm per pixel, which no microscope has"
    return replace(
        header,
        nm_per_pixel=math.nan,
        nm_per_pixel_y=math.nan,
        nm_per_pixel_source="none",
        pixel_size_problem=header.pixel_size_problem or problem,
    )


def _make_absolute(size: StatedSize) -> StatedSize:
    """`size` without signs, which say that an axis runs backwards."""
    return replace(size, x_nm=abs(size.x_nm), y_nm=abs(size.y_nm))


def _find_contradiction(first_size: StatedSize, others: Sequence[StatedSize]) -> str:
    other = next((size for size in others if abs(size.x_nm / first_size.x_nm - 1) > AGREEMENT), None)
    if other is None:
        return ""
    return (
        f"{first_size.origin or 'one entry'} states {first_size.x_nm:.4g} nm per pixel, "
        f"{other.origin or 'another'} {other.x_nm:.4g} nm"
    )


def _find_other_width(first_size: StatedSize, width_px: int) -> str:
    if not first_size.image_width_px > 0 or round(first_size.image_width_px) == width_px:
        return ""
    return (
        f"the pixel size was stated for an image {first_size.image_width_px:.0f} px wide and this one has {width_px}: "
        "it was cropped or resized since"
    )


def has_square_pixels(header: Header, tolerance: float = 0.01) -> bool:
    """Whether pixels are as high as wide, within `tolerance`; True where the pixel size is unknown."""
    return not abs(header.nm_per_pixel_y / header.nm_per_pixel - 1) > tolerance


def is_scanner_resolution(nm: float) -> bool:
    """Whether a pixel size can come from the dots per inch of a scanner or printer; False for NaN.

    These are the size of a pixel on the film or paper, not on the specimen. A resolution without a word of a
    microscope beside it is trusted only where it is finer than any scanner's.
    """
    return nm >= FINEST_SCANNER_NM


def resolution_to_nm(value: Any, unit: int) -> float:
    """Pixel size in nm of a TIFF resolution: pixels per inch (unit 2), cm (3), mm (4) or micrometre (5).

    NaN for what a scanner or printer could have, and for what no microscope has.
    """
    nm = {2: 2.54e7, 3: 1e7, 4: 1e6, 5: 1e3}.get(unit, math.nan) / parse_positive(value)
    return nm if nm >= PLAUSIBLE_NM[0] and not is_scanner_resolution(nm) else math.nan
