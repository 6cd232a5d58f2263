"""Examples of each kind of shift, made from a user's own images: what the judge of shifts learns from.

Acquisition: the same content, recorded otherwise. New class: another content, recorded as these images were or not.
Unrelated: pictures that are none of the kind. Zhang et al. name these three; that they can be made of in-domain images
is our construct.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emqa_dask.synthetic import fields
from emqa_dask.synthetic.conditions import CONDITIONS, reacquire
from emqa_dask.synthetic.contents import draw_content, draw_crop, resize_image
from emqa_dask.synthetic.faults import estimate_noise_level
from emqa_dask.synthetic.foreign import FOREIGN, make_foreign_image
from emqa_dask.synthetic.sample import draw_log_uniform

KINDS = ("acquisition", "new_class", "unrelated")
SMALLEST_PX = 64


def make_shifted_examples(
    images: Sequence[NDArray], seed: int = 0, *, conditions: Sequence[str] = tuple(CONDITIONS), first: int = 0
) -> dict[str, list[NDArray]]:
    """One example of each kind for each of `images` (h, w), of its shape and dtype: kind -> list of arrays.

    Give images that the classifier was not trained on; given several times, they give several examples. An example
    depends on its image, `seed` and its place in the list alone, where places begin at `first`. `conditions` are those
    of synthetic.conditions that acquisition is changed by. No images give empty lists. Raises ValueError, naming the
    image by its place, for one that is not two-dimensional, below 64 px, not of real numbers or without any finite
    pixel.
    """
    examples: dict[str, list[NDArray]] = {kind: [] for kind in KINDS}
    for k, image in enumerate(images, first):
        image = np.asarray(image)
        if image.ndim != 2 or min(image.shape) < SMALLEST_PX or image.dtype.kind not in "uif":
            raise ValueError(
                f"image {k} is {image.dtype} of shape {image.shape}: real numbers, two dimensions and {SMALLEST_PX} px "
                "at least are needed"
            )
        unit, low, span = _normalise_range(image, k)
        rngs = [np.random.default_rng([seed, k, number]) for number in range(len(KINDS))]
        content, keeps = _draw_new_class(rngs[1], unit)
        variants = (
            # Grey values are what is changed most easily, by whoever exports an image: they do not make a new content.
            (reacquire(rngs[0], unit, conditions), rngs[0].random() < 0.6),
            (content, keeps),
            (_draw_unrelated_image(rngs[2], unit.shape), rngs[2].random() < 0.3),
        )
        for kind, rng, (pixels, is_alike) in zip(KINDS, rngs, variants):
            ends = (low, span) if is_alike else _draw_other_range(rng, image.dtype, low, span)
            examples[kind].append(_convert_to_dtype(pixels, *ends, image.dtype))
    return examples


def _draw_new_class(rng, unit) -> tuple[NDArray[np.float32], bool]:
    """Another content of `unit`'s shape, and whether it was recorded as `unit` was.

    What comes from another specimen often comes from another instrument too: most contents are as they were drawn but
    for the noise, half of these under other conditions as well. A shift of both is one of content, the graver one.
    """
    origin = rng.choice(["as drawn", "under other conditions", "drawn", "deformed"], p=[0.3, 0.3, 0.2, 0.2])
    if origin == "drawn":
        return _match_recording(rng, draw_content(rng, unit.shape), unit), True
    if origin == "deformed":
        return _match_recording(rng, _deform_content(rng, unit), unit), True
    grain = np.float32(estimate_noise_level(unit)) * rng.standard_normal(unit.shape, dtype=np.float32)
    content = draw_content(rng, unit.shape) + grain
    return content if origin == "as drawn" else reacquire(rng, content), rng.random() < 0.5


def _draw_unrelated_image(rng, shape) -> NDArray[np.float32]:
    """A picture of FOREIGN, mostly a photograph, grey, 0 to 1."""
    name = str(rng.choice(list(FOREIGN), p=[0.79, 0.09, 0.06, 0.06]))
    # From a thumbnail that was enlarged, and is soft, to a small part of a large picture; larger ones than cameras make
    # would only take time.
    max_factor = max(1.0, min(4.0, 1600 / max(shape)))
    factor = draw_log_uniform(rng, 0.35, max_factor) if name == "photograph" else draw_log_uniform(rng, 1, max_factor)
    foreign_image = (
        make_foreign_image(name, rng, tuple(max(24, round(n * factor)) for n in shape)).astype(np.float32) / 255
    )
    grey = foreign_image if foreign_image.ndim == 2 else foreign_image @ np.array([0.299, 0.587, 0.114], np.float32)
    return resize_image(draw_crop(rng, grey, rng.uniform(min(1, 1 / factor), 1)), shape)


def _deform_content(rng, unit):
    """`unit` stretched along one direction, shrunk across it, and bent: the same matter in other shapes."""
    h, w = unit.shape
    angle = rng.uniform(0, np.pi)
    stretch = draw_log_uniform(rng, 1.3, 3)
    shrink = draw_log_uniform(rng, 0.5, 1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.diag([1 / stretch, 1 / shrink]) @ rotation.T
    points = np.stack(np.meshgrid(np.arange(w) - w / 2, np.arange(h) - h / 2), axis=-1) @ matrix.T + [w / 2, h / 2]
    bend = draw_log_uniform(rng, 0.3, 4)
    x, y = (points[..., k] + bend * fields.draw_fractal(rng, (h, w), exponent=3.5, finest_px=8) for k in (0, 1))
    maps = [np.ascontiguousarray(m, np.float32) for m in (x, y)]
    return cv2.remap(unit, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _match_recording(rng, content, like):
    """`content` with the radial spectrum of `like` at fine scales, its grey values in rank order, and so its noise."""
    coarse_fraction = rng.uniform(0.15, 0.35) * min(1, 64 / min(like.shape)) ** 0.5
    power = [np.abs(fft.rfft2(image - image.mean())) ** 2 for image in (content, like)]
    q = np.hypot(fft.fftfreq(like.shape[0])[:, None], fft.rfftfreq(like.shape[1])[None])
    ring = np.minimum((q * min(like.shape)).astype(int), min(like.shape) // 2)
    n = np.maximum(np.bincount(ring.ravel()), 1)
    rings = [np.bincount(ring.ravel(), p.ravel()) / n for p in power]
    gain = np.sqrt(rings[1] / np.maximum(rings[0], 1e-9 * rings[0].max() + 1e-20))
    is_coarse = np.arange(len(n)) < coarse_fraction * min(like.shape) / 2
    gain[is_coarse] = np.sqrt(rings[1][is_coarse].sum() / max(rings[0][is_coarse].sum(), 1e-20))
    noise = fft.rfft2(rng.standard_normal(like.shape))  # where the content has nothing, there is noise to have
    noise *= np.sqrt(np.clip(rings[1] - gain**2 * rings[0], 0, None) / like.size)[ring]
    signal = fft.irfft2(fft.rfft2(content - content.mean()) * np.minimum(gain, 1e3)[ring] + noise, s=like.shape)
    order = np.argsort(signal, axis=None, kind="stable")
    out = np.empty(like.size, np.float32)
    out[order] = np.sort(like, axis=None)
    return out.reshape(like.shape)


def _normalise_range(image: NDArray, k: int) -> tuple[NDArray[np.float32], float, float]:
    """`image` with its 0.5 and 99.5 percentile at 0 and 1, and what takes it back: offset and span."""
    values = image.astype(np.float64)
    is_finite = np.isfinite(values)
    if not is_finite.any():
        raise ValueError(f"image {k} has no finite pixel: leave it out")
    low, median, high = np.percentile(values[is_finite], [0.5, 50, 99.5])
    span = high - low if high > low else 1.0
    return ((np.where(is_finite, values, median) - low) / span).astype(np.float32), low, span


def _draw_other_range(rng, dtype: np.dtype, low: float, span: float) -> tuple[float, float]:
    """Where 0 lies, and how far from there 1, in a picture that was not recorded as these images were."""
    if dtype.kind == "f":
        return low, span * draw_log_uniform(rng, 0.2, 5)
    ends = np.iinfo(dtype)
    usable_range = (1.0 if dtype.itemsize == 1 else draw_log_uniform(rng, 0.05, 1)) * (ends.max - max(ends.min, 0))
    low = usable_range * rng.uniform(0, 0.08)
    return low, usable_range - low


def _convert_to_dtype(unit: NDArray, low: float, span: float, dtype: np.dtype) -> NDArray:
    values = np.clip(unit, -1, 3).astype(np.float64) * span + low
    if dtype.kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(values), ends.min, ends.max).astype(dtype)
