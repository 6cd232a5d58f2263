"""Multi-objective search for settings: Bayesian (ParEGO), random (Sobol), evolutionary (NSGA-II)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import qmc

from emqa_dask.tune import bayes, evolution, pareto
from emqa_dask.tune.space import SearchSpace

METHODS = ("bayes", "random", "evolution")
N_INITIAL_POINTS = 8  # points spread over the space before the first model
Evaluate = Callable[[list[dict]], ArrayLike]
Propose = Callable[[NDArray, NDArray, int], list[NDArray]]


class SearchHistory(NamedTuple):
    """A search, evaluation by evaluation."""

    table: pd.DataFrame  # evaluation, the settings, the objectives, is_pareto, hypervolume
    objectives: tuple[str, ...]  # names of the objectives' columns
    reference: tuple[float, ...]  # the point that hypervolumes are measured from

    def select_row(self, distance: str = "euclidean", min_range: ArrayLike = 0.0) -> pd.Series:
        """The row of the table that `pareto.select_nearest_to_ideal` selects."""
        return self.table.iloc[self._select_row_number(distance, min_range)]

    def select_settings(self, distance: str = "euclidean", min_range: ArrayLike = 0.0) -> dict:
        """The settings of that row, as `evaluate` got them."""
        row = self._select_row_number(distance, min_range)
        columns = self.table.columns.drop(["evaluation", *self.objectives, "is_pareto", "hypervolume"])
        return self.table.loc[[row], columns].to_dict("records")[0]

    def _select_row_number(self, distance: str, min_range: ArrayLike) -> int:
        return pareto.select_nearest_to_ideal(self.table[list(self.objectives)], distance, min_range)


def run_search(
    evaluate: Evaluate,
    space: SearchSpace,
    objectives: Sequence[str],
    *,
    evaluations: int,
    seed: int,
    method: str = "bayes",
    batch: int = 4,
    initial: Sequence[dict] = (),
    reference: Sequence[float] | None = None,
) -> SearchHistory:
    """Trace of a search: `evaluations` settings of `space`, `batch` at a time, for `objectives` (names; minimised).

    `evaluate` gets a list of settings and returns their objectives, (k, m) in the same order, wherever it computes
    them; what comes next depends on the batches alone, so a seed gives one history whatever finishes first. NaN and
    infinite objectives mark settings that fail: they stay in the table, off the front. `initial` settings (such as
    those in use) are evaluated first and count. `reference` is where hypervolumes are measured from, by default the
    largest finite value of each objective. Raises ValueError for an unknown method, for budgets below 1 and for
    objectives of another shape.

    "random" draws scrambled Sobol points; "evolution" is NSGA-II (Deb et al., IEEE Trans. Evol. Comput. 6 (2002) 182)
    by pymoo; "bayes" see `tune.bayes`.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: it is one of {', '.join(METHODS)}")
    if evaluations < 1 or batch < 1 or not objectives or not space.names:
        raise ValueError(
            f"{evaluations} evaluations in batches of {batch}: both at least 1, and something to search for"
        )
    points = []
    settings = []
    values = np.zeros((0, len(objectives)))
    propose = _make_proposer(method, len(space.names), len(objectives), evaluations, seed)
    waiting = [(space.locate(candidate), candidate) for candidate in initial]
    while len(settings) < evaluations:
        count = min(batch, evaluations - len(settings))
        proposed = waiting[:count]
        waiting = waiting[count:]
        for point in propose(np.array(points).reshape(-1, len(space.names)), values, count - len(proposed)):
            proposed.append((point, space.make_settings(point)))
        new_values = np.asarray(evaluate([candidate for _, candidate in proposed]), np.float64)
        if new_values.shape != (len(proposed), len(objectives)):
            raise ValueError(
                f"evaluate gave {new_values.shape} for {len(proposed)} settings and {len(objectives)} objectives"
            )
        points += [point for point, _ in proposed]
        settings += [candidate for _, candidate in proposed]
        values = np.concatenate([values, new_values])
    return make_search_history(settings, values, objectives, reference)


def make_search_history(
    settings: list[dict], values: NDArray, names: Sequence[str], reference: Sequence[float] | None
) -> SearchHistory:
    """The record of `settings` and their objectives `values` (n x m), in the order in which they were evaluated."""
    if reference is None:
        finite = np.where(np.isfinite(values), values, -np.inf).max(axis=0)
        reference = np.where(np.isfinite(finite), finite, 1.0)
    table = pd.DataFrame(settings)
    table.insert(0, "evaluation", np.arange(1, len(settings) + 1))
    table[list(names)] = values
    table["is_pareto"] = pareto.find_pareto_front(values)
    table["hypervolume"] = pareto.compute_hypervolume_history(values, reference)
    return SearchHistory(table, tuple(names), tuple(map(float, reference)))


def _make_proposer(method: str, n_dims: int, n_objectives: int, evaluations: int, seed: int) -> Propose:
    """A function (points n x d, values n x m, count) -> at most `count` points of the unit cube to evaluate next."""
    power = math.ceil(math.log2(evaluations + evolution.POPULATION_SIZE))
    spread = qmc.Sobol(n_dims, rng=np.random.default_rng(seed)).random_base2(power)
    if method == "evolution":
        return _make_evolution(spread[: evolution.POPULATION_SIZE], n_objectives, seed)
    n_first = evaluations if method == "random" else N_INITIAL_POINTS
    draws = iter(spread)

    def propose(points: NDArray, values: NDArray, count: int) -> list[NDArray]:
        if len(points) < n_first:
            return [next(draws) for _ in range(count)]
        return bayes.propose_points(points, values, count, seed)

    return propose


def _make_evolution(first: NDArray, n_objectives: int, seed: int) -> Propose:
    """A proposer by NSGA-II. A batch ends with its generation, because the next one depends on all of it."""
    populations = evolution.generate_populations(first, n_objectives, seed)
    waiting = list(next(populations))
    size = len(waiting)

    def propose(points: NDArray, values: NDArray, count: int) -> list[NDArray]:
        nonlocal waiting, size
        if not waiting and count:
            waiting = list(populations.send(values[-size:]))
            size = len(waiting)
        proposed = waiting[:count]
        waiting = waiting[count:]
        return proposed

    return propose
