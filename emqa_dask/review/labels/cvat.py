"""Labels of CVAT's XML (CVAT for images 1.1): boxes, ellipses, polygons, masks and points."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from emqa_dask.coco.masks import Mask
from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.parsing import parse_number, parse_points, parse_size
from emqa_dask.review.labels.shapes import (
    MAX_MASK_PX,
    Outline,
    make_box,
    make_ellipse,
    make_mask,
    make_point,
    make_polygons,
)
from emqa_dask.uris import parse_frame_name

SHAPES = ("box", "ellipse", "polygon", "mask", "points", "polyline", "cuboid", "skeleton")


def read_cvat(data: bytes, path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of CVAT's XML `data`, which is the file `path`; ValueError names what is wrong.

    An object may have the attributes `object` (its identity) and `box` (y0 x0 y1 x1), as `emqa export` writes them.
    """
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: not XML ({error}): export it again as CVAT for images 1.1") from error
    if root.tag != "annotations":
        raise ValueError(f"{path}: not a file of CVAT: its first element is {root.tag[:60]}, not annotations")
    if root.find("track") is not None:
        raise ValueError(f"{path}: it has tracks of a video: export it again as CVAT for images 1.1")
    labels = LabelCollection(path)
    for number, image in enumerate(root.iter("image"), start=1):
        name = image.get("name", "")
        if not name:
            labels.add_error(f"image number {number} has no name")
            continue
        uri, frame = parse_frame_name(name)
        labels.add_image(number, uri, frame, parse_size(image.get("height"), image.get("width")))
        shapes = [element for element in image if element.tag in SHAPES]
        for k, element in enumerate(shapes, start=1):
            _add_objects(labels, number, f"{element.tag} {k} of image {name!r}", element)
    return labels.list_micrographs()


def _add_objects(labels: LabelCollection, key: int, item: str, element: ElementTree.Element) -> None:
    """Add the object of an element, or those of an element with several points."""
    attributes = {row.get("name"): row.text or "" for row in element.iter("attribute")}
    try:
        outlines = _parse_outlines(element, attributes.get("box"))
    except ValueError as error:
        labels.add_error(f"{item} {error}")
        return
    for outline in outlines:
        labels.add_object(key, item, outline, element.get("label", ""), attributes.get("object", ""))


def _parse_outlines(element: ElementTree.Element, box_text: str | None) -> list[Outline]:
    """The outlines of an element; ValueError without the file's name."""
    box = None
    if box_text:
        y0, x0, *ends = (parse_number({"box": text}, "box") for text in box_text.split())
        box = (y0, x0, *ends)
    if element.tag == "mask":
        return [make_mask(_decode_mask(element), box)]
    if element.tag == "box":
        return [_parse_box(element)]
    if element.tag == "ellipse":
        y, x = (parse_number(element.attrib, key) for key in ("cy", "cx"))
        y_radius, x_radius = (parse_number(element.attrib, key) for key in ("ry", "rx"))
        return [make_ellipse(y, x, y_radius, x_radius, np.deg2rad(float(element.get("rotation", "0"))))]
    if element.tag in ("polygon", "points"):
        pairs = [pair.partition(",")[::2] for pair in element.get("points", "").split(";")]
        points = parse_points([x for x, _ in pairs], [y for _, y in pairs], 3 if element.tag == "polygon" else 1)
        if element.tag == "points":
            return [make_point(y, x) for x, y in points.tolist()]
        return [make_polygons([points], box)]
    raise ValueError(f"is a {element.tag}: draw boxes, ellipses, polygons, masks or points")


def _parse_box(element: ElementTree.Element) -> Outline:
    """A box, or the polygon of one that is turned about its centre."""
    y0, x0 = (parse_number(element.attrib, key) for key in ("ytl", "xtl"))
    y1, x1 = (parse_number(element.attrib, key) for key in ("ybr", "xbr"))
    angle = np.deg2rad(float(element.get("rotation", "0")))
    if not angle:
        return make_box(y0, x0, y1, x1)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = corners.mean(axis=0)
    return make_polygons([centre + (corners - centre) @ turn])


def _decode_mask(element: ElementTree.Element) -> Mask | None:
    """The mask of CVAT's run lengths along the rows of its box; ValueError unless they fill the box."""
    top, left = (int(parse_number(element.attrib, key)) for key in ("top", "left"))
    height, width = (int(parse_number(element.attrib, key)) for key in ("height", "width"))
    lengths = [int(parse_number({"rle": text}, "rle", MAX_MASK_PX)) for text in element.get("rle", "").split(",")]
    if min(height, width) < 1 or height * width > MAX_MASK_PX or sum(lengths) != height * width or min(lengths) < 0:
        raise ValueError(f"has run lengths of {sum(lengths)} px in a box of {width} x {height} px")
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    return (top, left, pixels) if pixels.any() else None
