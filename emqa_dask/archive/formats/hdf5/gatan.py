"""Gatan DM5: DigitalMicrograph's list of images as HDF5, with its tags as attributes of groups."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from emqa_dask.archive.axes import NoImage, identify_axes
from emqa_dask.archive.formats.hdf5.attributes import read_attribute, read_attributes, read_text
from emqa_dask.archive.formats.hdf5.axis_scales import AxisScale, state_axis_size
from emqa_dask.archive.formats.hdf5.datasets import Contents, ImageDataset, OtherArray, make_image
from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header, flatten_metadata, get_first_entry
from emqa_dask.archive.metadata.pixel_size import choose_pixel_size
from emqa_dask.archive.metadata.units import normalise_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_SPECTRAL_FORMATS = ("spectrum", "spectrum image")
_NUMBER = re.compile(r"\[?(\d+)\]?")
_MAX_TAG_DEPTH = 8


def is_gatan(file: h5py.File, path: Path) -> bool:
    """Whether DigitalMicrograph wrote `file`."""
    return isinstance(file.get("ImageList"), h5py.Group)


def read_gatan(file: h5py.File) -> Contents:
    """All images that the document shows; the thumbnail is named."""
    members = _list_members(file["ImageList"])
    shown_numbers = _find_shown_images(file)
    images: list[ImageDataset] = []
    others: list[OtherArray] = []
    for number, group in members:
        dataset = group.get("ImageData/Data")
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            continue
        is_thumbnail = number == 0 and len(members) > 1 and 0 not in shown_numbers
        content = NoImage("signal", "a thumbnail") if is_thumbnail else _read_image(group, dataset)
        if isinstance(content, NoImage):
            others.append(OtherArray(dataset.name, content))
        else:
            images.append(content)
    return Contents("DM5", tuple(images), tuple(others))


def _list_members(group: Any) -> list[tuple[int, h5py.Group]]:
    """(number, group) of the members [0], [1] ... of a list, in the order of their numbers."""
    if not isinstance(group, h5py.Group):
        return []
    members = []
    for name, node in group.items():
        match = _NUMBER.fullmatch(name)
        if match and isinstance(node, h5py.Group):
            members.append((int(match[1]), node))
    return sorted(members, key=lambda member: member[0])


def _find_shown_images(file: h5py.File) -> set[int]:
    """Numbers of the images that the document displays; empty where it does not say."""
    references = [read_attribute(group, "ImageRef") for _, group in _list_members(file.get("ImageSourceList"))]
    return {int(number) for number in references if isinstance(number, int)}


def _read_image(group: h5py.Group, dataset: h5py.Dataset) -> ImageDataset | NoImage:
    tags = _read_tags(group.get("ImageTags"))
    scales = _read_scales(group, dataset.ndim)
    size = " x ".join(map(str, dataset.shape))
    if str(get_first_entry(tags, "Meta Data.Format") or "").lower() in _SPECTRAL_FORMATS:
        return NoImage("spectrum", f"a spectrum image of {size} values")
    names = _name_axes(dataset)
    axes = identify_axes(dataset.shape, dataset.dtype, names, [scale.unit for scale in scales])
    if isinstance(axes, NoImage):
        return axes
    header = choose_pixel_size(
        _make_header(tags), [state_axis_size(scales, axes, "Dimension.Scale")], dataset.shape[axes.x]
    )
    return make_image(dataset, axes, header)


def _name_axes(dataset: h5py.Dataset) -> list[str]:
    """DigitalMicrograph's axes: x is the last one, y before it, then z; four axes are left without names."""
    if dataset.ndim == 2:
        return ["y", "x"]
    if dataset.ndim == 3:
        return ["y", "x", "rgb"] if dataset.shape[2] in (3, 4) and dataset.dtype == "u1" else ["z", "y", "x"]
    return [""] * dataset.ndim


def _read_scales(group: h5py.Group, ndim: int) -> list[AxisScale]:
    """Calibrations of the axes in the order of the array; DigitalMicrograph counts dimensions from the last one."""
    dimensions = dict(_list_members(group.get("ImageData/Calibrations/Dimension")))
    scales = []
    for k in range(ndim - 1, -1, -1):
        dimension = dimensions.get(k)
        if dimension is None:
            scales.append(AxisScale())
            continue
        step = parse_number(_read_tag(dimension, "Scale"))
        unit = _read_tag(dimension, "Units")
        scales.append(AxisScale("", normalise_unit(unit), step if step == step else math.nan))
    return scales


def _read_tag(group: h5py.Group, name: str) -> Any:
    """A tag, which is an attribute or a dataset of one element."""
    node = group.get(name)
    if isinstance(node, h5py.Dataset):
        value = node[()]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return read_text(group, name) or read_attribute(group, name)


def _read_tags(group: Any, depth: int = 0) -> dict[str, Any]:
    """Tags of an image as nested dictionaries."""
    if not isinstance(group, h5py.Group) or depth > _MAX_TAG_DEPTH:
        return {}
    branches = {name: _read_tags(node, depth + 1) for name, node in group.items() if isinstance(node, h5py.Group)}
    return read_attributes(group) | {name: branch for name, branch in branches.items() if branch}


def _make_header(tags: Mapping) -> Header:
    exposure = get_first_entry(
        tags, "DataBar.Exposure Time (s)", "Acquisition.Parameters.High Level.Exposure (s)", "Detector.exposure"
    )
    magnification = get_first_entry(
        tags, "Microscope Info.Indicated Magnification", "Microscope Info.Actual Magnification"
    )
    position = "Microscope Info.Stage Position.Stage"
    return Header(
        voltage_kv=parse_positive(get_first_entry(tags, "Microscope Info.Voltage"), 1e-3),
        magnification=parse_positive(magnification),
        instrument=clean_text(
            get_first_entry(tags, "Session Info.Microscope", "Microscope Info.Name", "Microscope Info.Microscope")
        ),
        acquired=dates.parse_date(
            get_first_entry(tags, "Timestamp", "DataBar.Acquisition Date"),
            None if "Timestamp" in tags else get_first_entry(tags, "DataBar.Acquisition Time"),
            month_first=True,
        ),
        exposure_s=parse_positive(exposure),
        detector=clean_text(
            get_first_entry(tags, "Acquisition.Device.Name", "DataBar.Device Name", "DataBar.Signal Name")
        ),
        stage_x_um=parse_number(get_first_entry(tags, f"{position} X")),
        stage_y_um=parse_number(get_first_entry(tags, f"{position} Y")),
        stage_z_um=parse_number(get_first_entry(tags, f"{position} Z")),
        tilt_deg=parse_number(get_first_entry(tags, f"{position} Alpha")),
        foreign=flatten_metadata(tags),
    )
