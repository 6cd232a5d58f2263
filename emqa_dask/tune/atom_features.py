"""Features of atomic columns: the contrast of each and the shape of its radial profile, from a patch around it."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

RADIUS_SPACINGS = 0.5  # of a patch: half the way to the nearest column
WEIGHT_SIGMA_SPACINGS = 0.2  # of the Gaussian by which an intensity is integrated
VALLEY_BLUR_SPACINGS = 0.2  # so that noise does not decide where the valleys are
VALLEY_REACH_SPACINGS = 1.0  # radius in which the lowest place is the valley of a column
VALLEY_SPREAD_SPACINGS = 3.0  # over which valleys are averaged
N_COMPONENTS = 2  # principal components of the profiles that are kept


class ColumnFeatures(NamedTuple):
    """Features of atomic columns; the scale of `values` is the contrast of bright columns."""

    values: NDArray[np.float64]  # (n, 3): contrast, two principal components of the profile; in the scale's units
    intensity: NDArray[np.float64]  # (n,): mean above the valleys, weighted by a Gaussian; grey values
    is_inside: NDArray[np.bool_]  # (n,): the patch lies in the image
    noise: float  # standard deviation that the image's noise gives to the contrast


def compute_features(image: NDArray, points_px: NDArray, spacing_px: float) -> ColumnFeatures:
    """Features of the columns at `points_px` (n, 2; y, x) of `image` (h, w, float), `spacing_px` apart.

    A patch with a radius of half a spacing around each column is taken above the valleys between columns, and averaged
    over the angle, so that a column looks the same from every side: the columns of a dumbbell are of one type. The
    profile is described by its Gaussian-weighted mean, the contrast, and by principal components of what the mean
    profile times the contrast does not explain.
    """
    radius = max(1, round(RADIUS_SPACINGS * spacing_px))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    distance = np.hypot(y, x)
    valleys = _estimate_valleys(image, spacing_px)
    patches = _cut_patches((image - valleys).astype(np.float32), points_px, y, x)
    weights = np.exp(-0.5 * (distance / (WEIGHT_SIGMA_SPACINGS * spacing_px)) ** 2) * (distance <= radius)
    intensity = patches @ (weights / weights.sum()).ravel()
    scale = max(float(np.percentile(np.abs(intensity), 95)), np.finfo(np.float32).tiny)
    is_inside = ((points_px >= radius) & (points_px <= np.array(image.shape) - 1 - radius)).all(axis=1)
    contrast = intensity / scale
    profiles = _average_rings(patches, distance.ravel(), radius) / scale
    components = _compute_components(profiles, contrast, is_inside)
    noise = _estimate_noise(image) * float(np.linalg.norm(weights) / weights.sum()) / scale
    return ColumnFeatures(np.column_stack([contrast, components]), intensity, is_inside, noise)


def _estimate_noise(image: NDArray) -> float:
    """Standard deviation of white noise, from second differences along both axes, which smooth columns hardly have.

    Immerkaer, Fast noise variance estimation, with the median instead of the mean.
    """
    kernel = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
    differences = cv2.filter2D(image, cv2.CV_64F, kernel, borderType=cv2.BORDER_REFLECT)
    return float(np.median(np.abs(differences)) / 0.6745 / np.linalg.norm(kernel))


def _estimate_valleys(image: NDArray, spacing_px: float) -> NDArray:
    """Grey values between the columns, smooth over some spacings: haze and thickness do not make types."""
    smooth = cv2.GaussianBlur(image, (0, 0), max(VALLEY_BLUR_SPACINGS * spacing_px, 0.5), borderType=cv2.BORDER_REFLECT)
    side = 2 * round(VALLEY_REACH_SPACINGS * spacing_px) + 1
    lowest = cv2.erode(smooth, np.ones((side, side), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(lowest, (0, 0), VALLEY_SPREAD_SPACINGS * spacing_px, borderType=cv2.BORDER_REFLECT)


def _cut_patches(image: NDArray, points_px: NDArray, y: NDArray, x: NDArray) -> NDArray:
    """(n, pixels) float64: `image` at the offsets `y`, `x` from each point, interpolated, mirrored at the edges."""
    rows = (points_px[:, :1] + y.ravel()).astype(np.float32)
    columns = (points_px[:, 1:] + x.ravel()).astype(np.float32)
    return np.vstack(
        [
            cv2.remap(image, columns[k : k + 1024], rows[k : k + 1024], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            for k in range(0, len(points_px), 1024)
        ]
    ).astype(np.float64)


def _average_rings(patches: NDArray, distance: NDArray, radius: int) -> NDArray:
    """Mean of each patch at every distance from its centre, weighted by the root of the number of pixels: (n, rings).

    So white noise is equal in all rings.
    """
    rings = np.minimum(np.rint(distance).astype(int), radius + 1)
    counts = np.bincount(rings)[: radius + 1]
    sums = np.column_stack([patches[:, rings == ring].sum(axis=1) for ring in range(radius + 1)])
    return sums / np.sqrt(counts) / np.sqrt(counts.sum())


def _compute_components(profiles: NDArray, contrast: NDArray, is_inside: NDArray) -> NDArray:
    """(n, 2): principal components of the profiles without the part that is proportional to the contrast."""
    used = is_inside if is_inside.sum() > N_COMPONENTS else np.ones(len(contrast), bool)
    mean = contrast[used] @ profiles[used] / max(contrast[used] @ contrast[used], 1e-12)
    rest = profiles - contrast[:, None] * mean
    rest -= rest[used].mean(axis=0)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(rest[used].T)))
    components = rest @ vectors[:, ::-1][:, :N_COMPONENTS]
    return np.pad(components, ((0, 0), (0, N_COMPONENTS - components.shape[1])))
