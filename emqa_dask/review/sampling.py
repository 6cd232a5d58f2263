"""Images drawn with known, unequal probabilities: of fixed number, spread over strata, of duplicates at most one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOOR_SHARE = 0.25  # of the budget that all images share alike: none is left out because a prediction is wrong
MAX_PROBABILITY = 1 - 1e-9  # from here on an image counts as certain, whatever rounding does


class Draw(NamedTuple):
    """The probability of each image to be drawn, and the images that were drawn, in random order."""

    probabilities: NDArray[np.float64]  # (n,) of the images
    positions: NDArray[np.int64]  # (k,) of the drawn images


def compute_probabilities(sizes: NDArray[np.float64], n_draws: int) -> NDArray[np.float64]:
    """(n,) probabilities of n units that are proportional to `sizes`, at most 1, and sum to min(n_draws, n).

    Units whose share would exceed 1 are certain, and the others share the rest. A size of 0 or less counts as none
    unless all are; a share FLOOR_SHARE of the draws is distributed over all units alike.
    """
    n_units = len(sizes)
    if n_draws >= n_units:
        return np.ones(n_units)
    positive = np.where(np.isfinite(sizes), np.maximum(sizes, 0), 0.0)
    total = positive.sum()
    shares = positive / total if total > 0 else np.full(n_units, 1 / n_units)
    shares = (1 - FLOOR_SHARE) * shares + FLOOR_SHARE / n_units
    is_certain = np.zeros(n_units, bool)
    while True:
        remaining = shares[~is_certain].sum()
        probabilities = np.where(is_certain, 1.0, shares * ((n_draws - is_certain.sum()) / remaining))
        if not (probabilities[~is_certain] >= MAX_PROBABILITY).any():
            return probabilities
        is_certain |= probabilities >= MAX_PROBABILITY


def draw_systematic(
    probabilities: NDArray[np.float64], strata: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(k,) positions of units that are drawn with exactly these probabilities, in random order.

    Systematic sampling (Madow 1949): the units stand in random order, stratum after stratum, each with its probability
    as length, and one random start with steps of 1 hits them. So k is the sum of the probabilities, rounded up or down,
    and likewise the number of each stratum.
    """
    order = np.lexsort((rng.random(len(strata)), strata))
    ends = np.cumsum(probabilities[order])
    total = ends[-1] if len(ends) else 0.0
    n_draws = round(total)
    if abs(total - n_draws) < 1e-6:  # rounding must not change the number of a whole sum
        ends *= n_draws / max(total, 1.0)
    ticks = np.arange(np.ceil(total) + 1) + rng.random()
    hits = np.searchsorted(ends, ticks[ticks < (ends[-1] if len(ends) else 0.0)], side="right")
    return rng.permutation(order[np.unique(hits)])


def draw_images(
    deviations: NDArray[np.float64], strata: NDArray[np.int64], clusters: NDArray[np.int64], n_draws: int, seed: int
) -> Draw:
    """About `n_draws` images, of each cluster of duplicates at most one, with probabilities of least variance.

    deviations: (n,) expected error of the detections of each image, for which the result is corrected; strata and
    clusters: (n,) numbers from 0 on. Neyman's allocation gives a cluster a probability in proportion to the deviation
    of its total; of a drawn cluster each image is drawn alike. Every image has a probability above 0.
    """
    rng = np.random.default_rng(seed)
    n_members = np.bincount(clusters)
    totals = np.bincount(clusters, np.where(np.isfinite(deviations), deviations, 0.0))
    first_members = np.unique(clusters, return_index=True)[1]
    cluster_probabilities = compute_probabilities(totals, n_draws)
    drawn_clusters = draw_systematic(cluster_probabilities, strata[first_members], rng)
    by_cluster = np.argsort(clusters, kind="stable")
    starts = np.cumsum(n_members) - n_members
    choices = starts[drawn_clusters] + rng.integers(0, n_members[drawn_clusters])
    return Draw(cluster_probabilities[clusters] / n_members[clusters], by_cluster[choices])


def compute_standard_error(deviations: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float:
    """Expected standard error of the total of n images of which some are reviewed, by their expected deviations."""
    return float(np.sqrt(((1 - probabilities) / probabilities * deviations**2).sum()))
