"""Volumes of light-sheet and electron microscopes in HDF5: BigDataViewer and Imaris; level 0 of their pyramids."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes
from emqa_dask.archive.formats.hdf5.arrays import sort_naturally
from emqa_dask.archive.formats.hdf5.attributes import read_attributes
from emqa_dask.archive.formats.hdf5.calibration import read_header
from emqa_dask.archive.formats.hdf5.datasets import Contents, make_image
from emqa_dask.archive.formats.hdf5.file_settings import FileSettings
from emqa_dask.archive.metadata import dates, xml_text
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_CELLS = re.compile(r"/t\d+/s(\d+)/(\d+)/cells")
_VOLUME_AXES = ImageAxes(1, 2, None, (0,))
_IMARIS_DATA = re.compile(r"/DataSet/ResolutionLevel 0/TimePoint \d+/Channel (\d+)/Data")


def is_bigdataviewer(file: h5py.File, path: Path) -> bool:
    """Whether `file` has the groups of BigDataViewer: time points t00000 with setups s00."""
    return any(
        re.fullmatch(r"t\d{5,}", name) and any(re.fullmatch(r"s\d\d+", setup) for setup in _list_names(file[name]))
        for name in file
    )


def _list_names(node: Any) -> list[str]:
    return list(node) if isinstance(node, h5py.Group) else []


def read_bigdataviewer(file: h5py.File) -> Contents:
    """The finest level of every setup and time point; its values are unsigned, whatever type the file states."""
    levels: list[h5py.Dataset] = []
    n_coarse = 0

    def visit(name: str, node: h5py.HLObject) -> None:
        nonlocal n_coarse
        match = _CELLS.fullmatch(f"/{name}")
        if match and isinstance(node, h5py.Dataset) and node.ndim == 3 and 0 not in node.shape:
            if int(match[2]) == 0:
                levels.append(node)
            else:
                n_coarse += 1

    file.visititems(visit)
    sizes = _read_voxel_sizes(Path(file.filename).with_suffix(".xml"))
    file_settings = FileSettings(file)
    images = []
    for dataset in sort_naturally(levels):
        header = read_header(file_settings.collect(dataset), dataset.shape, _VOLUME_AXES)
        size = sizes.get(int(_CELLS.fullmatch(dataset.name)[1]))
        if size is not None:
            header = choose_pixel_size(replace(header, pixel_size_problem=None), [size], dataset.shape[2])
        dtype = np.dtype(dataset.dtype)
        unsigned = dtype.newbyteorder("=").str.replace("i", "u") if dtype.kind == "i" else None
        images.append(make_image(dataset, _VOLUME_AXES, header, dtype=unsigned))
    remark = f"{n_coarse} coarser levels of the pyramid are not read" if n_coarse else ""
    return Contents("BigDataViewer", tuple(images), (), remark)


def _read_voxel_sizes(path: Path) -> dict[int, StatedSize]:
    """{setup: pixel size} from the XML beside the HDF5 file; empty where there is none."""
    if not path.is_file():
        return {}
    root = xml_text.parse_xml(path.read_bytes())
    sizes: dict[int, StatedSize] = {}
    for setup in root.iter("ViewSetup") if root is not None else ():
        voxel = setup.find("voxelSize")
        number = parse_number(setup.findtext("id"))
        lengths = (voxel.findtext("size") or "").replace(",", " ").split() if voxel is not None else []
        if len(lengths) >= 2 and number == number:
            unit = voxel.findtext("unit")
            x_nm, y_nm = length_to_nm(lengths[0], unit), length_to_nm(lengths[1], unit)
            sizes[int(number)] = StatedSize(x_nm, y_nm, f"voxelSize in {path.name}")
    return sizes


def is_imaris(file: h5py.File, path: Path) -> bool:
    """Whether Imaris wrote `file`."""
    return isinstance(file.get("DataSet/ResolutionLevel 0"), h5py.Group)


def read_imaris(file: h5py.File) -> Contents:
    """Every plane of the finest level, without the padding of its chunks."""
    datasets: list[h5py.Dataset] = []

    def visit(name: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim == 3 and _IMARIS_DATA.fullmatch(f"/DataSet/{name}"):
            datasets.append(node)

    file["DataSet"].visititems(visit)
    info = file.get("DataSetInfo/Image")
    settings = read_attributes(info) if isinstance(info, h5py.Group) else {}
    images = []
    for dataset in sort_naturally(datasets):
        channel = read_attributes(dataset.parent)
        lengths = [parse_number(channel.get(f"ImageSize{c}", settings.get(c))) for c in "ZYX"]
        shape = [int(n) if n >= 1 else m for n, m in zip(lengths, dataset.shape)]
        header = _make_imaris_header(file, settings, int(_IMARIS_DATA.fullmatch(dataset.name)[1]), shape)
        images.append(make_image(dataset, _VOLUME_AXES, header, shape))
    n_levels = sum(name.startswith("ResolutionLevel") for name in file["DataSet"])
    remark = f"{n_levels - 1} coarser levels of the pyramid are not read" if n_levels > 1 else ""
    return Contents("Imaris", tuple(images), (), remark)


def _make_imaris_header(file: h5py.File, settings: Mapping[str, Any], channel: int, shape: list[int]) -> Header:
    group = file.get(f"DataSetInfo/Channel {channel}")
    channel_settings = read_attributes(group) if isinstance(group, h5py.Group) else {}
    unit = str(settings.get("Unit") or "um")
    steps = [
        (parse_number(settings.get(f"ExtMax{k}")) - parse_number(settings.get(f"ExtMin{k}"))) / n
        for k, n in ((0, shape[2]), (1, shape[1]))
    ]
    header = Header(
        acquired=dates.parse_date(settings.get("RecordingDate")),
        detector=clean_text(channel_settings.get("Name")),
        exposure_s=parse_positive(channel_settings.get("ExposureTime")),
        foreign=flatten_metadata({**settings, **channel_settings}),
    )
    size = StatedSize(length_to_nm(steps[0], unit), length_to_nm(steps[1], unit), "ExtMax, ExtMin")
    return choose_pixel_size(header, [size], shape[2])
