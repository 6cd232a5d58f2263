"""COCO JSON with its images, checked before anything is trained: every error names the file and the annotation."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emqa_dask.coco.masks import TOLERANCE_PX, AnnotationErrorMaker, Mask, decode_mask, draw_ellipse
from emqa_dask.coco.values import (
    format_value,
    index_by_id,
    is_id,
    parse_file_name,
    parse_numbers,
    parse_shape,
    read_lists,
)


class LabelledImage(NamedTuple):
    """An image of a COCO set and its objects."""

    path: Path
    shape: tuple[int, int]  # px, as the set states
    masks: list[Mask]
    labels: list[int]  # from 1, numbers in the list of classes
    n_ellipses: int  # of the masks, how many are a box's inscribed ellipse
    n_crowds: int  # annotations of crowds, left out


def read_coco_sets(sets: Iterable[tuple[Path, Path]]) -> tuple[list[LabelledImage], list[str]]:
    """Images of every (COCO file, folder of its images), and the classes' names in the order they first appear.

    Masks come from polygons or run lengths (compressed or not); an annotation with a box alone gets the ellipse that
    fills it. Raises ValueError for JSON that is no COCO, ids that occur twice, unknown images and categories, boxes
    without width or height, boxes and polygons outside their image, and masks without a pixel; FileNotFoundError for
    images that do not exist. Images are not opened here.
    """
    images = []
    classes = []
    for file, folder in sets:
        images += _read_set(Path(file), Path(folder), classes)
    if not any(image.masks for image in images):
        raise ValueError(f"{', '.join(str(file) for file, _ in sets) or 'no set'}: not one object to learn from")
    return images, classes


def _read_set(file: Path, folder: Path, classes: list[str]) -> list[LabelledImage]:
    """Images of one set; class names that are new are added to `classes`."""
    image_rows, annotation_rows, category_rows = read_lists(file, ("images", "annotations", "categories"))
    names = {row["id"]: str(row["name"]) for row in index_by_id(category_rows, "category", ("name",), file).values()}
    images = _list_images(file, folder, image_rows)
    annotations = index_by_id(annotation_rows, "annotation", (), file).values()
    classes += [name for name in dict.fromkeys(names.values()) if name not in classes]
    class_numbers = {key: classes.index(name) + 1 for key, name in names.items()}
    for row in annotations:
        make_error = AnnotationErrorMaker(file, f"annotation {row['id']}")
        _check_keys(row, images, class_numbers, make_error)
        images[row["image_id"]] = _add_annotation(images[row["image_id"]], row, class_numbers, make_error)
    return list(images.values())


def _list_images(file: Path, folder: Path, rows: list) -> dict[Hashable, LabelledImage]:
    """Images by their ids, without objects; FileNotFoundError for files that do not exist."""
    images = index_by_id(rows, "image", ("height", "width", "file_name"), file)
    shapes = {key: parse_shape(row, file) for key, row in images.items()}
    paths = {key: folder / parse_file_name(row, file) for key, row in images.items()}
    absent = [str(path) for path in paths.values() if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{file}: {len(absent)} images do not exist under {folder}, first {absent[0]}")
    return {key: LabelledImage(path, shapes[key], [], [], 0, 0) for key, path in paths.items()}


def _check_keys(row: dict, images: Mapping, class_numbers: Mapping, make_error: AnnotationErrorMaker) -> None:
    """Raises ValueError for an annotation of an unknown image or category."""
    image_id = row.get("image_id")
    if not is_id(image_id) or image_id not in images:
        raise make_error(f"its image {format_value(image_id)} is not in the file")
    category_id = row.get("category_id")
    if not is_id(category_id) or category_id not in class_numbers:
        first_categories = format_value(list(class_numbers)[:10])
        raise make_error(f"category {format_value(category_id)} is not one of {first_categories}")


def _add_annotation(
    image: LabelledImage, row: dict, class_numbers: Mapping, make_error: AnnotationErrorMaker
) -> LabelledImage:
    """The image with one more object, or one more crowd that is left out."""
    if row.get("iscrowd"):
        return image._replace(n_crowds=image.n_crowds + 1)
    box = _check_box(row, image.shape, make_error)
    segmentation = row.get("segmentation")
    if segmentation:
        image.masks.append(decode_mask(segmentation, image.shape, make_error))
    else:
        image.masks.append(draw_ellipse(box, image.shape, make_error))
    image.labels.append(class_numbers[row["category_id"]])
    return image if segmentation else image._replace(n_ellipses=image.n_ellipses + 1)


def _check_box(row: dict, shape: tuple[int, int], make_error: AnnotationErrorMaker) -> np.ndarray:
    """The annotation's x, y, width and height as float64."""
    box = parse_numbers(row.get("bbox"))
    if box is None or box.shape != (4,):
        raise make_error(f"bbox is {format_value(row.get('bbox'))}: it has to be x, y, width, height")
    if (box[2:] <= 0).any():
        raise make_error(f"the box is {box[2]:g} wide and {box[3]:g} high; remove it or correct it")
    excess_px = max(-box[0], -box[1], box[0] + box[2] - shape[1], box[1] + box[3] - shape[0])
    if excess_px > TOLERANCE_PX:
        raise make_error(
            f"its box {box.tolist()} reaches {excess_px:g} px out of the image of {shape[1]} x {shape[0]} px"
        )
    return box
