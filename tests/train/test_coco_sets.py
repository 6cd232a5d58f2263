"""COCO files: masks of every kind are read, and every fault is named with its file and annotation."""

import json

import numpy as np
import pytest

from emqa_dask.train import coco


def whole(mask, shape):
    y, x, pixels = mask
    image = np.zeros(shape, bool)
    image[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return image


def test_run_lengths_polygons_and_boxes_give_masks(disc_set):
    from pycocotools import mask as coco_mask

    file, folder, content = disc_set(2)
    pictures, classes = coco.read_coco_sets([(file, folder)])
    assert classes == ["disc"]
    assert [p.n_ellipses for p in pictures] == [0, 0]
    first = content["annotations"][0]
    expected = coco_mask.decode(first["segmentation"]).astype(bool)
    assert np.array_equal(whole(pictures[0].masks[0], (80, 80)), expected)
    edges = np.flatnonzero(np.diff(np.r_[0, expected.T.ravel(), 0]))
    first["segmentation"] = {"size": [80, 80], "counts": np.diff(np.r_[0, edges, 6400]).tolist()}
    x, y, w, h = content["annotations"][1]["bbox"]
    content["annotations"][1]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    del content["annotations"][2]["segmentation"]
    file.write_text(json.dumps(content))
    pictures, _ = coco.read_coco_sets([(file, folder)])
    runs, polygon, ellipse = pictures[0].masks
    assert np.array_equal(whole(runs, (80, 80)), expected)
    assert polygon[:2] == (y, x)
    assert polygon[2].all()
    assert polygon[2].shape == (h, w)
    x, y, w, h = content["annotations"][2]["bbox"]
    assert ellipse[:2] == (y, x)
    assert ellipse[2].shape == (h, w)
    assert ellipse[2].mean() == pytest.approx(np.pi / 4, abs=0.05)
    assert pictures[0].n_ellipses == 1


def test_sets_share_classes_by_name(disc_set):
    one = disc_set(1, "one")
    other = disc_set(1, "other")
    other[2]["categories"] = [{"id": 1, "name": "ring"}, {"id": 7, "name": "disc"}]
    other[2]["annotations"][0]["category_id"] = 1
    other[0].write_text(json.dumps(other[2]))
    pictures, classes = coco.read_coco_sets([one[:2], other[:2]])
    assert classes == ["disc", "ring"]
    assert pictures[0].labels == [1, 1, 1]
    assert pictures[1].labels == [2, 1, 1]


def _break(content, what):
    first = content["annotations"][0]
    if what == "image":
        content["images"][0]["file_name"] = "absent.png"
    elif what == "width":
        first["bbox"][2] = 0
    elif what == "id":
        content["annotations"][1]["id"] = 1
    elif what == "image id":
        content["images"][1]["id"] = 1
    elif what == "outside":
        first["bbox"] = [70, 10, 20, 10]
    elif what == "polygon outside":
        first["segmentation"] = [[70, 10, 95, 10, 70, 30]]
    elif what == "category":
        first["category_id"] = 3
    elif what == "unknown image":
        first["image_id"] = 99
    elif what == "nan":
        first["bbox"][0] = float("nan")
    elif what == "mask size":
        first["segmentation"]["size"] = [64, 64]
    elif what == "short runs":
        first["segmentation"] = {"size": [80, 80], "counts": [5, 5]}
    elif what == "empty mask":
        first["segmentation"] = {"size": [80, 80], "counts": [6400]}
    elif what == "two points":
        first["segmentation"] = [[1, 2, 3, 4]]
    elif what == "no boxes":
        del content["annotations"]
    elif what == "nothing":
        content["annotations"] = []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("image", r"1 images do not exist.*absent\.png"),
        ("width", "annotation 1: the box is 0 wide"),
        ("id", "annotation 1: the id occurs 2 times"),
        ("image id", "image 1: the id occurs 2 times"),
        ("outside", "annotation 1: its box .* reaches 10 px out of the image of 80 x 80 px"),
        ("polygon outside", "annotation 1: a polygon reaches 15 px out"),
        ("category", r"annotation 1: category 3 is not one of \[7\]"),
        ("unknown image", "annotation 1: its image 99 is not in the file"),
        ("nan", "annotation 1: bbox is"),
        ("mask size", r"annotation 1: its mask is of size \[64, 64\], the image \[80, 80\]"),
        ("short runs", "annotation 1: its run lengths add up to 10, the image has 6400 px"),
        ("empty mask", "annotation 1: its mask has no pixel"),
        ("two points", "annotation 1: its segmentation is neither"),
        ("no boxes", "not a COCO file of instances: it has no list 'annotations'"),
        ("nothing", "not one object"),
    ],
)
def test_a_fault_is_named_with_its_file(disc_set, what, said):
    file, folder, content = disc_set(2)
    _break(content, what)
    file.write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=r"labels\.json.*" + said):
        coco.read_coco_sets([(file, folder)])


def test_broken_json_is_named(disc_set):
    file, folder, _ = disc_set(1)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"labels\.json: not JSON"):
        coco.read_coco_sets([(file, folder)])


def test_a_box_may_be_rounded_beyond_its_image(disc_set):
    file, folder, content = disc_set(1)
    content["annotations"][0] = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [-0.5, 69.5, 10, 11]}
    file.write_text(json.dumps(content))
    y, x, pixels = coco.read_coco_sets([(file, folder)])[0][0].masks[0]
    assert x == 0
    assert y + pixels.shape[0] == 80
