"""Several detectors side by side, calibration on labels, rescoring: laws of whole runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import models, tables
from emqa_dask.featurise.detector_agreement import compute_agreement
from emqa_dask.pipeline.commands.calibrate import calibrate
from emqa_dask.pipeline.commands.rescore import rescore
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.review.labels.reading import read_labels
from emqa_dask.settings import Settings, SettingsError, replace
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.detector_choice import select_detector
from tests.detect.conftest import SMALL, write_model


def quiet(*_) -> None:
    pass


def table(root, name: str, settings) -> pd.DataFrame:
    return parts.read_table(str(root), list_run_folders(settings)[name], SCHEMAS[name])


@pytest.fixture(scope="module")
def both(in_process, tmp_path_factory):
    """Settings of a run with the LoG and a small network of random weights."""
    model = tmp_path_factory.mktemp("models") / "small"
    write_model(model, SMALL)
    return replace(in_process, {"detect": {"detectors": ["log", str(model)]}, "run": {"batch_size": 3}})


@pytest.fixture(scope="module")
def done(small_archive, both, tmp_path_factory):
    root = tmp_path_factory.mktemp("detectors") / "ws"
    assert run(str(small_archive), str(root), both, say=quiet) == 0
    return root


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "ws")


def test_every_image_has_evidence_of_every_detector(done, both):
    evidence = table(done, "evidence", both)
    features = table(done, "features", both)
    assert set(evidence["detector"]) == {"log", "small"}
    assert sorted(evidence["micrograph_id"]) == sorted(list(features["micrograph_id"]) * 2)
    found = table(done, "detections", both)
    kept = found[found["score"] >= both.featurise.score_floor]
    counts = kept.groupby(["micrograph_id", "detector"]).size()
    known = evidence.set_index(["micrograph_id", "detector"])["n_detections"]
    assert (known == counts.reindex(known.index, fill_value=0)).all()
    assert evidence["detector_agreement"].between(0, 1).all()


def test_every_image_has_the_embedding_of_every_network(done, both):
    embeddings = table(done, "embeddings", both)
    ids = sorted(table(done, "features", both)["micrograph_id"])
    lengths = {"small": 2 * (64 + 128 + 256 + 512), "content": 128, "object-kinds": 5}
    for name, rows in embeddings.groupby("detector"):
        assert sorted(rows["micrograph_id"]) == ids
        assert set(map(len, rows["embedding"])) <= {0, lengths.pop(name)}  # 0: a blank image
    assert not lengths


def test_lost_embeddings_are_made_again_from_stored_pixels(done, both, copy, small_archive):
    shutil.rmtree(copy / list_run_folders(both)["embeddings"])
    before = {path.name: path.stat().st_mtime_ns for path in (copy / list_run_folders(both)["detections"]).iterdir()}
    assert run(str(small_archive), str(copy), both, say=quiet) == 0
    pd.testing.assert_frame_equal(table(copy, "embeddings", both), table(done, "embeddings", both), rtol=1e-5)
    after = {path.name: path.stat().st_mtime_ns for path in (copy / list_run_folders(both)["detections"]).iterdir()}
    assert before == after


def test_a_detector_beside_it_changes_nothing_of_another(done, both, in_process, small_archive, tmp_path):
    assert run(str(small_archive), str(tmp_path / "ws"), in_process, say=quiet) == 0
    alone = table(tmp_path / "ws", "detections", in_process)
    beside = table(done, "detections", both)
    beside = beside[beside["detector"] == "log"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, beside)
    assert table(tmp_path / "ws", "evidence", in_process)["detector_agreement"].isna().all()


def test_batches_change_nothing(done, both, small_archive, tmp_path):
    one = replace(both, {"run": {"batch_size": 1}})
    assert run(str(small_archive), str(tmp_path / "ws"), one, say=quiet) == 0
    a = table(done, "detections", both)
    b = table(tmp_path / "ws", "detections", one)
    assert list(a["micrograph_id"]) == list(b["micrograph_id"])
    for name in ("score", "y0", "x0", "y1", "x1", "area_px"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=2e-3)


def test_a_model_that_was_moved_is_still_the_same(both, tmp_path):
    moved = shutil.copytree(both.detect.networks[0], tmp_path / "elsewhere")
    other = replace(both, {"detect": {"detectors": ["log", str(moved)]}})
    assert list_run_folders(other) == list_run_folders(both)
    card = (moved / "card.toml").read_text()
    (moved / "card.toml").write_text(card.replace('licence = "MIT"', 'licence = "none"'))
    assert list_run_folders(other)["detections"] != list_run_folders(both)["detections"]


def test_a_detector_without_a_model_is_not_judged(done, both):
    predictions = table(done, "predictions", both)
    none = predictions[predictions["detector"] == "small"]
    assert set(none["evidence"]) == {"no_model"}
    assert none["predicted_f1"].isna().all()
    rows = pd.read_parquet(Workspace(str(done)).triage)
    assert set(rows["detector"].dropna()) == {"log"}


def test_another_score_floor_needs_no_pixel(copy, both, small_archive, tmp_path):
    """Without the pixels rescoring gives what a run with those settings from the start gives."""
    shutil.rmtree(copy / "micrographs.zarr")
    changed = replace(both, {"triage": {"trust_f1": 0.3}})
    assert rescore(str(copy), changed, say=quiet) == 0
    fresh = tmp_path / "fresh"
    assert run(str(small_archive), str(fresh), changed, say=quiet) == 0
    one, other = (pd.read_parquet(Workspace(str(root)).triage) for root in (copy, fresh))
    pd.testing.assert_frame_equal(one, other)
    floor = replace(both, {"featurise": {"score_floor": 0.3}, "predict": {"models": [str(_at_floor(tmp_path, 0.3))]}})
    assert rescore(str(copy), floor, say=quiet) == 0
    assert set(table(copy, "evidence", floor)["score_floor"]) == {0.3}


def _at_floor(folder, floor: float):
    """The bundled model, said to be for another score floor."""
    out = shutil.copytree(models.locate_model("log-synthetic"), folder / "forest")
    card = models.load_model_card(out)
    card["forest"]["score_floor"] = floor
    models.write_model_card(out, {key: value for key, value in card.items() if key != "files"})
    return out


def test_rescoring_refuses_what_takes_pixels(copy, both):
    with pytest.raises(SettingsError, match="detections"):
        rescore(str(copy), replace(both, {"detect": {"threshold": 0.3}}), say=quiet)
    name = parts.list_parts(str(copy), list_run_folders(both)["features"])[0]
    (copy / list_run_folders(both)["features"] / f"{name}.parquet").unlink()
    with pytest.raises(ValueError, match=r"1 partitions of .* lack"):
        rescore(str(copy), both, say=quiet)


def coco(path, archive_truth, **changes) -> str:
    content = json.loads(archive_truth.read_text()) | changes
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture(scope="module")
def truth(small_archive):
    return small_archive.parent / f"{small_archive.name}.truth" / "annotations.json"


def test_calibration_chooses_and_later_runs_use_it(copy, both, truth):
    pixels = copy / "micrographs.zarr"
    shutil.rmtree(pixels)
    said: list[str] = []
    assert calibrate(str(copy), str(truth), both, say=said.append) == 0
    settings = stored_settings.read_settings(str(copy))
    folder = Path(settings.predict.models[0])
    assert settings.predict.models[1:] == ("cavity-tem-f1", "em-objects-f1")  # of detectors that this run does not have
    model = load_quality_model(folder)
    assert folder == copy / "models" / model.detector
    assert (model.score_floor, model.iou_threshold) == (settings.featurise.score_floor, 0.1)  # IoU of log-f1
    text = "\n".join(said)
    assert f"detector: {model.detector} at score floor {model.score_floor:g}" in text
    assert "too few labels for a claim" in text
    card = models.load_model_card(folder)
    assert {"random", "grouped_by_image"} <= set(card["measured"])
    assert all(0 <= measures["coverage"] <= 1 for measures in card["measured"].values())
    assert card["trust"]["limit"] == pytest.approx(settings.triage.trust_probability, abs=1e-4)
    assert rescore(str(copy), settings, say=quiet) == 0
    predictions = table(copy, "predictions", settings)
    judged = predictions[predictions["evidence"] == "detections"]
    assert set(judged["detector"]) == {model.detector}
    assert judged[["predicted_precision", "predicted_recall"]].notna().all(axis=None)
    again = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert calibrate(str(copy), str(truth), settings, say=quiet) == 0  # the base is that of the first time
    assert {p.name for p in folder.iterdir()} == set(again)
    assert models.load_model_card(folder)["base_model"] == card["base_model"]
    assert calibrate(str(copy), str(truth), both, say=quiet) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == again


@pytest.mark.parametrize("kind", ["points", "counts"])
def test_calibration_takes_points_and_counts(copy, both, truth, tmp_path, kind):
    content = json.loads(truth.read_text())
    lines = ["uri,frame,y,x" if kind == "points" else "uri,frame,n_objects"]
    for image in content["images"]:
        boxes = [row["bbox"] for row in content["annotations"] if row["image_id"] == image["id"]]
        start = f"{image['file_name']},{image['frame']}"
        if kind == "counts":
            lines.append(f"{start},{len(boxes)}")
        else:
            lines += [f"{start},{y + height / 2},{x + width / 2}" for x, y, width, height in boxes] or [f"{start},,"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    said: list[str] = []
    assert calibrate(str(copy), str(tmp_path / "labels.csv"), both, say=said.append) == 0
    assert f"objects ({kind})" in said[0]
    model = load_quality_model(stored_settings.read_settings(str(copy)).predict.models[0])
    assert model.rule == kind
    assert set(model.targets) == ({"f1"} if kind == "counts" else {"f1", "precision", "recall"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": [{"id": 1, "file_name": "of another run.tif", "height": 8, "width": 8}], "annotations": []},
         "'of another run.tif' is not in the workspace"),
        ({"images": []}, "which the file does not list"),
        ({"annotations": None}, "not a COCO file"),
    ],
)  # fmt: skip
def test_labels_of_others_are_named_and_nothing_is_written(copy, both, truth, tmp_path, change, named):
    before = (copy / "settings.toml").read_bytes()
    with pytest.raises(ValueError, match=named):
        calibrate(str(copy), coco(tmp_path / "labels.json", truth, **change), both, say=quiet)
    assert (copy / "settings.toml").read_bytes() == before
    assert not (copy / "models").exists()


@pytest.mark.parametrize(
    ("box", "named"),
    [([1, 1, 0, 5], "box of 0 x 5"), ([-9, 0, 20, 5], "outside its image"), ([1, 2, 3], "no box"), (None, "no box")],
)
def test_bad_boxes_are_named(tmp_path, box, named):
    image = {"id": 1, "file_name": "a.tif", "height": 20, "width": 20}
    content = {"images": [image], "annotations": [{"id": 7, "image_id": 1, "bbox": box}]}
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"annotation 7 .*{named}"):
        read_labels(tmp_path / "l.json")
    content["annotations"] = [{"id": 7, "image_id": 1, "bbox": [1, 1, 2, 2]}] * 2
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation 7: the id occurs 2 times"):
        read_labels(tmp_path / "l.json")


def test_agreement_is_one_for_equals_and_symmetric():
    one = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    assert compute_agreement({"a": one, "b": one[::-1]}) == {"a": 1.0, "b": 1.0}
    assert compute_agreement({"a": one, "b": one[:1]})["a"] == pytest.approx(2 / 3)
    assert compute_agreement({"a": one[:0], "b": one[:0]}) == {"a": 1.0, "b": 1.0}
    assert np.isnan(compute_agreement({"a": one})["a"])
    three = compute_agreement({"a": one, "b": one, "c": one + 100})
    assert three == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_the_verdict_uses_the_more_trusted_detector():
    evidence = pd.DataFrame({"micrograph_id": list("aabbccdd"), "detector": ["log", "net"] * 4, "n_detections": 1.0})
    predictions = tables.empty(tables.PREDICTIONS).reindex(range(8)).drop(columns=["micrograph_id", "detector"])
    predictions = pd.concat([evidence[["micrograph_id", "detector"]], predictions], axis=1)
    predictions["predicted_f1_low"] = [0.2, 0.6, 0.6, 0.9, np.nan, 0.1, np.nan, np.nan]
    predictions["ood_distance"] = [0.5, 0.5, 0.5, 1.5, 0.5, 0.5, 0.5, 0.5]
    one = select_detector(evidence, predictions, ["log", "net"], 1.0).set_index("micrograph_id")["detector"]
    assert one.to_dict() == {"a": "net", "b": "log", "c": "net", "d": "log"}
    shuffled = select_detector(evidence.sample(frac=1, random_state=1), predictions, ["log", "net"], 1.0)
    assert shuffled.set_index("micrograph_id")["detector"].to_dict() == one.to_dict()
    assert set(select_detector(evidence, predictions[:2], ["log", "net"], 1.0)["micrograph_id"]) == set("abcd")


def test_automatic_precision_is_that_of_its_device():
    def name_folder(**changes):
        run = {"device": changes.pop("device", "cpu")}
        return list_run_folders(replace(Settings(), {"run": run, "detect": changes}))["detections"]

    assert name_folder(precision="auto") == name_folder(precision="float32")
    assert name_folder(precision="auto", device="cuda") != name_folder(precision="float32", device="cuda")
