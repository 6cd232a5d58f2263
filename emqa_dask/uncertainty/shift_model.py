"""The shift model of a classifier: whether an image is out of its domain, and which kind of shift is the cause.

Zhang et al. name three kinds and distinguish them by the entropies of a cohort. Here every image is classified by
itself, by its entropy, the distances of its embeddings and of its statistics. The weights come from shifted versions of
the user's own images (synthetic.shifts). This is our own construct.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from emqa_dask.tables import SHIFT_SCORES, SHIFTS
from emqa_dask.uncertainty import fusion, shift_kinds, shift_scores
from emqa_dask.uncertainty.domain_reference import DomainReference, check_fit, drop_missing_members
from emqa_dask.uncertainty.domain_reference_fit import fit_domain_reference
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs, find_finite_rows, select_rows
from emqa_dask.uncertainty.shift_kinds import LogisticModel

N_FOLDS = 5  # of the cross-fitting
MAX_TRAINING_ROWS = 2000  # training images that the logistic regression is fitted to
# Percentiles of held-out images at which a score by itself counts as much as the regression's at its 95th: false flags
# are better spent on the regression. A shift without an example is seen in the embeddings first.
SCORE_PERCENTILES = {"mahalanobis": 97.5, "nearest": 97.5, "content": 97.5, "statistics": 99.5, "spectrum": 99.5}


@dataclass(frozen=True)
class ShiftModel:
    """The domain reference of an ensemble, and regressions fitted to shifted images."""

    reference: DomainReference
    kinds: tuple[str, ...]  # none, then the kinds of shift with examples
    shift_logits: LogisticModel  # of no shift and each kind, from all features
    kind_logits: LogisticModel  # of the kinds, from the scores: statistics separate made examples better than real ones
    scale: fusion.FusionScale  # of "learnt", the log odds of any shift, and the distances
    false_flags: float  # share of in-domain images that may be flagged


def fit_shift_model(
    train: EnsembleOutputs,
    y: ArrayLike,
    groups: ArrayLike,
    held_out: EnsembleOutputs,
    shifted: Mapping[str, EnsembleOutputs],
    *,
    false_flags: float = 0.05,
    held_out_groups: ArrayLike | None = None,
    seed: int = 0,
) -> ShiftModel:
    """A shift model from training images, in-domain images held out of training, and shifted examples by kind.

    `y` (n,) are the classes and `groups` (n,) the source images of the training rows; `held_out_groups` (m,) those of
    the held-out ones (default: each its own). Example j of each kind is made of held-out image j modulo m, as by
    synthetic.shifts. The fused score is the largest of the log odds of a shift, by a logistic regression, and the five
    distances: the regression must not accept what it has no example of, but a distance by itself flags only images
    that are farther out than nearly all held-out images. The limit is split-conformal: of new images like the held-out
    ones about `false_flags` are above it; the log odds of a held-out image come from a fit without its group
    (cross-fitting). Raises ValueError for arrays that do not fit together, unknown kinds, and too few images or
    sources.
    """
    _check_kinds(shifted)
    reference = fit_domain_reference(train, y, groups, held_out, seed=seed)
    kinds = ("none", *(kind for kind in SHIFTS[1:] if kind in shifted))
    for kind in kinds[1:]:
        check_fit(shifted[kind], kind, reference)
    held_out_features = shift_scores.compute_shift_features(reference, held_out)
    training_features = shift_scores.compute_shift_features(reference, train)
    training_order = np.random.default_rng(seed).permutation(len(training_features))
    training_features = training_features[np.sort(training_order[:MAX_TRAINING_ROWS])]
    features_by_kind = [shift_scores.compute_shift_features(reference, shifted[kind]) for kind in kinds[1:]]
    shifted_features = np.concatenate(features_by_kind)
    labels = np.repeat(np.arange(1, len(kinds)), [len(kind_features) for kind_features in features_by_kind])
    folds = _assign_folds(np.arange(len(held_out_features)) if held_out_groups is None else held_out_groups, seed)
    shifted_folds = np.concatenate(
        [folds[np.arange(len(kind_features)) % len(held_out_features)] for kind_features in features_by_kind]
    )
    held_out_log_odds = np.zeros(len(held_out_features))
    for k in range(N_FOLDS):
        logits = _fit_shift_logits(
            held_out_features[folds != k],
            training_features,
            shifted_features[shifted_folds != k],
            labels[shifted_folds != k],
            seed,
        )
        held_out_log_odds[folds == k] = shift_kinds.compute_shift_log_odds(logits, held_out_features[folds == k])
    distances = _select_distances(shift_scores.compute_shift_scores(reference, held_out))
    return ShiftModel(
        reference=reference,
        kinds=kinds,
        shift_logits=_fit_shift_logits(held_out_features, training_features, shifted_features, labels, seed),
        kind_logits=shift_kinds.fit_logistic_model(shift_scores.select_score_columns(shifted_features), labels - 1),
        scale=fusion.fit_scale({"learnt": held_out_log_odds, **distances}, false_flags, SCORE_PERCENTILES),
        false_flags=false_flags,
    )


def _check_kinds(shifted: Mapping[str, EnsembleOutputs]) -> None:
    """Raises ValueError for unknown kinds of shift, and for none."""
    unknown_kinds = [kind for kind in shifted if kind not in SHIFTS[1:]]
    if unknown_kinds or not shifted:
        raise ValueError(f"shifted has {', '.join(unknown_kinds) or 'no kind'}: kinds are {', '.join(SHIFTS[1:])}")


def _fit_shift_logits(
    held_out_features: NDArray, training_features: NDArray, shifted_features: NDArray, labels: NDArray, seed: int
) -> LogisticModel:
    """The regression of any shift from features of held-out, training and shifted images.

    Scores of training images are too good, since networks and domains were fitted to them, but their statistics are as
    in-domain as any: each training image takes the scores of a random held-out image.
    """
    positions = np.random.default_rng(seed).integers(0, len(held_out_features), len(training_features))
    n_scores = shift_scores.N_SCORES
    training_features = np.concatenate(
        [held_out_features[positions, :n_scores], training_features[:, n_scores:]], axis=1
    )
    none = np.zeros(len(held_out_features) + len(training_features), int)
    return shift_kinds.fit_logistic_model(
        np.concatenate([held_out_features, training_features, shifted_features]), np.concatenate([none, labels])
    )


def _assign_folds(groups: ArrayLike, seed: int) -> NDArray[np.int64]:
    """A fold (n,) for each row, of about equal sizes; rows of a group are in one fold."""
    _, positions, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("the held-out images are of one source: hold out images of two sources at least")
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    fold = np.empty(len(sizes), int)
    fold[order] = np.minimum((ends - sizes[order] / 2) * N_FOLDS / ends[-1], N_FOLDS - 1).astype(int)
    return fold[positions]


def _select_distances(scores: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """The scores without entropy, which may be low for a foreign image and is no part of the fused score."""
    return {name: values for name, values in scores.items() if name != "entropy"}


def classify_shift(model: ShiftModel, outputs: EnsembleOutputs) -> pd.DataFrame:
    """Columns of tables.CLASSIFICATIONS for n images, index 0 to n - 1: the scores, shift_score, shift,
    shift_probability and because.

    A row does not depend on the others. Where probabilities or embeddings are not finite, scores are NaN and shift is
    null; a member without any embedding does not count in the distances. An image whose shift_score is 1 or below has
    shift "none" and no probability; above, the most probable kind, with its probability among the kinds. Raises
    ValueError for fewer members' embeddings than in the fit, other sizes of arrays, and missing statistics.
    """
    check_fit(outputs, "outputs", model.reference)
    reference, outputs = drop_missing_members(model.reference, outputs)
    n = len(outputs.features)
    table = pd.DataFrame(np.nan, range(n), [f"{name}_score" for name in (*SHIFT_SCORES, "shift")])
    table["shift"] = np.full(n, None, object)
    table["shift_probability"] = np.nan
    table["because"] = pd.Series([[] for _ in range(n)], index=range(n), dtype=object)
    finite = np.flatnonzero(find_finite_rows(outputs))
    if len(finite):
        rows = _classify_finite(model, reference, select_rows(outputs, finite))
        for name in rows:
            column = table[name].to_numpy(copy=True)
            column[finite] = rows[name].to_numpy()
            table[name] = column
    return table


def _classify_finite(model: ShiftModel, reference: DomainReference, outputs: EnsembleOutputs) -> pd.DataFrame:
    """The columns of classify_shift() for images whose outputs are all finite."""
    scores = shift_scores.compute_shift_scores(reference, outputs)
    standardised_statistics = shift_scores.standardise_statistics(reference, outputs)
    features = shift_scores.compute_shift_features(reference, outputs)
    log_odds = shift_kinds.compute_shift_log_odds(model.shift_logits, features)
    fused = fusion.fuse_scores(model.scale, {"learnt": log_odds, **_select_distances(scores)})
    shift_score = fused / model.scale.limit
    is_flagged = shift_score > 1
    log_probabilities = shift_kinds.compute_log_probabilities(
        model.kind_logits, shift_scores.select_score_columns(features)
    )
    kinds = np.array(model.kinds[1:], object)[log_probabilities.argmax(axis=1)]
    table = pd.DataFrame({f"{name}_score": values for name, values in scores.items()})
    table["shift_score"] = shift_score
    table["shift"] = np.where(is_flagged, kinds, "none")
    table["shift_probability"] = np.where(is_flagged, np.exp(log_probabilities.max(axis=1)), np.nan)
    because = pd.Series([[] for _ in range(len(table))], dtype=object)
    for k in np.flatnonzero(is_flagged):
        image_scores = {name: values[k] for name, values in scores.items()}
        because[k] = shift_scores.describe_shift(
            reference, image_scores, outputs.features.iloc[k], standardised_statistics[k]
        )
    return table.assign(because=because)


def classify_cohort_shift(rows: pd.DataFrame, *, false_flags: float = 0.05, significance: float = 0.01) -> str | None:
    """The kind of shift of a whole cohort, from the columns shift and shift_probability of its images.

    A cause that shifts one image of a session shifts most of them: together they give the kind more surely than each.
    "none" unless more images are out of domain than false flags explain (binomial test); else the kind with the largest
    sum of probabilities. None where no image was classified.
    """
    classified = rows[rows["shift"].notna()]
    flagged = classified[classified["shift"].ne("none")]
    if not len(classified):
        return None
    if binom.sf(len(flagged) - 1, len(classified), false_flags) > significance:
        return "none"
    return str(flagged.groupby("shift")["shift_probability"].sum().idxmax())
