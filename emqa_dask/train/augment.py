"""Random crops for training, varied in position, scale, rotation, contrast, blur and noise.

No crop is inverted: the sign of contrast distinguishes over- from underfocus and cavities from precipitates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from emqa_dask.coco.masks import Mask

MIN_SIDE_PX = 2  # of an object in a crop
MIN_PIXELS = 4  # of an object in a crop
MIN_VISIBLE_SHARE = 0.2  # of an object; one with a smaller part in the crop is left out


class Crop(NamedTuple):
    """A crop and its objects."""

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
    max_corner = np.array(image.shape) - side
    corner = rng.uniform(np.minimum(max_corner, 0), np.maximum(max_corner, 0))
    if len(masks) and rng.random() < 0.5:
        y0, x0, pixels = masks[int(rng.integers(len(masks)))]
        object_corner = np.array([y0, x0]) + np.array(pixels.shape) / 2 - side * rng.uniform(0.25, 0.75, 2)
        corner = np.clip(object_corner, np.minimum(max_corner, 0), np.maximum(max_corner, 0))
    top, left = (int(v) for v in np.floor(corner))
    crop = cut_crop(image, masks, labels, top, left, side, size)
    n_quarter_turns = int(rng.integers(4))
    is_flipped = rng.random() < 0.5
    crop_image = np.rot90(crop.image, n_quarter_turns)
    crop_masks = np.rot90(crop.masks, n_quarter_turns, axes=(1, 2))
    if is_flipped:
        crop_image = crop_image[:, ::-1]
        crop_masks = crop_masks[:, :, ::-1]
    crop_image = crop_image.copy()
    crop_masks = crop_masks.copy()
    if intensity:
        crop_image = vary_intensity(crop_image, rng)
    return Crop(crop_image, compute_mask_boxes(crop_masks), crop_masks, crop.labels)


def cut_crop(
    image: np.ndarray, masks: Sequence[Mask], labels: Sequence[int], top: int, left: int, side: int, size: int
) -> Crop:
    """The window of `side` px at (top, left), scaled to `size` px; it may reach beyond the image."""
    bottom = min(top + side, image.shape[0])
    right = min(left + side, image.shape[1])
    y = max(top, 0)
    x = max(left, 0)
    window = image[y:bottom, x:right]
    if window.shape != (side, side):
        window = np.full((side, side), np.median(image), np.float32)
        window[y - top : bottom - top, x - left : right - left] = image[y:bottom, x:right]
    if side != size:
        interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        window = cv2.resize(window, (size, size), interpolation=interpolation)
    visible = []
    visible_labels = []
    for mask, label in zip(masks, labels):
        pixels = _cut_mask(mask, top, left, side, size)
        if pixels is not None:
            visible.append(pixels)
            visible_labels.append(label)
    stack = np.array(visible, np.uint8).reshape(-1, size, size)
    return Crop(np.ascontiguousarray(window), compute_mask_boxes(stack), stack, np.array(visible_labels, np.int64))


def _cut_mask(mask: Mask, top: int, left: int, side: int, size: int) -> np.ndarray | None:
    """The object's pixels (size, size) in the crop; None where too small a part of it lies in the crop."""
    y0, x0, pixels = mask
    height, width = pixels.shape
    if y0 >= top + side or x0 >= left + side or y0 + height <= top or x0 + width <= left:
        return None
    factor = size / side
    shift = ((np.array([x0 - left, y0 - top]) + 0.5) * factor) - 0.5
    matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
    pixels_in_crop = cv2.warpAffine(pixels.astype(np.uint8) * 255, matrix, (size, size), flags=cv2.INTER_LINEAR) > 127
    rows = np.flatnonzero(pixels_in_crop.any(axis=1))
    columns = np.flatnonzero(pixels_in_crop.any(axis=0))
    if rows.size == 0 or min(np.ptp(rows), np.ptp(columns)) + 1 < MIN_SIDE_PX:
        return None
    n_required = max(MIN_PIXELS, MIN_VISIBLE_SHARE * factor**2 * np.count_nonzero(pixels))
    return pixels_in_crop if np.count_nonzero(pixels_in_crop) >= n_required else None


def compute_mask_boxes(stack: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) float32 of non-empty masks (n, h, w)."""
    if len(stack) == 0:
        return np.zeros((0, 4), np.float32)
    rows = stack.any(axis=2)
    columns = stack.any(axis=1)
    firsts = [rows.argmax(axis=1), columns.argmax(axis=1)]
    lasts = [v.shape[1] - v[:, ::-1].argmax(axis=1) for v in (rows, columns)]
    return np.stack(firsts + lasts, axis=1).astype(np.float32)


def vary_intensity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` with random gain and offset and, at random, gamma, shading, blur and noise; float32."""
    out = (image - 0.5) * np.float32(np.exp(rng.normal(0, 0.2))) + np.float32(0.5 + rng.normal(0, 0.1))
    if rng.random() < 0.4:
        low = float(out.min())
        high = float(out.max())
        unit = (out - low) / max(high - low, 1e-6)
        out = low + (high - low) * unit ** np.float32(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.3:  # a linear gradient of intensity, as of a wedge
        ramp = [np.linspace(-0.5, 0.5, n, dtype=np.float32) * np.float32(rng.normal(0, 0.2)) for n in out.shape]
        out = out + ramp[0][:, None] + ramp[1]
    if rng.random() < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 1.6))
    if rng.random() < 0.4:  # Gaussian noise, and shot noise that grows with the intensity
        strength = rng.exponential(0.06) + rng.exponential(0.06) * np.sqrt(np.clip(out, 0, None))
        noise = rng.standard_normal(out.shape, dtype=np.float32)
        out = out + noise * strength.astype(np.float32)
    return np.clip(out, -1, 2).astype(np.float32)
