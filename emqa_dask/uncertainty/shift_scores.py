"""How far an image lies from in-domain ones by six scores, and how its statistics differ: the evidence for a shift."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask import domain_distance
from emqa_dask.tables import SHIFT_SCORES
from emqa_dask.uncertainty import embedding_distances, entropy

SPECTRUM = (
    "noise_floor",
    "detail_cpp",
    "spectrum_slope",
    "spectrum_slope_last_octave",
    "autocorrelation_excess",
    "anisotropy",
    "drift_contrast",
    "astigmatism_contrast",
    "fine_kurtosis",
    "coarse_kurtosis",
    "octave_ratio",
    "octave_skewness",
    "flat_block_noise",
)
STATISTICS = (
    "contrast",
    "entropy_bits",
    "n_levels",
    "top_level",
    "mode_fraction",
    "saturated_fraction",
    "saturated_density_ratio",
    "floor_fraction",
    "skewness",
    "colour_fraction",
    "banner_rows",
    "scale_bar_contrast",
    "line_horizontal",
    "line_vertical",
    "stripe_rows",
    "inversion_symmetry",
    "centre_excess",
    "radial_fraction",
    "block_mean_variance_fraction",
    "local_contrast_spread",
    "tone_texture_correlation",
    "axis_alignment",
    "gradient_tail",
    "gradient_median",
    "flat_fraction",
    "scene_entropy_bits",
    "scene_mode_fraction",
    "histogram_divergence",
    "coherence",
    "coherent_axis_alignment",
    "empty_fraction",
    "occupancy_decorrelation",
    "impulses_per_mpx",
)
MAX_EMBEDDINGS = 2000  # training embeddings kept of a member
N_SCORES = len(SHIFT_SCORES) + 3
MAX_STANDARDISED = 6.0  # of a signed statistic: what lies further says no more
SCORE_TEXTS = {
    "entropy": "predictive entropy is",
    "mahalanobis": "the embedding's distance to the nearest class is",
    "nearest": "the embedding's distance to the nearest training images is",
    "content": "the distance of what it shows to what the training images show is",
    "statistics": "the distance of its tones and overlays to the training images' is",
    "spectrum": "the distance of its noise, detail and spectrum to the training images' is",
}


class EnsembleOutputs(NamedTuple):
    """What an ensemble says of n images, and their statistics."""

    probabilities: NDArray[np.float32]  # (members, n, classes)
    embeddings: NDArray[np.float32]  # (k, n, d): of the first k members
    features: pd.DataFrame  # n rows with the columns of tables.IMAGE_STATISTICS
    content: NDArray[np.float32]  # (n, c): embeddings of what is there, as tables.REGIONS has them
    foreign: NDArray[np.float64]  # (n,): log odds that it is no micrograph, as there


@dataclass(frozen=True)
class DomainReference:
    """In-domain images, and what makes distances to them comparable."""

    members: tuple[
        embedding_distances.EmbeddingReference, ...
    ]  # `rows` (n, r) are whitened here, as the classes' means are
    backgrounds: tuple[embedding_distances.EmbeddingReference, ...]  # the same with all classes as one, without rows
    content: embedding_distances.EmbeddingReference  # of all training images
    typical: NDArray[np.float64]  # (2, 3, k): of each distance and member the held-out median, and the step to the 95th
    statistics: domain_distance.Domain
    spectrum: domain_distance.Domain
    middle: NDArray[np.float64]  # (6,): held-out medians, in the order of tables.SHIFT_SCORES
    span: NDArray[np.float64]  # (6,): from there to the 95th percentiles
    disagreement: NDArray[np.float64]  # (2,): of mutual information, the same
    centre: NDArray[np.float64]  # (c,): medians of the statistics' and the spectrum's columns
    spread: NDArray[np.float64]  # (c,): half of their range between the 5th and 95th percentile


def fit_domain_reference(
    train: EnsembleOutputs, y: ArrayLike, groups: ArrayLike, held_out: EnsembleOutputs, *, seed: int = 0
) -> DomainReference:
    """The yardsticks of training images of classes `y` (n,) and sources `groups` (n,), and of held-out ones.

    Statistics that are unknown in a tenth of the training images, or never vary, are left out. Raises ValueError for
    arrays that do not fit, values that are not finite, and too few images.
    """
    for name, seen in (("train", train), ("held_out", held_out)):
        check_outputs(seen, name)
        if not find_finite_rows(seen).all():
            raise ValueError(
                f"{name}: {(~find_finite_rows(seen)).sum()} rows have no finite probabilities; leave them out"
            )
    y = np.asarray(y)
    groups = np.asarray(groups)
    n = train.probabilities.shape[1]
    k = len(train.embeddings)
    if len(y) != n or len(groups) != n or len(held_out.embeddings) != k:
        said = f"{len(y)} classes, {len(groups)} groups and {len(held_out.embeddings)} members held out"
        raise ValueError(f"{said} do not fit {n} training rows with embeddings of {k} members")
    keep = np.sort(np.random.default_rng(seed).permutation(n)[:MAX_EMBEDDINGS])
    fitted = [embedding_distances.fit_member_reference(member, y, keep) for member in train.embeddings]
    members, backgrounds = (tuple(parts) for parts in zip(*fitted))
    domains = [
        domain_distance.fit_domain(
            train.features, groups, columns=_select_varying_columns(train.features, names), seed=seed
        )
        for names in (STATISTICS, SPECTRUM)
    ]
    statistics, spectrum = (
        dataclasses.replace(domain, whiten=np.ascontiguousarray(domain.whiten)) for domain in domains
    )
    values = train.features[[*statistics.columns, *spectrum.columns]].to_numpy(float)
    low, middle, high = np.nanpercentile(values, [5, 50, 95], axis=0)
    spread = np.where(high > low, (high - low) / 2, np.nanstd(values, axis=0))
    none = np.zeros(len(SHIFT_SCORES))
    unit = np.ones(len(SHIFT_SCORES))
    typical = np.stack([np.zeros((3, k)), np.ones((3, k))])
    content = embedding_distances.fit_content_reference(train.content, keep)
    agreed = np.array([0.0, 1.0])
    known = DomainReference(
        members, backgrounds, content, typical, statistics, spectrum, none, unit, agreed, middle, spread
    )
    far = embedding_distances.compute_distances(members, backgrounds, held_out.embeddings)
    known = dataclasses.replace(known, typical=_compute_medians_and_steps(far))
    raw = np.stack(
        [*compute_shift_scores(known, held_out).values(), entropy.mutual_information(held_out.probabilities)]
    )
    middle, span = _compute_medians_and_steps(raw)
    disagreement = np.array([middle[-1], span[-1]])
    return dataclasses.replace(known, middle=middle[:-1], span=span[:-1], disagreement=disagreement)


def compute_shift_scores(known: DomainReference, seen: EnsembleOutputs) -> dict[str, NDArray[np.float64]]:
    """Each of tables.SHIFT_SCORES of n images, (n,): 0 = median of held-out in-domain images, 1 = 95th percentile."""
    mahalanobis, nearest, _ = _compute_member_distances(known, seen)
    raw = (
        entropy.predictive_entropy(seen.probabilities),
        mahalanobis,
        nearest,
        embedding_distances.compute_content_distances(known.content, seen.content),
        domain_distance.compute_domain_distances(known.statistics, seen.features),
        domain_distance.compute_domain_distances(known.spectrum, seen.features),
    )
    # An image without any statistic is typical by them: the others decide.
    raw = [np.where(np.isnan(values), middle, values) for values, middle in zip(raw, known.middle)]
    return {name: (raw[k] - known.middle[k]) / known.span[k] for k, name in enumerate(SHIFT_SCORES)}


def standardise_statistics(known: DomainReference, seen: EnsembleOutputs) -> NDArray[np.float64]:
    """The statistics (n, c) less their medians, in half in-domain ranges, through arcsinh; unknown ones are 0."""
    values = seen.features[[*known.statistics.columns, *known.spectrum.columns]].to_numpy(float)
    with np.errstate(over="ignore"):
        z = np.arcsinh(np.clip((values - known.centre) / known.spread, -1e100, 1e100))
    return np.clip(np.nan_to_num(z, nan=0.0), -MAX_STANDARDISED, MAX_STANDARDISED)


def compute_shift_features(known: DomainReference, seen: EnsembleOutputs) -> NDArray[np.float64]:
    """What a shift and its kind are told from (n, f): N_SCORES scores, the signed statistics and their magnitudes.

    Beside tables.SHIFT_SCORES: the members' disagreement (mutual information), the relative Mahalanobis distance, and
    the odds of a picture that is no micrograph.
    """
    z = standardise_statistics(known, seen)
    middle, span = known.disagreement
    disagreement = (entropy.mutual_information(seen.probabilities) - middle) / span
    own = np.stack(
        [
            *compute_shift_scores(known, seen).values(),
            disagreement,
            _compute_member_distances(known, seen)[2],
            seen.foreign,
        ],
        axis=1,
    )
    return np.concatenate([np.arcsinh(own), z, np.abs(z)], axis=1)


def select_score_columns(found: NDArray) -> NDArray[np.float64]:
    """Of `evidence` (n, f) the scores (n, N_SCORES)."""
    return np.ascontiguousarray(found[:, :N_SCORES])


def describe_shift(known: DomainReference, own: Mapping[str, float], features: pd.Series, z: NDArray) -> list[str]:
    """The evidence of one image: its scores above 1, largest first, then the three statistics that are farthest out."""
    found = [
        f"{SCORE_TEXTS[name]} {own[name]:.1f} times as far above the in-domain median as the 95th percentile"
        for name in sorted(own, key=own.get, reverse=True)
        if own[name] > 1
    ]
    columns = (*known.statistics.columns, *known.spectrum.columns)
    for k in np.argsort(-np.abs(z), kind="stable")[:3]:
        if abs(z[k]) > np.arcsinh(1):
            found.append(f"{columns[k].replace('_', ' ')} {features[columns[k]]:.3g}, typically {known.centre[k]:.3g}")
    return found or ["no single score or statistic is unusual, but together they are like those of shifted images"]


def check_outputs(seen: EnsembleOutputs, name: str, known: DomainReference | None = None) -> None:
    """Raises ValueError for arrays whose lengths differ, and for others than `known` was fitted to."""
    p = np.asarray(seen.probabilities)
    e = np.asarray(seen.embeddings)
    n = len(seen.features)
    if p.ndim != 3 or e.ndim != 3 or p.shape[1] != n or e.shape[1] != n or not (len(p) and len(e)):
        raise ValueError(
            f"{name}: probabilities {p.shape}, embeddings {e.shape} and {n} rows of statistics: they have to be "
            "(members, n, classes), (1 or more members, n, d) and n"
        )
    c = np.shape(seen.content)
    if len(c) != 2 or c[0] != n or np.shape(seen.foreign) != (n,):
        raise ValueError(
            f"{name}: contents {c} and their odds {np.shape(seen.foreign)}: they have to be (n, c) and (n,)"
        )
    if known is None:
        return
    k = len(known.members)
    d = len(known.members[0].whiten)
    if len(e) < k or e.shape[2] != d:
        raise ValueError(f"{name}: embeddings {e.shape}: of {k} members at least, of length {d}, are needed")
    if c[1] != len(known.content.whiten):
        raise ValueError(
            f"{name}: contents of length {c[1]}, not {len(known.content.whiten)}: train the classifier again"
        )


def find_finite_rows(seen: EnsembleOutputs) -> NDArray[np.bool_]:
    """Which of n images the ensemble has looked at: all its probabilities and embeddings are finite."""
    members = np.isfinite(seen.probabilities).all(axis=(0, 2)) & np.isfinite(seen.embeddings).all(axis=(0, 2))
    return members & np.isfinite(seen.content).all(axis=1) & np.isfinite(seen.foreign)


def drop_missing_members(known: DomainReference, seen: EnsembleOutputs) -> tuple[DomainReference, EnsembleOutputs]:
    """Both without the members whose embeddings are all unknown: an ensemble may have lost some since it was fitted."""
    e = np.asarray(seen.embeddings)[: len(known.members)]
    there = np.flatnonzero(np.isfinite(e).any(axis=(1, 2)))
    if len(there) in (0, len(e)):
        return known, seen
    members, backgrounds = (tuple(kept[k] for k in there) for kept in (known.members, known.backgrounds))
    known = dataclasses.replace(known, members=members, backgrounds=backgrounds, typical=known.typical[..., there])
    return known, seen._replace(embeddings=e[there])


def select_rows(seen: EnsembleOutputs, chosen: NDArray) -> EnsembleOutputs:
    """The chosen rows (mask or places), numbered from 0."""
    features = seen.features.iloc[np.flatnonzero(chosen) if chosen.dtype == bool else chosen]
    of_members = seen.probabilities[:, chosen], seen.embeddings[:, chosen]
    return EnsembleOutputs(*of_members, features.reset_index(drop=True), seen.content[chosen], seen.foreign[chosen])


def _compute_member_distances(known: DomainReference, seen: EnsembleOutputs) -> NDArray[np.float64]:
    """The three distances (3, n): the members' mean, each from its median in steps to its 95th percentile."""
    middle, span = known.typical[..., None]
    return (
        (embedding_distances.compute_distances(known.members, known.backgrounds, seen.embeddings) - middle) / span
    ).mean(axis=1)


def _compute_medians_and_steps(values: NDArray) -> NDArray[np.float64]:
    """Medians along the last axis, and the steps from there to the 95th percentiles."""
    middle, high = np.percentile(values, [50, 95], axis=-1)
    return np.stack([middle, np.where(high > middle, high - middle, np.maximum(values.std(axis=-1), 1e-6))])


def _select_varying_columns(features: pd.DataFrame, names: Sequence[str]) -> list[str]:
    absent = [name for name in names if name not in features.columns]
    if absent:
        raise ValueError(f"the statistics lack {', '.join(absent)}: give what featurise.images.image_statistics gives")
    values = features[list(names)].to_numpy(float)
    with np.errstate(invalid="ignore"):
        is_known = np.isfinite(values).mean(axis=0) > 0.9
    found = [name for k, name in enumerate(names) if is_known[k] and np.nanstd(values[:, k]) > 1e-9]
    if not found:
        raise ValueError(f"none of {', '.join(names[:3])}, ... varies among the training images: they are all alike")
    return found
