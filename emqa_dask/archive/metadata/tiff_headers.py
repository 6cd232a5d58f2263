"""TIFF tags -> Header: what all vendors' readers say about a page, and the pixel size that is chosen among it."""

from dataclasses import replace
from typing import Any, NamedTuple

import tifffile

from emqa_dask.archive.metadata import dates, pixel_size, values
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.tiff_vendors.ome import OmeTiff
from emqa_dask.archive.metadata.tiff_vendors.readers import FALLBACK_READERS, READERS, VENDOR_TAGS, Reader
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, merge_headers
from emqa_dask.archive.metadata.values import clean_text

_BROKEN_TAG_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
_MAX_TAG_VALUES = 2000  # of a tag that is kept as foreign metadata


class TiffHeader(NamedTuple):
    """Imaging conditions of one page, and what shows that it is a diffraction pattern ("" for an image)."""

    header: Header
    diffraction: str = ""


class TiffHeaders:
    """Headers of the pages of one file; what holds for all pages is read once."""

    def __init__(self, tif: tifffile.TiffFile):
        self.tif = tif
        self.first_parts: list[VendorMetadata] | None = None  # of the first page, whose tags can hold for a stack
        self.ome = _call_reader(OmeTiff, tif)

    def read(self, page: tifffile.TiffPage) -> TiffHeader:
        """What all tags of a page say, with the pixel size that is chosen among the stated ones.

        The resolution tags count where no vendor states a size and no scanner has such a resolution.
        """
        tagged_page = self._find_tagged_page(page)
        parts = self._read_vendors(tagged_page)
        ome_part = _call_reader(self.ome.read, page) if self.ome is not None else None
        parts += [ome_part] if ome_part is not None else []
        if not _list_sizes(parts):
            parts += _call_readers(FALLBACK_READERS, tagged_page, self.tif)
        header = merge_headers([*(part.header for part in parts), _read_baseline(page)])
        diffraction = next((part.diffraction for part in parts if part.diffraction), "")
        if diffraction:
            return TiffHeader(header, diffraction)
        sizes = _list_sizes(parts) or [_read_resolution(page)]
        header = choose_pixel_size(header, sizes, page.imagewidth)
        problems = [*(part.problem for part in parts), header.pixel_size_problem]
        return TiffHeader(replace(header, pixel_size_problem="; ".join(filter(None, problems)) or None))

    def _read_vendors(self, page: tifffile.TiffPage) -> list[VendorMetadata]:
        if page is not self.tif.pages.first:
            return _call_readers(READERS, page, self.tif)
        if self.first_parts is None:
            self.first_parts = _call_readers(READERS, page, self.tif)
        return list(self.first_parts)

    def _find_tagged_page(self, page: tifffile.TiffPage) -> tifffile.TiffPage:
        """The page whose tags hold for `page`: the first one of a stack, where only this has a vendor's tags."""
        first_page = self.tif.pages.first
        if _has_vendor_tag(page) or (page.imagewidth, page.imagelength) != (
            first_page.imagewidth,
            first_page.imagelength,
        ):
            return page
        return first_page if _has_vendor_tag(first_page) else page


def _list_sizes(parts: list[VendorMetadata]) -> list[StatedSize]:
    """Sizes that are stated at all, be they possible or not."""
    return [size for part in parts for size in part.sizes if abs(size.x_nm) > 0]


def _has_vendor_tag(page: tifffile.TiffPage) -> bool:
    return any(code in page.tags for code in VENDOR_TAGS)


def _call_reader(read_vendor: Any, *arguments: Any) -> Any:
    """The result of a reader; None where a vendor's tag is broken, which must not cost the pixels."""
    try:
        return read_vendor(*arguments)
    except _BROKEN_TAG_ERRORS:
        return None


def _call_readers(readers: tuple[Reader, ...], page: tifffile.TiffPage, tif: tifffile.TiffFile) -> list[VendorMetadata]:
    parts = (_call_reader(read_vendor, page, tif) for read_vendor in readers)
    return [part for part in parts if part is not None]


def _read_baseline(page: tifffile.TiffPage) -> Header:
    tags = {t.name: t.value for t in page.tags.values() if t.count < _MAX_TAG_VALUES}
    tags = {k: v for k, v in tags.items() if not k.endswith(("Offsets", "ByteCounts"))}
    return Header(
        acquired=dates.parse_date(page.tags.valueof(306)), instrument=clean_text(page.tags.valueof(272)), foreign=tags
    )


def _read_resolution(page: tifffile.TiffPage) -> StatedSize:
    """The size by the resolution tags; NaN where either of the two can be a scanner's."""
    number = values.parse_number(page.tags.valueof(296, 2))
    unit = int(number) if 0 <= number < 2**16 else 0
    nm = pixel_size.resolution_to_nm(page.tags.valueof(282), unit)
    nm_y = pixel_size.resolution_to_nm(page.tags.valueof(283), unit) if 283 in page.tags else nm
    return StatedSize(nm if nm_y > 0 else float("nan"), nm_y, "the resolution tags")
