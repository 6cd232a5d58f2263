"""OME-XML: which of its images a page of a TIFF file is, and what it says about this image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.units import convert_to_base_unit, length_to_nm, nm_per_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, get_attribute, name_element

MAX_PLANES = 2**20  # of one TiffData; more are no file's
_INSTRUMENTS = ("Objective", "Detector", "Microscope")


class OmeImage:
    """An element Image of a document, whose parts are found once."""

    def __init__(self, element: Any, instruments: Mapping[str, list[Any]]):
        self.element = element
        self.instruments = instruments  # the elements Objective, Detector and Microscope of the document
        self.pixels = next(find_elements(element, "Pixels"), None)
        self.tiff_data = list(find_elements(element, "TiffData"))

    @cached_property
    def n_planes(self) -> int:
        """Pages of the image: its sections, times and channels, less the channels that are samples of one page."""
        n_channels = _read_integer(self.pixels, "SizeC", 1)
        channels = list(find_elements(self.element, "Channel"))
        if channels and sum(_read_integer(c, "SamplesPerPixel", 1) for c in channels) == n_channels:
            n_channels = len(channels)
        return max(1, _read_integer(self.pixels, "SizeZ", 1) * _read_integer(self.pixels, "SizeT", 1) * n_channels)

    @cached_property
    def axis_lengths(self) -> list[tuple[str, int]]:
        """(axis, length) of Z, C and T, the fastest first."""
        order = (get_attribute(self.pixels, "DimensionOrder") or "XYZCT").upper()
        lengths = {axis: _read_integer(self.pixels, f"Size{axis}", 1) for axis in "ZT"}
        lengths["C"] = max(1, self.n_planes // max(1, lengths["Z"] * lengths["T"]))
        return [(axis, max(1, lengths[axis])) for axis in order if axis in "ZCT"]

    @cached_property
    def planes(self) -> dict[int, Any]:
        """The elements Plane, which have exposure and position, by the index of their plane."""
        elements = find_elements(self.element, "Plane")
        return {self.find_index({axis: _read_integer(e, f"The{axis}", 0) for axis in "ZCT"}): e for e in elements}

    @cached_property
    def header(self) -> Header:
        """What holds for all planes."""
        name = get_attribute(self.element, "Name")
        date = find_text(self.element, "AcquisitionDate", "AcquiredDate", "CreationDate")
        attributes = dict(self.pixels.attrib) if self.pixels is not None else {}
        return Header(
            magnification=parse_positive(self._find_instrument("Objective", "NominalMagnification")),
            instrument=clean_text(self._find_instrument("Microscope", "Model")),
            acquired=dates.parse_date(date or get_attribute(self.element, "AcquiredDate")),
            detector=clean_text(self._find_instrument("Detector", "Model")),
            foreign={"Image.Name": name} | attributes if name else attributes,
        )

    @cached_property
    def size(self) -> StatedSize:
        """The pixel size that the document states; micrometres where it names no unit."""
        units = {axis: get_attribute(self.pixels, f"PhysicalSize{axis}Unit") or "µm" for axis in "XY"}
        nm, nm_y = (
            length_to_nm(get_attribute(self.pixels, f"PhysicalSize{axis}"), unit) for axis, unit in units.items()
        )
        return StatedSize(nm, nm_y, "PhysicalSizeX", parse_positive(get_attribute(self.pixels, "SizeX")))

    def find_index(self, position: Mapping[str, int]) -> int:
        """Index of the plane at this Z, C and T."""
        index = 0
        stride = 1
        for axis, length in self.axis_lengths:
            index += stride * position[axis]
            stride *= length
        return index

    def read_plane(self, index: int) -> Header:
        """The header with exposure time and stage position of one plane, or of the only one that is described."""
        only_plane = next(iter(self.planes.values())) if len(self.planes) == 1 else None
        plane = self.planes.get(index, only_plane)
        label = next(find_elements(self.element, "StageLabel"), None)
        exposure_unit = get_attribute(plane, "ExposureTimeUnit") or "s"
        exposure = get_attribute(plane, "ExposureTime")
        return replace(
            self.header,
            exposure_s=parse_positive(convert_to_base_unit(exposure, exposure_unit, "s")),
            stage_x_um=_read_position_um(plane, label, "X"),
            stage_y_um=_read_position_um(plane, label, "Y"),
            stage_z_um=_read_position_um(plane, label, "Z"),
        )

    def _find_instrument(self, name: str, attribute: str) -> str | None:
        """An attribute of the Objective, Detector or Microscope that the image refers to, or of the only one."""
        names = (f"{name}Settings".lower(), f"{name}Ref".lower())
        references = (e for e in self.element.iter() if name_element(e).lower() in names)
        ids = {get_attribute(element, "ID") for element in references} - {None}
        elements = self.instruments[name]
        candidates = [element for element in elements if get_attribute(element, "ID") in ids]
        candidates = candidates or (elements if len(elements) == 1 else [])
        return next(filter(None, (get_attribute(e, attribute, "Manufacturer") for e in candidates)), None)


@dataclass(frozen=True)
class OmePlane:
    """One page's place in an OME-XML document."""

    image: OmeImage
    index: int  # of the plane among those of the image, in the order of DimensionOrder


def list_images(root: Any) -> list[OmeImage]:
    """All images of a document."""
    instruments = {name: list(find_elements(root, name)) for name in _INSTRUMENTS}
    return [OmeImage(element, instruments) for element in find_elements(root, "Image")]


def map_planes(images: list[OmeImage], file_name: str, uuid: str | None, n_pages: int) -> dict[int, OmePlane]:
    """The planes of the pages of one file, by the pages' numbers from 0.

    file_name, uuid: of the file; entries that name another file are left out. Without any entry that says otherwise
    the images follow one another.
    """
    planes: dict[int, OmePlane] = {}
    next_page = 0
    is_one_file = len({_get_file(data) for image in images for data in image.tiff_data}) <= 1
    for image in images:
        for data in image.tiff_data or [None]:
            if data is not None and not is_one_file and not _is_in_file(data, file_name, uuid):
                continue
            first_page, first_index, n_entries = _read_tiff_data(data, image, next_page)
            for k in range(min(n_entries, n_pages - first_page, MAX_PLANES)):
                planes.setdefault(first_page + k, OmePlane(image, first_index + k))
            next_page = max(next_page, first_page + n_entries)
    return planes


def _get_file(data: Any) -> tuple[str, str] | None:
    """UUID and file name of a TiffData; None where it names no file."""
    element = next(find_elements(data, "UUID"), None)
    return ((element.text or "").strip(), get_attribute(element, "FileName") or "") if element is not None else None


def _is_in_file(data: Any, file_name: str, uuid: str | None) -> bool:
    stated_file = _get_file(data)
    if stated_file is None:
        return True
    stated_uuid, stated_name = stated_file
    return (uuid is not None and stated_uuid.lower() == uuid.lower()) or stated_name == file_name


def _read_integer(element: Any, name: str, default: int) -> int:
    number = parse_number(get_attribute(element, name))
    return int(number) if 0 <= number < 2**31 else default


def _read_tiff_data(data: Any, image: OmeImage, next_page: int) -> tuple[int, int, int]:
    """First page, index of its plane, and number of planes of a TiffData (None: of an image without one)."""
    is_numbered = get_attribute(data, "IFD") is not None
    first_page = _read_integer(data, "IFD", next_page)
    first_index = image.find_index({axis: _read_integer(data, f"First{axis}", 0) for axis in "ZCT"})
    n_entries = _read_integer(data, "PlaneCount", 1 if is_numbered else image.n_planes - first_index)
    return first_page, first_index, max(1, n_entries)


def _read_position_um(plane: Any, label: Any, axis: str) -> float:
    """Position of the plane, or of the image's StageLabel; NaN in the unit "reference frame", which has no length."""
    for element, name in ((plane, f"Position{axis}"), (label, axis)):
        value = parse_number(get_attribute(element, name))
        nm = value * nm_per_unit(get_attribute(element, f"{name}Unit"))
        if not math.isnan(nm):
            return nm * 1e-3
    return math.nan
