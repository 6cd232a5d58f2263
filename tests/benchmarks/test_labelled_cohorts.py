"""Laws of the study of cohorts never seen: drawing, choosing inside what is left, figures, caches of a network."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import cohort_images, labelled_cohorts
from emqa_dask import models
from emqa_dask.predict import quality_files, quality_fit, quality_model
from emqa_dask.settings import Settings, replace
from emqa_dask.tables import DETECTION_FEATURES

SOME = {name: labelled_cohorts.CANDIDATES[name] for name in ("mixed process of the published eight",)}
SOME["extra trees, scale-free"] = labelled_cohorts.CANDIDATES["extra trees, scale-free"]


def labelled(n=80, seed=0, n_cohorts=6):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.uniform(size=(n, len(DETECTION_FEATURES))), columns=DETECTION_FEATURES)
    rows = rows.assign(**{name: rng.uniform(size=n) for name in (*labelled_cohorts.IMAGE, "detector_agreement")})
    rows["cohort"] = [f"c{k}" for k in rng.integers(0, n_cohorts, n)]
    rows["n_detections"] = 5.0
    rows["detector"] = "net"
    rows["score_floor"] = 0.1
    rows["true_f1"] = np.clip(0.1 + 0.8 * rows["score_fraction_8"] + rng.normal(0, 0.05, n), 0, 1)
    return rows


def test_drawn_images_are_reproducible_with_boxes_inside():
    for cohort in ("overfocus", "degraded", "sem-texture", "nothing"):
        one = cohort_images.draw(cohort, 2)
        two = cohort_images.draw(cohort, 2)
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.boxes, two.boxes)
        assert one.image.ndim == 2
        assert (one.boxes >= 0).all()
        assert (one.boxes[:, 2:] <= one.image.shape).all()
        assert (len(one.boxes) == 0) == (cohort == "nothing")


def test_every_kind_of_nothing_is_a_grey_picture_without_boxes():
    for kind in cohort_images.NOTHING:
        picture = cohort_images.draw_nothing(kind, np.random.default_rng(0), (64, 80), kind)
        assert picture.image.shape == (64, 80)
        assert len(picture.boxes) == 0
        assert 0 <= picture.colour <= 1


def test_evidence_and_truth_are_those_of_the_pipeline():
    """F1 is 1 where all is found and 0 where nothing is; a detection below the floor is no evidence."""
    known = pd.DataFrame({"micrograph_id": ["a", "b"], "height_px": 100, "width_px": 100})
    truth = pd.DataFrame({"y0": [10.0, 50], "x0": [10.0, 50], "y1": [20.0, 70], "x1": [20.0, 70]})
    truth["micrograph_id"] = ["a", "b"]
    found = truth.iloc[[0, 1]].assign(score=[0.9, 0.05], detector="log", circularity=1.0)
    found = found.assign(stability=np.nan, class_margin=np.nan, label="")
    rows = cohort_images.rows_of(
        "some", known, found, truth, replace(Settings(), {"detect": {"detectors": ["log"]}})
    ).set_index("micrograph_id")
    assert rows["true_f1"].tolist() == [1.0, 0.0]
    assert rows["n_detections"].tolist() == [1.0, 0.0]
    assert rows["score_fraction_8"].tolist() == [1.0, 0.0]
    assert set(rows["cohort"]) == {"some"}


def test_cache_key_of_a_network_depends_on_its_detections_only(tmp_path):
    def write(weights: bytes, **card):
        (tmp_path / "weights.safetensors").write_bytes(weights)
        models.write_model_card(tmp_path, {"name": "net", "input": {"low_percentile": 1.0}, **card})
        return cohort_images.key(str(tmp_path))

    first = write(b"1", measured={"f1": 0.5})
    assert write(b"1", measured={"f1": 0.6}) == first
    assert len({first, write(b"2"), write(b"1", input={"low_percentile": 2.0})}) == 3


def test_the_chosen_candidate_is_the_judge_that_would_be_bundled():
    """Same regressor, and of its candidates the one with the least error on cohorts left out."""
    rows = labelled()
    found = labelled_cohorts.choose(rows, rows["cohort"].to_numpy(), SOME)
    assert found.name == min(found.errors, key=found.errors.get)
    kind, columns = SOME[found.name]
    conditions = {"detector": "net", "score_floor": 0.1, "iou_threshold": 0.1}
    made = quality_fit.fit_quality_model(
        rows, rows[["true_f1"]], rows["cohort"], kind=kind, columns=columns, **conditions
    )
    table = labelled_cohorts.predict(found, rows)
    np.testing.assert_allclose(
        quality_model.predict_quality(made, rows)["predicted_f1"], table["predicted"], atol=1e-12
    )
    assert ((table["low"] <= table["predicted"]) & (table["predicted"] <= table["high"])).all()


def test_what_is_left_out_changes_nothing_of_what_predicts_it():
    rows = labelled()
    test = np.flatnonzero(rows["cohort"] == "c0")
    fit = np.flatnonzero(rows["cohort"] != "c0")
    changed = rows.assign(true_f1=rows["true_f1"].where(rows["cohort"] != "c0", 1 - rows["true_f1"]))
    both = []
    for table in (rows, changed):
        known = table.iloc[fit]
        found = labelled_cohorts.choose(known, known["cohort"].to_numpy(), SOME)
        both.append(labelled_cohorts.predict(found, table.iloc[test]))
    pd.testing.assert_frame_equal(*both, check_exact=True)


def test_figures_are_those_of_their_definitions():
    rows = pd.DataFrame({"true_f1": [0.1, 0.6, 0.9, 0.4], "predicted": [0.3, 0.7, 0.8, 0.6]})
    rows = rows.assign(low=[0.2, 0.5, 0.7, 0.3], high=[0.4, 0.8, 1.0, 0.9])
    found = labelled_cohorts.figures_of(rows)
    assert found["mae"] == pytest.approx(0.15)
    assert found["bias_at_low_f1"] == pytest.approx(0.2)
    assert found["coverage"] == 0.75
    assert found["width"] == pytest.approx(0.35, abs=1e-4)
    assert (found["precision_at_0.5"], found["recall_at_0.5"]) == (pytest.approx(2 / 3, abs=1e-4), 1.0)
    assert (found["precision_of_low_end_at_0.5"], found["share_with_low_end_at_0.5"]) == (1.0, 0.5)
    assert labelled_cohorts.figures_of(rows.iloc[:0]) == {"n": 0}


def test_rows_without_detections_truth_or_features_are_not_judged():
    rows = labelled(6)
    rows.loc[0, "n_detections"] = 0
    rows.loc[1, "true_f1"] = np.nan
    rows.loc[2, "detector_agreement"] = np.nan
    rows.loc[3, "detector"] = "log"
    assert len(labelled_cohorts.usable(rows, "net")) == 2


def test_widths_are_conformal_ones_of_left_out_cohorts():
    rows = labelled(120, seed=3)
    one = {"extra trees, scale-free": SOME["extra trees, scale-free"]}
    found = labelled_cohorts.choose(rows, rows["cohort"].to_numpy(), one)
    fresh = labelled(400, seed=4)
    table = labelled_cohorts.predict(found, fresh)
    inside = (fresh["true_f1"] >= table["low"]) & (fresh["true_f1"] <= table["high"])
    assert 0.85 <= inside.mean() <= 0.99
    assert found.residuals[1] < 0 < found.residuals[-2]


def test_the_bundled_quality_model_fits_the_bundled_network():
    folder = models.locate_model("cavity-tem-f1")
    assert models.load_model_card(folder)["network"] == cohort_images.key("cavity-tem")
    assert (
        quality_files.read_quality_model(folder).detector
        == models.load_model_card(models.locate_model("cavity-tem"))["name"]
    )
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 * 2**20
