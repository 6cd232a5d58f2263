"""Windows of a classifier: intensities in [0, 1], squares of one size on a grid."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WindowSettings:
    """The table `[input]` of a classifier's card."""

    size_px: int  # side of a window
    whole: bool = False  # the image is shrunk so that its shorter side is that of a window
    low_percentile: float = 0.5  # this and the next percentile of an image become 0 and 1
    high_percentile: float = 99.5
    stride_px: int = 0  # from window to window, after shrinking; 0: half a window
    max_windows: int = 36  # of an image; a larger image gets as many, evenly placed

    def __post_init__(self) -> None:
        if self.size_px < 8:
            raise ValueError(f"[input] size_px is {self.size_px}: the side of a window, at least 8 px")
        if not 0 <= self.low_percentile < self.high_percentile <= 100:
            limits_text = f"{self.low_percentile} and {self.high_percentile}"
            raise ValueError(f"[input] percentiles are {limits_text}: they have to rise within 0...100")
        if not 0 <= self.stride_px <= self.size_px:
            raise ValueError(f"[input] stride_px is {self.stride_px}: 0 to size_px, or some pixels are never seen")
        if self.max_windows < 1:
            raise ValueError(f"[input] max_windows is {self.max_windows}: at least 1")

    @property
    def step_px(self) -> int:
        """Distance from window to window, px."""
        return self.stride_px or max(1, self.size_px // 2)


def explain_refusal(shape: tuple[int, ...], view: WindowSettings) -> str:
    """Why an image of `shape` has no window; "" when it has."""
    if len(shape) != 2:
        return f"an image of shape {tuple(shape)}: two dimensions are needed"
    if min(shape) < view.size_px:
        return f"the image is {shape[0]} x {shape[1]} px, smaller than the classifier's window of {view.size_px} px"
    return ""


def normalise_image(image: NDArray, view: WindowSettings) -> NDArray[np.float32]:
    """`image` (h, w) of any real dtype in [0, 1] at the view's percentiles, shrunk where the view is of whole images.

    Pixels that are not finite become the median; an image without contrast becomes 0. Raises ValueError with
    `refusal`'s reason, and for an image that is not of real numbers.
    """
    image = np.asarray(image)
    refusal = explain_refusal(image.shape, view)
    if refusal or image.dtype.kind not in "buif":
        raise ValueError(refusal or f"the image is {image.dtype}: real numbers are needed")
    pixels: NDArray = image.astype(np.float64 if image.dtype.itemsize > 2 else np.float32)
    is_finite = np.isfinite(pixels)
    finite = pixels[is_finite]
    if finite.size == 0:
        pixels = np.zeros(image.shape, np.float32)
    else:
        low, median, high = np.percentile(finite, [view.low_percentile, 50, view.high_percentile])
        if not high > low:
            low = finite.min()
            high = finite.max()
        pixels = np.where(is_finite, pixels, median)
        span = high - low
        pixels = np.clip((pixels - low) / span, 0, 1) if np.isfinite(span) and span > 0 else np.zeros(image.shape)
    pixels = pixels.astype(np.float32)
    if view.whole and min(image.shape) > view.size_px:
        scale = view.size_px / min(image.shape)
        size = tuple(max(view.size_px, round(n * scale)) for n in image.shape)
        pixels = np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA))
    return pixels


def compute_starts(length: int, size: int, step: int) -> NDArray[np.int64]:
    """First pixels of windows along an axis: every `step`, and one more that ends at the edge where pixels are left."""
    starts = np.arange(0, length - size + 1, step)
    return starts if starts[-1] == length - size else np.append(starts, length - size)


def compute_corners(shape: tuple[int, int], view: WindowSettings) -> NDArray[np.int64]:
    """First rows and columns (rows, columns, 2) of the windows of a prepared image of `shape`, max_windows at most."""
    axes = [compute_starts(n, view.size_px, view.step_px) for n in shape]
    window_fraction = np.sqrt(view.max_windows / (len(axes[0]) * len(axes[1])))
    if window_fraction < 1:
        n_rows = min(max(1, round(window_fraction * len(axes[0]))), view.max_windows)
        counts = n_rows, min(len(axes[1]), view.max_windows // n_rows)
        ends = [np.array([0.5]) if k == 1 else np.linspace(0, 1, k) for k in counts]
        axes = [(end * (n - view.size_px)).round().astype(np.int64) for n, end in zip(shape, ends)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def cut_window(pixels: NDArray[np.float32], corner: NDArray[np.int64], view: WindowSettings) -> NDArray[np.float32]:
    """The window of a prepared image that begins at `corner` (row, column); no copy."""
    return pixels[corner[0] : corner[0] + view.size_px, corner[1] : corner[1] + view.size_px]
