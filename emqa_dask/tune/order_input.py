"""Checked inputs of order maps and atom types: image, points, their spacing, and searched settings."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from emqa_dask.tune import order_mixture


def check_image(image: NDArray) -> NDArray:
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype.kind not in "buif" or image.size == 0:
        raise ValueError(f"the image has shape {image.shape} and dtype {image.dtype}: it has to be (h, w) real numbers")
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite pixels: replace them, by the median for instance")
    return image


def check_points(points: ArrayLike | pd.DataFrame, shape: tuple[int, int]) -> NDArray:
    if isinstance(points, pd.DataFrame):
        points = points[["y_px", "x_px"]].to_numpy()
    points_px = np.asarray(points, np.float64)
    points_px = points_px.reshape(0, 2) if points_px.size == 0 else points_px
    if points_px.ndim != 2 or points_px.shape[1] != 2:
        raise ValueError(f"the points have shape {points_px.shape}: they have to be (n, 2), y and x in px")
    is_inside = ((points_px >= -0.5) & (points_px <= np.array(shape) - 0.5)).all(axis=1)
    if not is_inside.all():
        raise ValueError(f"point {points_px[~is_inside][0]} lies outside the image of {shape}: points are y, x in px")
    return points_px


def measure_spacing_px(points_px: NDArray) -> float:
    """Median distance of a point to its nearest neighbour, px; NaN for fewer than two points."""
    if len(points_px) < 2:
        return float("nan")
    return float(np.median(cKDTree(points_px).query(points_px, k=2)[0][:, 1]))


def check_search(covariance, threshold, patch_px, window_px) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The covariance types and thresholds to try."""
    covariance_types = order_mixture.COVARIANCES
    if covariance is not None and covariance not in covariance_types:
        raise ValueError(
            f"covariance is {covariance!r}: it is one of {', '.join(covariance_types)}, or None to tune it"
        )
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: it has to be in (0, 1), or None to tune it")
    for name, value, minimum in (("patch_px", patch_px, 3), ("window_px", window_px, 1)):
        if value is not None and value < minimum:
            raise ValueError(f"{name} is {value}: it has to be at least {minimum}, or None")
    return (
        covariance_types if covariance is None else (covariance,),
        order_mixture.THRESHOLDS if threshold is None else (float(threshold),),
    )
