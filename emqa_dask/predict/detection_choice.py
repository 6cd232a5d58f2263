"""The detector and the score floor that do best on a few labelled images, where the labels can tell."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

N_RESAMPLES = 1000  # of the labelled images
MIN_PROBABILITY = 0.9  # that another detector or floor is better, from which it replaces the present one
Condition = tuple[str, float]  # detector and score floor


class DetectionChoice(NamedTuple):
    """The chosen detector and score floor, and how all of them do on the labelled images."""

    detector: str
    score_floor: float
    table: pd.DataFrame  # detector, score_floor, mean_f1, probability, is_chosen

    def select_row(self, detector: str, score_floor: float) -> pd.Series:
        """The row of the table for a detector and score floor."""
        is_row = (self.table["detector"] == detector) & np.isclose(self.table["score_floor"], score_floor)
        return self.table[is_row].iloc[0]


def choose_detection(
    f1: Mapping[Condition, ArrayLike], default_floor: float, groups: ArrayLike | None = None
) -> DetectionChoice:
    """The detector and score floor with the highest mean F1, unless they are better than the defaults by chance.

    f1: (detector, score floor) -> true F1 (n,) of the same n labelled images; NaN, neither detections nor objects,
    counts as 1. The first detector and `default_floor` are the defaults. A floor replaces the default one of its
    detector, and then a detector the first one, where it is better in at least MIN_PROBABILITY of the resamples of the
    groups (n labels; by default every image is one). `probability` of the table: that the condition is better than the
    first detector at `default_floor`.
    """
    values = {key: np.nan_to_num(np.asarray(value, dtype=np.float64), nan=1.0) for key, value in f1.items()}
    detectors = list(dict.fromkeys(detector for detector, _ in values))
    weights = _draw_weights(np.arange(len(next(iter(values.values())))) if groups is None else np.asarray(groups))
    best_floors = {}
    for detector in detectors:
        floors = [floor for name, floor in values if name == detector]
        best = max(floors, key=lambda floor, name=detector: (values[name, floor].mean(), -abs(floor - default_floor)))
        is_better = compare_means(values[detector, best], values[detector, default_floor], weights) >= MIN_PROBABILITY
        best_floors[detector] = best if is_better else default_floor
    chosen_condition = (detectors[0], best_floors[detectors[0]])
    best = max(best_floors.items(), key=lambda item: values[item].mean())
    if best != chosen_condition and compare_means(values[best], values[chosen_condition], weights) >= MIN_PROBABILITY:
        chosen_condition = best
    first = values[detectors[0], default_floor]
    rows = [
        (detector, floor, value.mean(), compare_means(value, first, weights), (detector, floor) == chosen_condition)
        for (detector, floor), value in values.items()
    ]
    table = pd.DataFrame(rows, columns=["detector", "score_floor", "mean_f1", "probability", "is_chosen"])
    return DetectionChoice(*chosen_condition, table)


def _draw_weights(groups: NDArray) -> NDArray[np.float64]:
    """How often each image (n,) is drawn in each resample of the groups (N_RESAMPLES, n)."""
    names, positions = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(0)  # the same labels always choose the same
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), N_RESAMPLES)[:, positions].astype(float)


def compare_means(a: NDArray, b: NDArray, weights: NDArray) -> float:
    """Share of the resamples in which the mean of a (n,) is above that of b (n,); equal means count half."""
    difference = weights @ (a - b)
    return float(((difference > 1e-12) + 0.5 * (np.abs(difference) <= 1e-12)).mean())
