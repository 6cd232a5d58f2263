"""Types of atomic columns: a Gaussian mixture of their features, with the number of types by BIC."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.mixture import GaussianMixture

from emqa_dask.tune.atom_features import ColumnFeatures, compute_features
from emqa_dask.tune.order_input import check_image, check_points, measure_spacing_px

MIN_COLUMNS = 30  # with fewer columns whose patch lies in the image, types are unknown
MIN_COLUMNS_PER_TYPE = 8  # fewer are defects and false detections, not a type
MAX_TYPES = 6  # default limit of the number of types
MIN_SPREAD = 0.04  # standard deviation within a type, over the contrast of bright columns: equal columns differ by this
MIN_ADDED_SPREAD = 0.01  # what is added to the noise of an image at least
N_STARTS = 5  # of EM, of which the best is taken


class AtomTypes(NamedTuple):
    """The types of the columns of an image."""

    columns: pd.DataFrame  # y_px, x_px, type (null where unknown), posterior, intensity; in the order of the points
    types: pd.DataFrame  # type, n_columns, mean_intensity, intensity_sd
    bic: list[float]  # of the mixtures of 1, 2, ... types; NaN where a type has too few columns; empty where unknown
    spacing_px: float
    verdict: str  # in words


def find_types(
    image: NDArray, points: ArrayLike | pd.DataFrame, *, max_types: int = MAX_TYPES, seed: int = 0
) -> AtomTypes:
    """Types of the columns at `points` (n, 2; y, x px, or a table with y_px and x_px) of `image` (h, w, real, finite).

    A Gaussian mixture, whose components share one covariance as they share the noise, is fitted to the features of the
    columns (`atom_features.compute_features`) for 1 to `max_types` types. The number with the lowest BIC is taken,
    among those with 8 or more columns of each type. Types differ by how the column itself looks, whatever stands beside
    it; a spread within types of 0.04 of the contrast of bright columns is assumed at least. They are numbered from 1 by
    falling mean intensity. Columns at the edge do not take part in the fit, and get the most probable type. Fewer than
    30 columns inside, or an image without contrast, give unknown types. Gain and offset of the image and the order of
    the points change nothing. Barakati et al., Physics-based reward driven image analysis in microscopy, figure 4.

    Raises ValueError for images that are not two-dimensional, real and finite, points outside the image and a limit of
    less than one type.
    """
    if max_types < 1:
        raise ValueError(f"max_types is {max_types}: it has to be at least 1")
    image = check_image(image)
    points_px = check_points(points, image.shape)
    spacing_px = measure_spacing_px(points_px)
    if len(points_px) < MIN_COLUMNS or not spacing_px > 0 or image.min() == image.max():
        cause = f"{len(points_px)} columns of at least {MIN_COLUMNS}"
        return _describe_unknown(points_px, spacing_px, cause if image.min() < image.max() else "no contrast")
    features = compute_features(image, points_px, spacing_px)
    n_inside = int(features.is_inside.sum())
    if n_inside < MIN_COLUMNS:
        cause = f"{n_inside} columns of at least {MIN_COLUMNS} whose patch lies in the image"
        return _describe_unknown(points_px, spacing_px, cause)
    mixtures = _fit_mixtures(features, max_types, seed)
    bic = [np.nan if mixture is None else score for mixture, score in mixtures]
    mixture = mixtures[int(np.nanargmin(bic))][0]
    return _make_types(points_px, features, mixture, bic, spacing_px)


def _describe_unknown(points_px: NDArray, spacing_px: float, cause: str) -> AtomTypes:
    columns = pd.DataFrame({"y_px": points_px[:, 0], "x_px": points_px[:, 1]})
    columns["type"] = pd.array([pd.NA] * len(columns), dtype="Int64")
    columns[["posterior", "intensity"]] = np.nan
    types = pd.DataFrame(columns=["type", "n_columns", "mean_intensity", "intensity_sd"])
    return AtomTypes(columns, types, [], spacing_px, f"unknown: {cause}")


def _fit_mixtures(features: ColumnFeatures, max_types: int, seed: int) -> list[tuple[GaussianMixture | None, float]]:
    """The mixture of 1, 2, ... types with its BIC; None where it has a type of too few columns."""
    values = features.values[features.is_inside]
    values = values[np.lexsort(values.T[::-1])]  # so that rounding does not depend on the order of the points
    mixtures = []
    for n_types in range(1, min(max_types, len(values) // MIN_COLUMNS_PER_TYPE) + 1):
        mixture = GaussianMixture(
            n_types,
            covariance_type="tied",
            reg_covar=max(MIN_SPREAD**2 - features.noise**2, MIN_ADDED_SPREAD**2),
            n_init=N_STARTS,
            max_iter=300,
            random_state=seed,
        ).fit(values)
        is_full = np.bincount(mixture.predict(values), minlength=n_types).min() >= MIN_COLUMNS_PER_TYPE
        mixtures.append((mixture if is_full else None, float(mixture.bic(values))))
    return mixtures


def _make_types(
    points_px: NDArray, features: ColumnFeatures, mixture: GaussianMixture, bic: list[float], spacing_px: float
) -> AtomTypes:
    """The tables, with types numbered by falling mean intensity."""
    posterior = mixture.predict_proba(features.values)
    labels = posterior.argmax(axis=1)
    n_types = posterior.shape[1]
    means = [features.intensity[features.is_inside & (labels == k)].mean() for k in range(n_types)]
    numbers = np.empty(n_types, np.int64)
    numbers[np.argsort(means)[::-1]] = np.arange(1, n_types + 1)
    columns = pd.DataFrame({"y_px": points_px[:, 0], "x_px": points_px[:, 1], "type": numbers[labels]})
    columns["posterior"] = posterior.max(axis=1)
    columns["intensity"] = features.intensity
    groups = columns.groupby("type")["intensity"]
    types = groups.agg(n_columns="size", mean_intensity="mean", intensity_sd=lambda own: own.std(ddof=0)).reset_index()
    verdict = f"{n_types} types" if n_types > 1 else "1 type"
    return AtomTypes(columns.astype({"type": "Int64"}), types, bic, spacing_px, verdict)
