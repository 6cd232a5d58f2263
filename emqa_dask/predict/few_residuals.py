"""Distribution of F1 from the residuals of a few labelled images."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from emqa_dask.predict import conformal
from emqa_dask.tables import F1_LEVELS

N_PRIOR = 4  # labelled images that PRIOR_SCALE counts as
PRIOR_SCALE = 0.6  # of residuals; a model that knows its spread has an error of 0.12 at a spread of 0.1


def compute_student_quantiles(mean: NDArray, spread: NDArray, true: NDArray, groups: ArrayLike) -> NDArray[np.float64]:
    """Quantiles (k,) of the residuals at F1_LEVELS, ascending, from n held-out predictions, n small.

    As conformal.compute_residual_quantiles(), but of Student's distribution with the location and scale of the
    residuals, every group with the same weight: the outer quantiles of 30 residuals are their largest values, which
    the next 30 may exceed or never reach. The location is shrunk to 0 as by N_PRIOR groups without an error.
    """
    names, positions, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) == 0:
        raise ValueError("no row to compute the quantiles of residuals from")
    n = len(names)
    weights = 1.0 / (n * sizes[positions])
    residuals = (true - mean) / (spread + conformal.SPREAD_FLOOR)
    location = weights @ residuals * n / (n + N_PRIOR)
    variance = (N_PRIOR * PRIOR_SCALE**2 + n * (weights @ (residuals - location) ** 2)) / (N_PRIOR + n)
    return location + np.sqrt(variance * (1 + 1 / n)) * t.ppf(F1_LEVELS, N_PRIOR + n - 1)
