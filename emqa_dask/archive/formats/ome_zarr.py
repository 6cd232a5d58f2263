"""Images of OME-Zarr 0.1 to 0.5 groups: multiscales, plates, wells, and series as bioformats2raw writes them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from emqa_dask.archive.checks.zarr_files import ZarrFiles
from emqa_dask.archive.formats.zarr_arrays import ZarrContents, ZarrImages
from emqa_dask.archive.formats.zarr_nodes import explain_absence, get_group, get_node, is_group
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.metadata.ome_xml import OmeImage, list_images
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import parse_number
from emqa_dask.archive.metadata.xml_text import MAX_XML_BYTES, find_elements, get_attribute, parse_xml
from emqa_dask.archive.source import ReadError

MAX_IMAGES = 100_000  # of a plate
_OME_XML = "OME/METADATA.ome.xml"
_EARLY_AXES = "tczyx"  # of versions 0.1 and 0.2, which name no axes


def read_ome_attributes(group: Any) -> dict[str, Any]:
    """Attributes of OME-Zarr: those below "ome" (0.5) over those of the group itself (0.1 to 0.4)."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    return {**attributes, **ome} if isinstance(ome, Mapping) else attributes


def is_ome_group(group: Any, files: ZarrFiles) -> bool:
    """Whether `group` is one of OME-Zarr by its attributes, or by the OME-XML in it."""
    attributes = read_ome_attributes(group)
    if files.is_file(f"{group.path}/{_OME_XML}" if group.path else _OME_XML):
        return True
    return any(name in attributes for name in ("multiscales", "plate", "well", "bioformats2raw.layout"))


def read_ome_group(group: Any, files: ZarrFiles) -> ZarrContents:
    """Images below an OME-Zarr group, each at its finest level. Labels are left out."""
    attributes = read_ome_attributes(group)
    if "image-label" in attributes:
        return ZarrContents(remarks=["labels of an image, not a micrograph"])
    if isinstance(attributes.get("multiscales"), list):
        return _read_multiscales(group, attributes["multiscales"])
    contents = ZarrContents()
    n_lost = 0
    has_series = "plate" not in attributes and "well" not in attributes
    ome_images = _list_ome_images(files, group.path) if has_series else []
    for number, path in enumerate(_list_image_paths(group, attributes, files)):
        image_group = get_group(group, path)
        if image_group is None:
            n_lost += 1
            contents.remarks.append(f"{path} is absent or broken")
            continue
        image_contents = _read_image_group(image_group, path, files)
        if number < len(ome_images):
            image_contents = replace(
                image_contents, images=[_add_ome_xml(images, ome_images[number]) for images in image_contents.images]
            )
        n_lost += image_contents.n_frames_lost
        contents.images.extend(image_contents.images)
        contents.remarks.extend(image_contents.remarks)
        if len(contents.images) > MAX_IMAGES:
            raise ReadError(f"a Zarr group of over {MAX_IMAGES:,} images is not read: split it")
    return ZarrContents(contents.images, contents.remarks, n_lost)


def _read_image_group(group: Any, path: str, files: ZarrFiles) -> ZarrContents:
    """Images of a group in a plate or a series; damage of one costs only its own images."""
    try:
        return read_ome_group(group, files)
    except Exception as error:  # foreign attributes: anything can come
        return ZarrContents(remarks=[f"{path} is broken: {' '.join(str(error).split())[:120]}"], n_frames_lost=1)


def _list_image_paths(group: Any, attributes: Mapping, files: ZarrFiles) -> Iterator[str]:
    """Paths of the groups below `group` that hold images: wells, fields of a well, or series."""
    if isinstance(attributes.get("plate"), Mapping):
        yield from (well["path"] for well in attributes["plate"].get("wells") or [])
        return
    if isinstance(attributes.get("well"), Mapping):
        yield from (field["path"] for field in attributes["well"].get("images") or [])
        return
    series = attributes.get("series")
    ome_group = get_group(group, "OME")
    if series is None and ome_group is not None:
        series = read_ome_attributes(ome_group).get("series")
    if isinstance(series, list):
        yield from map(str, series)
        return
    if group.path.rpartition("/")[2] != "OME":
        yield from sorted(filter(str.isdecimal, files.list_folders(group.path)), key=int)


def _list_ome_images(files: ZarrFiles, folder: str) -> list[OmeImage]:
    """The images of the OME-XML that bioformats2raw writes beside the series, one per series."""
    name = f"{folder}/{_OME_XML}" if folder else _OME_XML
    if not files.is_file(name) or files.get_size(name) > MAX_XML_BYTES:
        return []
    root = parse_xml(files.read(name, MAX_XML_BYTES))
    return list_images(root) if root is not None else []


def _add_ome_xml(images: ZarrImages, ome_image: OmeImage) -> ZarrImages:
    """`images` with what the OME-XML says about them; their own scale comes first."""
    header = ome_image.read_plane(0)
    header = replace(header, foreign={**images.header.foreign, **header.foreign})
    channels = list(find_elements(ome_image.element, "Channel"))
    is_colour = len(channels) == 1 and get_attribute(channels[0], "SamplesPerPixel") in ("3", "4")
    names = ["rgb" if is_colour and name == "c" else name for name in images.names]
    return replace(images, names=names, header=header, other_sizes=(ome_image.size,))


def _read_multiscales(group: Any, multiscales: list) -> ZarrContents:
    contents = ZarrContents()
    paths = set()
    n_lost = 0
    for image in multiscales:
        path = str(image["datasets"][0]["path"]).strip("/")
        if path in paths:  # another way to scale the same image down
            continue
        paths.add(path)
        array = get_node(group, path)
        if array is None or is_group(array):
            n_lost += 1
            cause = explain_absence(group, path)
            contents.remarks.append(f"array {path} of {group.path or 'the image'} cannot be opened: {cause}")
            continue
        contents.images.append(_make_images(group, image, array))
    return ZarrContents(contents.images, contents.remarks, n_lost)


def _make_images(group: Any, image: Mapping, array: Any) -> ZarrImages:
    axes = _list_axes(image, array.ndim)
    units = [axis.get("unit") for axis in axes]
    scale = _multiply_scales(group, image, array.ndim)
    steps = [length_to_nm(step, unit) for step, unit in zip(scale, units)] if scale and axes else []
    foreign = flatten_metadata({key: value for key, value in image.items() if isinstance(value, str | Mapping)})
    omero = read_ome_attributes(group).get("omero")
    if isinstance(omero, Mapping) and isinstance(omero.get("channels"), list):
        labels = [str(c.get("label")) for c in omero["channels"] if isinstance(c, Mapping) and c.get("label")]
        foreign["omero.channels"] = ", ".join(labels)
    names = [str(axis.get("name")) for axis in axes]
    return ZarrImages(array, names, units, steps, "coordinateTransformations", header=Header(foreign=foreign))


def _list_axes(image: Mapping, n_dimensions: int) -> list[dict]:
    """Axes as dictionaries (0.4 and later), from names (0.3) or from the fixed order (0.1 and 0.2)."""
    axes = image.get("axes")
    if axes is None:
        systems = image.get("coordinateSystems")
        axes = systems[0].get("axes") if isinstance(systems, list) and systems else None
    if axes is None:
        axes = list(_EARLY_AXES[-n_dimensions:]) if n_dimensions <= len(_EARLY_AXES) else []
    axes = [dict(axis) if isinstance(axis, Mapping) else {"name": str(axis)} for axis in axes]
    return axes if len(axes) == n_dimensions else []


def _multiply_scales(group: Any, image: Mapping, n_dimensions: int) -> list[float]:
    """Product of the scales of the finest level and of the whole multiscale; empty where none is stated."""
    transformations = [
        *(image["datasets"][0].get("coordinateTransformations") or []),
        *(image.get("coordinateTransformations") or []),
    ]
    product: list[float] = []
    for transformation in _flatten_transformations(transformations):
        vector = _read_scale(group, transformation)
        if vector is None:
            continue
        if len(vector) != n_dimensions:
            return []
        product = [a * b for a, b in zip(product or [1.0] * n_dimensions, vector)]
    return product


def _flatten_transformations(transformations: list) -> Iterator[Mapping]:
    for transformation in transformations:
        if not isinstance(transformation, Mapping):
            continue
        if isinstance(transformation.get("transformations"), list):
            yield from _flatten_transformations(transformation["transformations"])
        else:
            yield transformation


def _read_scale(group: Any, transformation: Mapping) -> list[float] | None:
    """The vector of a scale, which may be an array of the group; None for other transformations."""
    kind = transformation.get("type")
    if kind not in (None, "scale"):
        return None if kind in ("translation", "identity") else [math.nan]
    vector = transformation.get("scale")
    if vector is None and isinstance(transformation.get("path"), str):
        array = group.get(transformation["path"])
        is_vector = array is not None and getattr(array, "ndim", 0) == 1 and array.shape[0] <= len(_EARLY_AXES)
        vector = array[:].tolist() if is_vector else None
    if not isinstance(vector, list):
        return None
    return [parse_number(value) for value in vector]
