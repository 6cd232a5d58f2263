"""Calibration error, likelihood and temperature, against torchmetrics and against their laws."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from emqa_dask import expected_calibration_error
from emqa_dask.uncertainty.reliability import (
    apply_temperature,
    fit_temperature,
    negative_log_likelihood,
    reliability_table,
)


def drawn(seed: int, n: int = 400, classes: int = 6, overconfidence: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and classes drawn from them; then the probabilities sharpened, so that they promise too much."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.4), n)
    y = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)
    return apply_temperature(p, 1 / overconfidence), y


@pytest.mark.parametrize("n_bins", [1, 10, 20])
@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 3.0])
def test_the_error_is_that_of_torchmetrics(n_bins, overconfidence):
    p, y = drawn(7, overconfidence=overconfidence)
    theirs = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), p.shape[1], n_bins=n_bins, norm="l1")
    assert expected_calibration_error(p, y, n_bins) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_calibration_error_is_small_for_calibrated_probabilities_and_grows(binning):
    honest, sharp, sharper = (
        expected_calibration_error(*drawn(3, n=8000, overconfidence=c), binning=binning) for c in (1.0, 2.0, 4.0)
    )
    assert honest < 0.02 < sharp < sharper


def test_bins_contain_every_row_once_in_equal_numbers():
    p, y = drawn(4, n=403)
    for binning in ("width", "mass"):
        table = reliability_table(p, y, 20, binning)
        assert table["n"].sum() == 403
        assert table["share"].sum() == pytest.approx(1)
        assert np.all((table["low"] <= table["confidence"]) & (table["confidence"] <= table["high"]))
        assert np.average(table["accuracy"], weights=table["n"]) == pytest.approx((p.argmax(1) == y).mean())
    assert set(table["n"]) == {20, 21}
    assert len(reliability_table(p[:3], y[:3], 20, "mass")) == 3


def test_right_and_certain_costs_nothing_wrong_and_certain_much():
    assert negative_log_likelihood(np.eye(3), [0, 1, 2]) == 0
    assert expected_calibration_error(np.eye(3), [0, 1, 2]) == 0
    assert negative_log_likelihood(np.eye(3), [1, 2, 0]) == pytest.approx(27.6, abs=0.1)
    assert expected_calibration_error(np.eye(3), [1, 2, 0]) == 1
    assert negative_log_likelihood(np.full((2, 4), 0.25), [0, 3]) == pytest.approx(np.log(4))


def test_the_temperature_is_recovered_and_no_class_changes():
    p, y = drawn(5, n=6000, overconfidence=2.5)
    temperature = fit_temperature(p, y)
    assert temperature == pytest.approx(2.5, rel=0.06)
    scaled = apply_temperature(p, temperature)
    np.testing.assert_array_equal(scaled.argmax(1), p.argmax(1))
    assert expected_calibration_error(scaled, y) < 0.3 * expected_calibration_error(p, y)
    assert negative_log_likelihood(scaled, y) < negative_log_likelihood(p, y)
    assert apply_temperature(p, 1.0) == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize(
    ("p", "y", "said"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "n above 0"),
        (np.full((2, 2), 0.5), [0], r"\(2, 2\) and classes \(1,\)"),
        (np.full((2, 2), 0.5), [0, 2], "class 2 of row 1"),
        (np.full((2, 2), 0.5), [0.0, 1.0], "numbers, 0 to 1"),
        (np.full((2, 2), 0.4), [0, 1], "sum to 0.8"),
    ],
)
def test_rows_that_do_not_fit_are_named(p, y, said):
    with pytest.raises(ValueError, match=said):
        expected_calibration_error(p, y)


def test_unknown_bins_and_temperatures_are_refused():
    p, y = drawn(1)
    with pytest.raises(ValueError, match="'depth'"):
        expected_calibration_error(p, y, binning="depth")
    with pytest.raises(ValueError, match="n_bins is 0"):
        expected_calibration_error(p, y, 0)
    with pytest.raises(ValueError, match="above 0"):
        apply_temperature(p, 0)
