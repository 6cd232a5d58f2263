"""Pixels of any real dtype as numbers that detectors, or GPUs, compute with."""

import numpy as np


def convert_to_real(image: np.ndarray) -> np.ndarray:
    """`image` with bool as uint8 and float16 as float32; ValueError unless it is (h, w) of real numbers."""
    if image.ndim != 2 or image.dtype.kind not in "buif":
        raise ValueError(f"the image is {image.dtype} of shape {image.shape}: two-dimensional real numbers are needed")
    if image.dtype.kind == "b":
        return image.view(np.uint8)
    return image.astype(np.float32) if image.dtype == np.float16 else image


def convert_for_device(image: np.ndarray) -> np.ndarray:
    """`image` by convert_to_real(), in the processor's byte order and at most 8 bytes a pixel, as GPUs need it."""
    image = convert_to_real(image)
    return image.astype(np.float64 if image.dtype.itemsize > 8 else image.dtype.newbyteorder("="), copy=False)
