"""Odemis (Delmic SECOM and SPARC): acquisitions of five axes with their sizes and conditions in groups beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, identify_axes
from emqa_dask.archive.formats.hdf5.attributes import parse_json, read_small_dataset
from emqa_dask.archive.formats.hdf5.datasets import Contents, ImageDataset, OtherArray, make_image
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_STANDARD_LABELS = {5: "CTZYX"}
_INVALID_STATE = 111  # of a value in PhysicalData that means nothing


def is_odemis(file: h5py.File, path: Path) -> bool:
    """Whether Odemis wrote `file`."""
    return any(
        name.startswith("Acquisition") and isinstance(node, h5py.Group) and "ImageData" in node and "SVIData" in node
        for name, node in file.items()
    )


def read_odemis(file: h5py.File) -> Contents:
    """Secondary-electron images and intensities; spectra, angle-resolved patterns and drift regions are named."""
    images: list[ImageDataset] = []
    others: list[OtherArray] = []
    for name, group in file.items():
        dataset = group.get("ImageData/Image") if isinstance(group, h5py.Group) else None
        if not name.startswith("Acquisition") or not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            continue
        conditions = _read_conditions(group)
        title = clean_text(conditions.get("ChannelDescription")) or clean_text(conditions.get("Title")) or name
        axes = _find_axes(dataset, conditions, title)
        if isinstance(axes, NoImage):
            others.append(OtherArray(title, axes))
        else:
            images.append(make_image(dataset, axes, _make_header(group, dataset, axes, conditions, title)))
    return Contents("Odemis", tuple(images), tuple(others))


def _read_conditions(group: h5py.Group) -> dict[str, Any]:
    """Values of PhysicalData that are valid."""
    conditions: dict[str, Any] = {}
    physical = group.get("PhysicalData")
    for name, node in physical.items() if isinstance(physical, h5py.Group) else ():
        if not isinstance(node, h5py.Dataset) or _INVALID_STATE in np.ravel(node.attrs.get("State", 0)):
            continue
        value = read_small_dataset(node)
        if value is not None:
            conditions[name] = parse_json(value) or value
    return conditions


def _find_axes(dataset: h5py.Dataset, conditions: Mapping[str, Any], title: str) -> ImageAxes | NoImage:
    size = " x ".join(map(str, dataset.shape))
    if title == "Anchor region":
        return NoImage("signal", f"the region that the drift was measured in, {size} values")
    if isinstance(conditions.get("PolePosition"), list):
        return NoImage("diffraction", f"an angle-resolved pattern of {size} values")
    labels = [str(dimension.label) for dimension in dataset.dims]
    if not all(labels):
        labels = list(_STANDARD_LABELS.get(dataset.ndim, ""))
    lengths = dict(zip(labels, dataset.shape))
    if any(lengths.get(label, 1) > 4 for label in "CA"):
        return NoImage("spectrum", f"spectra of {size} values, not a micrograph")
    return identify_axes(dataset.shape, dataset.dtype, labels)


def _make_header(
    group: h5py.Group, dataset: h5py.Dataset, axes: ImageAxes, conditions: Mapping[str, Any], title: str
) -> Header:
    lengths_m = {name: _read_number(group, f"ImageData/DimensionScale{name}") for name in "XY"}
    seconds = _read_number(group, "ImageData/TOffset")
    extra = conditions.get("ExtraSettings")
    header = Header(
        voltage_kv=parse_positive(conditions.get("AccelerationVoltage"), 1e-3),
        magnification=parse_positive(conditions.get("Magnification")),
        instrument=clean_text(conditions.get("HardwareName")),
        acquired=f"{np.datetime64(int(seconds), 's')}+00:00" if 0 < seconds < 4e9 else None,
        exposure_s=parse_positive(conditions.get("IntegrationTime")),
        detector=title,
        foreign=flatten_metadata({**conditions, "ExtraSettings": extra if isinstance(extra, Mapping) else None}),
    )
    size = StatedSize(length_to_nm(lengths_m["X"], "m"), length_to_nm(lengths_m["Y"], "m"), "DimensionScaleX")
    return choose_pixel_size(header, [size], dataset.shape[axes.x])


def _read_number(group: h5py.Group, name: str) -> float:
    node = group.get(name)
    return parse_number(read_small_dataset(node)) if isinstance(node, h5py.Dataset) else float("nan")
