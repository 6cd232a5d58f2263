"""EMD of Berkeley (NCEM; HyperSpy, py4DSTEM, Prismatic): arrays whose axes are described by dim1, dim2 and so on."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, identify_axes
from emqa_dask.archive.formats.hdf5.arrays import name_detectors, read_arrays, sort_naturally
from emqa_dask.archive.formats.hdf5.attributes import read_attributes, read_text
from emqa_dask.archive.formats.hdf5.axis_scales import AxisScale, measure_step, state_axis_size
from emqa_dask.archive.formats.hdf5.calibration import normalise_settings, read_header
from emqa_dask.archive.formats.hdf5.datasets import Contents, ImageDataset, OtherArray, make_image
from emqa_dask.archive.formats.hdf5.file_settings import FileSettings
from emqa_dask.archive.formats.hdf5.roles import describe_role
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import normalise_unit

_FORMAT = "EMD (NCEM)"
_SUFFIXES = (".emd", ".de5")
_DATA_NAMES = ("data", "datacube", "realslice", "diffractionslice", "counted_datacube")
_CLASSES = {
    "DiffractionSlice": NoImage("diffraction", "a diffraction pattern"),
    "DataCube": NoImage("diffraction", "4D-STEM data"),
    "Probe": NoImage("signal", "a probe"),
    "BraggVectorMap": NoImage("diffraction", "a map of Bragg vectors"),
}
_PATH_CLASSES = {"diffractionslices": "DiffractionSlice", "datacubes": "DataCube", "braggvectors": "DiffractionSlice"}
_DIM = re.compile(r"dim(\d+)")
_MAX_LABELS = 4096  # of a dim of texts
_ANGSTROM_UNITS = ("A", "[A]")


def is_ncem(file: h5py.File, path: Path) -> bool:
    """Whether `file` follows the EMD specification of Berkeley."""
    if path.suffix.lower() in _SUFFIXES or "version_major" in file.attrs:
        return True

    def find_marker(name: str, node: h5py.HLObject) -> bool | None:
        return True if "version_major" in node.attrs or "emd_group_type" in node.attrs else None

    return bool(file.visititems(find_marker))


def read_ncem(file: h5py.File) -> Contents:
    """All images in the groups of arrays of an EMD file; those of a file without such groups by their axes alone."""
    datasets = _find_arrays(file)
    if not datasets:
        contents = read_arrays(file, _FORMAT)
        return contents if contents.images or contents.others else replace(contents, format="EMD")
    file_settings = FileSettings(file)
    images: list[ImageDataset] = []
    others: list[OtherArray] = []
    for dataset in datasets:
        content = _read_array(file_settings, dataset)
        if isinstance(content, NoImage):
            others.append(OtherArray(dataset.name, content))
        else:
            images.append(content)
    return Contents(_FORMAT, tuple(name_detectors(images)), tuple(others))


def _find_arrays(file: h5py.File) -> list[h5py.Dataset]:
    """Datasets of numbers in groups whose emd_group_type says that they hold an array."""
    datasets: list[h5py.Dataset] = []

    def visit(name: str, node: h5py.HLObject) -> None:
        leaf = name.rpartition("/")[2]
        if not isinstance(node, h5py.Dataset) or _DIM.fullmatch(leaf) or not node.shape or 0 in node.shape:
            return
        group = node.parent
        if "emd_group_type" not in group.attrs or node.dtype.kind not in "biufc" or node.size <= 1:
            return
        if leaf in _DATA_NAMES or any(_DIM.fullmatch(member) for member in group):
            datasets.append(node)

    file.visititems(visit)
    return sort_naturally(datasets)


def _read_array(file_settings: FileSettings, dataset: h5py.Dataset) -> ImageDataset | NoImage:
    class_name = read_text(dataset.parent, "python_class")
    path_class = next((c for part, c in _PATH_CLASSES.items() if part in dataset.name.lower()), "")
    no_image = _CLASSES.get(class_name) or _CLASSES.get(path_class) or describe_role(dataset.parent.name)
    if no_image is not None:
        return no_image
    scales = _read_dims(dataset)
    if any(scale.name.lower() == "complex" for scale in scales):
        size = " x ".join(map(str, dataset.shape))
        return NoImage("signal", f"complex values of {size} numbers (a Fourier transform or a wave), not a micrograph")
    axes = _find_axes(dataset, scales)
    if isinstance(axes, NoImage):
        return axes
    return make_image(dataset, axes, _make_header(file_settings, dataset, axes, state_axis_size(scales, axes, "dims")))


def _find_axes(dataset: h5py.Dataset, scales: Sequence[AxisScale]) -> ImageAxes | NoImage:
    """Axes of the images by the names and units of the dims.

    HyperSpy transposes its arrays and writes two values per dim: where it leaves the names empty, the first axis of
    the file counts columns.
    """
    names = [scale.name for scale in scales]
    units = [scale.unit for scale in scales]
    if any(names) or set(dataset.shape) == {2} or not _has_short_dims(dataset):
        return identify_axes(dataset.shape, dataset.dtype, names, units)
    axes = identify_axes(dataset.shape[::-1], dataset.dtype, [], units[::-1])
    if isinstance(axes, NoImage):
        return axes
    last = dataset.ndim - 1
    colour = None if axes.colour is None else last - axes.colour
    return ImageAxes(last - axes.y, last - axes.x, colour, tuple(last - k for k in axes.stack))


def _has_short_dims(dataset: h5py.Dataset) -> bool:
    """Whether every axis has a dim of two values."""
    dims = [dataset.parent.get(f"dim{k + 1}") for k in range(dataset.ndim)]
    return all(isinstance(dim, h5py.Dataset) and dim.shape == (2,) for dim in dims)


def _make_header(file_settings: FileSettings, dataset: h5py.Dataset, axes: ImageAxes, size: StatedSize) -> Header:
    settings = file_settings.collect(dataset)
    file = dataset.file
    for name in ("microscope", "sample", "user"):
        group = file.get(name)
        if isinstance(group, h5py.Group):
            group_settings = normalise_settings(read_attributes(group))
            if name == "microscope" and "name" in group_settings:
                group_settings.setdefault("microscope", group_settings["name"])
            settings = group_settings | settings
    header = read_header(settings, dataset.shape, axes)
    if size.x_nm > 0:
        header = replace(header, nm_per_pixel=np.nan, nm_per_pixel_y=np.nan, pixel_size_problem=None)
        header = choose_pixel_size(header, [size], dataset.shape[axes.x])
    return header


def _read_dims(dataset: h5py.Dataset) -> list[AxisScale]:
    """The dims of an array in the order of its axes, empty scales where dims are absent or describe other axes."""
    group = dataset.parent
    numbers = sorted(int(match[1]) for name in group if (match := _DIM.fullmatch(name)))
    first_number = 0 if numbers and numbers[0] == 0 else 1
    nodes = [group.get(f"dim{k + first_number}") for k in range(dataset.ndim)]
    if not all(isinstance(node, h5py.Dataset) for node in nodes):
        return [AxisScale()] * dataset.ndim
    lengths = [node.shape[0] if node.ndim == 1 else 0 for node in nodes]
    if _are_reversed(lengths, dataset.shape):
        nodes = nodes[::-1]
    return [_read_dim(node, length) for node, length in zip(nodes, dataset.shape)]


def _are_reversed(lengths: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether dims describe the axes from the last to the first.

    dim1 is the first axis by the specification; lengths that fit the shape only in reverse say otherwise.
    """
    fits = all(length in (n, 0, 2) for length, n in zip(lengths, shape))
    fits_reversed = all(length in (n, 0, 2) for length, n in zip(lengths, shape[::-1]))
    return fits_reversed and not fits


def _read_dim(node: h5py.Dataset, length: int) -> AxisScale:
    unit = read_text(node, "units")
    if node.dtype.kind in "OSU":
        return _read_labels(node)
    values = node[()] if node.ndim == 1 and node.size <= 2**20 else np.empty(0)
    n_values = 0 if values.size == 2 else length  # HyperSpy writes the first two values alone
    step = measure_step(values, n_values)
    return AxisScale(read_text(node, "name"), normalise_unit("Å" if unit in _ANGSTROM_UNITS else unit), step)


def _read_labels(node: h5py.Dataset) -> AxisScale:
    """The axis of a dim of texts: real and imaginary parts, or names of detectors or slices."""
    values = np.ravel(node[()] if node.size <= _MAX_LABELS else [])
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    is_complex = {text.lower()[:4] for text in texts} >= {"real", "imag"}
    return AxisScale("complex" if is_complex else read_text(node, "name"))
