"""Whether a classifier's confidence is to be believed: likelihood, calibration error by bins, one temperature."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from emqa_dask.uncertainty.entropy import check_probabilities

MIN_PROBABILITY = 1e-12  # the smallest probability that a likelihood takes: a certain and wrong answer costs 27.6 nats


def negative_log_likelihood(p: ArrayLike, y: ArrayLike) -> float:
    """Mean `-ln p(y)`, nats, of probabilities p (n, classes) and true classes y (n,); p is cut at 1e-12 below.

    Errors as in `expected_calibration_error`.
    """
    p, y = _check_labelled(p, y)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], MIN_PROBABILITY)).mean())


def expected_calibration_error(
    p: ArrayLike, y: ArrayLike, n_bins: int = 20, binning: Literal["width", "mass"] = "width"
) -> float:
    """`sum_j (B_j / N) |accuracy_j - confidence_j|` over bins of the largest probability, in [0, 1].

    p (n, classes) are probabilities, of an ensemble the mean; y (n,) the true classes, 0 to classes - 1. `width` cuts
    [0, 1] into `n_bins` equal bins (paper D with 20; its further 1 / N_b is a misprint), `mass` cuts the sorted
    confidences into `n_bins` groups of equal size, which no empty bin flatters. Raises ValueError for no rows, shapes
    that do not fit, probabilities that are none, classes outside, and an unknown `binning`.
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
        edges = np.linspace(0, 1, n_bins + 1)
        of = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, n_bins - 1)
        low, high = edges[:-1], edges[1:]
    elif binning == "mass":
        of = np.empty(len(y), int)
        of[np.argsort(confidence, kind="stable")] = np.arange(len(y)) * n_bins // len(y)
        groups = [confidence[of == k] for k in range(n_bins)]
        low, high = (np.array([end(g) if len(g) else np.nan for g in groups]) for end in (np.min, np.max))
    else:
        raise ValueError(f"binning {binning!r} is neither 'width' nor 'mass'")
    n = np.bincount(of, minlength=n_bins)
    table = pd.DataFrame({"low": low, "high": high, "n": n, "share": n / len(y)})
    for name, values in (("confidence", confidence), ("accuracy", is_right)):
        table[name] = np.bincount(of, values, n_bins) / np.maximum(n, 1)
    return table[table["n"] > 0].reset_index(drop=True)


def fit_temperature(p: ArrayLike, y: ArrayLike) -> float:
    """The temperature in [0.05, 20] at which held-out rows are most likely; above 1 takes confidence back.

    p (n, classes), y (n,), errors as in `expected_calibration_error`. One number cannot change a class, only the
    confidence in it. Guo et al., ICML 2017.
    """
    p, y = _check_labelled(p, y)
    logs = np.log(np.maximum(p, MIN_PROBABILITY))
    rows = np.arange(len(y))

    def cost(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        top = scaled.max(axis=1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - scaled[rows, y]).mean())

    return float(np.exp(minimize_scalar(cost, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def apply_temperature(p: ArrayLike, temperature: float) -> NDArray:
    """Probabilities (..., classes) as the softmax of their logarithms divided by `temperature` (above 0) gives them."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature:g}: it has to be above 0")
    logs = np.log(np.maximum(np.asarray(p, float), MIN_PROBABILITY)) / temperature
    scaled = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return scaled / scaled.sum(axis=-1, keepdims=True)


def _check_labelled(p: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    p = np.asarray(p, float)
    y = np.asarray(y)
    if p.ndim != 2 or y.shape != p.shape[:1] or len(y) == 0:
        raise ValueError(f"probabilities {p.shape} and classes {y.shape}: give (n, classes) and (n,) with n above 0")
    if y.dtype.kind not in "iu":
        raise ValueError(f"true classes are {y.dtype}: give their numbers, 0 to {p.shape[1] - 1}")
    outside = np.flatnonzero((y < 0) | (y >= p.shape[1]))
    if len(outside):
        raise ValueError(f"class {y[outside[0]]} of row {outside[0]} is not one of 0 to {p.shape[1] - 1}")
    return check_probabilities(p[None])[0], y
