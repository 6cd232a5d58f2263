"""MATLAB 7.3 files: HDF5 whose axes are in the order of Fortran, and whose texts and truths are numbers."""

from pathlib import Path

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, identify_axes
from emqa_dask.archive.formats.hdf5.arrays import list_datasets, name_detectors
from emqa_dask.archive.formats.hdf5.attributes import read_text
from emqa_dask.archive.formats.hdf5.calibration import read_header
from emqa_dask.archive.formats.hdf5.datasets import Contents, ImageDataset, OtherArray, make_image
from emqa_dask.archive.formats.hdf5.file_settings import FileSettings
from emqa_dask.archive.formats.hdf5.roles import describe_role

_NUMBERS = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
MIN_SIDE_PX = 16  # of an image; smaller arrays are settings and tables


def is_matlab(file: h5py.File, path: Path) -> bool:
    """Whether MATLAB wrote `file`: its variables name their class."""
    return any("MATLAB_class" in node.attrs for node in file.values() if isinstance(node, h5py.HLObject))


def read_matlab(file: h5py.File) -> Contents:
    """All variables that are images; the third axis of a MATLAB array counts images or colours."""
    file_settings = FileSettings(file)
    images: list[ImageDataset] = []
    others: list[OtherArray] = []
    for dataset in list_datasets(file):
        class_name = read_text(dataset, "MATLAB_class")
        if class_name in ("char", "cell", "struct") or "MATLAB_empty" in dataset.attrs:
            continue
        axes = _find_axes(dataset, class_name)
        if axes is None:
            continue
        if isinstance(axes, NoImage):
            others.append(OtherArray(dataset.name, axes))
        else:
            settings = {name: value for name, value in file_settings.collect(dataset).items() if "matlab" not in name}
            images.append(make_image(dataset, axes, read_header(settings, dataset.shape, axes)))
    return Contents("MATLAB", tuple(name_detectors(images)), tuple(others))


def _find_axes(dataset: h5py.Dataset, class_name: str) -> ImageAxes | NoImage | None:
    """Axes of the images in a variable; None for one too small for an image."""
    if class_name == "logical" or dataset.dtype.kind == "b":
        return NoImage("signal", "a mask of true and false")
    if class_name and class_name not in _NUMBERS:
        return None
    role = describe_role(dataset.name)
    if role is not None:
        return role
    x, y = dataset.ndim - 2, dataset.ndim - 1
    if min(dataset.shape[x], dataset.shape[y]) < MIN_SIDE_PX:
        return None
    if dataset.dtype.kind in "cV" or dataset.ndim > 3:
        return identify_axes(dataset.shape, dataset.dtype if dataset.dtype.kind != "V" else np.complex128)
    if dataset.ndim == 2:
        return ImageAxes(y, x)
    is_colour = dataset.shape[0] == 3 and dataset.dtype in (np.uint8, np.uint16)
    return ImageAxes(y, x, 0) if is_colour else ImageAxes(y, x, None, (0,))
