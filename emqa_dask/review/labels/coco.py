"""Labels of COCO JSON: boxes, polygons and run lengths."""

from collections.abc import Mapping
from pathlib import Path

from emqa_dask.coco import values as coco
from emqa_dask.coco.masks import AnnotationErrorMaker, decode_mask
from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.shapes import Outline, make_box, make_mask

MAX_FRAME = 2**31  # frames are 32-bit numbers in the tables


def read_coco(content: object, path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of the COCO file `path`, whose JSON is `content`.

    Also images without an object; crowds are left out. An image may have the keys `frame`, the number of the frame in
    its file (0), and `content_sha256`. An annotation with a segmentation alone has the box of its mask. Raises
    ValueError, naming the file and the annotation, for content that is no COCO, ids that occur twice, unknown images,
    and boxes without width or height, outside their image, or repeated.
    """
    image_rows, annotation_rows = coco.select_lists(content, ("images", "annotations"), path)
    images = coco.index_by_id(image_rows, "image", ("height", "width", "file_name"), path)
    names = _list_category_names(content, path)
    labels = LabelCollection(path)
    shapes = {}
    for key, row in images.items():
        shapes[key] = coco.parse_shape(row, path)
        if _has_bad_frame(row):
            labels.add_error(f"image {key!r} has the frame {coco.format_value(row['frame'])}")
        content_sha256 = row.get("content_sha256")
        digest = content_sha256 if isinstance(content_sha256, str) else ""
        labels.add_image(key, coco.parse_file_name(row, path), row.get("frame", 0), shapes[key], digest)
    for key, row in coco.index_by_id(annotation_rows, "annotation", (), path).items():
        item = f"annotation {coco.format_value(key)}"
        image_id = row.get("image_id")
        if not coco.is_id(image_id) or image_id not in images:
            labels.add_error(f"{item} is of image {coco.format_value(image_id)}, which the file does not list")
        elif row.get("iscrowd", 0):
            labels.add_crowd(image_id)
        elif outline := _parse_outline(row, shapes[image_id], path):
            category_id = row.get("category_id")
            label = names.get(category_id, "") if coco.is_id(category_id) else ""
            labels.add_object(image_id, item, outline, label, str(row.get("object", key)))
        else:
            box = coco.format_value(row.get("bbox"))
            labels.add_error(f"{item} has no box: bbox is {box}, not x, y, width, height")
    return labels.list_micrographs()


def _list_category_names(content: Mapping, path: str | Path) -> dict:
    """Names of the categories by their ids; none where the file has no list of them."""
    rows = content.get("categories")
    if not isinstance(rows, list):
        return {}
    return {key: str(row["name"]) for key, row in coco.index_by_id(rows, "category", ("name",), path).items()}


def _parse_outline(row: Mapping, shape: tuple[int, int], path: str | Path) -> Outline | None:
    """Box and mask of an annotation; None without a box or mask, ValueError for a damaged mask."""
    sides = coco.parse_numbers(row.get("bbox"))
    has_box = sides is not None and len(sides) == 4
    if row.get("bbox") and not has_box:
        return None
    box = None
    if has_box:
        x, y = sides[:2].tolist()
        width, height = sides[2:].tolist()
        box = (y, x, y + height, x + width)
    if row.get("segmentation"):
        make_error = AnnotationErrorMaker(Path(path), f"annotation {coco.format_value(row['id'])}")
        return make_mask(decode_mask(row["segmentation"], shape, make_error), box)
    return None if box is None else make_box(*box)


def _has_bad_frame(image: Mapping) -> bool:
    frame = image.get("frame", 0)
    return isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < MAX_FRAME
