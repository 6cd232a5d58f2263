"""Calibration of a classifier's confidence: likelihood, expected calibration error, temperature scaling."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from emqa_dask.uncertainty.entropy import check_probabilities

MIN_PROBABILITY = 1e-12  # floor of probabilities in logarithms: a certain and wrong answer costs 27.6 nats


def negative_log_likelihood(p: ArrayLike, y: ArrayLike) -> float:
    """Mean `-ln p(y)`, nats, of probabilities p (n, classes) and true classes y (n,); p is at least MIN_PROBABILITY.

    Errors as in `expected_calibration_error`.
    """
    p, y = _check_labelled(p, y)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], MIN_PROBABILITY)).mean())


def expected_calibration_error(
    p: ArrayLike, y: ArrayLike, n_bins: int = 20, binning: Literal["width", "mass"] = "width"
) -> float:
    """Expected calibration error: mean difference of accuracy and confidence, over bins of the confidence.

    `sum_j (B_j / N) |accuracy_j - confidence_j|`, with B_j of N images in bin j of the largest probability.

    Parameters
    ----------
    p : array_like, shape (n, classes)
        Probabilities of n images; of an ensemble the members' mean.
    y : array_like of int, shape (n,)
        True classes, 0 to classes - 1.
    n_bins : int, default 20
        Number of bins.
    binning : {"width", "mass"}, default "width"
        "width" divides [0, 1] into equal bins; "mass" divides the sorted confidences into groups of equal size, so
        that no bin is empty.

    Returns
    -------
    float
        The error, in [0, 1].

    Raises
    ------
    ValueError
        For no rows, shapes that do not fit, invalid probabilities, classes outside 0 to classes - 1, and an unknown
        `binning`.

    References
    ----------
    Naeini et al., AAAI (2015). Guo et al., ICML (2017), eq. 3. Zhang et al. use equal widths with 20 bins; the further
    factor 1 / N_b of their equation is a misprint.
    """
    table = reliability_table(p, y, n_bins, binning)
    return float((table["share"] * (table["accuracy"] - table["confidence"]).abs()).sum())


def reliability_table(
    p: ArrayLike, y: ArrayLike, n_bins: int = 20, binning: Literal["width", "mass"] = "width"
) -> pd.DataFrame:
    """The reliability diagram's numbers: one row for each bin that is not empty.

    `low`, `high`: the bin's ends (confidence); `n`; `share` of all rows; mean `confidence`; `accuracy`. Arguments and
    errors as in `expected_calibration_error`. A confidence on the edge of two `width` bins belongs to the upper one.
    """
    p, y = _check_labelled(p, y)
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}: at least one bin is needed")
    confidence = p.max(axis=1)
    is_right = p.argmax(axis=1) == y
    if binning == "width":
        bins, low, high = _bin_by_width(confidence, n_bins)
    elif binning == "mass":
        bins, low, high = _bin_by_mass(confidence, n_bins)
    else:
        raise ValueError(f"binning {binning!r} is neither 'width' nor 'mass'")
    n = np.bincount(bins, minlength=n_bins)
    table = pd.DataFrame({"low": low, "high": high, "n": n, "share": n / len(y)})
    for name, values in (("confidence", confidence), ("accuracy", is_right)):
        table[name] = np.bincount(bins, values, n_bins) / np.maximum(n, 1)
    return table[table["n"] > 0].reset_index(drop=True)


def _bin_by_width(confidence: NDArray, n_bins: int) -> tuple[NDArray, NDArray, NDArray]:
    """Bin (n,) of each confidence, and lower and upper ends (n_bins,) of equal bins of [0, 1]."""
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, n_bins - 1)
    return bins, edges[:-1], edges[1:]


def _bin_by_mass(confidence: NDArray, n_bins: int) -> tuple[NDArray, NDArray, NDArray]:
    """Bin (n,) of each confidence, and ends (n_bins,) of groups of equal size; NaN for an empty one."""
    n = len(confidence)
    bins = np.empty(n, int)
    bins[np.argsort(confidence, kind="stable")] = np.arange(n) * n_bins // n
    confidences_by_bin = [confidence[bins == k] for k in range(n_bins)]
    low = np.array(
        [bin_confidences.min() if len(bin_confidences) else np.nan for bin_confidences in confidences_by_bin]
    )
    high = np.array(
        [bin_confidences.max() if len(bin_confidences) else np.nan for bin_confidences in confidences_by_bin]
    )
    return bins, low, high


def fit_temperature(p: ArrayLike, y: ArrayLike) -> float:
    """The temperature in [0.05, 20] of maximum likelihood for held-out rows; above 1 it lowers the confidence.

    p (n, classes), y (n,), errors as in `expected_calibration_error`. Temperature
    scaling changes the confidence in a class, not the class. Guo et al., ICML 2017.
    """
    p, y = _check_labelled(p, y)
    logs = np.log(np.maximum(p, MIN_PROBABILITY))
    rows = np.arange(len(y))

    def cost(log_temperature: float) -> float:
        scaled_logits = logs / np.exp(log_temperature)
        top = scaled_logits.max(axis=1)
        return float((np.log(np.exp(scaled_logits - top[:, None]).sum(axis=1)) + top - scaled_logits[rows, y]).mean())

    return float(np.exp(minimize_scalar(cost, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def apply_temperature(p: ArrayLike, temperature: float) -> NDArray:
    """Temperature-scaled probabilities (..., classes): softmax of their logarithms over `temperature` (above 0)."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature:g}: it has to be above 0")
    logs = np.log(np.maximum(np.asarray(p, float), MIN_PROBABILITY)) / temperature
    exponentials = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _check_labelled(p: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    p = np.asarray(p, float)
    y = np.asarray(y)
    if p.ndim != 2 or y.shape != p.shape[:1] or len(y) == 0:
        raise ValueError(f"probabilities {p.shape} and classes {y.shape}: give (n, classes) and (n,) with n above 0")
    if y.dtype.kind not in "iu":
        raise ValueError(f"true classes are {y.dtype}: give their numbers, 0 to {p.shape[1] - 1}")
    invalid_rows = np.flatnonzero((y < 0) | (y >= p.shape[1]))
    if len(invalid_rows):
        raise ValueError(f"class {y[invalid_rows[0]]} of row {invalid_rows[0]} is not one of 0 to {p.shape[1] - 1}")
    return check_probabilities(p[None])[0], y
