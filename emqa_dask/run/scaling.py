"""Scaling of a run with its number of workers: efficiency, a law of its time, and what an archive takes by it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

LEVEL = 0.95  # of confidence intervals
MIN_ERROR = 1e-6  # relative, of times; less is rounding
MAX_WORKERS = 4096  # that a cluster is looked for with; as many as run.workers may be


class Interval(NamedTuple):
    """A mean with its confidence interval; NaN where there is none."""

    value: float
    low: float
    high: float


class ScalingLaw(NamedTuple):
    """Time of a run of n images: start_s + n (shared_s + max(io_s, compute_s / workers)).

    Without io_s it is the law of Amdahl (1967).
    """

    start_s: float  # that neither depends on the images nor on the workers: start, end, report of few images
    shared_s: float  # of an image, that more workers do not reduce: driver, scheduler, report
    io_s: float  # of an image at the limit of a disk or network, on which workers wait; 0 where none was reached
    compute_s: float  # of an image on one worker
    error: float  # root mean square of the relative deviations of the measurements

    def predict_seconds(self, n_images: ArrayLike, workers: ArrayLike) -> NDArray[np.float64]:
        """Time of runs, broadcast over both arguments."""
        n_images, workers = np.asarray(n_images, float), np.asarray(workers, float)
        return self.start_s + n_images * (self.shared_s + np.maximum(self.io_s, self.compute_s / workers))


def fit_law(n_images: Sequence[int], workers: Sequence[int], seconds: Sequence[float]) -> ScalingLaw:
    """The law of measured runs: non-negative least squares of relative deviations.

    A limit of disk or network is part of it where two or more numbers of workers are at the limit, two or more are
    below, and the Bayesian information criterion is lower with it. ValueError without two numbers of workers. With one
    number of images, start and shared time cannot be told apart: what does not shrink with the workers then counts as
    start.
    """
    n, w, t = (np.asarray(values, float) for values in (n_images, workers, seconds))
    counts = np.unique(w)
    if len(counts) < 2:
        raise ValueError("a law of scaling needs runs with two numbers of workers")
    law = _fit_coefficients(n, w, t, limited_from=math.inf)
    lowest = _compute_bic(law, len(t), 3)
    for limited_from in counts[2:-1]:
        limited = _fit_coefficients(n, w, t, limited_from)
        highest_below = counts[counts < limited_from].max()
        is_consistent = limited.compute_s / limited_from <= limited.io_s <= limited.compute_s / highest_below
        if is_consistent and _compute_bic(limited, len(t), 4) < lowest:
            law, lowest = limited, _compute_bic(limited, len(t), 4)
    return law


def _fit_coefficients(n: NDArray, w: NDArray, t: NDArray, limited_from: float) -> ScalingLaw:
    """The law where runs with `limited_from` workers or more are at the limit of disk or network."""
    is_limited = w >= limited_from
    columns = np.column_stack([np.ones_like(n), n, n * is_limited, n / w * ~is_limited])
    is_used = np.array([True, len(np.unique(n)) > 1, is_limited.any(), True])
    coefficients = np.zeros(4)
    coefficients[is_used] = optimize.nnls(columns[:, is_used] / t[:, None], np.ones_like(t))[0]
    error = float(np.sqrt(np.mean((columns @ coefficients / t - 1) ** 2)))
    start_s, shared_s = coefficients[:2].tolist()
    io_s, compute_s = coefficients[2:].tolist()
    return ScalingLaw(start_s, shared_s, io_s, compute_s, error)


def _compute_bic(law: ScalingLaw, n_runs: int, n_coefficients: int) -> float:
    """Bayesian information criterion of normal relative deviations."""
    return 2 * n_runs * math.log(max(law.error, MIN_ERROR)) + n_coefficients * math.log(n_runs)


def compute_efficiency(
    base_rates: Sequence[float], rates: Sequence[float], base_workers: int, workers: int
) -> Interval:
    """Rate of a worker of many over that of a worker of few: 1 when twice the workers do twice the work.

    base_rates, rates: (r,) images per second of r rounds, measured in turn with `base_workers` and `workers`. The mean
    is geometric; the interval is that of Student's t on the logarithm, and NaN for a single round.
    """
    logs = np.log(np.asarray(rates, float) / workers) - np.log(np.asarray(base_rates, float) / base_workers)
    mean = float(logs.mean())
    if len(logs) < 2:
        return Interval(math.exp(mean), math.nan, math.nan)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return Interval(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin))


def find_cheapest_workers(
    law: ScalingLaw, n_images: int, deadline_s: float, max_workers: int = MAX_WORKERS
) -> int | None:
    """Smallest number of workers that process `n_images` in time; None where no number up to `max_workers` does.

    A worker costs the same in each hour, so the fewest workers are the cheapest: each further one adds to the price of
    the time that does not shrink.
    """
    seconds = law.predict_seconds(n_images, np.arange(1, max_workers + 1))
    in_time = np.flatnonzero(seconds <= deadline_s)
    return int(in_time[0]) + 1 if len(in_time) else None
