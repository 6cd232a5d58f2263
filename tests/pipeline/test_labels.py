"""Odd COCO files, cards and lattices: one line that names the file and what to do."""

import json
import math
import re

import pytest

from emqa_dask.classify import card as classifier_card
from emqa_dask.detect.mask_rcnn import card as detector_card
from emqa_dask.pipeline.labels import read_labels
from emqa_dask.pipeline.training import import_detector
from emqa_dask.tune.lattice import read_lattice

IMAGE = {"id": 1, "file_name": "a.tif", "height": 8, "width": 9}
BOX = {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4]}
BROKEN_TOML = [b"a = \n", b"\xff\xfe", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000]


def refusal(read, path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        read(path)
    text = str(raised.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"3",
        b"[" * 100_000,
        b'{"images": 3, "annotations": []}',
        b'{"images": [3], "annotations": []}',
        b'{"images": [], "annotations": [3]}',
        json.dumps({"images": [IMAGE | {"id": [1]}], "annotations": []}).encode(),
        json.dumps({"images": [IMAGE | {"height": math.inf}], "annotations": []}).encode(),
        json.dumps({"images": [IMAGE | {"height": math.nan}], "annotations": []}).encode(),
        json.dumps({"images": [IMAGE | {"frame": [1]}], "annotations": []}).encode(),
        json.dumps({"images": [IMAGE | {"frame": "x"}], "annotations": []}).encode(),
    ],
)
def test_what_is_no_coco_is_one_line(tmp_path, data):
    (tmp_path / "labels.json").write_bytes(data)
    assert "export the labels again" in refusal(read_labels, tmp_path / "labels.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": [1]}, r"annotation 1 is of image [1]"),
        ({"image_id": {}}, "is of image {}"),
        ({"image_id": None}, "is of image None"),
        ({"bbox": [1, 2, 10**400, 4]}, "has no box"),
        ({"bbox": {"x": 1}}, "has no box"),
        ({"bbox": None}, "has no box"),
        ({"bbox": [1, 2, math.inf, 4]}, "has a box of inf x 4 px"),
        ({"id": [2], "image_id": 7}, "annotation [2] is of image 7"),
    ],
)
def test_odd_annotations_are_named(tmp_path, changes, message):
    (tmp_path / "labels.json").write_text(json.dumps({"images": [IMAGE], "annotations": [BOX | changes]}))
    assert message in refusal(read_labels, tmp_path / "labels.json")


def test_numbers_in_quotes_are_numbers(tmp_path):
    row = BOX | {"bbox": ["1", "2", "3", "4"]}
    (tmp_path / "labels.json").write_text(json.dumps({"images": [IMAGE], "annotations": [row]}))
    assert read_labels(tmp_path / "labels.json")[0].boxes.tolist() == [[2, 1, 6, 4]]


@pytest.mark.parametrize("data", BROKEN_TOML)
def test_broken_toml_is_named_whoever_reads_it(tmp_path, data):
    (tmp_path / "card.toml").write_bytes(data)
    for read in (classifier_card.read, detector_card.read):
        assert "card.toml: not valid TOML" in refusal(read, tmp_path)
    refusal(read_lattice, tmp_path / "card.toml")
    refusal(lambda path: import_detector("x.pth", "out", ["a"], None, str(path)), tmp_path / "card.toml")


@pytest.mark.parametrize(
    "ensemble", ["3", '"x"', "[]", "{ method = 3, members = 4 }", '{ method = "x", passes = "y" }']
)
def test_a_card_of_odd_types_is_named(tmp_path, ensemble):
    lines = ['task = "classification"', 'name = "a"', 'classes = ["a"]', f"ensemble = {ensemble}"]
    tables = ["[architecture]", "n_classes = 1", "[input]", "size_px = 64", "[files]", 'a = "0"']
    (tmp_path / "card.toml").write_text("\n".join([*lines, *tables]))
    refusal(classifier_card.read, tmp_path)


@pytest.mark.parametrize("text", ["crystal = 3", "crystal = []", "a_nm = 'x'", "count_per_um2 = []", "spacings_nm = 3"])
def test_a_lattice_of_odd_types_is_named(tmp_path, text):
    (tmp_path / "lattice.toml").write_text(text)
    refusal(read_lattice, tmp_path / "lattice.toml")
