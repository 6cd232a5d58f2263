"""OME-XML: which of its images a page of a TIFF file is, and what it says about this image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.units import convert_to_base_unit, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, get_attribute, name_element

MAX_PLANES = 2**20  # of one TiffData; more are no file's


@dataclass(frozen=True)
class OmePlane:
    """One page's place in an OME-XML document."""

    image: Any  # the element Image
    index: int  # of the plane among those of the image, in the order of DimensionOrder


def map_planes(root: Any, file_name: str, uuid: str | None, n_pages: int) -> dict[int, OmePlane]:
    """The planes of the pages of one file, by the pages' numbers from 0.

    file_name, uuid: of the file; entries that name another file are left out. Without any entry that says otherwise
    the images follow one another.
    """
    planes: dict[int, OmePlane] = {}
    next_page = 0
    images = list(find_elements(root, "Image"))
    is_one_file = len({_get_file(data) for image in images for data in _list_tiff_data(image)}) <= 1
    for image in images:
        n_planes = _count_planes(image)
        entries = _list_tiff_data(image)
        for data in entries or [None]:
            if data is not None and not is_one_file and not _is_in_file(data, file_name, uuid):
                continue
            first_page, first_index, n_entries = _read_tiff_data(data, image, n_planes, next_page)
            for k in range(min(n_entries, n_pages - first_page, MAX_PLANES)):
                planes.setdefault(first_page + k, OmePlane(image, first_index + k))
            next_page = max(next_page, first_page + n_entries)
    return planes


def _list_tiff_data(image: Any) -> list[Any]:
    return list(find_elements(image, "TiffData"))


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


def _get_pixels(image: Any) -> Any:
    return next(find_elements(image, "Pixels"), None)


def _read_integer(element: Any, name: str, default: int) -> int:
    number = parse_number(get_attribute(element, name))
    return int(number) if 0 <= number < 2**31 else default


def _count_planes(image: Any) -> int:
    """Pages of an image: its sections, times and channels, less the channels that are samples of one page."""
    pixels = _get_pixels(image)
    n_channels = _read_integer(pixels, "SizeC", 1)
    channels = list(find_elements(image, "Channel"))
    if channels and sum(_read_integer(c, "SamplesPerPixel", 1) for c in channels) == n_channels:
        n_channels = len(channels)
    return max(1, _read_integer(pixels, "SizeZ", 1) * _read_integer(pixels, "SizeT", 1) * n_channels)


def _read_tiff_data(data: Any, image: Any, n_planes: int, next_page: int) -> tuple[int, int, int]:
    """First page, index of its plane, and number of planes of a TiffData (None: of an image without one)."""
    is_numbered = get_attribute(data, "IFD") is not None
    first_page = _read_integer(data, "IFD", next_page)
    first_index = _find_plane_index(image, {axis: _read_integer(data, f"First{axis}", 0) for axis in "ZCT"})
    n_entries = _read_integer(data, "PlaneCount", 1 if is_numbered else n_planes - first_index)
    return first_page, first_index, max(1, n_entries)


def _get_axis_lengths(image: Any) -> list[tuple[str, int]]:
    """(axis, length) of Z, C and T, the fastest first."""
    pixels = _get_pixels(image)
    order = (get_attribute(pixels, "DimensionOrder") or "XYZCT").upper()
    n_planes = _count_planes(image)
    lengths = {axis: _read_integer(pixels, f"Size{axis}", 1) for axis in "ZT"}
    lengths["C"] = max(1, n_planes // max(1, lengths["Z"] * lengths["T"]))
    return [(axis, max(1, lengths[axis])) for axis in order if axis in "ZCT"]


def _find_plane_index(image: Any, position: dict[str, int]) -> int:
    index = 0
    stride = 1
    for axis, length in _get_axis_lengths(image):
        index += stride * position[axis]
        stride *= length
    return index


def _find_plane(image: Any, index: int) -> Any:
    """The element Plane with exposure and position of a plane; the only one where there is one; else None."""
    elements = list(find_elements(image, "Plane"))
    position = {}
    for axis, length in _get_axis_lengths(image):
        position[axis] = index % length
        index //= length
    for element in elements:
        if all(_read_integer(element, f"The{axis}", 0) == position.get(axis, 0) for axis in "ZCT"):
            return element
    return elements[0] if len(elements) == 1 else None


def read_image(root: Any, plane: OmePlane) -> tuple[Header, StatedSize]:
    """What the document says about one plane, and the pixel size that it states."""
    pixels = _get_pixels(plane.image)
    units = {axis: get_attribute(pixels, f"PhysicalSize{axis}Unit") or "µm" for axis in "XY"}
    sizes = [length_to_nm(get_attribute(pixels, f"PhysicalSize{axis}"), unit) for axis, unit in units.items()]
    name = get_attribute(plane.image, "Name")
    element = _find_plane(plane.image, plane.index)
    position_um = {axis: _read_position_um(plane.image, element, axis) for axis in "XYZ"}
    exposure = get_attribute(element, "ExposureTime")
    exposure_unit = get_attribute(element, "ExposureTimeUnit") or "s"
    header = Header(
        magnification=parse_positive(_find_referenced_value(root, plane.image, "Objective", "NominalMagnification")),
        instrument=clean_text(_find_referenced_value(root, plane.image, "Microscope", "Model")),
        acquired=dates.parse_date(
            find_text(plane.image, "AcquisitionDate", "AcquiredDate", "CreationDate")
            or get_attribute(plane.image, "AcquiredDate")
        ),
        exposure_s=parse_positive(convert_to_base_unit(exposure, exposure_unit, "s")),
        detector=clean_text(_find_referenced_value(root, plane.image, "Detector", "Model")),
        stage_x_um=position_um["X"],
        stage_y_um=position_um["Y"],
        stage_z_um=position_um["Z"],
        foreign={**({"Image.Name": name} if name else {}), **(dict(pixels.attrib) if pixels is not None else {})},
    )
    return header, StatedSize(sizes[0], sizes[1], "PhysicalSizeX", parse_positive(get_attribute(pixels, "SizeX")))


def _read_position_um(image: Any, plane: Any, axis: str) -> float:
    """Position of the plane, or of the image's StageLabel; NaN in the unit "reference frame", which has no length."""
    label = next(find_elements(image, "StageLabel"), None)
    for element, name in ((plane, f"Position{axis}"), (label, axis)):
        value = parse_number(get_attribute(element, name))
        nm = length_to_nm(value, get_attribute(element, f"{name}Unit"))
        if value == 0 and length_to_nm(1, get_attribute(element, f"{name}Unit")) > 0:
            return 0.0
        if nm > 0:
            return math.copysign(nm * 1e-3, value)
    return math.nan


def _find_referenced_value(root: Any, image: Any, name: str, attribute: str) -> str | None:
    """An attribute of the image's Objective, Detector or Microscope: the one that it refers to, or the only one."""
    ids = {get_attribute(element, "ID") for element in _list_references(image, name)}
    elements = list(find_elements(root, name))
    referenced = [element for element in elements if get_attribute(element, "ID") in ids - {None}]
    candidates = referenced or (elements if len(elements) == 1 else [])
    return next(filter(None, (get_attribute(e, attribute, "Manufacturer") for e in candidates)), None)


def _list_references(image: Any, name: str) -> Iterator[Any]:
    names = {f"{name}Settings".lower(), f"{name}Ref".lower()}
    return (element for element in image.iter() if name_element(element).lower() in names)
