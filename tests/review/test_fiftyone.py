"""The data set for FiftyOne: its files are those of a COCODetectionDataset, and FiftyOne imports it as documented."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emqa_dask.review.exports.fiftyone import write_fiftyone
from tests.review.exported import SHAPE, make_batch

ROOT = Path(__file__).parents[2]
# Another Python may have FiftyOne, whose dependencies are not ours: FIFTYONE_PYTHON=/path/to/python
PYTHON = os.environ.get("FIFTYONE_PYTHON", sys.executable)
PRINT_SAMPLES = """
rows = []
for sample in dataset:
    row = {name: sample[name] for name in ("uri", "frame", "micrograph_id", "verdict", "nm_per_pixel")}
    row["size"] = [sample.metadata.width, sample.metadata.height]
    for field in ("detections", "segmentations"):
        objects = sample[field].detections if dataset.has_field(field) and sample[field] else []
        row[field] = [
            {
                "label": o.label, "box": list(o.bounding_box), "score": o.confidence, "object": o["object"],
                "detector": o["detector"], "diameter_px": o["diameter_px"],
                "mask": None if o.mask is None else o.mask.astype(int).tolist(),
            }
            for o in objects
        ]
    rows.append(row)
print("SAMPLES" + json.dumps(rows))
fo.delete_dataset(dataset.name)
"""


def make_thumbnail():
    """A JPEG of half the size of the micrographs."""
    stream = io.BytesIO()
    Image.fromarray(np.full((SHAPE[0] // 2, SHAPE[1] // 2), 90, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def write_data_set(folder, has_masks=True):
    """The exported batch and its masks; the data set is in `folder`."""
    folder.mkdir(parents=True)
    batch, masks = make_batch(has_masks=has_masks)
    batch = batch._replace(thumbnails=(make_thumbnail(),) * 3)
    write_fiftyone([batch], folder)
    return batch, masks


def read_documented_import():
    """The Python block of the documentation that imports the data set."""
    text = (ROOT / "docs" / "how-to" / "labels-and-exports.md").read_text()
    block = text[text.index("import json\nfrom pathlib") :]
    return block[: block.index("```")]


def test_files_are_those_of_a_coco_data_set(tmp_path):
    batch, masks = write_data_set(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "labels.json"]
    content = json.loads((tmp_path / "out" / "labels.json").read_text())
    names = {image["file_name"] for image in content["images"]}
    assert {path.name for path in (tmp_path / "out" / "data").iterdir()} == names
    assert names == {f"{key}.jpg" for key in batch.images["micrograph_id"].to_pylist()}
    numbers = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    assert len(content["annotations"]) == len(masks)
    for annotation in content["annotations"]:
        assert annotation["image_id"] in numbers
        assert annotation["category_id"] in categories
        assert annotation["segmentation"]["size"] == list(SHAPE)
    for image in content["images"]:
        assert (image["height"], image["width"]) == SHAPE
        assert {"uri", "frame", "micrograph_id", "verdict", "nm_per_pixel"} <= set(image)


def test_micrograph_without_thumbnail_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    batch, _ = make_batch()
    with pytest.raises(ValueError, match=f"micrograph {1:032x} has no thumbnail"):
        write_fiftyone([batch._replace(thumbnails=(b"jpeg", None, b"jpeg"))], tmp_path / "out")


def import_data_set(folder):
    """The samples that FiftyOne has after the documented import of session.emqa/exports/fiftyone in `folder`."""
    code = f"{read_documented_import()}\n{PRINT_SAMPLES}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"FIFTYONE_DO_NOT_TRACK": "1", "HOME": str(folder / "home")}
    (folder / "home").mkdir()
    has_package = subprocess.run([PYTHON, "-c", "import fiftyone, pycocotools"], capture_output=True, env=environment)
    if has_package.returncode and b"ModuleNotFoundError" in has_package.stderr:
        pytest.skip("fiftyone and pycocotools are not installed (pip install fiftyone pycocotools; FIFTYONE_PYTHON)")
    if has_package.returncode:
        pytest.skip("fiftyone has no MongoDB (install mongod, or set FIFTYONE_DATABASE_URI)")
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("SAMPLES")[1])


@pytest.mark.parametrize("has_masks", [True, False])
def test_fiftyone_imports_ids_boxes_masks_and_pixel_sizes(tmp_path, has_masks):
    batch, masks = write_data_set(tmp_path / "session.emqa" / "exports" / "fiftyone", has_masks)
    samples = {sample["micrograph_id"]: sample for sample in import_data_set(tmp_path)}
    images = batch.images.to_pylist()
    assert list(samples) == [image["micrograph_id"] for image in images]
    objects = batch.objects.to_pylist()
    for number, image in enumerate(images):
        sample = samples[image["micrograph_id"]]
        assert [sample[name] for name in ("uri", "frame", "verdict")] == [image["uri"], 0, "trust"]
        assert sample["nm_per_pixel"] == (None if np.isnan(image["nm_per_pixel"]) else image["nm_per_pixel"])
        assert sample["size"] == [SHAPE[1], SHAPE[0]]
        own = [(k, row) for k, row in enumerate(objects) if row["image"] == number]
        assert len(sample["detections"]) == len(own)
        assert len(sample["segmentations"]) == (len(own) if has_masks else 0)
        for found, (_, row) in zip(sample["detections"], own, strict=True):
            check_object(found, row)
        for found, (k, row) in zip(sample["segmentations"], own if has_masks else [], strict=True):
            check_object(found, row)
            y0, x0, y1, x1 = (round(row[name]) for name in ("y0", "x0", "y1", "x1"))
            assert (np.array(found["mask"]) == masks[k][y0:y1, x0:x1]).all()
            assert masks[k][y0:y1, x0:x1].sum() == masks[k].sum()


def check_object(found, row):
    """The box is relative to the size of the micrograph."""
    x, y, width, height = np.array(found["box"]) * np.tile(SHAPE[::-1], 2)
    assert (x, y) == pytest.approx((row["x0"], row["y0"]), abs=1e-3)
    assert (x + width, y + height) == pytest.approx((row["x1"], row["y1"]), abs=1e-3)
    assert found["label"] == (row["label"] or "object")
    assert found["score"] == pytest.approx(row["score"], rel=1e-6)
    assert found["diameter_px"] == pytest.approx(row["diameter_px"], rel=1e-6)
    assert (found["object"], found["detector"]) == (row["object"], row["detector"])
