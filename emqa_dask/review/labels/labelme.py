"""Labels of LabelMe: a JSON file per image."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emqa_dask.coco.masks import Mask
from emqa_dask.coco.values import format_value
from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.parsing import parse_points, parse_size
from emqa_dask.review.labels.shapes import Outline, make_box, make_ellipse, make_mask, make_point, make_polygons
from emqa_dask.uris import parse_frame_name


def is_labelme(content: object) -> bool:
    """Whether `content` is the JSON of an image's labels."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(contents: Mapping[str, dict], path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of the JSON `contents` (file -> content) in `path`; ValueError names file and shape.

    Polygons of one label and group_id are one object. A key `content_sha256` names the image by its file's content.
    """
    labels = LabelCollection(path)
    for file, content in contents.items():
        image_path = content["imagePath"]
        if not isinstance(image_path, str) or not image_path:
            labels.add_error(f"{file} has the imagePath {format_value(image_path)}")
            continue
        name = re.sub(r"^(\.{1,2}/)+", "", image_path.replace("\\", "/"))
        shape = parse_size(content.get("imageHeight"), content.get("imageWidth"))
        digest = content.get("content_sha256")
        uri, frame = parse_frame_name(name)
        labels.add_image(file, uri, frame, shape, digest if isinstance(digest, str) else "")
        for item, rows in _group_shapes(content["shapes"], file).items():
            try:
                label = rows[0].get("label")
                labels.add_object(file, item, _parse_outline(rows), label if isinstance(label, str) else "", item)
            except ValueError as error:
                labels.add_error(f"{item} {error}")
    return labels.list_micrographs()


def _group_shapes(shapes: Sequence, file: str) -> dict[str, list[Mapping]]:
    """The shapes of each object, by how errors name it."""
    objects: dict[str, list[Mapping]] = {}
    first_items: dict[tuple, str] = {}
    for k, row in enumerate(shapes):
        row = row if isinstance(row, Mapping) else {}
        item = f"shape {k} of {file}"
        group_id = row.get("group_id")
        if isinstance(group_id, int | str) and row.get("shape_type", "polygon") == "polygon":
            item = first_items.setdefault((str(row.get("label")), group_id), item)
        objects.setdefault(item, []).append(row)
    return objects


def _parse_outline(rows: Sequence[Mapping]) -> Outline:
    """The outline of an object; ValueError without the file's name."""
    kind = rows[0].get("shape_type") or "polygon"
    if kind == "polygon":
        return make_polygons([_parse_corners(row, 3) for row in rows])
    if kind == "point":
        x, y = _parse_corners(rows[0], 1)[0].tolist()
        return make_point(y, x)
    if kind not in ("circle", "rectangle", "mask"):
        raise ValueError(f"is a {format_value(kind)}: draw polygons, rectangles, circles, masks or points")
    points = _parse_corners(rows[0], 2)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return make_ellipse(points[0, 1], points[0, 0], radius, radius)
    x0, y0 = points.min(axis=0).tolist()
    x1, y1 = points.max(axis=0).tolist()
    return make_box(y0, x0, y1, x1) if kind == "rectangle" else make_mask(_decode_mask(rows[0], round(y0), round(x0)))


def _parse_corners(row: Mapping, n_min: int) -> np.ndarray:
    points = row.get("points")
    pairs = points if isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points) else []
    return parse_points([x for x, _ in pairs], [y for _, y in pairs], n_min)


def _decode_mask(row: Mapping, y0: int, x0: int) -> Mask | None:
    """The mask of a PNG in base64, whose first pixel is (y0, x0)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(row.get("mask") or "", validate=True))) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"has a mask that is no PNG ({type(error).__name__})") from error
    return (y0, x0, pixels) if pixels.any() else None
