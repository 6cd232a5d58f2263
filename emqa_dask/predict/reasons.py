"""Reasons of predictions as text: SHAP values of a few groups of features that a reader can picture."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.predict import shap_values
from emqa_dask.predict.regressors import Regressor
from emqa_dask.predict.trees import TreeEnsemble
from emqa_dask.tables import SCORE_BINS

MIN_EFFECT = 0.02  # of F1; smaller effects are not worth a reader's time
MAX_REASONS = 3  # per image
MIN_SHARE_CHANGE = 0.05  # of the scores; with less, one bin of a group of bins is named instead of their sum
SHARE_TEXTS = {  # bins of scores: text after their share
    SCORE_BINS[:2]: "of the scores are below 0.3",
    SCORE_BINS[2:8]: "of the scores are between 0.3 and 0.9",
    SCORE_BINS[8:]: "of the scores are 0.9 or more",
}
FEATURE_GROUPS = (
    *SHARE_TEXTS,
    ("mean_score", "image_confidence", "std_score"),
    ("n_detections",),
    ("area_ratio", "mean_size", "std_size", "size_variation"),
    ("mean_circularity", "std_circularity"),
    ("mean_stability",),
    ("mean_class_margin", "label_purity"),
)
PHRASES = {  # feature: sentence, format of the value
    "mean_score": ("the mean score is {}", "{:.2f}"),
    "image_confidence": ("the mean score, weighted by area, is {}", "{:.2f}"),
    "std_score": ("the scores' standard deviation is {}", "{:.2f}"),
    "n_detections": ("the number of detections is {}", "{:.0f}"),
    "area_ratio": ("the boxes' area is {} of the image's", "{:.1%}"),
    "mean_size": ("the mean box is {} of the image", "{:.3%}"),
    "std_size": ("the boxes' sizes differ by {} of the image", "{:.3%}"),
    "size_variation": ("the boxes' sizes differ by {} of their mean", "{:.0%}"),
    "mean_circularity": ("the mean circularity is {}", "{:.3f}"),
    "mean_stability": ("the mean overlap with the boxes in a mirrored, smaller copy is {}", "{:.2f}"),
    "mean_class_margin": ("the mean margin to the second class is {}", "{:.2f}"),
    "label_purity": ("{} of the detections have the most frequent class", "{:.0%}"),
    "detector_agreement": ("the agreement with the other detectors is {}", "{:.2f}"),
    "std_circularity": ("the circularity's standard deviation is {}", "{:.3f}"),
}


class _FeatureGroup(NamedTuple):
    """A group of features that is explained together."""

    indices: list[int]  # of its features in the row
    share_text: str | None  # text after the sum of the features, if they are shares of scores


def group_features(columns: Sequence[str]) -> list[tuple[str, ...]]:
    """`columns` in the groups of FEATURE_GROUPS; a feature that is in none of them is a group by itself."""
    present = [tuple(name for name in group if name in columns) for group in FEATURE_GROUPS]
    single_columns = [(name,) for name in columns if not any(name in group for group in present)]
    return [group for group in (*present, *single_columns) if group]


def compute_group_shap_values(
    regressor: Regressor, columns: Sequence[str], values: NDArray, background: NDArray
) -> tuple[NDArray[np.float64], float]:
    """SHAP values (n, k) of the k groups of group_features(columns) for n rows (n, d), and their base.

    background: (b, d), rows to compare with. Values and base sum to the prediction. Trees: the exact values of the
    features, summed. Gaussian processes: the exact values of the game whose players are the groups.
    """
    groups = [[list(columns).index(name) for name in group] for group in group_features(columns)]
    if isinstance(regressor, TreeEnsemble):
        effects, base = shap_values.compute_tree_shap_values(regressor, values, background)
        return np.stack([effects[:, group].sum(axis=1) for group in groups], axis=1), base
    players = [next(k for k, group in enumerate(groups) if i in group) for i in range(len(columns))]
    return shap_values.compute_process_shap_values(regressor, values, background, players)


@functools.lru_cache(maxsize=32)
def _arrange_groups(columns: tuple[str, ...]) -> list[_FeatureGroup]:
    """The groups of group_features(columns)."""
    index = {name: i for i, name in enumerate(columns)}
    share_texts = {name: text for bins, text in SHARE_TEXTS.items() for name in bins}
    return [
        _FeatureGroup([index[name] for name in group], share_texts.get(group[0])) for group in group_features(columns)
    ]


def describe_effects(
    columns: Sequence[str], values: NDArray, shap: NDArray, typical: NDArray, spread: NDArray, target: str = "F1"
) -> list[list[str]]:
    """Reasons for each of n rows, the largest effect first: at most MAX_REASONS, of MIN_EFFECT or more.

    values: (n, d), the rows' features; typical and spread (> 0): (d,), medians and variation of the training rows;
    shap: (n, k), of group_features(columns). "37 % of the scores are below 0.3 (usually 5 %): lowers the predicted F1
    by 0.12". For a group of features the text names the feature that is furthest from its typical value; for bins of
    scores their sum, or one bin where the sum is typical.
    """
    columns = tuple(columns)
    groups = _arrange_groups(columns)
    size = np.abs(shap)
    order = np.argsort(-size, axis=1, kind="stable")[:, :MAX_REASONS]
    is_kept = np.take_along_axis(size, order, axis=1) >= MIN_EFFECT
    deviations = values - typical
    relative = np.abs(deviations) / spread
    texts: list[list[str]] = [[] for _ in range(len(values))]
    for i, rank in zip(*np.nonzero(is_kept)):  # by rows, the largest effect first
        k = order[i, rank]
        group = groups[k]
        if group.share_text:
            fact, usual = _describe_share(columns, group, values[i], typical, deviations[i])
        else:
            fact, usual = _describe_feature(columns, group, values[i], typical, relative[i])
        verb = "raises" if shap[i, k] > 0 else "lowers"
        text = f"{fact} (usually {usual}): {verb} the predicted {target} by {size[i, k]:.2f}"
        texts[i].append(text.replace("%", " %"))
    return texts


def _describe_share(columns, group: _FeatureGroup, row, typical, deviations) -> tuple[str, str]:
    """The share of scores in the group's bins as a sentence, and the typical share."""
    indices = group.indices
    text = group.share_text
    if len(indices) > 1 and abs(sum(deviations[i] for i in indices)) < MIN_SHARE_CHANGE:
        largest = max(indices, key=lambda i: abs(deviations[i]))
        indices = [largest]
        low = SCORE_BINS.index(columns[largest]) + 1
        text = f"of the scores are between {low / 10:g} and {(low + 1) / 10:g}"
    return f"{sum(row[i] for i in indices):.0%} {text}", f"{sum(typical[i] for i in indices):.0%}"


def _describe_feature(columns, group: _FeatureGroup, row, typical, relative) -> tuple[str, str]:
    """The feature of the group that is furthest from its typical value as a sentence, and the typical value."""
    i = max(group.indices, key=lambda k: relative[k])
    sentence, style = PHRASES.get(columns[i], (f"{columns[i].replace('_', ' ')} is {{}}", "{:.3g}"))
    return sentence.format(style.format(row[i])), style.format(typical[i])
