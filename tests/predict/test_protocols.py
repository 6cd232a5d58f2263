"""Protocols of the study of predicted F1: what each holds out, and the figures by hand."""

import numpy as np
import pytest

from emqa_dask.predict import protocols
from emqa_dask.predict.protocols import LabelledSplits


def make_rows(n=60, seed=0):
    """Rows whose target is a feature, in four splits; images 0...29 are in two splits."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(size=(n, 3))
    splits = np.array(["A_A", "A_B", "B_A", "B_B"])[np.arange(n) % 4]
    images = np.array([f"image {i % (n // 2)}" for i in range(n)])
    return LabelledSplits(values, ("mean_score", "std_score", "mean_size"), values[:, 0], splits, images)


@pytest.mark.parametrize("protocol", [protocols.GROUPED, protocols.LEFT_OUT_IMAGES])
def test_no_image_is_fitted_and_held_out(protocol):
    rows = make_rows()
    for fit, held_out in protocols.make_folds(rows, protocol):
        assert not set(rows.images[fit]) & set(rows.images[held_out])


def test_a_split_left_out_is_not_fitted():
    rows = make_rows()
    for fit, held_out in protocols.make_folds(rows, protocols.LEFT_OUT):
        assert len(set(rows.splits[held_out])) == 1
        assert not set(rows.splits[fit]) & set(rows.splits[held_out])


def test_errors_of_splits_are_those_by_hand():
    rows = LabelledSplits(
        np.zeros((6, 1)), ("mean_score",), np.array([0.0, 0.5, 1.0, 0.2, 0.2, 0.4]),
        np.array(["A_B", "A_B", "A_B", "B_A", "B_A", "A_A"]), np.array(list("abcdef")),
    )  # fmt: skip
    error = np.array([0.1, -0.1, 0.1, 0.3, -0.3, 0.2])
    table = {row["split"]: row for row in protocols.measure_splits(rows, "random", [rows.true + error])}
    assert list(table) == ["all", "A_B", "B_A", "A_A", "mean of grouped splits", "mean of random splits"]
    assert table["A_B"]["mae"] == pytest.approx(0.1)
    assert table["A_B"]["r2"] == pytest.approx(1 - 0.01 / (1 / 6))
    assert np.isnan(table["B_A"]["r2"])  # its F1 does not vary
    assert table["mean of grouped splits"]["mae"] == pytest.approx(0.2)
    assert table["all"]["n"] == 6


def test_repeats_are_averaged_as_errors():
    rows = make_rows(8)
    table = protocols.measure_splits(rows, "random", [rows.true + 0.1, rows.true + 0.3])
    assert table[0]["mae"] == pytest.approx(0.2)
    assert table[0]["rmse"] == pytest.approx(0.2)


def test_coverage_is_of_splits_left_out():
    rows = make_rows(120)
    known = protocols.measure_coverage(rows, "gaussian_process")
    assert known["coverage"] == pytest.approx(1 - known["below"] - known["above"])
    assert 0.8 <= known["coverage"] <= 1  # splits alike: the intervals hold
    assert protocols.measure_coverage(rows._replace(splits=np.array(["A_B", "B_A"] * 60))) == {}


def test_pairs_that_leave_nothing_to_fit_are_seen():
    rows = make_rows()
    assert protocols.has_pairs_to_fit(rows._replace(images=np.arange(60).astype(str)))
    assert not protocols.has_pairs_to_fit(rows._replace(images=np.array([str(i // 4) for i in range(60)])))


def test_telling_good_images_is_by_hand():
    true = np.array([0.9, 0.8, 0.4, 0.1])
    predicted = np.array([0.9, 0.3, 0.6, 0.2])
    low, half, high = protocols.classify_good_images(true, predicted, [0.05, 0.5, 0.95]).to_dict("records")
    assert (half["precision"], half["recall"], half["f1"], half["accuracy"]) == (0.5, 0.5, 0.5, 0.5)
    assert half["baseline_f1"] == pytest.approx(2 / 3)
    assert (low["precision"], low["recall"], low["accuracy"]) == (1, 1, 1)
    assert np.isnan(high["precision"])
    assert np.isnan(high["recall"])
    assert high["accuracy"] == 1
