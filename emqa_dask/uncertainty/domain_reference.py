"""The domain reference of a classifier: in-domain images, and the scales that make distances to them comparable."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emqa_dask import domain_distance
from emqa_dask.uncertainty.embedding_distances import EmbeddingReference
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs, check_outputs

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


@dataclass(frozen=True)
class DomainReference:
    """In-domain images of k members of an ensemble; scales of held-out ones: medians, and steps to percentile 95."""

    members: tuple[EmbeddingReference, ...]  # about the classes' means
    backgrounds: tuple[EmbeddingReference, ...]  # the same with all classes as one, without rows
    content: EmbeddingReference  # of all training images
    distance_scale: NDArray[np.float64]  # (2, 3, k): median and step of each distance and member
    statistics: domain_distance.Domain
    spectrum: domain_distance.Domain
    score_medians: NDArray[np.float64]  # (6,), in the order of tables.SHIFT_SCORES
    score_steps: NDArray[np.float64]  # (6,)
    disagreement_scale: NDArray[np.float64]  # (2,): median and step of the mutual information
    statistic_medians: NDArray[np.float64]  # (c,), of the training images' statistics and spectrum
    statistic_ranges: NDArray[np.float64]  # (c,): half of their range between the 5th and 95th percentile

    @property
    def statistic_names(self) -> tuple[str, ...]:
        """The c columns of statistics and spectrum."""
        return (*self.statistics.columns, *self.spectrum.columns)


def check_fit(outputs: EnsembleOutputs, name: str, reference: DomainReference) -> None:
    """Raises ValueError, with `name`, for arrays of other lengths than those of the reference."""
    check_outputs(outputs, name)
    shape = np.shape(outputs.embeddings)
    n_members = len(reference.members)
    length = len(reference.members[0].whiten)
    if shape[0] < n_members or shape[2] != length:
        raise ValueError(f"{name}: embeddings {shape}: of {n_members} members at least, of length {length}, are needed")
    content_length = np.shape(outputs.content)[1]
    if content_length != len(reference.content.whiten):
        raise ValueError(
            f"{name}: contents of length {content_length}, not {len(reference.content.whiten)}: train the classifier "
            "again"
        )


def drop_missing_members(
    reference: DomainReference, outputs: EnsembleOutputs
) -> tuple[DomainReference, EnsembleOutputs]:
    """Both without the members whose embeddings are all unknown: an ensemble may have lost some since the fit."""
    embeddings = np.asarray(outputs.embeddings)[: len(reference.members)]
    present = np.flatnonzero(np.isfinite(embeddings).any(axis=(1, 2)))
    if len(present) in (0, len(embeddings)):
        return reference, outputs
    reference = dataclasses.replace(
        reference,
        members=tuple(reference.members[k] for k in present),
        backgrounds=tuple(reference.backgrounds[k] for k in present),
        distance_scale=reference.distance_scale[..., present],
    )
    return reference, outputs._replace(embeddings=embeddings[present])
