"""Calibrating on a few labelled images: truths from boxes, what is chosen, honest figures, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask import boxes, models
from emqa_dask.featurise.detections import detection_features
from emqa_dask.predict import quality_files, quality_fit, quality_model, regressors
from emqa_dask.predict.calibration import calibrate_quality_model, write_calibration
from emqa_dask.predict.predictions import predict_images
from emqa_dask.predict.regressors import fit_regressor
from emqa_dask.predict.true_quality import compute_true_quality


def run(n, seed, detector="net"):
    """A made-up run: true boxes, detections whose scores tell hits from false alarms more or less, and features."""
    rng = np.random.default_rng(seed)
    detections = []
    truth = {}
    features = []
    for i in range(n):
        name = f"{seed:x}-{i:x}"
        skill = rng.uniform(0.1, 1)
        corner = rng.uniform(0, 450, (int(rng.integers(5, 30)), 2))
        true = np.hstack([corner, corner + rng.uniform(10, 30, (len(corner), 1))])
        hit = true[rng.uniform(size=len(true)) < skill] + rng.normal(0, 1, 4)
        n_false = int(rng.poisson(12 * (1 - skill)))
        corner = rng.uniform(0, 450, (n_false, 2))
        found = np.vstack([hit, np.hstack([corner, corner + 15])])
        scores = np.concatenate([rng.beta(2 + 6 * skill, 1.5, len(hit)), rng.beta(1.5, 2, n_false)]) * 0.9 + 0.1
        rows = pd.DataFrame(found, columns=["y0", "x0", "y1", "x1"]).assign(score=scores, detector=detector)
        detections.append(rows.assign(micrograph_id=name))
        described = detection_features(found, scores, (480, 480))
        features.append({"micrograph_id": name, "detector": detector, "score_floor": 0.1, **described})
        truth[name] = true
    return pd.concat(detections, ignore_index=True), truth, pd.DataFrame(features)


@pytest.fixture(scope="module")
def made():
    detections, truth, features = run(110, 1)
    return features, compute_true_quality(detections, truth, iou_threshold=0.3)


@pytest.fixture(scope="module")
def fifty(made):
    features, truth = made
    sessions = {name: f"session {i % 5}" for i, name in enumerate(features["micrograph_id"])}
    n_fits = 0

    def count_fits(*args, **kwargs):
        nonlocal n_fits
        n_fits += 1
        return fit_regressor(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regressors, "fit_regressor", count_fits)
        calibration = calibrate_quality_model(features, truth.iloc[:50], sessions=sessions, iou_threshold=0.3)
    return calibration, n_fits


def test_truths_come_from_matched_boxes():
    detections, truth, features = run(12, 2)
    rows = compute_true_quality(detections, truth, "optimal", 0.3, score_floor=0.4)
    for row in rows.itertuples():
        here = detections[(detections["micrograph_id"] == row.micrograph_id) & (detections["score"] >= 0.4)]
        match = boxes.match_boxes(here[["y0", "x0", "y1", "x1"]], truth[row.micrograph_id], 0.3, "optimal")
        found = (row.true_f1, row.precision, row.recall, row.n_detections, row.n_true)
        known = (match.f1, match.precision, match.recall, len(here), len(truth[row.micrograph_id]))
        assert found == pytest.approx(known, nan_ok=True)
    assert rows["micrograph_id"].tolist() == features["micrograph_id"].tolist()


def test_images_without_detections_or_objects_have_what_can_be_known():
    detections, _, _ = run(2, 3)
    rows = compute_true_quality(detections, {"none found": [[0, 0, 5, 5]], "empty": [], "3-0": []}).set_index(
        "micrograph_id"
    )
    assert (rows.loc["none found", ["true_f1", "recall"]] == 0).all()
    assert np.isnan(rows.loc["none found", "precision"])
    assert rows.loc["empty"].isna().sum() == 3
    assert rows.loc["3-0", "true_f1"] == rows.loc["3-0", "precision"] == 0
    assert np.isnan(rows.loc["3-0", "recall"])
    with pytest.raises(ValueError, match="image 3-1: box 0"):
        compute_true_quality(detections, {"3-1": [[5, 5, 0, 0]]})
    with pytest.raises(ValueError, match="several detectors: log, net"):
        compute_true_quality(pd.concat([detections, detections.assign(detector="log")]), {})


def test_a_calibrated_model_predicts_images_without_labels(made, fifty):
    features, truth = made
    p = quality_model.predict_quality(fifty[0].model, features.iloc[50:])
    true = truth.iloc[50:].set_index(p.index)
    error = (p["predicted_f1"] - true["true_f1"]).abs()
    assert error.mean() < 0.7 * (true["true_f1"] - truth["true_f1"].iloc[:50].mean()).abs().mean()
    inside = (true["true_f1"] >= p["predicted_f1_low"]) & (true["true_f1"] <= p["predicted_f1_high"])
    assert inside.mean() >= 0.8
    assert p.filter(like="predicted_").notna().all(axis=None)


def test_the_report_has_all_protocols_side_by_side(fifty):
    report = fifty[0].report.set_index("protocol")
    assert list(report.index) == ["random", "grouped by image", "leave one session out"]
    assert report["n_groups"].tolist() == [50, 50, 5]
    assert report[["mae", "rmse", "r2", "coverage", "width"]].notna().all(axis=None)
    assert (report["mae"] <= report["rmse"]).all()
    assert fifty[0].candidate_errors["is_chosen"].sum() == 1
    assert 0 < fifty[1] < 200  # models fitted: 158


@pytest.fixture(scope="module")
def agreeing(made):
    """A calibration where the agreement with two other detectors is the true F1, and its features."""
    features, truth = made
    features = features.assign(detector_agreement=truth["true_f1"].to_numpy())
    others = ("net b", "net a")
    return calibrate_quality_model(features, truth[:40], iou_threshold=0.3, agreement_detectors=others), features


def test_agreement_that_equals_f1_is_used_and_predicts_it(made, agreeing):
    calibration, features = agreeing
    errors = calibration.candidate_errors.set_index("candidate")
    assert errors.index[errors["is_chosen"]][0].endswith(" with agreement")
    assert errors["mae"]["few features with agreement"] < 0.5 * errors["mae"]["few features"]
    assert calibration.model.agreement_detectors == ("net a", "net b")
    predicted = quality_model.predict_quality(calibration.model, features[40:])["predicted_f1"].to_numpy()
    assert np.abs(predicted - made[1]["true_f1"][40:].to_numpy()).mean() < 0.02


def test_agreement_that_is_noise_is_tried_and_left_out(made):
    features, truth = made
    noise = np.random.default_rng(4).uniform(size=len(features))
    features = features.assign(detector_agreement=noise)
    calibration = calibrate_quality_model(features, truth[:40], iou_threshold=0.3, agreement_detectors=("other",))
    assert calibration.candidate_errors["candidate"].str.endswith(" with agreement").sum() == 2
    assert "detector_agreement" not in calibration.model.columns
    assert calibration.model.agreement_detectors == ()


def test_unknown_agreement_is_neither_tried_nor_used_to_predict(made, agreeing):
    calibration, features = agreeing
    unknown = features.assign(detector_agreement=features["detector_agreement"].where(features.index > 0))
    other = calibrate_quality_model(unknown, made[1][:40], iou_threshold=0.3, agreement_detectors=("other",))
    assert not other.candidate_errors["candidate"].str.contains("agreement").any()
    rows = quality_model.predict_quality(calibration.model, unknown[:2])
    assert rows["evidence"].tolist() == ["none", "detections"]
    assert np.isnan(rows["predicted_f1"][0])


def test_a_base_compares_with_the_same_detectors(made, agreeing):
    calibration, features = agreeing
    with pytest.raises(ValueError, match="compares net with net a, net b, the features with log"):
        calibrate_quality_model(
            features, made[1][:40], base=calibration.model, iou_threshold=0.3, agreement_detectors=("log",)
        )


def test_the_card_names_the_detectors_that_agreement_compares(agreeing, tmp_path):
    calibration, features = agreeing
    write_calibration(calibration, tmp_path, "net-calibrated")
    assert models.read_model_card(tmp_path)["quality_model"]["agreement_detectors"] == ["net a", "net b"]
    stored = quality_files.read_quality_model(tmp_path)
    predicted = [quality_model.predict_quality(model, features[40:]) for model in (stored, calibration.model)]
    pd.testing.assert_frame_equal(*predicted)


def test_the_order_of_labels_changes_nothing(made, fifty):
    features, truth = made
    sessions = {name: f"session {i % 5}" for i, name in enumerate(features["micrograph_id"])}
    again = calibrate_quality_model(features.iloc[::-1], truth.iloc[49::-1], sessions=sessions, iou_threshold=0.3)
    pd.testing.assert_frame_equal(again.report, fifty[0].report)
    one, two = (quality_model.predict_quality(found.model, features.iloc[60:]) for found in (again, fifty[0]))
    pd.testing.assert_frame_equal(one, two)


def test_twenty_labels_correct_a_base_that_is_off(made):
    """A base from another detector's run is too hopeful; the labels take it back without learning 18 features."""
    features, truth = made
    conditions = {"detector": "net", "score_floor": 0.1, "iou_threshold": 0.3}
    optimist = truth.iloc[50:].assign(true_f1=lambda t: 0.5 + 0.5 * t["true_f1"])
    base = quality_fit.fit_quality_model(
        features.iloc[50:], optimist[["true_f1"]], np.arange(60), kind="extra_trees", **conditions
    )
    found = calibrate_quality_model(features, truth.iloc[:20], base=base, iou_threshold=0.3)
    rest = features.iloc[50:]
    error, before = (
        np.abs(quality_model.predict_quality(model, rest)["predicted_f1"] - truth["true_f1"].iloc[50:]).mean()
        for model in (found.model, base)
    )
    assert error < 0.7 * before
    assert set(found.candidate_errors["candidate"]) >= {"base", "recalibrated base", "few features", "gaussian process"}


def test_a_calibration_is_written_as_a_model_directory(made, fifty, tmp_path):
    features, _ = made
    write_calibration(fifty[0], tmp_path / "m", "mine", trained_on="a made-up run")
    card = models.load_model_card(tmp_path / "m")
    assert card["measured"]["leave_one_session_out"]["mae"] == round(fifty[0].report["mae"][2], 4)
    assert card["trained_on"] == "a made-up run"
    p = predict_images(features, tmp_path / "m")
    pd.testing.assert_series_equal(
        p["predicted_f1"], quality_model.predict_quality(fifty[0].model, features)["predicted_f1"], check_exact=True
    )


def test_what_cannot_be_used_is_named(made):
    features, truth = made
    truth = truth.iloc[:30]

    def refused(match, features=features, truth=truth, **more):
        with pytest.raises(ValueError, match=match):
            calibrate_quality_model(features, truth, iou_threshold=0.3, **more)

    foreign = pd.concat([truth, truth.iloc[[0]].assign(micrograph_id="foreign")])
    refused("1 images that this run does not have: foreign", truth=foreign)
    refused("twice in the truth: 1-3", truth=pd.concat([truth, truth.iloc[[3]]]))
    refused("several values of score_floor", features=features.assign(score_floor=np.arange(len(features)) % 2))
    wrong = truth.assign(precision=truth["precision"].where(truth.index != 4, 0.123))
    refused("whole number.* in 1 rows: 1-4", truth=wrong)
    wrong = truth.assign(n_detections=truth["n_detections"] + (truth.index == 6))
    refused("another number of detections .*: 1-6 .*score floor", truth=wrong)
    refused("at least 8", truth=truth.iloc[:7])
    conditions = {"detector": "log", "score_floor": 0.1, "iou_threshold": 0.3}
    base = quality_fit.fit_quality_model(
        features.iloc[:30], truth[["true_f1"]], np.arange(30), kind="boosting", **conditions
    )
    refused("base model is for log", base=base)


def test_images_without_detections_are_left_aside_by_name(made):
    features, truth = made
    features = features.copy()
    features.loc[2, "n_detections"] = 0
    found = calibrate_quality_model(features, truth.iloc[:12].drop(columns="n_detections"), iou_threshold=0.3)
    assert found.report["n"].tolist() == [11, 11]
    assert any("without detections" in note and "1-2" in note for note in found.notes)
