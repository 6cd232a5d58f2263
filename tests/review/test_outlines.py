"""Outlines of labelled objects: box, diameter and area of a mask, a polygon, an ellipse and a box."""

import json

import numpy as np
import pytest

from emqa_dask.review.labels.reading import read_labels
from emqa_dask.review.labels.shapes import draw_polygons, make_box, make_ellipse, make_mask, make_polygons


def disk(radius, size=41):
    y, x = np.mgrid[:size, :size] - size // 2
    return y**2 + x**2 <= radius**2


def test_a_mask_has_the_diameter_of_its_hull():
    outline = make_mask((5, 7, disk(15)))
    assert outline.area_px == disk(15).sum()
    assert outline.diameter_px == pytest.approx(30.6, abs=0.5)  # 30 px between the pixels' centres, 31 with them
    assert outline.box == (5, 7, 46, 48)


def test_a_box_alone_counts_as_the_ellipse_that_fills_it():
    outline = make_box(10, 20, 19, 24)
    assert outline.diameter_px == 6  # sqrt(9 * 4)
    assert outline.area_px == pytest.approx(np.pi * 4.5 * 2)


@pytest.mark.parametrize("angle", [0, 0.7])
def test_an_ellipse_has_its_own_size(angle):
    outline = make_ellipse(50.0, 60.0, 10.0, 20.0, angle)
    assert outline.diameter_px == pytest.approx(2 * np.sqrt(200))
    assert outline.area_px == pytest.approx(np.pi * 200)
    assert outline.mask[2].sum() == pytest.approx(np.pi * 200, rel=0.05)
    assert outline.box[2] - outline.box[0] == pytest.approx(20 if angle == 0 else 29.97, abs=0.01)


def test_a_polygon_has_the_pixels_inside():
    outline = make_polygons([np.array([[10.0, 5], [20, 5], [20, 12], [10, 12]])])
    assert outline.mask[:2] == (5, 10)
    assert outline.mask[2].shape == (7, 10)
    assert outline.area_px == 70
    assert draw_polygons([np.array([[3.1, 3.1], [3.2, 3.1], [3.2, 3.2]])]) is None


def test_labels_of_coco_have_sizes_masks_and_classes(tmp_path):
    counts = [10, 3, 5, 3, 5, 3]  # a square of 3 x 3 px, corner at row 2, column 1, in an image of 8 x 6 px
    counts.append(48 - sum(counts))
    content = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 8, "width": 6}],
        "annotations": [
            {"id": 4, "image_id": 1, "category_id": 2, "segmentation": {"size": [8, 6], "counts": counts}},
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 1]},
        ],
        "categories": [{"id": 2, "name": "cavity"}, {"id": 3, "name": "loop"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    (label,) = read_labels(tmp_path / "a.json")
    assert label.boxes.tolist() == [[2, 1, 5, 4], [0, 0, 1, 4]]
    assert label.areas_px.tolist() == [9, pytest.approx(np.pi)]
    assert label.diameters_px[1] == 2
    assert label.labels == ("cavity", "loop")
    assert label.ids == ("4", "5")
    assert label.masks[0][2].all()
    assert label.masks[1] is None


def test_repeated_objects_are_named(tmp_path):
    row = {"image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4]}
    content = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 8, "width": 6}],
        "annotations": [{"id": 4, **row}, {"id": 9, **row}, {"id": 10, **row, "bbox": [1, 1, 4, 3]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.json: annotation 9 repeats annotation 4$"):
        read_labels(tmp_path / "a.json")
