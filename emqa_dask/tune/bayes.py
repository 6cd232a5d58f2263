"""Points that Bayesian optimisation evaluates next: Gaussian processes on random weightings of objectives (ParEGO)."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from skopt.learning import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from emqa_dask.tune import pareto

N_CANDIDATES = 1024  # points of the unit cube among which the most promising is taken
FRONT_SPREADS = (0.02, 0.1)  # of the unit cube: standard deviations of the half that lies around the front
AUGMENTATION = 0.05  # share of the plain sum in the Chebyshev scalarisation (Knowles 2006)


def propose_points(points: NDArray, values: NDArray, count: int, seed: int) -> list[NDArray]:
    """`count` points (d,) of the unit cube to evaluate next, from n evaluated `points` (n x d) and `values` (n x m).

    Each is the best by expected improvement of another random weighting of the objectives, all minimised: a batch
    spreads over the front, as does the search (Knowles, ParEGO, IEEE Trans. Evol. Comput. 10 (2006) 50). Objectives are
    logarithms of the distance to their best value: errors of 20 and 2 are both bad, but 0.02 and 0.2 differ. NaN and
    infinity count as the worst finite value. The same arguments give the same points.
    """
    rng = np.random.default_rng([seed, len(points)])
    values = scale_objectives(values)
    proposed_points: list[NDArray] = []
    for _ in range(count):
        target = scalarise(values, rng.dirichlet(np.ones(values.shape[1])))
        model = _fit_process(points, target, rng)
        candidates = _draw_candidates(points, values, rng)
        best_candidate = candidates[int(np.argmax(expected_improvement(*_predict(model, candidates), target.min())))]
        proposed_points.append(best_candidate)
        # Until it is evaluated the point has its neighbour's values, so that the next of the batch lies elsewhere.
        nearest = int(((points - best_candidate) ** 2).sum(axis=1).argmin())
        points = np.vstack([points, best_candidate])
        values = np.vstack([values, values[nearest]])
    return proposed_points


def scale_objectives(values: NDArray) -> NDArray[np.float64]:
    """`values` (n x m) as logarithms of the distance to each objective's best, in 0...1; failures as the worst.

    Distances below a tenth of the median distance hardly differ.
    """
    scaled = np.zeros(values.shape)
    for k, column in enumerate(values.T):
        is_finite = np.isfinite(column)
        if not is_finite.any():
            continue
        excess = np.where(is_finite, column, column[is_finite].max()) - column[is_finite].min()
        excess = np.log(excess + max(0.1 * float(np.median(excess)), 1e-9))
        scaled[:, k] = (excess - excess.min()) / max(float(np.ptp(excess)), 1e-9)
    return scaled


def scalarise(values: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """The augmented Chebyshev norm of each row of `values` (n x m) under `weights` (m,): (n,)."""
    weighted = values * weights
    return weighted.max(axis=1) + AUGMENTATION * weighted.sum(axis=1)


def expected_improvement(mean: NDArray, std: NDArray, best: float) -> NDArray[np.float64]:
    """Expected improvement on `best`, of minimised normal variables; 0 or more."""
    z = (best - mean) / std
    return std * (z * norm.cdf(z) + norm.pdf(z))


def _draw_candidates(points: NDArray, values: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """Half anywhere in the unit cube, half around the points of the front."""
    half = N_CANDIDATES // 2
    front = points[pareto.find_pareto_front(values)]
    front_samples = front[rng.integers(len(front), size=half)]
    front_samples = front_samples + rng.normal(0, rng.choice(FRONT_SPREADS, size=(half, 1)), front_samples.shape)
    return np.vstack([rng.random((half, points.shape[1])), np.clip(front_samples, 0, 1)])


def _fit_process(points: NDArray, target: NDArray, rng: np.random.Generator) -> GaussianProcessRegressor:
    n_dims = points.shape[1]
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern([0.5] * n_dims, [(0.08, 10.0)] * n_dims, nu=2.5)
    model = GaussianProcessRegressor(
        kernel + WhiteKernel(0.01, (1e-4, 0.5)), normalize_y=True, random_state=int(rng.integers(2**31))
    )
    with warnings.catch_warnings():
        # A hyperparameter at its bound gives a warning, and is acceptable.
        warnings.simplefilter("ignore")
        return model.fit(points, target)


def _predict(model: GaussianProcessRegressor, points: NDArray) -> tuple[NDArray, NDArray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, std = model.predict(points, return_std=True)
    return mean, np.maximum(std, 1e-6)
