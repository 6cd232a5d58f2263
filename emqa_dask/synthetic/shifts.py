"""Examples of each kind of shift, made from a user's own images: what the judge of shifts learns from.

Acquisition: the same content, recorded otherwise. New class: another content, recorded as these images were.
Unrelated: pictures that are none of the kind. Zhang et al. name these three; that they can be made of the in-domain
images themselves is our construct.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emqa_dask.synthetic import cavities, lattices, particles, textures
from emqa_dask.synthetic.conditions import reacquired, zoomed
from emqa_dask.synthetic.foreign import FOREIGN, make_foreign
from emqa_dask.synthetic.sample import loguniform

KINDS = ("acquisition", "new_class", "unrelated")
SMALLEST_PX = 64
_DRAWN_PX = 256  # content and pictures are drawn at least this large, then cut: generators need the room


def shifted_examples(images: Sequence[NDArray], seed: int = 0) -> dict[str, list[NDArray]]:
    """One example of each kind for each of `images` (h, w), of its shape and dtype: kind -> list of arrays.

    Give images that the classifier was not trained on. A picture's example depends on `seed` and its place in the list
    alone. No images give empty lists. Raises ValueError, naming the image by its place, for one that is not
    two-dimensional, below 64 px, not of real numbers or without any finite pixel.
    """
    found: dict[str, list[NDArray]] = {kind: [] for kind in KINDS}
    for k, image in enumerate(images):
        image = np.asarray(image)
        if image.ndim != 2 or min(image.shape) < SMALLEST_PX or image.dtype.kind not in "uif":
            raise ValueError(
                f"image {k} is {image.dtype} of shape {image.shape}: real numbers, two dimensions and {SMALLEST_PX} px "
                "at least are needed"
            )
        unit, low, span = _unit(image, k)
        for number, (kind, make) in enumerate(zip(KINDS, (_reacquired, other_content, unrelated))):
            rng = np.random.default_rng([seed, k, number])
            made, is_alike = make(rng, unit)
            ends = (low, span) if is_alike else _other_range(rng, image.dtype, low, span)
            found[kind].append(_stored(made, *ends, image.dtype))
    return found


def _reacquired(rng, unit):
    return reacquired(rng, unit), True


def other_content(rng: np.random.Generator, unit: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Another content of `unit`'s shape: mostly with its grey values, its fine spectrum and its noise.

    One time in four a synthetic micrograph as it is, in a range of its own (False): what comes from elsewhere differs
    in all of these at once.
    """
    way = rng.choice(["as it is", "drawn", "scrambled", "rescaled", "mixed"], p=[0.25, 0.35, 0.15, 0.15, 0.1])
    if way == "as it is":
        return _drawn(rng, unit.shape), False
    if way == "scrambled":
        content = _scrambled(rng, unit)
    elif way == "rescaled":
        factor = loguniform(rng, 2.2, 4) if rng.random() < 0.5 else loguniform(rng, 0.25, 0.45)
        content = zoomed(rng, unit, factor)
    elif way == "mixed":
        content = 0.5 * unit[::-1] + 0.5 * _scrambled(rng, unit)
    else:
        content = _drawn(rng, unit.shape)
    return _recorded_alike(rng, content, unit), True


def unrelated(rng: np.random.Generator, unit: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """A picture of FOREIGN (mostly a photograph), grey, 0 to 1, of `unit`'s shape, in a range of its own (False)."""
    name = str(rng.choice(list(FOREIGN), p=[0.79, 0.09, 0.06, 0.06]))
    # From a thumbnail that was enlarged, and is soft, to a small part of a large picture.
    factor = loguniform(rng, 0.35, 4) if name == "photograph" else loguniform(rng, 1, 4)
    size = tuple(max(24, round(n * factor)) for n in unit.shape)
    picture = make_foreign(name, rng, size).astype(np.float32) / 255
    grey = picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114], np.float32)
    return _resized(_cut(rng, grey, rng.uniform(min(1, 1 / factor), 1)), unit.shape), False


def _scrambled(rng, unit):
    """The power spectrum of `unit` with random phases: a texture without its edges and shapes."""
    h, w = unit.shape
    whole = np.pad(unit - unit.mean(), ((0, h), (0, w)), mode="symmetric")  # periodic without a jump at the edges
    phases = fft.rfft2(rng.standard_normal(whole.shape, dtype=np.float32))
    made = fft.irfft2(np.abs(fft.rfft2(whole)) * phases / np.maximum(np.abs(phases), 1e-9), s=whole.shape)
    return made[:h, :w]


def _drawn(rng, shape):
    """A micrograph of some synthetic family at some scale, cut to `shape`; 0 to 1."""
    make = (textures.make, particles.make, lattices.make, cavities.make)[int(rng.integers(4))]
    size = tuple(min(max(_DRAWN_PX, n), 1024) for n in shape)
    options = {"lot": int(rng.integers(100, 1000))} if make is textures.make else {}
    image = make(rng, size, **options).image.astype(np.float32)
    made = _resized(_cut(rng, image, loguniform(rng, 0.9 * min(shape) / max(*size, *shape), 1)), shape)
    low, high = np.percentile(made, [0.5, 99.5])
    return (made - low) / np.float32(max(high - low, 1e-6))


def _recorded_alike(rng, content, like):
    """`content` with the radial spectrum of `like` at fine scales, its grey values in rank order, and so its noise."""
    share = rng.uniform(0.15, 0.35) * min(1, 64 / min(like.shape)) ** 0.5
    power = [np.abs(fft.rfft2(image - image.mean())) ** 2 for image in (content, like)]
    q = np.hypot(fft.fftfreq(like.shape[0])[:, None], fft.rfftfreq(like.shape[1])[None])
    ring = np.minimum((q * min(like.shape)).astype(int), min(like.shape) // 2)
    n = np.maximum(np.bincount(ring.ravel()), 1)
    rings = [np.bincount(ring.ravel(), p.ravel()) / n for p in power]
    gain = np.sqrt(rings[1] / np.maximum(rings[0], 1e-9 * rings[0].max() + 1e-20))
    coarse = np.arange(len(n)) < share * min(like.shape) / 2
    gain[coarse] = np.sqrt(rings[1][coarse].sum() / max(rings[0][coarse].sum(), 1e-20))
    noise = fft.rfft2(rng.standard_normal(like.shape))  # where the content has nothing, there is noise to have
    noise *= np.sqrt(np.clip(rings[1] - gain**2 * rings[0], 0, None) / like.size)[ring]
    made = fft.irfft2(fft.rfft2(content - content.mean()) * np.minimum(gain, 1e3)[ring] + noise, s=like.shape)
    order = np.argsort(made, axis=None, kind="stable")
    out = np.empty(like.size, np.float32)
    out[order] = np.sort(like, axis=None)
    return out.reshape(like.shape)


def _cut(rng, image, share):
    """A part of `image`: `share` of its sides."""
    h, w = (max(16, round(share * n)) for n in image.shape)
    y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape, (h, w)))
    return image[y : y + h, x : x + w]


def _resized(image, shape):
    way = cv2.INTER_AREA if image.shape[0] > shape[0] else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image, np.float32), shape[::-1], interpolation=way)


def _unit(image: NDArray, k: int) -> tuple[NDArray[np.float32], float, float]:
    """`image` with its 0.5 and 99.5 percentile at 0 and 1, and what takes it back: offset and span."""
    values = image.astype(np.float64)
    is_finite = np.isfinite(values)
    if not is_finite.any():
        raise ValueError(f"image {k} has no finite pixel: leave it out")
    low, middle, high = np.percentile(values[is_finite], [0.5, 50, 99.5])
    span = high - low if high > low else 1.0
    return ((np.where(is_finite, values, middle) - low) / span).astype(np.float32), low, span


def _other_range(rng, dtype: np.dtype, low: float, span: float) -> tuple[float, float]:
    """Where 0 and the step to 1 lie in a picture that was not recorded as these images were."""
    if dtype.kind == "f":
        return low, span * loguniform(rng, 0.2, 5)
    ends = np.iinfo(dtype)
    room = (1.0 if dtype.itemsize == 1 else loguniform(rng, 0.05, 1)) * (ends.max - max(ends.min, 0))
    low = room * rng.uniform(0, 0.08)
    return low, room - low


def _stored(unit: NDArray, low: float, span: float, dtype: np.dtype) -> NDArray:
    values = np.clip(unit, -1, 3).astype(np.float64) * span + low
    if dtype.kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(values), ends.min, ends.max).astype(dtype)
