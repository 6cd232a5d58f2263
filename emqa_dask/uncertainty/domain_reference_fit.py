"""Fitting a domain reference to training images, with scales from in-domain images held out of training."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask import domain_distance
from emqa_dask.tables import SHIFT_SCORES
from emqa_dask.uncertainty import embedding_distances, entropy
from emqa_dask.uncertainty.domain_reference import SPECTRUM, STATISTICS, DomainReference
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs, check_outputs, find_finite_rows
from emqa_dask.uncertainty.shift_scores import compute_shift_scores

MAX_EMBEDDINGS = 2000  # training embeddings kept of a member
MIN_KNOWN = 0.9  # share of training images in which a statistic has to be known


def fit_domain_reference(
    train: EnsembleOutputs, y: ArrayLike, groups: ArrayLike, held_out: EnsembleOutputs, *, seed: int = 0
) -> DomainReference:
    """The reference of training images of classes `y` (n,) and sources `groups` (n,), with scales of held-out images.

    Statistics that are unknown in a tenth of the training images, or never vary, are left out. Raises ValueError for
    arrays that do not fit together, values that are not finite, and too few images.
    """
    _check_training(train, y, groups, held_out)
    n = train.probabilities.shape[1]
    positions = np.sort(np.random.default_rng(seed).permutation(n)[:MAX_EMBEDDINGS])
    references = [
        embedding_distances.fit_member_reference(member, np.asarray(y), positions) for member in train.embeddings
    ]
    members, backgrounds = (tuple(member_references) for member_references in zip(*references))
    statistics = _fit_domain(train.features, groups, STATISTICS, seed)
    spectrum = _fit_domain(train.features, groups, SPECTRUM, seed)
    values = train.features[[*statistics.columns, *spectrum.columns]].to_numpy(float)
    low, median, high = np.nanpercentile(values, [5, 50, 95], axis=0)
    reference = DomainReference(
        members=members,
        backgrounds=backgrounds,
        content=embedding_distances.fit_content_reference(train.content, positions),
        distance_scale=np.stack([np.zeros((3, len(members))), np.ones((3, len(members)))]),
        statistics=statistics,
        spectrum=spectrum,
        score_medians=np.zeros(len(SHIFT_SCORES)),
        score_steps=np.ones(len(SHIFT_SCORES)),
        disagreement_scale=np.array([0.0, 1.0]),
        statistic_medians=median,
        statistic_ranges=np.where(high > low, (high - low) / 2, np.nanstd(values, axis=0)),
    )
    return _scale_reference(reference, held_out)


def _check_training(train: EnsembleOutputs, y: ArrayLike, groups: ArrayLike, held_out: EnsembleOutputs) -> None:
    """Raises ValueError for arrays that do not fit together, and values that are not finite."""
    for name, outputs in (("train", train), ("held_out", held_out)):
        check_outputs(outputs, name)
        is_finite = find_finite_rows(outputs)
        if not is_finite.all():
            raise ValueError(f"{name}: {(~is_finite).sum()} rows have no finite probabilities; leave them out")
    n = train.probabilities.shape[1]
    n_classes = len(np.asarray(y))
    n_groups = len(np.asarray(groups))
    if n_classes != n or n_groups != n or len(held_out.embeddings) != len(train.embeddings):
        raise ValueError(
            f"{n_classes} classes, {n_groups} groups and {len(held_out.embeddings)} members held out do not fit {n} "
            f"training rows with embeddings of {len(train.embeddings)} members"
        )


def _fit_domain(features: pd.DataFrame, groups: ArrayLike, names: Sequence[str], seed: int) -> domain_distance.Domain:
    """The domain of the columns `names` that vary; its arrays are contiguous, as they are after saving."""
    columns = _select_varying_columns(features, names)
    domain = domain_distance.fit_domain(features, np.asarray(groups), columns=columns, seed=seed)
    return dataclasses.replace(domain, whiten=np.ascontiguousarray(domain.whiten))


def _scale_reference(reference: DomainReference, held_out: EnsembleOutputs) -> DomainReference:
    """The reference with the scales of the held-out images."""
    distances = embedding_distances.compute_distances(reference.members, reference.backgrounds, held_out.embeddings)
    reference = dataclasses.replace(reference, distance_scale=_compute_scale(distances))
    scores = compute_shift_scores(reference, held_out)
    disagreement = entropy.mutual_information(held_out.probabilities)
    medians, steps = _compute_scale(np.stack([*scores.values(), disagreement]))
    return dataclasses.replace(
        reference,
        score_medians=medians[:-1],
        score_steps=steps[:-1],
        disagreement_scale=np.array([medians[-1], steps[-1]]),
    )


def _compute_scale(values: NDArray) -> NDArray:
    """Medians along the last axis, and the steps from them to the 95th percentiles."""
    median, high = np.percentile(values, [50, 95], axis=-1)
    return np.stack([median, np.where(high > median, high - median, np.maximum(values.std(axis=-1), 1e-6))])


def _select_varying_columns(features: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of the columns `names` that are known in MIN_KNOWN of the images and vary; ValueError without any."""
    absent = [name for name in names if name not in features.columns]
    if absent:
        raise ValueError(f"the statistics lack {', '.join(absent)}: give what featurise.images.image_statistics gives")
    values = features[list(names)].to_numpy(float)
    with np.errstate(invalid="ignore"):
        is_known = np.isfinite(values).mean(axis=0) > MIN_KNOWN
    varying = [name for k, name in enumerate(names) if is_known[k] and np.nanstd(values[:, k]) > 1e-9]
    if not varying:
        raise ValueError(f"none of {', '.join(names[:3])}, ... varies among the training images: they are all alike")
    return varying
