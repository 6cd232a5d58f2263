"""Images of Zarr groups without OME metadata: of abTEM, xarray and dask, and any others by their arrays."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from emqa_dask.archive.axes import NoImage
from emqa_dask.archive.formats import ome_zarr
from emqa_dask.archive.formats.zarr_arrays import ZarrContents, ZarrImages, identify_images
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import parse_positive
from emqa_dask.archive.source import ReadError

MAX_NODES = 100_000  # groups and arrays below a group
_LEVEL_NAME = re.compile(r"(?:s|level_?|scale_?)?(\d+)")
_ABTEM_IMAGES = "Images"  # the type that abTEM gives to images in real space
_STEP_TOLERANCE = 1e-3  # relative; coordinates of an image are evenly spaced


def read_group(group: Any) -> ZarrContents:
    """Images of `group` and of the groups below it, those of OME-Zarr by their metadata."""
    contents = ZarrContents()
    kinds = []
    n_lost = 0
    for node in iterate_groups(group):
        if ome_zarr.is_ome_group(node):
            node_contents = ome_zarr.read_ome_group(node)
        else:
            node_contents = _read_arrays(node)
            kinds += [node_contents.kind] if node_contents.remarks else []
        contents.images.extend(node_contents.images)
        contents.remarks.extend(node_contents.remarks)
        n_lost += node_contents.n_frames_lost
    return ZarrContents(contents.images, contents.remarks, n_lost, kinds[0] if kinds else "signal")


def iterate_groups(group: Any) -> Iterator[Any]:
    """`group` and the groups below it by name; not those below a group of OME-Zarr, which names its own."""
    stack = [group]
    count = 0
    while stack:
        node = stack.pop()
        count += 1
        if count > MAX_NODES:
            raise ReadError(f"a Zarr hierarchy of over {MAX_NODES:,} groups is not read")
        yield node
        if not ome_zarr.is_ome_group(node):
            children = sorted(node.groups(), key=lambda item: item[0], reverse=True)
            stack += [child for name, child in children if name != "labels"]


def _read_arrays(group: Any) -> ZarrContents:
    """Arrays of one group that are images; the remarks name the others of two or more dimensions."""
    arrays = dict(sorted(group.arrays()))
    contents = ZarrContents()
    kind = "signal"
    for name, array in arrays.items():
        images = describe_array(array, group, arrays)
        axes = identify_images(images)
        if isinstance(axes, NoImage):
            if array.ndim >= 2:
                kind = axes.kind if not contents.remarks else kind
                contents.remarks.append(f"{name} is {axes.reason}")
            continue
        contents.images.append(images)
    finest_images, remarks = _drop_levels(contents.images)
    masks = [item for item in finest_images if item.array.dtype.kind == "b"]
    if masks and len(masks) < len(finest_images):
        finest_images = [item for item in finest_images if item not in masks]
        remarks += [f"{item.title} is a mask" for item in masks]
    return ZarrContents(finest_images, contents.remarks + remarks, kind=kind)


def _drop_levels(images: list[ZarrImages]) -> tuple[list[ZarrImages], list[str]]:
    """`images` without those that are smaller levels of a pyramid (0, 1, 2 or s0, s1, s2 of shrinking sizes)."""
    levels = [(match, item) for item in images if (match := _LEVEL_NAME.fullmatch(item.title))]
    levels.sort(key=lambda level: int(level[0][1]))
    arrays = [item.array for _, item in levels]
    if len(levels) < 2 or not all(_is_next_level(a, b) for a, b in itertools.pairwise(arrays)):
        return images, []
    smaller = [item for _, item in levels[1:]]
    names = ", ".join(item.title for item in smaller)
    return [item for item in images if item not in smaller], [f"{names}: smaller copies of {levels[0][1].title}"]


def _is_next_level(array: Any, level: Any) -> bool:
    """Whether `level` has the shape of `array` after the same factor of 2 or more on two axes or all above 1."""
    if array.ndim != level.ndim or array.dtype != level.dtype:
        return False
    ratios = [n / m for n, m in zip(array.shape, level.shape) if n != m]
    return len(ratios) >= 2 and min(ratios) > 1.5 and max(ratios) < 1.5 * min(ratios)


def describe_array(array: Any, group: Any = None, siblings: Mapping[str, Any] | None = None) -> ZarrImages:
    """`array` with the names and units of its axes and its pixel size, where its attributes or its group say them."""
    attributes = dict(array.attrs)
    group_attributes = dict(group.attrs) if group is not None else {}
    abtem = _describe_abtem(array, group_attributes)
    if abtem is not None:
        return abtem
    names = attributes.get("_ARRAY_DIMENSIONS") or getattr(array.metadata, "dimension_names", None) or ()
    names = [str(name) if name is not None else None for name in names] if len(names) == array.ndim else []
    header = Header(foreign=flatten_metadata({**group_attributes, **attributes}))
    coordinates = [_read_coordinate(name, siblings or {}) for name in names]
    units = [unit for _, unit in coordinates]
    steps = [length_to_nm(step, unit) for step, unit in coordinates]
    sizes = tuple(
        StatedSize(length_to_nm(entries[key], "nm"), origin=key)
        for entries in (attributes, group_attributes)
        for key in ("nm_per_pixel", "pixel_size_nm")
        if key in entries
    )
    return ZarrImages(array, names, units, steps, "the coordinates of its axes", sizes, header)


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
