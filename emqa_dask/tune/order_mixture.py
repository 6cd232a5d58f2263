"""The disordered component of a Gaussian mixture, its regions, and the choice of covariance type and threshold."""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import label, perimeter
from sklearn.mixture import GaussianMixture

from emqa_dask.tune import pareto
from emqa_dask.tune.periodicity import HALF_ORDER

COVARIANCES = ("full", "tied", "diag", "spherical")
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the posterior; below 0.5 the ordered component is more likely
MIN_AREA_SQUARED_SPACINGS = 8.0  # of a region, over the squared ordered level: a vacancy disturbs 1.5 to 2
MIN_INSCRIBED_RADIUS_SPACINGS = 1.2  # of the largest disc in a region, over the root of the ordered level
MAX_MEAN_ORDER = 0.32  # mean order of a region, in units of the ordered level


class Mixture(NamedTuple):
    """A Gaussian mixture of ordered and disordered places."""

    model: GaussianMixture
    disordered: int  # the component
    disordered_order: float  # mean order of the disordered component, in units of the ordered level
    ordered_order: float  # that of the ordered component


class TunedMixture(NamedTuple):
    """The mixture, covariance type and threshold that were chosen, with both rewards."""

    mixture: Mixture | None  # None: nothing is disordered
    covariance: str | None
    threshold: float
    compactness: float  # 4 pi area / perimeter^2 of all regions together; 1 is a disc
    perimeter_px: float


def fit_mixture(values: NDArray, covariance: str, seed: int = 0) -> Mixture | None:
    """A mixture of two on `values` (n, 2: order in units of the ordered level, scatter), or None without disorder.

    EM starts from the points on either side of half order, so that no random start is needed. The disordered component
    has the lower mean order and the larger mean scatter; when the two disagree, or there are fewer than three points on
    one side, there is none.
    """
    low = values[:, 0] < HALF_ORDER
    if min(low.sum(), (~low).sum()) < 3:
        return None
    samples_by_side = values[low], values[~low]
    model = GaussianMixture(
        2,
        covariance_type=covariance,
        reg_covar=1e-4,
        max_iter=200,
        weights_init=[low.mean(), 1 - low.mean()],
        means_init=[side_samples.mean(axis=0) for side_samples in samples_by_side],
        precisions_init=_compute_precisions(samples_by_side, covariance),
        random_state=seed,
    ).fit(values)
    order, scatter = model.means_.T
    k = int(order.argmin())
    return Mixture(model, k, order[k], order[1 - k]) if scatter[k] >= scatter[1 - k] else None


def _compute_precisions(parts: tuple[NDArray, NDArray], covariance: str) -> NDArray:
    matrices = np.array([np.cov(part.T) + 1e-3 * np.eye(part.shape[1]) for part in parts])
    if covariance == "full":
        return np.linalg.inv(matrices)
    if covariance == "tied":
        return np.linalg.inv(matrices.mean(axis=0))
    variances = np.diagonal(matrices, axis1=1, axis2=2)
    return 1 / variances if covariance == "diag" else 1 / variances.mean(axis=1)


def compute_posterior(mixture: Mixture, values: NDArray) -> NDArray:
    """Probability that each of `values` (..., 2) belongs to the disordered component, (...) float64.

    Far from both means the wider Gaussian has the higher density, so a narrow ordered component would lose every
    boundary and vacancy to the disordered one. A boundary place is mostly ordered when its order is above the middle of
    the two means. So p is 0 above that middle and above half order, and 1 below the disordered mean.
    """
    flat = values.reshape(-1, values.shape[-1])
    p = mixture.model.predict_proba(flat)[:, mixture.disordered]
    limit = min((mixture.disordered_order + mixture.ordered_order) / 2, 0.5)
    p = np.where(flat[:, 0] >= limit, 0.0, np.where(flat[:, 0] <= mixture.disordered_order, 1.0, p))
    return p.reshape(values.shape[:-1])


def find_regions(disordered: NDArray, order: NDArray, spacing_px: float, level: float) -> NDArray:
    """The regions of `disordered` (h, w, bool) that are large and aperiodic enough, with small holes filled.

    A region has at least 8 / level^2 squared spacings, holds a disc with a radius of 1.2 / sqrt(level) spacings (a belt
    around a particle or a chain of vacancies does not), and a mean `order` (h, w) of at most 0.32. `level` is the
    periodicity at order 1: where sites are displaced at random, whole neighbourhoods repeat badly by chance. Holes of
    less than 8 squared spacings are filled.
    """
    min_area = MIN_AREA_SQUARED_SPACINGS * (spacing_px / level) ** 2
    min_inscribed_radius = MIN_INSCRIBED_RADIUS_SPACINGS * spacing_px / np.sqrt(level)
    padded = np.pad(disordered.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    component_labels = label(disordered, connectivity=1)
    n_px = np.bincount(component_labels.ravel())
    mean = np.bincount(component_labels.ravel(), order.ravel()) / np.maximum(n_px, 1)
    is_region = (
        (n_px >= min_area)
        & (mean <= MAX_MEAN_ORDER)
        & np.isin(np.arange(len(n_px)), component_labels[depth >= min_inscribed_radius])
    )
    is_region[0] = False
    mask = is_region[component_labels]
    holes = label(~mask, connectivity=1)
    is_small_hole = np.bincount(holes.ravel()) < MIN_AREA_SQUARED_SPACINGS * spacing_px**2
    is_small_hole[0] = False
    return mask | is_small_hole[holes]


def measure_regions(mask: NDArray, px: float = 1.0) -> tuple[float, float]:
    """Compactness 4 pi area / perimeter^2 and perimeter (px) of all regions of `mask`, whose pixels are `px` wide.

    The image's edge counts where it cuts a region. NaN without a region.
    """
    if not mask.any():
        return np.nan, np.nan
    length = float(perimeter(np.pad(mask, 1)))
    return float(4 * np.pi * mask.sum() / max(length, 1.0) ** 2), length * px


def tune_mixture(
    values: NDArray,
    fields: NDArray,
    is_assessable: NDArray,
    step_px: float,
    spacing_px: float,
    level: float,
    covariances: Iterable[str] = COVARIANCES,
    thresholds: Iterable[float] = THRESHOLDS,
    seed: int = 0,
) -> TunedMixture:
    """The covariance type and threshold whose regions are compact and have a short perimeter.

    `values` (n, 2) are the points', `fields` (a, b, 2) the image's every `step_px`, `is_assessable` (a, b) where
    regions may be. All pairs are tried; those without a region do not count. Of the Pareto front, the pair nearest to
    the ideal point is taken, objectives normalised over the front (Barakati et al.); ties go to the earlier pair.
    """
    choices = []
    for covariance in covariances:
        mixture = fit_mixture(values, covariance, seed)
        if mixture is None:
            continue
        p = compute_posterior(mixture, fields)
        for threshold in thresholds:
            mask = find_regions((p >= threshold) & is_assessable, fields[..., 0], spacing_px / step_px, level)
            choices.append(TunedMixture(mixture, covariance, threshold, *measure_regions(mask, step_px)))
    choices = [choice for choice in choices if np.isfinite(choice.perimeter_px)]
    if not choices:
        return TunedMixture(None, None, np.nan, np.nan, np.nan)
    return choices[pareto.select_nearest_to_ideal([(-choice.compactness, choice.perimeter_px) for choice in choices])]
