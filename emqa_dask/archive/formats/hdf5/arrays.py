"""HDF5 of any layout: every array of numbers that is an image or a stack, by axes, attributes and names."""

import re
from collections.abc import Iterable
from dataclasses import replace

import h5py
import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, find_other_array, identify_axes
from emqa_dask.archive.formats.hdf5.attributes import read_attribute, read_text
from emqa_dask.archive.formats.hdf5.axis_scales import AxisScale, find_nexus_axes, read_axis_scales, state_axis_size
from emqa_dask.archive.formats.hdf5.calibration import read_header, state_pixel_sizes
from emqa_dask.archive.formats.hdf5.datasets import Contents, ImageDataset, OtherArray, make_image
from emqa_dask.archive.formats.hdf5.file_settings import FileSettings
from emqa_dask.archive.formats.hdf5.roles import describe_role, find_smaller_copies
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import choose_pixel_size

MAX_OBJECTS = 100_000  # of a file that are looked at
_DETECTORS = ("bf", "df", "abf", "adf", "haadf", "laadf", "maadf", "df2", "df4", "se", "se1", "se2", "bse", "inlens",
              "etd", "tld", "bsd", "esb", "abs", "dpc", "idpc", "ddpc", "cl", "ebic", "stem", "segmented")  # fmt: skip
_INTERLACES = {"INTERLACE_PIXEL": (0, 1, 2), "INTERLACE_LINE": (0, 2, 1), "INTERLACE_PLANE": (1, 2, 0)}
_DISPLAY_ROLES = {"random-colortable": "a mask or segmentation", "binary-mask": "a mask or segmentation",
                  "alpha-modulated": "a probability map"}  # fmt: skip


def list_datasets(file: h5py.File) -> list[h5py.Dataset]:
    """Datasets of two or more axes, without scales of axes, palettes and references; image_2 before image_10."""
    datasets: list[h5py.Dataset] = []
    n_objects = 0

    def visit(name: str, node: h5py.HLObject) -> bool | None:
        nonlocal n_objects
        n_objects += 1
        if isinstance(node, h5py.Dataset) and node.shape is not None and node.ndim >= 2 and 0 not in node.shape:
            is_hidden = name.startswith(("#refs#", "#subsystem#", "__DATA_TYPES__"))
            if not is_hidden and read_text(node, "CLASS") not in ("DIMENSION_SCALE", "PALETTE"):
                datasets.append(node)
        return True if n_objects > MAX_OBJECTS else None

    file.visititems(visit)
    return sort_naturally(datasets)


def sort_naturally(datasets: Iterable[h5py.Dataset]) -> list[h5py.Dataset]:
    """Datasets in the order of their names, numbers in names by their value."""

    def make_key(dataset: h5py.Dataset) -> list:
        return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", dataset.name)]

    return sorted(datasets, key=make_key)


def read_arrays(file: h5py.File, format: str = "HDF5") -> Contents:
    """All images of a file whose layout belongs to no known program."""
    nexus = find_nexus_axes(file)
    file_settings = FileSettings(file)
    images: dict[str, ImageDataset] = {}
    others: list[OtherArray] = []
    datasets = list_datasets(file)
    virtual_parts = _list_virtual_parts(datasets)
    for dataset in datasets:
        if dataset.dtype.kind not in "biufc" or dataset.size <= 1 or dataset.name in virtual_parts:
            continue
        scales = read_axis_scales(dataset, nexus)
        axes = find_image_axes(dataset, scales)
        if isinstance(axes, NoImage):
            others.append(OtherArray(dataset.name, axes))
        else:
            images[dataset.name] = make_image(dataset, axes, make_header(file_settings, dataset, scales, axes))
    shapes = {name: (image.shape[image.axes.y], image.shape[image.axes.x]) for name, image in images.items()}
    for name, role in find_smaller_copies(file, shapes).items():
        del images[name]
        others.append(OtherArray(name, role))
    remark = "" if images or others else _describe_links(file)
    return Contents(format, tuple(name_detectors(list(images.values()))), tuple(others), remark)


def _list_virtual_parts(datasets: Iterable[h5py.Dataset]) -> set[str]:
    """Names of the datasets that a virtual dataset of the same file shows again."""
    parts = set()
    for dataset in datasets:
        if dataset.is_virtual:
            file_names = (".", dataset.file.filename)
            sources = [source for source in dataset.virtual_sources() if source.file_name in file_names]
            parts |= {f"/{source.dset_name.lstrip('/')}" for source in sources}
    return parts


def _describe_links(file: h5py.File) -> str:
    """Which other files hold the arrays of a file without any; "" for none."""
    names: list[str] = []

    def visit(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            names.append(link.filename)

    file.visititems_links(visit)
    return f"its arrays are in other files, which have their own rows: {names[0]}" if names else ""


def find_image_axes(dataset: h5py.Dataset, scales: list[AxisScale]) -> ImageAxes | NoImage:
    """Axes of the images in a dataset, or what it is by its name, type and attributes."""
    if dataset.dtype.kind == "b":
        return NoImage("signal", "a mask of true and false")
    if h5py.check_enum_dtype(dataset.dtype) is not None:
        return NoImage("signal", "a mask or segmentation by the names of its values")
    if "Position_Indices" in dataset.attrs:
        return NoImage("signal", "positions by spectra of the USID model (pyUSID), not an image")
    if _is_dectris(dataset):
        return NoImage("diffraction", "a series of a Dectris pixel detector (4D-STEM?), which nothing calls images")
    role = describe_role(dataset.name)
    display_mode = read_attribute(dataset, "display_mode")
    if isinstance(display_mode, str) and display_mode in _DISPLAY_ROLES:
        role = NoImage("signal", _DISPLAY_ROLES[display_mode])
    if role is not None:
        return role
    interlace = _INTERLACES.get(read_text(dataset, "INTERLACE_MODE") or "INTERLACE_PIXEL")
    if read_text(dataset, "IMAGE_SUBCLASS") == "IMAGE_TRUECOLOR" and dataset.ndim == 3 and interlace:
        return ImageAxes(*interlace)
    axes = identify_axes(dataset.shape, dataset.dtype, [s.name for s in scales], [s.unit for s in scales])
    if isinstance(axes, NoImage):
        return axes
    is_named = read_text(dataset, "CLASS") == "IMAGE" or bool(scales[axes.y].name and scales[axes.x].name)
    return axes if is_named else find_other_array(dataset.shape, axes) or axes


def _is_dectris(dataset: h5py.Dataset) -> bool:
    """Whether a pixel detector of Dectris recorded the dataset: master files, and files of data beside them."""
    file = dataset.file
    has_master = "detectorSpecific" in file.get("entry/instrument/detector", ()) or "STEM Metadata" in file
    is_data_file = re.search(r"_data_\d{6}\.h5$", file.filename) and dataset.name.startswith("/entry/data/")
    return dataset.ndim == 3 and bool(has_master or is_data_file)


def make_header(file_settings: FileSettings, dataset: h5py.Dataset, scales: list[AxisScale], axes: ImageAxes) -> Header:
    """Header of a dataset from the scales of its axes and the settings beside it."""
    settings = file_settings.collect(dataset)
    header = read_header(settings, dataset.shape, axes)
    header = replace(header, nm_per_pixel=np.nan, nm_per_pixel_y=np.nan, pixel_size_problem=None)
    sizes = [state_axis_size(scales, axes), *state_pixel_sizes(settings, dataset.shape, axes)]
    return choose_pixel_size(header, sizes, dataset.shape[axes.x])


def name_detectors(images: list[ImageDataset]) -> list[ImageDataset]:
    """`images` with the detector that their name in the file is, where no attribute states one."""
    named_images = []
    for image in images:
        names = [part for part in image.name.split("/") if part.lower().replace("-", "") in _DETECTORS]
        header = image.header
        if names and header.detector is None:
            header = replace(header, detector=names[-1])
        named_images.append(replace(image, header=header))
    return named_images
