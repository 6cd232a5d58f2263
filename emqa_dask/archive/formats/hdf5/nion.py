"""Nion Swift: an array "data" whose attribute "properties" is JSON with the calibrations of its dimensions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from emqa_dask.archive.axes import ImageAxes, NoImage, identify_axes
from emqa_dask.archive.formats.hdf5.attributes import parse_json, read_attribute
from emqa_dask.archive.formats.hdf5.axis_scales import AxisScale, state_axis_size
from emqa_dask.archive.formats.hdf5.datasets import Contents, OtherArray, make_image
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.nion import find_value, list_calibrations, make_header, merge_data_source
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.values import parse_positive


def is_nion(file: h5py.File, path: Path) -> bool:
    """Whether Nion Swift wrote `file`."""
    return bool(read_properties(file))


def read_properties(file: h5py.File) -> dict[str, Any]:
    """The JSON properties of the array; empty where there are none."""
    dataset = file.get("data")
    if not isinstance(dataset, h5py.Dataset):
        return {}
    return merge_data_source(parse_json(read_attribute(dataset, "properties")))


def read_nion(file: h5py.File) -> Contents:
    """The image or sequence of images in a file of Nion Swift."""
    properties = read_properties(file)
    dataset = file["data"]
    scales = list_scales(properties, dataset.ndim)
    axes = find_nion_axes(properties, dataset.shape, dataset.dtype, scales)
    if isinstance(axes, NoImage):
        return Contents("Nion Swift", (), (OtherArray(dataset.name, axes),))
    header = make_nion_header(properties, scales, axes, dataset.shape[axes.x])
    return Contents("Nion Swift", (make_image(dataset, axes, header),))


def list_scales(properties: Mapping[str, Any], ndim: int) -> list[AxisScale]:
    """Calibrations of the axes of an array; empty ones where the properties have another number of them."""
    return [AxisScale("", unit, step) for unit, step in list_calibrations(properties, ndim)]


def find_nion_axes(
    properties: Mapping[str, Any], shape: tuple[int, ...], dtype: Any, scales: list[AxisScale]
) -> ImageAxes | NoImage:
    """Axes of the images: a datum of two axes is an image or a pattern, one of one axis a spectrum."""
    n_datum = properties.get("datum_dimension_count")
    n_collection = properties.get("collection_dimension_count") or 0
    size = " x ".join(map(str, shape))
    if n_datum == 1:
        if n_collection != 2 or not shape[-1] <= 4:
            return NoImage("spectrum", f"spectra of {size} values, not a micrograph")
    elif n_datum == 2 and n_collection:
        return NoImage("diffraction", f"4D-STEM data of {size} values, not micrographs")
    units = [scale.unit for scale in scales]
    n_axes = len(shape)
    if n_datum == 2 and n_axes in (2, 3):
        names = ["time", "y", "x"][-n_axes:]
        if n_axes == 3 and shape[2] in (3, 4) and str(dtype) == "uint8" and not properties.get("is_sequence"):
            names = ["y", "x", "rgb"]
        return identify_axes(shape, dtype, names, units)
    return identify_axes(shape, dtype, [], units)


def make_nion_header(properties: Mapping[str, Any], scales: list[AxisScale], axes: ImageAxes, width: int) -> Header:
    """Header from the calibrations and the metadata of Nion Swift."""
    header = make_header(properties)
    sizes = [state_axis_size(scales, axes, "dimensional_calibrations")]
    field_nm = parse_positive(find_value(header.foreign, "fov_nm"))
    if not sizes[0].x_nm > 0:
        sizes.append(StatedSize(field_nm / width, origin="fov_nm"))
    return choose_pixel_size(header, sizes, width)
