"""Images in the samples of a TIFF page: one in grey or colour, or one per detector; depths of a volume."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import tifffile

from emqa_dask.archive.colour.palettes import Palette, apply_palette, interpret_palette
from emqa_dask.archive.colour.spaces import convert_cmyk, convert_lab, convert_ycbcr
from emqa_dask.archive.formats.tiff_pixels import JPEG
from emqa_dask.archive.metadata import values

_GREY = (0, 1)  # white is zero, black is zero
_RGB = 2
_PALETTE = 3
_CMYK = 5
_YCBCR = 6
_LABS = (8, 9)  # a and b are signed; their zero is in the middle
_ALPHA = (1, 2)  # of ExtraSamples
_DECODED_TO_RGB = (*JPEG, 34712, 50001, 34927, 50002, 52546)  # codecs that give RGB whatever they store
_MAX_SAMPLES = 64  # of a page; more are a spectrum


class PageImage(NamedTuple):
    """One image of a page: where it is stored, and what its samples mean."""

    z: int  # depth in a volume
    plane: int | None  # that is read; None: all
    convert: Callable[[np.ndarray], np.ndarray]  # (h, w, samples) -> (h, w) or (h, w, 3)
    dtype: np.dtype
    is_colour: bool = False
    colour_map: str = ""


def explain_samples(page: tifffile.TiffPage) -> str:
    """Why the samples of a page are no image; "" where they are."""
    n_samples = page.samplesperpixel
    photometric = int(page.photometric)
    if page.dtype is None:
        return f"of {page.bitspersample} bits in a sample format that is not supported"
    if photometric == 4:
        return "a mask"
    if photometric in _LABS and page.compression in JPEG:
        return "of CIELab in JPEG, which no reader here decodes"
    has_dtype = np.dtype(page.dtype) in (np.uint8, np.uint16)
    if (
        (photometric in _GREY and n_samples <= _MAX_SAMPLES)
        or photometric in (_RGB, _PALETTE)
        or (photometric == _CMYK and n_samples >= 4 and has_dtype and page.tags.valueof(332, 1) == 1)
        or (photometric in _LABS and (n_samples >= 3 or n_samples == 1) and has_dtype)
        or (photometric == _YCBCR and n_samples >= 3)
    ):
        return ""
    return f"{n_samples} samples per pixel of photometric type {photometric}, no grey or colours"


def list_images(page: tifffile.TiffPage) -> list[PageImage]:
    """The images of a page: of each depth, the grey or colour image, or one per detector."""
    images = _list_flat_images(page)
    return [image._replace(z=z) for z in range(page.imagedepth) for image in images]


def _list_flat_images(page: tifffile.TiffPage) -> list[PageImage]:
    photometric = int(page.photometric)
    n_samples = page.samplesperpixel
    dtype = np.dtype(page.dtype)
    if photometric == _PALETTE:
        return [_make_indexed_image(_load_palette(page), dtype)]
    if photometric == _CMYK:
        return [PageImage(0, None, _convert_cmyk_page, dtype, True)]
    if photometric in _LABS and n_samples >= 3:
        return [PageImage(0, None, partial(_convert_lab_page, photometric == _LABS[0]), dtype, True)]
    if photometric == _YCBCR and page.compression not in _DECODED_TO_RGB:
        return [PageImage(0, None, _convert_ycbcr_page, dtype, True)]
    if photometric in (_RGB, _YCBCR) and n_samples >= 3:
        return [PageImage(0, None, _select_rgb, dtype, True)]
    is_separate = page.planarconfig == 2 and n_samples > 1
    return [
        PageImage(0, k if is_separate else None, partial(_select_sample, 0 if is_separate else k), dtype)
        for k in range(n_samples)
        if k not in _list_alpha_samples(page)
    ]


def _list_alpha_samples(page: tifffile.TiffPage) -> set[int]:
    """Positions of transparency among the samples of a grey page."""
    extra_samples = tuple(page.extrasamples or ())
    first = page.samplesperpixel - len(extra_samples)
    alphas = {first + k for k, kind in enumerate(extra_samples) if kind in _ALPHA}
    return alphas if len(alphas) < page.samplesperpixel else set()


def _select_sample(sample: int, rows: np.ndarray) -> np.ndarray:
    return rows[..., sample]


def _select_rgb(rows: np.ndarray) -> np.ndarray:
    """Alpha and other extra samples are dropped."""
    return rows[..., :3]


def _convert_cmyk_page(rows: np.ndarray) -> np.ndarray:
    return convert_cmyk(rows[..., :4])


def _convert_lab_page(is_signed: bool, rows: np.ndarray) -> np.ndarray:
    return convert_lab(np.ascontiguousarray(rows[..., :3]), is_signed)


def _convert_ycbcr_page(rows: np.ndarray) -> np.ndarray:
    return convert_ycbcr(rows[..., :3])


def _load_palette(page: tifffile.TiffPage) -> np.ndarray:
    """The colour map as (n, 3); 16-bit maps that only repeat 8 bits (nearly all) come back as uint8."""
    table = np.asarray(page.colormap, np.uint16).T
    return (table >> 8).astype(np.uint8) if page.bitspersample <= 8 else table


def _make_indexed_image(table: np.ndarray, dtype: np.dtype) -> PageImage:
    palette: Palette = interpret_palette(table)
    if palette.values is None:
        return PageImage(0, None, partial(_select_sample, 0), dtype, False, palette.colour_map)
    convert = partial(_apply_page_palette, palette.values)
    return PageImage(0, None, convert, palette.values.dtype, palette.values.ndim == 2, palette.colour_map)


def _apply_page_palette(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return apply_palette(rows[..., 0], table)


def count_contiguous_images(tif: tifffile.TiffFile, page: tifffile.TiffPage, n_pages: int) -> int:
    """Images behind the only page of a file that lists no more (ImageJ, MetaMorph, tifffile's truncated series)."""
    if n_pages != 1 or not page.is_contiguous:
        return 1
    n_images: float = 1
    if tif.is_imagej:
        n_images = values.parse_number((tif.imagej_metadata or {}).get("images", 1))
    elif tif.is_stk:
        n_images = values.parse_number((tif.stk_metadata or {}).get("NumberPlanes", 1))
    elif page.is_shaped and tif.series:
        n_images = math.prod(tif.series[0].shape) / max(1, math.prod(page.shape))
    n_possible_images = (tif.filehandle.size - page.dataoffsets[0]) // max(page.nbytes, 1)
    return int(max(1, min(n_images, n_possible_images))) if math.isfinite(n_images) else 1
