"""Pieces of images as the network sees them: enlarged or reduced, and boxes back in the pixels of the piece."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import torch


def compute_scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of a piece of `shape` at `scale`, at least 1 px where the piece has pixels."""
    return tuple(max(1, round(n * scale)) if n else 0 for n in shape)


def resize_piece(pixels: np.ndarray, scale: float) -> np.ndarray:
    """`pixels` (h, w) float32 at `scale`: means over areas where it is below 1, linear interpolation above."""
    height, width = compute_scaled_shape(pixels.shape, scale)
    if (height, width) == pixels.shape:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def restore_boxes(boxes: "torch.Tensor", shape: tuple[int, int], scale: float) -> "torch.Tensor":
    """Boxes (n, 4) x0, y0, x1, y1 of the scaled piece, in the pixels of the piece of `shape`."""
    height, width = compute_scaled_shape(shape, scale)
    factors = (shape[1] / max(width, 1), shape[0] / max(height, 1))
    return boxes * boxes.new_tensor([*factors, *factors])
