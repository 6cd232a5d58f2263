"""Alignment of the image gradient with the boundaries of detections: a measure that needs no label."""

import math

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

N_DIRECTIONS = 24
RING_RADII = (0.8, 1.0, 1.25)  # of the radius: LoG gives it within about a fifth
BLUR_RADII = 0.15  # of the radius: standard deviation of the Gaussian before the gradient, 1 px or more


def compute_radii(points: pd.DataFrame) -> NDArray[np.float64]:
    """Radii of detections, px: sqrt(2) sigma_px, or half the geometric mean of the box's sides where sigma is NaN."""
    sigma = points["sigma_px"].to_numpy(np.float64) if "sigma_px" in points else np.full(len(points), np.nan)
    if np.isfinite(sigma).all():
        return math.sqrt(2) * sigma
    sides = [points[f"{axis}1"].to_numpy(np.float64) - points[f"{axis}0"].to_numpy(np.float64) for axis in "yx"]
    return np.where(np.isfinite(sigma), math.sqrt(2) * sigma, 0.5 * np.sqrt(sides[0] * sides[1]))


def compute_gradient_alignment(points: pd.DataFrame, image: NDArray) -> NDArray[np.float64]:
    """Alignment of the gradient with the normal of each detection's boundary, -1...1: (n,) float64.

    1: inwards everywhere around a bright object (outwards around a dark one); 0: any direction. The best of
    `RING_RADII` counts. It is the mean of the radial part of the gradient over its length, half with every direction
    counting the same, half with strong gradients counting more, so contrast does not matter. `image` is (h, w) of any
    real dtype; NaN and infinite pixels count as its median. `polarity` 0 or absent is bright or dark, whichever fits.
    Directions beyond the image's edges do not count. No points give an empty array.
    """
    if len(points) == 0:
        return np.zeros(0)
    y = points["y_px"].to_numpy(np.float64)
    x = points["x_px"].to_numpy(np.float64)
    radius = compute_radii(points)
    level = np.rint(2 * np.log2(np.maximum(BLUR_RADII * radius, 1.0))).astype(int)
    inwards = np.full((len(RING_RADII), len(points)), np.nan)
    pixels = _fill_nonfinite(image)
    for step in np.unique(level):
        members = np.flatnonzero(level == step)
        gradient, scale = _compute_gradient(pixels, 2.0 ** (step / 2))
        for k, ring in enumerate(RING_RADII):
            inwards[k, members] = _compute_inward_share(gradient, scale, y[members], x[members], ring * radius[members])
    polarity = points["polarity"].to_numpy(np.float64) if "polarity" in points else np.zeros(len(points))
    signed = np.where(polarity == 0, abs(inwards), inwards * polarity)
    return signed.max(axis=0)


def _fill_nonfinite(image: NDArray) -> NDArray[np.float32]:
    pixels = np.asarray(image, np.float32)
    is_finite = np.isfinite(pixels)
    if is_finite.all():
        return pixels
    return np.where(is_finite, pixels, np.median(pixels[is_finite]) if is_finite.any() else 0)


def _compute_gradient(pixels: NDArray, blur: float) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Gradient (rows, columns) after a Gaussian of `blur` px, on a grid that is coarse where the blur is wide.

    Also the grid's pixels per pixel of the image, (2,).
    """
    shape = np.array(pixels.shape)
    coarse = 2 ** max(0, math.floor(math.log2(blur)) - 1)
    small = np.maximum(shape // coarse, 1)
    if coarse > 1:
        pixels = cv2.resize(pixels, (int(small[1]), int(small[0])), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(pixels, (0, 0), blur / coarse)
    return (cv2.Sobel(smooth, cv2.CV_32F, 0, 1), cv2.Sobel(smooth, cv2.CV_32F, 1, 0)), small / shape


def _compute_inward_share(
    gradient: tuple[NDArray, NDArray], scale: NDArray, y: NDArray, x: NDArray, radius: NDArray
) -> NDArray:
    """The share of the gradient that points to the centre, on a circle around each centre: (n,), -1...1."""
    angle = np.arange(N_DIRECTIONS) * (2 * math.pi / N_DIRECTIONS)
    sine = np.sin(angle)
    cosine = np.cos(angle)
    row = np.rint((y[:, None] + radius[:, None] * sine + 0.5) * scale[0] - 0.5).astype(int)
    column = np.rint((x[:, None] + radius[:, None] * cosine + 0.5) * scale[1] - 0.5).astype(int)
    height, width = gradient[0].shape
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row = row.clip(0, height - 1)
    column = column.clip(0, width - 1)
    row_slope = gradient[0][row, column].astype(np.float64)
    column_slope = gradient[1][row, column].astype(np.float64)
    length = np.hypot(row_slope, column_slope) * is_inside
    radial = -(row_slope * sine + column_slope * cosine) * is_inside
    strong = radial.sum(axis=1) / np.maximum(length.sum(axis=1), 1e-12)
    every = np.divide(radial, length, out=np.zeros_like(radial), where=length > 0).sum(axis=1)
    return 0.5 * (strong + every / np.maximum(is_inside.sum(axis=1), 1))
