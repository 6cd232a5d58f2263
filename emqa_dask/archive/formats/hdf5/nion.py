"""Nion Swift: an array "data" whose attribute "properties" is JSON with the calibrations of its dimensions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from emqa_dask.archive.axes import ImageAxes, NoImage, identify_axes
from emqa_dask.archive.formats.hdf5.attributes import parse_json, read_attribute
from emqa_dask.archive.formats.hdf5.axis_scales import AxisScale, state_axis_size
from emqa_dask.archive.formats.hdf5.calibration import read_voltage_kv
from emqa_dask.archive.formats.hdf5.datasets import Contents, OtherArray, make_image
from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header, flatten_metadata, get_entry, get_first_entry
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import normalise_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive


def is_nion(file: h5py.File, path: Path) -> bool:
    """Whether Nion Swift wrote `file`."""
    return bool(read_properties(file))


def read_properties(file: h5py.File) -> dict[str, Any]:
    """The JSON properties of the array; empty where there are none."""
    dataset = file.get("data")
    if not isinstance(dataset, h5py.Dataset):
        return {}
    return merge_data_source(parse_json(read_attribute(dataset, "properties")))


def merge_data_source(properties: Any) -> dict[str, Any]:
    """`properties` with those of the data source in it, as Swift 0.10 and later and 0.3 to 0.9 write them."""
    if not isinstance(properties, dict):
        return {}
    source = properties.get("data_source")
    sources = properties.get("data_sources")
    if source is None and isinstance(sources, list) and sources:
        source = sources[0]
    return {**properties, **source} if isinstance(source, dict) else properties


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
    calibrations = properties.get("dimensional_calibrations")
    if calibrations is None:
        calibrations = properties.get("spatial_calibrations") or get_entry(
            properties, "data_source.dimensional_calibrations"
        )
    if not isinstance(calibrations, list) or len(calibrations) != ndim:
        return [AxisScale()] * ndim
    return [
        AxisScale("", normalise_unit(c.get("units")), parse_number(c.get("scale")))
        if isinstance(c, Mapping)
        else AxisScale()
        for c in calibrations
    ]


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
    metadata = properties.get("metadata")
    tree = metadata if isinstance(metadata, Mapping) else {}
    foreign = flatten_metadata(tree) or flatten_metadata(properties)
    header = Header(
        voltage_kv=read_voltage_kv({"voltage": _find_value(foreign, "high_tension", "EHT", "high_tension_v")}),
        acquired=dates.parse_date(get_first_entry(properties, "created", "datetime_original", "timestamp")),
        exposure_s=_find_positive(foreign, "exposure", "frame_time"),
        detector=clean_text(_find_value(foreign, "channel_name"))
        or clean_text(_find_value(foreign, "hardware_source_name"))
        or clean_text(properties.get("title")),
        foreign=foreign,
    )
    sizes = [state_axis_size(scales, axes, "dimensional_calibrations")]
    field_nm = _find_positive(foreign, "fov_nm")
    if not sizes[0].x_nm > 0:
        sizes.append(StatedSize(field_nm / width, origin="fov_nm"))
    return choose_pixel_size(header, sizes, width)


def _find_value(foreign: Mapping[str, Any], *names: str) -> Any:
    """The first value whose last name is one of `names`."""
    return next((v for name in names for key, v in foreign.items() if key.rpartition(".")[2] == name), None)


def _find_positive(foreign: Mapping[str, Any], *names: str) -> float:
    return parse_positive(_find_value(foreign, *names))
