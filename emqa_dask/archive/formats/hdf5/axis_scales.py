"""Names, units and steps of the axes of HDF5 arrays: dimension scales, NeXus, axistags (vigra, ilastik)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes
from emqa_dask.archive.formats.hdf5.attributes import parse_json, read_attribute, read_attributes, read_text
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.units import length_to_nm, normalise_unit
from emqa_dask.archive.metadata.values import parse_number

MAX_SCALE_VALUES = 2**20  # of an axis that is read
STEP_TOLERANCE = 0.01  # relative difference between the steps of a uniform axis


@dataclass(frozen=True)
class AxisScale:
    """What is known about one axis of an array; step NaN and texts "" where unknown."""

    name: str = ""
    unit: str = ""
    step: float = math.nan


def read_axis_scales(dataset: h5py.Dataset, nexus: dict[int, list[AxisScale]]) -> list[AxisScale]:
    """The axes of `dataset`, one each, from the first source that knows any; nexus: as find_nexus_axes() gives it."""
    nexus_scales = nexus.get(get_address(dataset), [])
    for scales in (
        _read_axistags(dataset), nexus_scales, _read_dimension_scales(dataset), _read_coordinates(dataset)
    ):  # fmt: skip
        if len(scales) == dataset.ndim and any(scale != AxisScale() for scale in scales):
            return scales
    return [AxisScale()] * dataset.ndim


def get_address(node: h5py.HLObject) -> int:
    """Address of an object in its file, the same for all its names."""
    return h5py.h5o.get_info(node.id).addr


def state_axis_size(scales: Sequence[AxisScale], axes: ImageAxes, origin: str = "axis scale") -> StatedSize:
    """The pixel size that the steps of the axes of an image state."""
    x_nm = length_to_nm(scales[axes.x].step, scales[axes.x].unit)
    y_nm = length_to_nm(scales[axes.y].step, scales[axes.y].unit)
    return StatedSize(x_nm, y_nm, origin)


def measure_step(values: Any, length: int = 0) -> float:
    """Step between the values of an axis; NaN for one that is not uniform or has another length than `length`."""
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.size < 2 or numbers.dtype.kind not in "iuf" or (length and numbers.size != length):
        return math.nan
    steps = np.diff(numbers.astype(float))
    mean = float(steps.mean())
    is_uniform = np.all(np.abs(steps - mean) <= STEP_TOLERANCE * abs(mean) + 1e-12 * np.abs(numbers).max())
    return mean if is_uniform and math.isfinite(mean) else math.nan


def _read_scale(dataset: h5py.Dataset, name: str, length: int) -> AxisScale:
    unit = read_text(dataset, "units") or read_text(dataset, "unit")
    label = name or read_text(dataset, "long_name") or dataset.name.rpartition("/")[2]
    is_short = dataset.shape is not None and 1 < dataset.size <= MAX_SCALE_VALUES
    return AxisScale(label, normalise_unit(unit), measure_step(dataset[()], length) if is_short else math.nan)


def _read_dimension_scales(dataset: h5py.Dataset) -> list[AxisScale]:
    """The scales that are attached to the dimensions (HDF5 dimension scales, netCDF-4)."""
    scales = []
    for dimension, length in zip(dataset.dims, dataset.shape):
        label = dimension.label
        try:
            attached = [dimension[k] for k in range(len(dimension))]
        except (OSError, RuntimeError, KeyError, ValueError):
            attached = []
        scales.append(_read_scale(attached[0], label, length) if attached else AxisScale(label))
    return scales


def _read_coordinates(dataset: h5py.Dataset) -> list[AxisScale]:
    """The axes of a dataset beside one-dimensional arrays "x" and "y" whose lengths fit its last two axes."""
    nodes = {name.lower(): dataset.parent[name] for name in ("x", "y", "X", "Y") if name in dataset.parent}
    if len(nodes) != 2 or not all(isinstance(node, h5py.Dataset) and node.ndim == 1 for node in nodes.values()):
        return []
    lengths = (nodes["y"].size, nodes["x"].size)
    scales = [AxisScale()] * (dataset.ndim - 2)
    for names, shape in (("yx", lengths), ("xy", lengths[::-1])):
        if dataset.shape[-2:] == shape:
            return scales + [_read_scale(nodes[name], name, nodes[name].size) for name in names]
    return []


def _read_axistags(dataset: h5py.Dataset) -> list[AxisScale]:
    tags = parse_json(read_attribute(dataset, "axistags"))
    axes = tags.get("axes") if isinstance(tags, dict) else None
    if not isinstance(axes, list) or not all(isinstance(axis, dict) for axis in axes):
        return []
    units = read_attribute(dataset, "axis_units")
    unit_of_key = parse_json(units) if isinstance(units, str) else None
    scales = []
    for axis in axes:
        step = parse_number(axis.get("resolution"))
        key = str(axis.get("key", ""))
        unit = unit_of_key.get(key, "") if isinstance(unit_of_key, dict) else axis.get("unit", "")
        scales.append(AxisScale(key, normalise_unit(unit), step if step > 0 else math.nan))
    return scales


def find_nexus_axes(file: h5py.File) -> dict[int, list[AxisScale]]:
    """{address of a dataset: its axes} of the signals of all NXdata groups."""
    groups: list[h5py.Group] = []

    def visit(name: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Group) and (read_text(node, "NX_class") == "NXdata" or "signal" in node.attrs):
            groups.append(node)

    file.visititems(visit)
    if "signal" in file.attrs:
        groups.append(file)
    axes: dict[int, list[AxisScale]] = {}
    for group in groups:
        for signal in _list_signals(group):
            axes[get_address(signal)] = _read_nexus_axes(group, signal)
    return axes


def _list_signals(group: h5py.Group) -> list[h5py.Dataset]:
    """The signal of an NXdata group and its auxiliary signals, by the present convention or by the one before 2014."""
    names = [read_text(group, "signal")]
    auxiliary = read_attribute(group, "auxiliary_signals")
    names += auxiliary if isinstance(auxiliary, list) else [auxiliary]
    datasets = [group.get(name) for name in names if isinstance(name, str) and name]
    if not datasets:
        datasets = [node for node in group.values() if isinstance(node, h5py.Dataset) and "signal" in node.attrs]
    return [node for node in datasets if isinstance(node, h5py.Dataset) and node.ndim >= 2]


def _read_nexus_axes(group: h5py.Group, signal: h5py.Dataset) -> list[AxisScale]:
    names = read_attribute(group, "axes") or read_attribute(signal, "axes") or []
    if isinstance(names, str) and len(names) == signal.ndim > 1 and names not in group:
        names = list(names)  # an array of single letters, as RosettaSciIO writes it
    elif isinstance(names, str):
        names = [name for name in names.strip("[]").replace(",", ":").split(":") if name]
    scales = [AxisScale()] * signal.ndim
    attributes = read_attributes(group)
    for position, name in enumerate(names):
        indices = attributes.get(f"{name}_indices", position)
        index = indices[0] if isinstance(indices, list) else indices
        node = group.get(name) if isinstance(name, str) and name != "." else None
        if not isinstance(index, int) or not 0 <= index < signal.ndim:
            continue
        is_axis = isinstance(node, h5py.Dataset)
        scales[index] = _read_scale(node, name, signal.shape[index]) if is_axis else AxisScale(str(name))
    return scales
