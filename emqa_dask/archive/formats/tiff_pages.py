"""Pages of a TIFF that are micrographs: no pyramid levels, previews, thumbnails, labels or masks."""

import numpy as np
import tifffile

from emqa_dask.archive.formats.tiff_samples import explain_samples

_MAX_THUMBNAIL_PX = 512  # of the longer side
_MIN_THUMBNAIL_RATIO = 4  # of the sides of the first page and of its thumbnail
_MAX_PREVIEWS = 16  # pages of a file that are only previews of images below them
_ELECTRON_EVENTS = (65000, 65001, 65002)  # compressions of EER movies
ELECTRON_FRAME = "a frame of single electrons (EER)"
_WHOLE_SLIDE_KINDS = ("svs", "scn", "bif", "qpi", "ndpi", "philips", "avs", "indica")


def list_pages(tif: tifffile.TiffFile) -> list:
    """Pages of a TIFF, and those below them where each page is only a preview of the image below it (as in DNG)."""
    pages = list(tif.pages)
    if not pages or len(pages) > _MAX_PREVIEWS or not all(getattr(page, "is_reduced", False) for page in pages):
        return pages
    return pages + [inner_page for page in pages for inner_page in list(page.pages or ())[:_MAX_PREVIEWS]]


def explain_pages(tif: tifffile.TiffFile, pages: list) -> list[str]:
    """For each page why it is no micrograph; "" for those that are."""
    is_whole_slide = any(getattr(tif, f"is_{kind}", False) for kind in _WHOLE_SLIDE_KINDS)
    has_acquisition = any(p.is_sis for p in pages)  # the other page of these files is a rendered preview
    greys = [p for p in pages if p.samplesperpixel == 1 and not (p.is_reduced or p.is_mask)]
    reasons: list[str] = []
    for k, page in enumerate(pages):
        reason = _explain_page(page) or explain_samples(page)
        if not reason and has_acquisition and not page.is_sis and page.samplesperpixel > 1:
            reason = "a preview"
        if not reason and _is_rendered(page, greys):
            reason = "a preview"
        if not reason and len(pages) > 1:  # some programs write the thumbnail before the image
            reason = _compare_with_first(page, pages[0 if k > 0 else 1], is_whole_slide and k > 0)
        reasons.append(reason)
    return reasons


def _explain_page(page: tifffile.TiffPage) -> str:
    if page.is_mask:
        return "a mask"
    if page.is_reduced:
        return "a reduced copy (thumbnail or pyramid level)"
    if 0 in page.shape:
        return "without pixels"
    if page.compression in _ELECTRON_EVENTS:
        return ELECTRON_FRAME
    return ""


def _is_rendered(page: tifffile.TiffPage, greys: list) -> bool:
    """Whether a page of 8-bit colours shows a grey page of more bits that is at least as large."""
    if page.samplesperpixel < 3 or page.photometric not in (2, 6) or np.dtype(page.dtype) != np.uint8:
        return False
    size = page.imagelength * page.imagewidth
    return any(p.dtype is not None and p.dtype.itemsize > 1 and p.imagelength * p.imagewidth >= size for p in greys)


def _compare_with_first(page: tifffile.TiffPage, first: tifffile.TiffPage, is_whole_slide: bool) -> str:
    """Why a later page is a smaller copy of the first page; "" where it is another image."""
    if is_whole_slide and page.shape != first.shape:
        return "a pyramid level, label or overview of a whole slide"
    ratio_y = first.imagelength / page.imagelength
    ratio_x = first.imagewidth / page.imagewidth
    is_same_field = (
        abs(first.imagelength / ratio_x - page.imagelength) <= 1
        or abs(first.imagewidth / ratio_y - page.imagewidth) <= 1
    )
    if not is_same_field or ratio_x < 1.5 or page.samplesperpixel > max(3, first.samplesperpixel):
        return ""
    is_power_of_two = abs(np.log2(ratio_x) - round(np.log2(ratio_x))) < 0.02
    if page.is_tiled and first.is_tiled and is_power_of_two and page.dtype == first.dtype:
        return "a pyramid level"
    if max(page.imagelength, page.imagewidth) <= _MAX_THUMBNAIL_PX and ratio_x >= _MIN_THUMBNAIL_RATIO:
        return "a thumbnail"
    return ""
