"""Labels of the VGG Image Annotator: its project, and its annotations as JSON or CSV."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from emqa_dask.coco.values import format_value
from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.parsing import parse_json, parse_number, parse_points, select_label
from emqa_dask.review.labels.shapes import Outline, make_box, make_ellipse, make_point, make_polygons
from emqa_dask.uris import parse_frame_name

PROJECT_KEY = "_via_img_metadata"  # of a project, beside its settings
CSV_COLUMNS = ("filename", "file_attributes", "region_shape_attributes", "region_attributes")


def is_via(content: object) -> bool:
    """Whether `content` is the JSON of a project or of annotations."""
    if not isinstance(content, dict) or not content:
        return False
    return PROJECT_KEY in content or all(
        isinstance(v, dict) and {"filename", "regions"} <= set(v) for v in content.values()
    )


def read_via(content: dict, path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of a project or of annotations in JSON; ValueError names the file, image and region.

    An image without regions is one without objects. A file attribute `content_sha256` names the file by its content.
    """
    images = content.get(PROJECT_KEY, content)
    labels = LabelCollection(path)
    rows = images.items() if isinstance(images, dict) else ()
    for key, image in rows:
        regions = image.get("regions", []) if isinstance(image, dict) else None
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(regions, list) or not isinstance(image.get("filename"), str) or not image["filename"]:
            labels.add_error(f"image {format_value(key)} has no filename or no list of regions")
            continue
        _add_image(labels, key, image["filename"], image.get("file_attributes"))
        for k, region in enumerate(regions):
            item = f"region {k} of image {image['filename']!r}"
            if isinstance(region, dict):
                _add_region(labels, key, item, region.get("shape_attributes"), region.get("region_attributes"))
            else:
                labels.add_error(f"{item} is not an object")
    return labels.list_micrographs()


def read_via_table(text: str, path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of annotations in CSV; ValueError names the file and the line."""
    labels = LabelCollection(path)
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        name = row["filename"] or ""
        if not name:
            labels.add_error(f"line {number}: filename is empty")
            continue
        cells = [parse_json(row[key] or "{}", f"{path}: line {number}") for key in CSV_COLUMNS[1:]]
        _add_image(labels, name, name, cells[0])
        if cells[1]:
            _add_region(labels, name, f"line {number}: the region", cells[1], cells[2])
    return labels.list_micrographs()


def _add_image(labels: LabelCollection, key: str, name: str, attributes: object) -> None:
    digest = attributes.get("content_sha256", "") if isinstance(attributes, Mapping) else ""
    labels.add_image(key, *parse_frame_name(name), content_sha256=digest if isinstance(digest, str) else "")


def _add_region(labels: LabelCollection, key: str, item: str, shape: object, attributes: object) -> None:
    """Add the object of a region, or its fault."""
    if not isinstance(shape, Mapping):
        labels.add_error(f"{item} has no shape_attributes")
        return
    try:
        labels.add_object(key, item, _parse_outline(shape), select_label(attributes), item)
    except ValueError as error:
        labels.add_error(f"{item} {error}")


def _parse_outline(shape: Mapping) -> Outline:
    """The outline of a region; ValueError without the file's name."""
    kind = shape.get("name")
    if kind == "rect":
        x, y = (parse_number(shape, key) for key in ("x", "y"))
        width, height = (parse_number(shape, key) for key in ("width", "height"))
        return make_box(y, x, y + height, x + width)
    if kind in ("polygon", "polyline"):
        return make_polygons([parse_points(shape.get("all_points_x", ()), shape.get("all_points_y", ()))])
    if kind in ("circle", "ellipse", "point"):
        x, y = (parse_number(shape, key) for key in ("cx", "cy"))
        if kind == "point":
            return make_point(y, x)
        x_radius, y_radius = (parse_number(shape, key) for key in (("r", "r") if kind == "circle" else ("rx", "ry")))
        angle = parse_number(shape, "theta") if "theta" in shape else 0.0
        return make_ellipse(y, x, y_radius, x_radius, angle)
    raise ValueError(f"is a {format_value(kind)}: draw rectangles, circles, ellipses, polygons or points")
