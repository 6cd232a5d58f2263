"""The grey image that an image in colour shows: intensities of its colour map, without annotations, or luma."""

from typing import NamedTuple

import numpy as np

from emqa_dask.archive.colour.annotations import MAX_COVERED, find_annotations
from emqa_dask.archive.colour.fill import fill_annotations
from emqa_dask.archive.colour.intensities import draw_pixels, is_toned, read_intensities
from emqa_dask.archive.colour.luma import compute_chroma, convert_to_luma, count_coloured, is_grey

MAX_PIXELS = 2**25  # of images whose colours are explained; larger ones are read by windows, as luma
_MIN_COLOURED = 0.001  # of the pixels; below: noise of a lossy compression


class GreyImage(NamedTuple):
    """Pixels (h, w) of the dtype of the colours, and what the colours were."""

    pixels: np.ndarray
    colour: str  # as in the column `colour` of tables.MICROGRAPHS; "" for grey
    n_coloured: int = 0  # pixels with colour that is neither of a colour map nor of annotations
    n_annotated: int = 0  # pixels that were replaced by their surroundings


def convert_colours(rgb: np.ndarray) -> GreyImage:
    """The grey image of a whole image (h, w, 3) of any real dtype.

    Equal channels are the image. An image that is painted with a known colour map, or in shades of one colour, gives
    its intensities. Coloured marks on a grey image, or on a painted one, are replaced by their surroundings. Everything
    else gives the luma. Only uint8 and uint16 are searched for maps and marks.
    """
    if is_grey(rgb):
        return GreyImage(np.ascontiguousarray(rgb[..., 0]), "")
    chroma = compute_chroma(rgb)
    n_coloured = count_coloured(chroma, rgb.dtype)
    if n_coloured == 0:
        return GreyImage(convert_to_luma(rgb), "")
    if rgb.dtype == np.uint8:
        explained = _explain_colours(rgb, rgb, chroma)
    elif rgb.dtype == np.uint16:
        upper_bits = (rgb >> 8).astype(np.uint8)
        explained = _explain_colours(rgb, upper_bits, compute_chroma(upper_bits))
    else:
        explained = None
    return describe_luma(rgb, n_coloured) if explained is None else explained


def describe_luma(rgb: np.ndarray, n_coloured: int | None = None) -> GreyImage:
    """The luma of (h, w, 3), and how many of its pixels have colour."""
    if n_coloured is None:
        n_coloured = count_coloured(compute_chroma(rgb), rgb.dtype)
    has_colour = n_coloured > _MIN_COLOURED * rgb.shape[0] * rgb.shape[1]
    return GreyImage(convert_to_luma(rgb), "colour" if has_colour else "", n_coloured)


def _explain_colours(rgb: np.ndarray, small: np.ndarray, chroma: np.ndarray) -> GreyImage | None:
    """The grey image of colours that are explained, by their upper 8 bits `small`; None where they are not."""
    pixels = draw_pixels(small)
    painted = read_intensities(small, pixels)
    n_annotated = 0 if painted is None else int(np.count_nonzero(painted.mask))
    if painted is not None and n_annotated <= MAX_COVERED * painted.mask.size:
        intensities = painted.intensities.astype(rgb.dtype) * (257 if rgb.dtype == np.uint16 else 1)
        is_marked = n_annotated > _MIN_COLOURED * painted.mask.size
        pixels = fill_annotations(intensities, painted.mask) if is_marked else intensities
        colour = f"colour map: {painted.name}" + ("; annotations" if is_marked else "")
        return GreyImage(pixels, colour, 0, n_annotated if is_marked else 0)
    mask = find_annotations(small, chroma)
    if mask is not None:
        pixels = fill_annotations(convert_to_luma(rgb), mask)
        return GreyImage(pixels, "annotations", 0, int(np.count_nonzero(mask)))
    if is_toned(pixels):
        return GreyImage(convert_to_luma(rgb), "colour map: unnamed")
    return None
