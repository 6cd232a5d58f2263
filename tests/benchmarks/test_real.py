"""The evaluation on real images: which model judges which image, stored detections, and verdicts beside true F1."""

import argparse

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import real, real_calibration, real_detections, real_scores, real_triage
from benchmarks.studies.real_sets import CavityImage, RealImage
from benchmarks.studies.real_triage import TriageGroup
from emqa_dask.boxes import match_boxes
from emqa_dask.settings import load_settings, replace

BOXES = np.array([[30.0, 30, 54, 54], [80, 90, 104, 114]])


@pytest.fixture
def images(tmp_path):
    """Two images of two bright disks of 24 px, of sources of two folds. The labels of the second are elsewhere."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:144, :160]
    image = rng.normal(90, 4, (144, 160))
    for box in BOXES:
        image[(y + 0.5 - box[[0, 2]].mean()) ** 2 + (x + 0.5 - box[[1, 3]].mean()) ** 2 < 12**2] += 90
    rows = []
    for fold, boxes in enumerate((BOXES, BOXES[:, [1, 0, 3, 2]] * [0, 1, 0, 1] + [125, 0, 140, 0])):
        path = tmp_path / "set" / "images" / f"image{fold}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.clip(image + fold, 0, 255).astype(np.uint8))
        rows.append(RealImage("set", f"source{fold}", fold, path, image.shape, "particle", [], boxes, False))
    return rows


def test_an_image_is_judged_by_the_model_of_its_fold():
    models = real.split_by_fold(["1=one", "0=none", "everywhere=x", "cavity-tem"])
    assert models == {1: ["one"], 0: ["none"], real_scores.ALL_FOLDS: ["everywhere=x", "cavity-tem"]}
    judge = real_scores.Judge("folds", {k: real_detections.StudyDetector(v[0]) for k, v in models.items() if k >= 0})
    assert [getattr(judge.select_detector(fold), "name", None) for fold in range(3)] == ["none", "one", None]


def test_scores_of_images_and_stored_detections(images, tmp_path):
    judge = real_scores.Judge("log", {real_scores.ALL_FOLDS: real_detections.StudyDetector("log:nanoparticle-tem")})
    scores = real_scores.score_images(judge, images, tmp_path / "cache", 0.1, print)
    rows = scores.rows.set_index("fold")
    assert rows["n_true"].tolist() == [2, 2]
    assert rows.loc[0, "f1_iou_0.5"] >= 0.8
    assert rows.loc[1, "f1_iou_0.1"] == 0
    assert rows.loc[1, "missed"] == 2
    (file,) = (tmp_path / "cache").glob("*/image0-*.parquet")
    assert len(pd.read_parquet(file)) == rows.loc[0, "n_detections"]
    table = real_scores.summarise_sets(scores).set_index("fold")
    assert table.loc[real_scores.ALL_FOLDS, "f1_iou_0.5"] == pytest.approx(rows["f1_iou_0.5"].mean())
    assert table.loc[0, "n_images"] == 1


def test_archive_holds_the_images_of_a_set_alone(images, tmp_path):
    folder = real_triage.make_archive(tmp_path / "archive", [image.path for image in images])
    (folder / "other.png").write_bytes(b"")
    real_triage.make_archive(folder, [images[1].path])
    assert [path.name for path in folder.iterdir()] == ["image1.png"]


def test_verdicts_stand_beside_f1_of_their_detections(images, tmp_path):
    archive = real_triage.make_archive(tmp_path / "archive", [image.path for image in images])
    settings = replace(load_settings(template="nanoparticle-tem"), {"run": {"scheduler": "in-process"}})
    true = {images[0].path.name: images[0].boxes}
    rows = real_triage.triage_images(archive, tmp_path / "workspace", settings, true).set_index("uri")
    detected = real_detections.StudyDetector("log:nanoparticle-tem").detect(cv2.imread(str(images[0].path), 0))
    detected = detected.loc[detected["score"] >= 0.1, real_detections.CORNERS].to_numpy(float)
    assert rows.loc["image0.png", "true_f1"] == match_boxes(detected, BOXES, 0.1).f1
    assert rows.loc["image0.png", "best_f1"] == rows.loc["image0.png", "true_f1"]
    assert np.isnan(rows.loc["image1.png", "true_f1"])
    assert set(rows["verdict"]) <= {"trust", "review", "out_of_domain"}


def test_shares_of_flagged_images():
    rows = pd.DataFrame({"set": ["a", "a", "b", "b"], "flags": ["blur drift", "blur", "", "drift"]})
    flags = real_triage.summarise_flags(rows).set_index(["set", "flag"])["share"]
    assert flags.to_dict() == {("a", "blur"): 1.0, ("a", "drift"): 0.5, ("b", "drift"): 0.5}
    assert real_triage.summarise_flags(rows.assign(flags="")).empty


def test_settings_of_a_fold_name_its_models():
    options = argparse.Namespace(triage=["log", "folds"], quality=["log-synthetic", "1=model"], template="")
    settings = real.make_settings("particle", 1, {1: "network"}, options)
    assert settings.detect.detectors == ("log", "network")
    assert settings.predict.models == ("model", "log-synthetic")
    assert settings.detect.threshold == load_settings(template="nanoparticle-tem").detect.threshold
    options = argparse.Namespace(triage=["auto"], quality=[], template="cavity-tem")
    assert real.make_settings("particle", 1, {}, options).detect == load_settings(template="cavity-tem").detect


def test_runs_are_split_by_fold_where_models_are(images):
    cavity = CavityImage("uw_cavity/c.png", images[0].path, "family", 3.0, 0.5, 0.1)
    folder = f"others={images[0].path.parent}"
    groups = real.list_groups(images, [cavity], [folder], (1, 2))
    assert [(group.name, len(group.paths)) for group in groups] == [("set-1", 1), ("uw_cavity-1", 1), ("others-1", 2)]
    assert groups[0].sources == {"image1.png": "source1"}
    assert [group.name for group in real.list_groups(images, [cavity], [], ())] == ["set", "uw_cavity"]


def test_limited_images_are_spread_over_each_set():
    images = [("a", k) for k in range(9)] + [("b", k) for k in range(2)]
    assert real.limit_images(images, lambda image: image[0], 3) == [("a", 0), ("a", 4), ("a", 8), ("b", 0), ("b", 1)]
    assert real.limit_images(images, lambda image: image[0], 0) == images


def test_labels_of_some_images_as_coco(images):
    """Boxes are cut at the edges of the image of 144 x 160 px."""
    boxes = {images[0].path.name: np.array([[-2.0, 150, 10, 170]]), images[1].path.name: BOXES}
    group = TriageGroup("set", -1, "particle", [image.path for image in images], boxes, {})
    document = real_calibration.make_coco(group, group.paths)
    assert document["images"][0] == {"id": 1, "file_name": "image0.png", "height": 144, "width": 160}
    assert [row["bbox"] for row in document["annotations"]] == [[150, 0, 10, 10], [30, 30, 24, 24], [90, 80, 24, 24]]
    assert [row["image_id"] for row in document["annotations"]] == [1, 2, 2]
    assert not real_calibration.can_calibrate(group, 1)
    assert real_calibration.can_calibrate(group._replace(boxes={str(k): BOXES for k in range(12)}), 2)
