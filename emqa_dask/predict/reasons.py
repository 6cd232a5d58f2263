"""Why a prediction is what it is, in words: SHAP values of a few concepts that a reader can picture."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emqa_dask.predict import gaussian_process, trees
from emqa_dask.predict.regressors import Regressor
from emqa_dask.predict.trees import TreeEnsemble
from emqa_dask.tables import SCORE_BINS

MIN_EFFECT = 0.02  # of F1; smaller effects are not worth a reader's time
MAX_REASONS = 3  # reasons an image
_SHARES = {
    SCORE_BINS[:2]: "of the scores are below 0.3",
    SCORE_BINS[2:8]: "of the scores are between 0.3 and 0.9",
    SCORE_BINS[8:]: "of the scores are 0.9 or more",
}
FEATURE_GROUPS = (
    *_SHARES,
    ("mean_score", "image_confidence", "std_score"),
    ("n_detections",),
    ("area_ratio", "mean_size", "std_size", "size_variation"),
    ("mean_circularity", "std_circularity"),
)
_PHRASES = {
    "mean_score": ("the mean score is {}", "{:.2f}"),
    "image_confidence": ("the mean score, weighted by area, is {}", "{:.2f}"),
    "std_score": ("the scores' standard deviation is {}", "{:.2f}"),
    "n_detections": ("the number of detections is {}", "{:.0f}"),
    "area_ratio": ("the boxes' area is {} of the image's", "{:.1%}"),
    "mean_size": ("the mean box is {} of the image", "{:.3%}"),
    "std_size": ("the boxes' sizes differ by {} of the image", "{:.3%}"),
    "size_variation": ("the boxes' sizes differ by {} of their mean", "{:.0%}"),
    "mean_circularity": ("the mean circularity is {}", "{:.3f}"),
    "std_circularity": ("the circularity's standard deviation is {}", "{:.3f}"),
}


def group_features(columns: Sequence[str]) -> list[tuple[str, ...]]:
    """`columns` in groups that are explained together; those that no concept holds are one each."""
    known = [tuple(c for c in concept if c in columns) for concept in FEATURE_GROUPS]
    rest = [(c,) for c in columns if not any(c in concept for concept in known)]
    return [concept for concept in (*known, *rest) if concept]


def compute_group_shap_values(
    regressor: Regressor, columns: Sequence[str], values: NDArray, background: NDArray
) -> tuple[NDArray[np.float64], float]:
    """SHAP values (n, k) of the k `concepts(columns)` for n rows (n, d), and their base; they sum to the prediction.

    Against b background rows (b, d). Trees: the exact values of the features, summed; Gaussian processes: the exact
    values of the game whose players are the concepts, all 2^k coalitions of them.
    """
    groups = [[list(columns).index(c) for c in concept] for concept in group_features(columns)]
    if isinstance(regressor, TreeEnsemble):
        found, base = trees.compute_shap_values(regressor, values, background)
        return np.stack([found[:, group].sum(axis=1) for group in groups], axis=1), base
    player = [next(k for k, group in enumerate(groups) if i in group) for i in range(len(columns))]
    return gaussian_process.compute_shap_values(regressor, values, background, player)


@functools.lru_cache(maxsize=32)
def _layout(columns: tuple[str, ...]) -> list[tuple[list[int], str | None]]:
    """Of every concept where its features are, and what a sum of them says if they are shares of scores."""
    at = {name: i for i, name in enumerate(columns)}
    share = {name: text for bins, text in _SHARES.items() for name in bins}
    return [([at[name] for name in concept], share.get(concept[0])) for concept in group_features(columns)]


def describe_effects(
    columns: Sequence[str], values: NDArray, shap: NDArray, typical: NDArray, spread: NDArray, target: str = "F1"
) -> list[list[str]]:
    """Reasons for each of n rows, the largest effect first: at most MOST, of LEAST or more.

    values: (n, d), the rows' features; typical, spread: (d,), their medians in training and how much they vary there
    (> 0); shap: (n, k), of `concepts(columns)`. "37 % of the scores are below 0.3 (usually 5 %): lowers the predicted
    F1 by 0.12". Of a concept with several features the one is named that is furthest from what is usual; of several
    bins of scores their sum, unless that is what it usually is.
    """
    columns = tuple(columns)
    layout = _layout(columns)
    size = np.abs(shap)
    order = np.argsort(-size, axis=1, kind="stable")[:, :MAX_REASONS]
    kept = np.take_along_axis(size, order, axis=1) >= MIN_EFFECT
    off = values - typical
    far = np.abs(off) / spread
    said: list[list[str]] = [[] for _ in range(len(values))]
    for i, place in zip(*np.nonzero(kept)):  # by rows, the largest effect first
        k = order[i, place]
        group, share = layout[k]
        if share:
            here, usual = _describe_share(columns, group, share, values[i], typical, off[i])
        else:
            here, usual = _describe_feature(columns, group, values[i], typical, far[i])
        verb = "raises" if shap[i, k] > 0 else "lowers"
        text = f"{here} (usually {usual}): {verb} the predicted {target} by {size[i, k]:.2f}"
        said[i].append(text.replace("%", " %"))
    return said


def _describe_share(columns, group, share, row, typical, off) -> tuple[str, str]:
    """How many scores are in some bins, and how many usually."""
    if len(group) > 1 and abs(sum(off[g] for g in group)) < 0.05:  # the same share, but of other scores
        group = [max(group, key=lambda g: abs(off[g]))]
        low = SCORE_BINS.index(columns[group[0]]) + 1
        share = f"of the scores are between {low / 10:g} and {(low + 1) / 10:g}"
    return f"{sum(row[g] for g in group):.0%} {share}", f"{sum(typical[g] for g in group):.0%}"


def _describe_feature(columns, group, row, typical, far) -> tuple[str, str]:
    """The value of the feature that is furthest from what is usual, and what is usual."""
    i = max(group, key=lambda g: far[g])
    phrase, style = _PHRASES.get(columns[i], (f"{columns[i].replace('_', ' ')} is {{}}", "{:.3g}"))
    return phrase.format(style.format(row[i])), style.format(typical[i])
