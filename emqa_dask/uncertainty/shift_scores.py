"""Shift scores: distances of images to in-domain ones by six measures, and the features that classify shifts."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import domain_distance
from emqa_dask.tables import SHIFT_SCORES
from emqa_dask.uncertainty import embedding_distances, entropy
from emqa_dask.uncertainty.domain_reference import DomainReference
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs

N_SCORES = len(SHIFT_SCORES) + 3  # columns of compute_shift_features() before the statistics
MAX_STANDARDISED = 6.0  # of a standardised statistic: larger values carry no more information
MAX_TEXTS = 3  # statistics that describe_shift() names
SCORE_TEXTS = {
    "entropy": "predictive entropy is",
    "mahalanobis": "the embedding's distance to the nearest class is",
    "nearest": "the embedding's distance to the nearest training images is",
    "content": "the distance of what it shows to what the training images show is",
    "statistics": "the distance of its tones and overlays to the training images' is",
    "spectrum": "the distance of its noise, detail and spectrum to the training images' is",
}


def compute_shift_scores(reference: DomainReference, outputs: EnsembleOutputs) -> dict[str, NDArray[np.float64]]:
    """Each of tables.SHIFT_SCORES of n images, (n,): 0 = median of held-out in-domain images, 1 = 95th percentile."""
    mahalanobis, nearest, _ = _compute_member_distances(reference, outputs)
    unscaled_scores = {
        "entropy": entropy.predictive_entropy(outputs.probabilities),
        "mahalanobis": mahalanobis,
        "nearest": nearest,
        "content": embedding_distances.compute_content_distances(reference.content, outputs.content),
        "statistics": domain_distance.compute_domain_distances(reference.statistics, outputs.features),
        "spectrum": domain_distance.compute_domain_distances(reference.spectrum, outputs.features),
    }
    scores = {}
    for name, median, step in zip(SHIFT_SCORES, reference.score_medians, reference.score_steps):
        # An image without any statistic is typical by them: the other scores decide.
        values = np.where(np.isnan(unscaled_scores[name]), median, unscaled_scores[name])
        scores[name] = (values - median) / step
    return scores


def standardise_statistics(reference: DomainReference, outputs: EnsembleOutputs) -> NDArray[np.float64]:
    """The statistics (n, c) less their medians, in half in-domain ranges, through arcsinh; unknown ones are 0."""
    values = outputs.features[list(reference.statistic_names)].to_numpy(float)
    with np.errstate(over="ignore"):
        standardised = (values - reference.statistic_medians) / reference.statistic_ranges
        compressed = np.arcsinh(np.clip(standardised, -1e100, 1e100))
    return np.clip(np.nan_to_num(compressed, nan=0.0), -MAX_STANDARDISED, MAX_STANDARDISED)


def compute_shift_features(reference: DomainReference, outputs: EnsembleOutputs) -> NDArray[np.float64]:
    """Features (n, f) of a shift: N_SCORES scores, the standardised statistics and their magnitudes.

    The scores are tables.SHIFT_SCORES, the members' disagreement (mutual information), the relative Mahalanobis
    distance, and the log odds that the image is no micrograph.
    """
    statistics = standardise_statistics(reference, outputs)
    median, step = reference.disagreement_scale
    disagreement = (entropy.mutual_information(outputs.probabilities) - median) / step
    scores = compute_shift_scores(reference, outputs)
    relative = _compute_member_distances(reference, outputs)[2]
    columns = np.stack([*scores.values(), disagreement, relative, outputs.foreign_log_odds], axis=1)
    return np.concatenate([np.arcsinh(columns), statistics, np.abs(statistics)], axis=1)


def select_score_columns(features: NDArray) -> NDArray[np.float64]:
    """The scores (n, N_SCORES) of compute_shift_features() (n, f)."""
    return np.ascontiguousarray(features[:, :N_SCORES])


def describe_shift(
    reference: DomainReference, scores: Mapping[str, float], features: pd.Series, standardised_statistics: NDArray
) -> list[str]:
    """Reasons for the shift of one image: scores above 1, largest first, then at most MAX_TEXTS unusual statistics."""
    texts = [
        f"{SCORE_TEXTS[name]} {scores[name]:.1f} times as far above the in-domain median as the 95th percentile"
        for name in sorted(scores, key=scores.get, reverse=True)
        if scores[name] > 1
    ]
    for k in np.argsort(-np.abs(standardised_statistics), kind="stable")[:MAX_TEXTS]:
        if abs(standardised_statistics[k]) > np.arcsinh(1):
            name = reference.statistic_names[k]
            median = reference.statistic_medians[k]
            texts.append(f"{name.replace('_', ' ')} {features[name]:.3g}, typically {median:.3g}")
    return texts or ["no single score or statistic is unusual, but together they are like those of shifted images"]


def _compute_member_distances(reference: DomainReference, outputs: EnsembleOutputs) -> NDArray[np.float64]:
    """The three distances (3, n): the members' mean, each from its median in steps to its 95th percentile."""
    median, step = reference.distance_scale[..., None]
    distances = embedding_distances.compute_distances(reference.members, reference.backgrounds, outputs.embeddings)
    return ((distances - median) / step).mean(axis=1)
