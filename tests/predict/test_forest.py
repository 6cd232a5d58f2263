"""Laws of the forest: intervals, evidence, refusals, files; and the published table's figures."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from benchmarks import forest_fit
from emqa_dask import models, settings, tables
from emqa_dask.detect.log import detect_image
from emqa_dask.featurise.detections import detection_features
from emqa_dask.featurise.images import image_statistics
from emqa_dask.predict import forest, identities
from emqa_dask.predict.predictions import predict_images
from emqa_dask.synthetic import faults, profiles

OPEN_TABLE = Path(__file__).parents[3] / "shared/data/uw_rf_f1_table/rf_f1_features_open.csv"
CONDITIONS = {"detector": "log", "score_floor": 0.1, "iou_threshold": 0.1}
SMALL = forest_fit.create_pipeline(n_trees=20, min_samples_leaf=3)


def labelled(n, seed):
    """Features that say something about F1, with noise: F1 rises with the mean score."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.uniform(size=(n, len(tables.DETECTION_FEATURES))), columns=tables.DETECTION_FEATURES)
    table["n_detections"] = rng.integers(1, 200, n)
    table["score_floor"] = 0.1
    table["micrograph_id"] = [f"{seed:x}-{i:x}" for i in range(n)]
    noise = rng.normal(0, 0.02 + 0.15 * table["area_ratio"], n)  # more uncertain where crowded
    return table, np.clip(table["mean_score"] + noise, 0, 1).to_numpy()


@pytest.fixture(scope="module")
def fitted():
    table, f1 = labelled(400, 1)
    return forest_fit.fit_forest(table, f1, np.arange(400) // 4, pipeline=SMALL, **CONDITIONS)


@pytest.fixture
def saved(fitted, tmp_path):
    models.write_model_card(tmp_path / "model", forest.write_forest(fitted, tmp_path / "model"))
    return tmp_path / "model"


def test_means_lie_in_their_intervals_within_0_and_1(fitted):
    table, _ = labelled(300, 2)
    table.loc[::7, list(forest.PAPER_FEATURES)] *= 1e6  # far outside, too
    p = forest.predict_forest(fitted, table)
    low, mean, high = (p[name] for name in ("predicted_f1_low", "predicted_f1", "predicted_f1_high"))
    assert ((low >= 0) & (low <= mean) & (mean <= high) & (high <= 1)).all()
    assert (p["evidence"] == "detections").all()


def test_the_interval_covers_new_images_as_often_as_it_says(fitted):
    table, f1 = labelled(2000, 3)
    p = forest.predict_forest(fitted, table)
    assert 0.86 <= np.mean((f1 >= p["predicted_f1_low"]) & (f1 <= p["predicted_f1_high"])) <= 0.97
    assert np.mean(f1 < p["predicted_f1_low"]) <= 0.08


@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.9]))
def test_conformal_widths_cover_their_own_rows(seed, coverage):
    rng = np.random.default_rng(seed)
    mean, spread, true = rng.uniform(size=(3, 60))
    low, high = forest.compute_interval(mean, spread, forest_fit.compute_conformal_widths(mean, spread, true, coverage))
    assert np.mean((true >= low) & (true <= high)) >= coverage


def test_a_wider_coverage_gives_a_wider_interval():
    mean, spread, true = np.random.default_rng(0).uniform(size=(3, 500))
    widths = np.array([forest_fit.compute_conformal_widths(mean, spread, true, c) for c in (0.5, 0.8, 0.9, 0.99)])
    assert (np.diff(widths, axis=0) > 0).all()


@hypothesis_settings(max_examples=10, deadline=None)
@given(st.permutations(range(12)))
def test_rows_are_predicted_one_by_one(fitted, order):
    table, _ = labelled(12, 4)
    whole = forest.predict_forest(fitted, table)
    pd.testing.assert_frame_equal(forest.predict_forest(fitted, table.iloc[list(order)]), whole.iloc[list(order)])


def test_no_detections_and_unknown_features_are_no_guess(fitted):
    table, _ = labelled(4, 5)
    table.loc[1, "n_detections"] = 0
    table.loc[1, "mean_score"] = np.nan
    table.loc[2, "mean_score"] = np.nan
    p = forest.predict_forest(fitted, table)
    assert p["evidence"].tolist() == ["detections", "no_detections", "none", "detections"]
    assert p["predicted_f1"].isna().tolist() == [False, True, True, False]
    assert p["predicted_f1_low"].isna().tolist() == p["predicted_f1_high"].isna().tolist() == [False, True, True, False]


def test_no_rows_give_an_empty_table(fitted):
    p = forest.predict_forest(fitted, labelled(3, 6)[0].iloc[:0])
    assert len(p) == 0
    assert list(p) == ["predicted_f1", "predicted_f1_low", "predicted_f1_high", "evidence"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score_floor": 0.25}, "score_floor .*0.25.*fitted with 0.1"),
        ({"detector": "mask_rcnn"}, "detector .*mask_rcnn.*fitted with 'log'"),
    ],
)
def test_features_of_other_conditions_are_refused(fitted, change, says):
    with pytest.raises(ValueError, match=says):
        forest.predict_forest(fitted, labelled(3, 7)[0].assign(**change))


@pytest.mark.parametrize("name", ["score_floor", "mean_size"])
def test_a_missing_column_is_named(fitted, name):
    with pytest.raises(ValueError, match=f"lack {name}"):
        forest.predict_forest(fitted, labelled(3, 7)[0].drop(columns=name))


def test_a_fit_refuses_what_it_cannot_learn_from():
    table, f1 = labelled(30, 8)
    with pytest.raises(ValueError, match="one group"):
        forest_fit.fit_forest(table, f1, np.zeros(30), pipeline=SMALL, **CONDITIONS)
    with pytest.raises(ValueError, match="true_f1"):
        forest_fit.fit_forest(table, np.where(f1 > 0.5, np.nan, f1), np.arange(30), pipeline=SMALL, **CONDITIONS)
    with pytest.raises(ValueError, match="mean_size"):
        forest_fit.fit_forest(table.assign(mean_size=np.nan), f1, np.arange(30), pipeline=SMALL, **CONDITIONS)


def test_a_saved_forest_predicts_the_same(fitted, saved):
    table, _ = labelled(50, 9)
    again = forest.read_forest(saved)
    pd.testing.assert_frame_equal(
        forest.predict_forest(again, table), forest.predict_forest(fitted, table), check_exact=True
    )
    assert (again.columns, again.score_floor, again.rule) == (fitted.columns, 0.1, "greedy")


def test_a_changed_file_is_refused(saved):
    content = bytearray((saved / forest.FOREST_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / forest.FOREST_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        forest.read_forest(saved)


def test_a_file_with_anything_but_trees_is_refused(saved):
    skops.io.dump(make_pipeline(FunctionTransformer(os.system)), saved / forest.FOREST_FILE)
    models.write_model_card(saved, {"forest": {}})
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException):
        forest.read_forest(saved)


def test_another_model_is_not_a_forest(tmp_path):
    models.write_model_card(tmp_path, {"name": "something else"})
    with pytest.raises(ValueError, match="not the card of a forest"):
        forest.read_forest(tmp_path)


def test_a_card_reads_back(tmp_path):
    (tmp_path / "weights with space.bin").write_bytes(b"\0\1")
    card = {
        "name": 'a "quoted" µm\n',
        "n": 3,
        "x": 1e-12,
        "is_good": True,
        "list": ["a", "b"],
        "deep": {"er": {"k": [1.5]}},
    }
    models.write_model_card(tmp_path, card)
    read = models.load_model_card(tmp_path)
    assert list(read.pop("files")) == ["weights with space.bin"]
    assert read == card


def test_the_bundled_forest_predicts_a_whole_table():
    table, _ = labelled(40, 10)
    directory = models.locate_model("log-synthetic")
    card = models.load_model_card(directory)
    for name in {*card["forest"]["columns"], *card["domain"]["columns"]} - set(table):
        table[name] = 0.5
    table.loc[3, "n_detections"] = 0
    table["score_floor"] = card["forest"]["score_floor"]
    p = predict_images(table, "log-synthetic")
    assert list(p) == tables.PREDICTIONS.names
    assert p["micrograph_id"].tolist() == table["micrograph_id"].tolist()
    assert p["evidence"][3] == "no_detections"
    assert p["ood_distance"].notna().all()
    assert tables.conform(p, tables.PREDICTIONS).num_rows == 40
    assert tables.conform(predict_images(table.iloc[:0], "log-synthetic"), tables.PREDICTIONS).num_rows == 0


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7])
def test_predictions_of_a_row_do_not_depend_on_others(n_rows):
    """A partition that has lost an image to quarantine, or is cut otherwise, says the same of the others."""
    table, _ = labelled(40, 11)
    directory = models.locate_model("log-synthetic")
    card = models.load_model_card(directory)
    rng = np.random.default_rng(12)
    for name in {*card["forest"]["columns"], *card["domain"]["columns"]} - set(table):
        table[name] = rng.lognormal(size=len(table))
    table["score_floor"] = card["forest"]["score_floor"]
    whole = predict_images(table, "log-synthetic")
    cut = [predict_images(table.iloc[i : i + n_rows], "log-synthetic") for i in range(0, len(table), n_rows)]
    pd.testing.assert_frame_equal(pd.concat(cut, ignore_index=True), whole, check_exact=True)


def test_the_bundled_forest_tells_a_clear_lattice_from_a_plot():
    detect = settings.Detect(polarity="bright", min_sigma=1.5, max_sigma=8.0, threshold=0.2)
    lattices = [
        profiles.make_sample("atomic-stem", np.random.default_rng([9, i]), (384, 384), clear=True).image
        for i in range(5)
    ]
    plots = [
        faults.apply_fault("plot", np.zeros((384, 384), np.uint8), np.random.default_rng([9, i])) for i in range(5)
    ]
    rows = []
    for image in (*lattices, *plots):
        found = detect_image(image, detect)
        found = found[found["score"] >= 0.1]
        corners = found[["y0", "x0", "y1", "x1"]].to_numpy()
        rows.append({**detection_features(corners, found["score"], image.shape), **image_statistics(image)})
    names = [f"{i:x}" for i in range(10)]
    p = predict_images(pd.DataFrame(rows).assign(score_floor=0.1, micrograph_id=names), "log-synthetic")
    f1 = p["predicted_f1"].fillna(0)
    assert f1[:5].mean() > f1[5:].mean() + 0.2
    assert not (p["predicted_f1_low"][5:] >= 0.7).any()


def read_open_table():
    if not OPEN_TABLE.exists():
        pytest.skip("the published table (shared/data/uw_rf_f1_table) is not here")
    published = pd.read_csv(OPEN_TABLE)
    names = {
        "f1": "true_f1",
        "counts": "n_detections",
        "avg obj conf": "mean_score",
        "avg obj size": "mean_size",
        "stdev obj conf": "std_score",
        "stdev obj size": "std_size",
    }
    table = published.rename(columns=names)
    return table.assign(score_fraction_8=table["num_0.9"] / table["n_detections"])


def test_the_published_table_gives_the_known_figures():
    table = read_open_table()
    values = table[list(forest.PAPER_FEATURES)].to_numpy()
    f1 = table["true_f1"].fillna(0).to_numpy()

    def figures(predicted):
        error = predicted - f1
        return np.sqrt(np.mean(error**2)), np.abs(error).mean(), 1 - np.mean(error**2) / f1.var()

    repeats = [
        figures(
            forest_fit.predict_held_out(
                forest_fit.create_pipeline(seed=s), values, f1, np.random.default_rng(s).permutation(588)
            )[0]
        )
        for s in range(3)
    ]
    by_image = figures(forest_fit.predict_held_out(forest_fit.create_pipeline(), values, f1, table["names"])[0])
    assert np.mean(repeats, axis=0) == pytest.approx([0.131, 0.097, 0.744], abs=0.006)
    assert by_image == pytest.approx([0.134, 0.100, 0.733], abs=0.004)


def test_the_published_identities_hold_and_rotated_columns_are_refused():
    table = read_open_table()
    identities.check_identities(table)
    rotated = ["precision", "recall", "area_ratio"]
    rows = [3, 44, 210]
    table.loc[rows, rotated] = table.loc[rows, ["area_ratio", "precision", "recall"]].to_numpy()
    with pytest.raises(
        ValueError, match=r"whole number, area_ratio .* in 3 rows: 3, 44, 210; 3 of these .* turned back"
    ):
        identities.check_identities(table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"precision": 0.61}, "whole number.* in 1 rows: b"),
        ({"mean_size": 0.02}, "area_ratio .* in 1 rows: b"),
        ({"true_f1": 0.9}, "follow .*in 1 rows: b"),
        ({"recall": 1.2, "true_f1": 2 * 0.6 * 1.2 / 1.8}, "0...1 in 1 rows: b"),
        ({"true_f1": np.nan}, "follow .*in 1 rows: b"),
    ],
)
def test_check_table_names_the_row(change, says):
    row = {"precision": 0.6, "recall": 0.3, "true_f1": 0.4, "n_detections": 10, "area_ratio": 0.1, "mean_size": 0.01}
    nothing = {"precision": np.nan, "recall": 0, "true_f1": np.nan, "n_detections": 0, "area_ratio": 0, "mean_size": 0}
    table = pd.DataFrame([row, row, nothing], index=["a", "b", "c"])
    identities.check_identities(table)
    for name, value in change.items():
        table.loc["b", name] = value
    with pytest.raises(ValueError, match=says):
        identities.check_identities(table)
