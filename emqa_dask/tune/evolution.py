"""Populations of NSGA-II (pymoo), a baseline for Bayesian optimisation."""

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.problems.static import StaticProblem

POPULATION_SIZE = 12  # a budget of 60 is five generations


def generate_populations(first: NDArray, n_objectives: int, seed: int) -> Generator[NDArray, NDArray, None]:
    """Populations (p x d, unit cube) to evaluate, starting with `first`; send() takes the objectives (p x m) of each.

    NaN and infinity count as worse than everything finite. The same objectives give the same populations.
    """
    problem = Problem(n_var=first.shape[1], n_obj=n_objectives, xl=0.0, xu=1.0)
    algorithm = NSGA2(pop_size=len(first), sampling=first)
    algorithm.setup(problem, termination=("n_gen", np.iinfo(np.int64).max), seed=seed, verbose=False)
    while True:
        population = algorithm.ask()
        values = yield population.get("X")
        failed_value = np.finfo(np.float64).max ** 0.25
        values = np.where(np.isfinite(values), values, failed_value)
        Evaluator().eval(StaticProblem(problem, F=values), population)
        algorithm.tell(infills=population)
