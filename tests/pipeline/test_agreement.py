"""Agreement of detectors: a reason for review, and a feature of quality models."""

import shutil

import numpy as np
import pandas as pd
import pytest

from emqa_dask.cli import main
from emqa_dask.featurise.detections import detection_features
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict.calibration import calibrate_quality_model, write_calibration
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace


@pytest.fixture(scope="module")
def two(small_archive, tmp_path_factory):
    """Workspace of a run with the LoG and a network."""
    root = tmp_path_factory.mktemp("agreement") / "ws"
    options = ["--detector", "log", "--detector", "cavity-tem", "--scheduler", "in-process"]
    assert main(["triage", str(small_archive), "--workspace", str(root), *options]) == 0
    return root


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "ws")


def read_triage(root) -> pd.DataFrame:
    return pd.read_parquet(Workspace(str(root)).triage)


def test_rescoring_reviews_images_below_the_limit_of_agreement(copy, capsys):
    before = read_triage(copy)
    assert not before["reasons"].map(lambda codes: "detectors_disagree" in codes).any()
    known = before["detector_agreement"].dropna().sort_values()
    limit = float(known.iloc[len(known) // 2])
    assert known.iloc[0] < limit <= known.iloc[-1]
    assert main(["rescore", str(copy), "--set", f"triage.min_agreement={limit!r}"]) == 0
    rows = read_triage(copy)
    has_reason = rows["reasons"].map(lambda codes: "detectors_disagree" in codes)
    is_junk = rows["verdict"].isin(["junk", "unknown"])
    assert has_reason.tolist() == (rows["detector_agreement"].lt(limit) & ~is_junk).tolist()
    assert has_reason.any()
    assert not rows.loc[has_reason, "verdict"].eq("trust").any()
    capsys.readouterr()
    assert main(["list", str(copy), "--verdict", "review", "--reason", "detectors_disagree"]) == 0
    listed = capsys.readouterr().out.splitlines()
    expected = rows.loc[has_reason & rows["verdict"].eq("review"), "uri"].unique()
    assert sorted(path.rpartition("/")[2] for path in listed) == sorted(uri.rpartition("/")[2] for uri in expected)


@pytest.mark.parametrize("detectors", [["log"], ["auto"]])
def test_a_limit_of_agreement_needs_two_detectors(small_archive, tmp_path, capsys, detectors):
    options = [text for name in detectors for text in ("--detector", name)]
    workspace = tmp_path / "ws"
    command = ["triage", str(small_archive), "--workspace", str(workspace), "--set", "triage.min_agreement=0.3"]
    assert main([*command, *options]) == 1
    assert "triage.min_agreement is 0.3: it needs two detectors" in capsys.readouterr().err
    assert not workspace.exists()


def read_table(root, name: str) -> pd.DataFrame:
    folders = list_run_folders(stored_settings.read_settings(str(root)))
    return parts.read_table(str(root), folders[name], SCHEMAS[name])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a quality model of the LoG by which F1 is the agreement with cavity-tem."""
    rng = np.random.default_rng(5)
    features = []
    truth = []
    for k in range(44):
        f1 = k % 11 / 10  # 10 boxes and 10 objects, some of which match
        corners = rng.uniform(0, 90, (10, 2))
        boxes = np.hstack([corners, corners + rng.uniform(4, 9, (10, 1))])
        image = {"micrograph_id": f"{k:032x}", "detector": "log", "score_floor": 0.1, "detector_agreement": f1}
        features.append(image | detection_features(boxes, rng.uniform(0.1, 1, 10), (100, 100)))
        truth.append({"micrograph_id": f"{k:032x}", "true_f1": f1, "precision": f1, "recall": f1})
    calibration = calibrate_quality_model(
        pd.DataFrame(features), pd.DataFrame(truth), iou_threshold=0.1, agreement_detectors=["cavity-tem"]
    )
    assert calibration.model.agreement_detectors == ("cavity-tem",)
    folder = tmp_path_factory.mktemp("models") / "log-agreement"
    write_calibration(calibration, folder, folder.name)
    return folder


def test_a_model_predicts_from_the_agreement_of_its_detectors(copy, model, capsys):
    before = list_run_folders(stored_settings.read_settings(str(copy)))
    assert main(["rescore", str(copy), "--set", f'predict.models=["{model}"]']) == 0
    assert "predicts nothing here" not in capsys.readouterr().out
    rows = read_table(copy, "predictions").merge(read_table(copy, "evidence"), on=["micrograph_id", "detector"])
    judged = rows[rows["evidence"] == "detections"]
    assert set(judged["detector"]) == {"log"}
    assert len(judged) >= 5
    assert np.abs(judged["predicted_f1"] - judged["detector_agreement"]).max() < 0.1
    after = list_run_folders(stored_settings.read_settings(str(copy)))
    assert [name for name in before if before[name] != after[name]] == ["predictions"]


def test_without_its_detectors_a_model_predicts_nothing(small_archive, model, tmp_path, capsys):
    options = ["--detector", "log", "--scheduler", "in-process", "--set", f'predict.models=["{model}", "log-f1"]']
    workspace = tmp_path / "ws"
    assert main(["triage", str(small_archive), "--workspace", str(workspace), *options]) == 0
    out = " ".join(capsys.readouterr())
    assert "looks at the agreement of log with cavity-tem" in out
    assert "it predicts nothing here; name exactly these: --detector log --detector cavity-tem" in out
    by_next_model = read_table(workspace, "predictions")["evidence"]  # of the list: log-f1
    assert by_next_model.isin(["detections", "no_detections"]).all()
    assert main(["rescore", str(workspace), "--set", f'predict.models=["{model}"]']) == 0
    assert set(read_table(workspace, "predictions")["evidence"]) == {"no_model"}


def test_calibration_with_two_detectors_says_what_agreement_gives(small_archive, copy, capsys):
    truth = small_archive.parent / f"{small_archive.name}.truth" / "annotations.json"
    assert main(["calibrate", str(copy), str(truth)]) == 0
    out = " ".join(capsys.readouterr())
    stored = stored_settings.read_settings(str(copy))
    fitted = load_quality_model(stored.predict.models[0])
    (other,) = {"log", "cavity-tem"} - {fitted.detector}
    has_agreement = "detector_agreement" in fitted.columns
    assert fitted.agreement_detectors == ((other,) if has_agreement else ())
    is_used = "is used" if has_agreement else "was tried and is not used"
    assert f"agreement with {other} as a feature {is_used}: MAE" in out
    assert main(["rescore", str(copy)]) == 0
    predictions = read_table(copy, "predictions")
    assert predictions.loc[predictions["evidence"] == "detections", "detector"].eq(fitted.detector).any()
