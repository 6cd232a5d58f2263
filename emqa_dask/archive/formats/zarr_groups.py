"""Images of Zarr groups without OME metadata: of abTEM, xarray and dask, and any others by their arrays."""

import math
import re
from collections.abc import Mapping
from typing import Any

from emqa_dask.archive.axes import NoImage
from emqa_dask.archive.checks.zarr_files import ZarrFiles
from emqa_dask.archive.formats import ome_zarr
from emqa_dask.archive.formats.hdf5.file_settings import add_settings
from emqa_dask.archive.formats.hdf5.roles import describe_role, find_levels
from emqa_dask.archive.formats.zarr_arrays import ZarrContents, ZarrImages, identify_images
from emqa_dask.archive.formats.zarr_nodes import MAX_NODES, explain_absence, is_group, iterate_children
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import parse_positive
from emqa_dask.archive.source import ReadError

_ABTEM_IMAGES = "Images"  # the type that abTEM gives to images in real space
_STEP_TOLERANCE = 1e-3  # relative; coordinates of an image are evenly spaced


def read_group(group: Any, files: ZarrFiles) -> ZarrContents:
    """Images of `group` and of the groups below it, those of OME-Zarr by their metadata."""
    contents = ZarrContents()
    kinds = []
    n_lost = 0
    stack = [group]
    n_groups = 0
    while stack:
        node = stack.pop()
        n_groups += 1
        if n_groups > MAX_NODES:
            raise ReadError(f"a Zarr hierarchy of over {MAX_NODES:,} groups is not read")
        if ome_zarr.is_ome_group(node, files):  # it names its own groups
            node_contents = ome_zarr.read_ome_group(node, files)
        else:
            children = dict(iterate_children(files, node))
            stack += [child for name, child in reversed(children.items()) if is_group(child) and name != "labels"]
            node_contents = _read_arrays(node, children)
            kinds += [node_contents.kind] if node_contents.remarks else []
        contents.images.extend(node_contents.images)
        contents.remarks.extend(node_contents.remarks)
        n_lost += node_contents.n_frames_lost
    return ZarrContents(contents.images, contents.remarks, n_lost, kinds[0] if kinds else "signal")


def _read_arrays(group: Any, children: Mapping[str, Any]) -> ZarrContents:
    """Arrays of one group that are images; the remarks name the others of two or more dimensions, and broken ones."""
    arrays = {name: node for name, node in children.items() if node is not None and not is_group(node)}
    broken = [name for name, node in children.items() if node is None]
    images: dict[str, ZarrImages] = {}
    shapes = {}
    others: dict[str, NoImage] = {}
    for name, array in arrays.items():
        if array.ndim < 2:
            continue
        array_images = describe_array(array, group, arrays)
        axes = identify_images(array_images)
        role = NoImage("signal", "a mask of true and false") if array.dtype.kind == "b" else describe_role(name)
        if isinstance(axes, NoImage) or (role is not None and len(arrays) > 1):
            others[name] = role or axes
            continue
        images[name] = array_images
        shapes[name] = (array.shape[axes.y], array.shape[axes.x])
    others |= find_levels(shapes)
    contents = [array_images for name, array_images in images.items() if name not in others]
    remarks = [f"{name} is {other.reason}" for name, other in others.items()]
    remarks += [f"{name} cannot be opened: {explain_absence(group, name)}" for name in broken]
    kind = next((other.kind for other in others.values()), "signal")
    return ZarrContents(contents, remarks, len(broken), kind)


def describe_array(array: Any, group: Any = None, siblings: Mapping[str, Any] | None = None) -> ZarrImages:
    """`array` with the names and units of its axes and its pixel size, where its attributes or its group say them."""
    attributes = dict(array.attrs)
    group_attributes = dict(group.attrs) if group is not None else {}
    abtem = _describe_abtem(array, group_attributes)
    if abtem is not None:
        return abtem
    names = attributes.get("_ARRAY_DIMENSIONS") or getattr(array.metadata, "dimension_names", None) or ()
    names = [str(name) if name is not None else None for name in names] if len(names) == array.ndim else []
    coordinates = [_read_coordinate(name, siblings or {}) for name in names]
    units = [unit for _, unit in coordinates]
    steps = [length_to_nm(step, unit) for step, unit in coordinates]
    settings: dict[str, Any] = {}
    add_settings(settings, attributes)
    add_settings(settings, group_attributes)
    return ZarrImages(array, names, units, steps, "the coordinates of its axes", settings=settings)


def _read_coordinate(name: str | None, siblings: Mapping[str, Any]) -> tuple[float, str | None]:
    """(step, unit) of the coordinates of an axis, as xarray stores them in an array of its name."""
    coordinate = siblings.get(name or "")
    if coordinate is None or coordinate.ndim != 1 or coordinate.dtype.kind not in "iuf":
        return math.nan, None
    unit = next((coordinate.attrs[key] for key in ("units", "unit") if key in coordinate.attrs), None)
    n = coordinate.shape[0]
    if n < 2 or n > MAX_NODES:
        return math.nan, unit
    values = coordinate[:].astype(float)
    step = (values[-1] - values[0]) / (n - 1)
    is_even = abs((values[1:] - values[:-1]) - step).max() <= _STEP_TOLERANCE * abs(step)
    return (step if is_even else math.nan), unit


def _describe_abtem(array: Any, attributes: Mapping) -> ZarrImages | None:
    """An array of abTEM, whose last two axes are x and y in this order; lengths are in angstrom."""
    match = re.fullmatch(r"array(\d*)", array.path.rpartition("/")[2])
    settings = attributes.get(f"kwargs{match[1]}") if match else None
    if not isinstance(settings, Mapping) or f"type{match[1]}" not in attributes or array.ndim < 2:
        return None
    type_name = str(attributes[f"type{match[1]}"])
    metadata = settings.get("metadata") if isinstance(settings.get("metadata"), Mapping) else {}
    header = Header(
        voltage_kv=parse_positive(metadata.get("energy"), 1e-3),
        instrument="abTEM (simulated)",
        foreign=flatten_metadata({"type": type_name, **metadata}),
    )
    n_stack = array.ndim - 2
    names: list[str | None] = [*([None] * n_stack), "x", "y"]
    if type_name != _ABTEM_IMAGES:
        names = [*([None] * n_stack), "kx", "ky"] if "Diffraction" in type_name else names
        return ZarrImages(array, names, header=header)
    sampling = settings.get("sampling")
    sampling = list(sampling) if isinstance(sampling, list | tuple) else [sampling, sampling]
    steps = [math.nan] * n_stack + [length_to_nm(value, "angstrom") for value in sampling[:2]]
    return ZarrImages(array, names, [None] * n_stack + ["angstrom"] * 2, steps, "sampling", header=header)
