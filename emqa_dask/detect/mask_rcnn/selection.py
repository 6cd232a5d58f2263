"""Which detections of an image are given: as many of the best as have the highest expected F1."""

import numpy as np
from numpy.typing import ArrayLike

SELECTIONS = ("all", "expected_f1")


def select_by_expected_f1(scores: ArrayLike) -> tuple[int, float]:
    """How many of the best scores have the highest expected F1, and this F1; (0, 0.0) without scores.

    scores: (n,) in descending order, each the probability that its detection is right; their sum is taken for the
    number of objects. The n best then have an expected F1 of 2 (sum of their scores) / (n + sum of all scores). The
    last score is about half of the F1, so that an image of faint objects is not searched with the floor of a clear one
    (Lipton, Elkan and Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", 2014).
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not len(scores) or scores[0] <= 0:
        return 0, 0.0
    totals = np.cumsum(scores)
    expected_f1 = 2 * totals / (np.arange(1, len(scores) + 1) + totals[-1])
    n = int(np.argmax(expected_f1)) + 1
    return n, float(expected_f1[n - 1])
