"""Crops for training and what varies in them: place, scale, turn, contrast, blur and noise; never the sign of contrast.

The sign tells over- from underfocus and a cavity from a precipitate, so no crop is inverted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

Mask = tuple[int, int, np.ndarray]  # (y0, x0, crop): one object's pixels, as bool, rows from y0, columns from x0
# what is left of an object in a crop is an object from here on
MIN_SIDE_PX = 2
MIN_PIXELS = 4
MIN_VISIBLE_SHARE = 0.2  # an object of which the crop shows less than this is left out


class Crop(NamedTuple):
    """What the network trains on."""

    image: np.ndarray  # (h, w) float32, 0 to 1 at the percentiles of the whole image
    boxes: np.ndarray  # (n, 4) float32: y0, x0, y1, x1, half-open, px: tight about the masks
    masks: np.ndarray  # (n, h, w) uint8, 0 or 1
    labels: np.ndarray  # (n,) int64, from 1


def draw_crop(
    image: np.ndarray,
    masks: Sequence[Mask],
    labels: Sequence[int],
    rng: np.random.Generator,
    *,
    size: int,
    scales: tuple[float, float] = (0.5, 2.0),
    intensity: bool = True,
) -> Crop:
    """A random crop of `size` px from a normalised float32 `image` with its objects, turned and flipped at random.

    The scale is log-uniform in `scales`; half the crops are centred near an object. Beyond the image's edge the crop
    holds the image's median. `intensity` varies contrast, blur and noise too (`vary_intensity`).
    """
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    side = max(8, round(size / scale))
    room = np.array(image.shape) - side
    corner = rng.uniform(np.minimum(room, 0), np.maximum(room, 0))
    if len(masks) and rng.random() < 0.5:
        y0, x0, pixels = masks[int(rng.integers(len(masks)))]
        near = np.array([y0, x0]) + np.array(pixels.shape) / 2 - side * rng.uniform(0.25, 0.75, 2)
        corner = np.clip(near, np.minimum(room, 0), np.maximum(room, 0))
    top, left = (int(v) for v in np.floor(corner))
    crop = cut_crop(image, masks, labels, top, left, side, size)
    turns = int(rng.integers(4))
    flip = rng.random() < 0.5
    picture = np.rot90(crop.image, turns)
    stack = np.rot90(crop.masks, turns, axes=(1, 2))
    if flip:
        picture = picture[:, ::-1]
        stack = stack[:, :, ::-1]
    picture = picture.copy()
    stack = stack.copy()
    if intensity:
        picture = vary_intensity(picture, rng)
    return Crop(picture, compute_mask_boxes(stack), stack, crop.labels)


def cut_crop(
    image: np.ndarray, masks: Sequence[Mask], labels: Sequence[int], top: int, left: int, side: int, size: int
) -> Crop:
    """The window of `side` px at (top, left), scaled to `size` px; it may reach beyond the image."""
    factor = size / side
    bottom, right = min(top + side, image.shape[0]), min(left + side, image.shape[1])
    y, x = max(top, 0), max(left, 0)
    window = image[y:bottom, x:right]
    if window.shape != (side, side):
        window = np.full((side, side), np.median(image), np.float32)
        window[y - top : bottom - top, x - left : right - left] = image[y:bottom, x:right]
    if side != size:
        way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        window = cv2.resize(window, (size, size), interpolation=way)
    kept = []
    names = []
    for (y0, x0, pixels), label in zip(masks, labels):
        h, w = pixels.shape
        if y0 >= top + side or x0 >= left + side or y0 + h <= top or x0 + w <= left:
            continue
        shift = ((np.array([x0 - left, y0 - top]) + 0.5) * factor) - 0.5
        matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
        shown = cv2.warpAffine(pixels.astype(np.uint8) * 255, matrix, (size, size), flags=cv2.INTER_LINEAR) > 127
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        if rows.size == 0 or min(np.ptp(rows), np.ptp(columns)) + 1 < MIN_SIDE_PX:
            continue
        n = np.count_nonzero(shown)
        if n >= max(MIN_PIXELS, MIN_VISIBLE_SHARE * factor**2 * np.count_nonzero(pixels)):
            kept.append(shown)
            names.append(label)
    stack = np.array(kept, np.uint8).reshape(-1, size, size)
    return Crop(np.ascontiguousarray(window), compute_mask_boxes(stack), stack, np.array(names, np.int64))


def compute_mask_boxes(stack: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) float32 of non-empty masks (n, h, w)."""
    if len(stack) == 0:
        return np.zeros((0, 4), np.float32)
    rows, columns = stack.any(axis=2), stack.any(axis=1)
    firsts = [rows.argmax(axis=1), columns.argmax(axis=1)]
    lasts = [v.shape[1] - v[:, ::-1].argmax(axis=1) for v in (rows, columns)]
    return np.stack(firsts + lasts, axis=1).astype(np.float32)


def vary_intensity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` after a random gain and offset, and at times a gamma, a shading, blur and noise; float32."""
    out = (image - 0.5) * np.float32(np.exp(rng.normal(0, 0.2))) + np.float32(0.5 + rng.normal(0, 0.1))
    if rng.random() < 0.4:
        low, high = float(out.min()), float(out.max())
        unit = (out - low) / max(high - low, 1e-6)
        out = low + (high - low) * unit ** np.float32(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.3:  # a wedge
        ramp = [np.linspace(-0.5, 0.5, n, dtype=np.float32) * np.float32(rng.normal(0, 0.2)) for n in out.shape]
        out = out + ramp[0][:, None] + ramp[1]
    if rng.random() < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 1.6))
    if rng.random() < 0.4:  # Gaussian noise, and shot noise that grows with the intensity
        strength = rng.exponential(0.06) + rng.exponential(0.06) * np.sqrt(np.clip(out, 0, None))
        noise = rng.standard_normal(out.shape, dtype=np.float32)
        out = out + noise * strength.astype(np.float32)
    return np.clip(out, -1, 2).astype(np.float32)
