"""COCO JSON with its images, checked before anything is trained: every error names the file and the annotation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emqa_dask.train.augment import Mask
from emqa_dask.train.coco_json import (
    format_value,
    index_by_id,
    is_id,
    parse_file_name,
    parse_numbers,
    parse_shape,
    read_lists,
)

TOLERANCE_PX = 1.0  # what a box may stick out of its image by, as rounded coordinates do


class LabelledImage(NamedTuple):
    """An image of a set and its objects."""

    path: Path
    shape: tuple[int, int]  # px, as the set says
    masks: list[Mask]
    labels: list[int]  # from 1, places in the list of classes
    n_ellipses: int  # of the masks, how many are a box's inscribed ellipse
    n_crowds: int  # annotations of crowds, left out


class _Refusal:
    """Errors of one file, each with its place in front."""

    def __init__(self, file: Path):
        self.file = file

    def __call__(self, place: str, text: str) -> ValueError:
        return ValueError(f"{self.file}: {place}: {text}")


def read_coco_sets(sets: Iterable[tuple[Path, Path]]) -> tuple[list[LabelledImage], list[str]]:
    """Pictures of every (COCO file, folder of its images), and the classes' names in the order they first appear.

    Masks come from polygons or run lengths (compressed or not); an annotation with a box alone gets the ellipse that
    fills it. Raises ValueError for JSON that is no COCO, ids that occur twice, unknown images and categories, boxes
    without width or height, boxes and polygons outside their image, and masks without a pixel; FileNotFoundError for
    images that do not exist. Images are not opened here.
    """
    pictures = []
    classes = []
    for file, folder in sets:
        pictures += _read_set(Path(file), Path(folder), classes)
    if not any(picture.masks for picture in pictures):
        raise ValueError(f"{', '.join(str(file) for file, _ in sets) or 'no set'}: not one object to learn from")
    return pictures, classes


def _read_set(file: Path, folder: Path, classes: list[str]) -> list[LabelledImage]:
    refuse = _Refusal(file)
    image_list, annotation_list, categories = read_lists(file, ("images", "annotations", "categories"))
    names = {row["id"]: str(row["name"]) for row in index_by_id(categories, "category", ("name",), file).values()}
    images = index_by_id(image_list, "image", ("height", "width", "file_name"), file)
    shapes = {key: parse_shape(row, file) for key, row in images.items()}
    places = {key: folder / parse_file_name(row, file) for key, row in images.items()}
    annotations = index_by_id(annotation_list, "annotation", (), file).values()
    absent = [str(path) for path in places.values() if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{file}: {len(absent)} images do not exist under {folder}, first {absent[0]}")
    classes += [name for name in dict.fromkeys(names.values()) if name not in classes]
    found = {key: LabelledImage(path, shapes[key], [], [], 0, 0) for key, path in places.items()}
    for row in annotations:
        place = f"annotation {row['id']}"
        if not is_id(row.get("image_id")) or row["image_id"] not in found:
            raise refuse(place, f"its image {format_value(row.get('image_id'))} is not in the file")
        picture = found[row["image_id"]]
        if not is_id(row.get("category_id")) or row["category_id"] not in names:
            known = format_value(list(names)[:10])
            raise refuse(place, f"category {format_value(row.get('category_id'))} is not one of {known}")
        if row.get("iscrowd"):
            found[row["image_id"]] = picture._replace(n_crowds=picture.n_crowds + 1)
            continue
        box = _check_box(row, picture.shape, place, refuse)
        segmentation = row.get("segmentation")
        picture.masks.append(
            _decode_mask(segmentation, picture.shape, place, refuse)
            if segmentation
            else _draw_ellipse(box, picture.shape, place, refuse)
        )
        picture.labels.append(classes.index(names[row["category_id"]]) + 1)
        if not segmentation:
            found[row["image_id"]] = picture._replace(n_ellipses=picture.n_ellipses + 1)
    return list(found.values())


def _check_box(row: dict, shape: tuple[int, int], place: str, refuse: _Refusal) -> np.ndarray:
    """The annotation's x, y, width and height as float64."""
    box = parse_numbers(row.get("bbox"))
    if box is None or box.shape != (4,):
        raise refuse(place, f"bbox is {format_value(row.get('bbox'))}: it has to be x, y, width, height")
    if (box[2:] <= 0).any():
        raise refuse(place, f"the box is {box[2]:g} wide and {box[3]:g} high; remove it or correct it")
    over = max(-box[0], -box[1], box[0] + box[2] - shape[1], box[1] + box[3] - shape[0])
    if over > TOLERANCE_PX:
        raise refuse(
            place, f"its box {box.tolist()} reaches {over:g} px out of the image of {shape[1]} x {shape[0]} px"
        )
    return box


def _decode_mask(segmentation, shape: tuple[int, int], place: str, refuse: _Refusal) -> Mask:
    """The mask of polygons or run lengths, cut to its object."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, list) or size != list(shape):
            raise refuse(place, f"its mask is of size {format_value(size)}, the image {list(shape)} (height, width)")
        counts = segmentation.get("counts")
        if isinstance(counts, list):
            if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts):
                raise refuse(place, "its run lengths are not all whole numbers from 0")
            if sum(counts) != shape[0] * shape[1]:
                raise refuse(place, f"its run lengths add up to {sum(counts)}, the image has {shape[0] * shape[1]} px")
            rle = coco_mask.frPyObjects(segmentation, *shape)
        elif isinstance(counts, str):
            if count_run_length_pixels(counts) != shape[0] * shape[1]:
                raise refuse(place, f"its compressed run lengths do not make {shape[0] * shape[1]} px: it is damaged")
            rle = {"size": list(shape), "counts": counts.encode()}
        else:
            raise refuse(place, "its mask has no counts")
    elif isinstance(segmentation, list) and all(_is_polygon(points) for points in segmentation):
        points = np.concatenate([parse_numbers(p).reshape(-1, 2) for p in segmentation])
        over = max((-points).max(), (points - np.array(shape[::-1])).max())
        if not over <= TOLERANCE_PX:
            raise refuse(place, f"a polygon reaches {over:g} px out of the image of {shape[1]} x {shape[0]} px")
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *shape))
    else:
        raise refuse(place, "its segmentation is neither run lengths nor polygons of three points or more")
    return _trim_mask(0, 0, coco_mask.decode(rle).astype(bool), place, refuse)


def _is_polygon(points) -> bool:
    return isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0 and parse_numbers(points) is not None


def count_run_length_pixels(text: str) -> int:
    """How many pixels the compressed run lengths of COCO make; -1 for a text that is none.

    pycocotools reads and writes beyond the end of a mask whose run lengths are too many. A run is letters of six bits,
    five of them the number's and one that says that more follow; from the third on it is the difference to the last
    but one.
    """
    runs: list[int] = []
    value = 0
    shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            if runs[-1] < 0:
                return -1
            value = 0
            shift = 0
    return -1 if shift else sum(runs)


def _draw_ellipse(box: Sequence[float], shape: tuple[int, int], place: str, refuse: _Refusal) -> Mask:
    """The ellipse inscribed in a box: pixels whose centres lie in it, at least the one in the middle."""
    x, y, width, height = box
    y0, x0 = max(0, int(np.floor(y))), max(0, int(np.floor(x)))
    y1, x1 = min(shape[0], int(np.ceil(y + height))), min(shape[1], int(np.ceil(x + width)))
    down = (np.arange(y0, y1) + 0.5 - y - height / 2) / (height / 2)
    along = (np.arange(x0, x1) + 0.5 - x - width / 2) / (width / 2)
    inside = down[:, None] ** 2 + along[None] ** 2 <= 1
    if inside.size and not inside.any():
        inside[inside.shape[0] // 2, inside.shape[1] // 2] = True
    return _trim_mask(y0, x0, inside, place, refuse)


def _trim_mask(y0: int, x0: int, inside: np.ndarray, place: str, refuse: _Refusal) -> Mask:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if rows.size == 0:
        raise refuse(place, "its mask has no pixel in the image")
    top, left = int(rows[0]), int(columns[0])
    return y0 + top, x0 + left, inside[top : rows[-1] + 1, left : columns[-1] + 1].copy()
