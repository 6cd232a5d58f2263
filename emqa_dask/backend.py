"""Where an array lives: backend(array) -> (xp, ndi), to_device, to_host. The only module that imports cupy."""

from types import ModuleType
from typing import Any

import numpy as np


def backend(array: Any) -> tuple[ModuleType, ModuleType]:
    """The array module and its ndimage for `array`: (numpy, scipy.ndimage) or (cupy, cupyx.scipy.ndimage)."""
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy
        import cupyx.scipy.ndimage

        return cupy, cupyx.scipy.ndimage
    import scipy.ndimage

    return np, scipy.ndimage


def to_device(array: np.ndarray, device: str) -> Any:
    """`array` on `device` ("cpu" or "cuda"); "cuda" without a working GPU raises RuntimeError, never falls back."""
    if device == "cpu":
        return array
    if device != "cuda":
        raise ValueError(f"device is {device!r}: it has to be 'cpu' or 'cuda'")
    try:
        import cupy

        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise RuntimeError(f"device 'cuda' was asked for, but there is no usable GPU here: {error}") from error
    if n_devices == 0:
        raise RuntimeError("device 'cuda' was asked for, but there is no GPU here; set device = 'cpu'")
    return cupy.asarray(array)


def to_host(array: Any) -> np.ndarray:
    """`array` as a numpy array, moved explicitly when it lives on a GPU."""
    return array.get() if type(array).__module__.partition(".")[0] == "cupy" else array
