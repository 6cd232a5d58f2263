"""Random fields that backgrounds are made of: fractal mottle, gradients, bend contours, grains, dislocations."""

import cv2
import numpy as np
from scipy import fft

from emqa_dask.synthetic.sample import draw_log_uniform


def standardise(values: np.ndarray) -> np.ndarray:
    """`values` as float32 with mean 0 and standard deviation 1 (all 0 for a constant field)."""
    values = values.astype(np.float32, copy=False)
    spread = float(values.std())
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


def draw_white_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float = 0.0) -> np.ndarray:
    """Gaussian noise of unit standard deviation, float32, correlated over `sigma_px` by a Gaussian blur."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    return standardise(cv2.GaussianBlur(noise, (0, 0), sigma_px)) if sigma_px > 0.3 else noise


def draw_fractal(
    rng: np.random.Generator, shape: tuple[int, int], *, exponent: float, finest_px: float = 2.0
) -> np.ndarray:
    """A random field with power spectrum `q**-exponent`, mean 0, standard deviation 1, float32.

    Nothing in it is finer than `finest_px`: it is made on a grid of half that and enlarged, which saves its square.
    """
    step = max(1.0, finest_px / 2)
    grid_shape = tuple(max(4, int(np.ceil(n / step)) + 2) for n in shape)
    q2 = fft.fftfreq(grid_shape[0])[:, None] ** 2 + fft.rfftfreq(grid_shape[1])[None, :] ** 2
    q2[0, 0] = np.inf
    spectrum = fft.rfft2(rng.standard_normal(grid_shape, dtype=np.float32)) * (q2 ** (-exponent / 4)).astype(np.float32)
    values = fft.irfft2(spectrum, s=grid_shape)
    return standardise(cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC))


def draw_gradient(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A slowly varying field (plane plus saddle, random direction), float32, range about -1 to 1: a wedge of foil."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    curve = rng.uniform(-0.4, 0.4, size=3)
    gradient_along_y = np.float32(0.7 * np.cos(angle)) * y + np.float32(curve[0]) * y * y
    gradient_along_x = np.float32(0.7 * np.sin(angle)) * x + np.float32(curve[1]) * x * x
    return gradient_along_y + gradient_along_x + np.float32(curve[2]) * y * x


def draw_bend_contours(rng: np.random.Generator, shape: tuple[int, int], n: int) -> np.ndarray:
    """`n` dark bands along smooth curves, float32, 0 away from them about -1 on them: contrast of a bent foil.

    A band is where a smooth deviation parameter `s` passes zero; its profile is the two-beam rocking curve's envelope.
    """
    total = np.zeros(shape, np.float32)
    for _ in range(n):
        tilt = 1.5 * draw_gradient(rng, shape) + draw_log_uniform(rng, 0.1, 0.8) * draw_fractal(
            rng, shape, exponent=5, finest_px=24
        )
        s = (tilt - rng.uniform(-0.8, 0.8)) / draw_log_uniform(rng, 0.04, 0.3)
        total -= rng.uniform(0.4, 1.0) / (1 + s * s) * (1 + 0.3 * np.cos(rng.uniform(2, 6) * s))
    return total


def draw_grains(rng: np.random.Generator, shape: tuple[int, int], n: int) -> np.ndarray:
    """A polycrystal: `n` Voronoi cells of constant random level with wavy edges, float32, standard deviation 1."""
    step = 4
    grid_shape = tuple(max(2, -(-length // step)) for length in shape)
    seeds = rng.uniform(0, 1, size=(max(n, 1), 2)) * grid_shape
    warp = [0.04 * max(grid_shape) * draw_fractal(rng, grid_shape, exponent=4, finest_px=4) for _ in range(2)]
    y, x = np.mgrid[: grid_shape[0], : grid_shape[1]].astype(np.float32)
    y, x = y + warp[0], x + warp[1]
    nearest = np.full(grid_shape, np.inf, np.float32)
    level = np.zeros(grid_shape, np.float32)
    for (sy, sx), value in zip(seeds, rng.standard_normal(len(seeds))):
        distance = (y - sy) ** 2 + (x - sx) ** 2
        closer = distance < nearest
        nearest[closer] = distance[closer]
        level[closer] = value
    return standardise(cv2.resize(level, shape[::-1], interpolation=cv2.INTER_LINEAR))


def draw_dislocations(rng: np.random.Generator, shape: tuple[int, int], n: int) -> np.ndarray:
    """`n` dark, blurred, gently curved lines and black spots, float32, 0 away from them and about -1 on them."""
    canvas = np.zeros(shape, np.float32)
    for _ in range(n):
        length = draw_log_uniform(rng, 8, 0.5 * max(shape))
        width = draw_log_uniform(rng, 1, 9)
        steps = np.linspace(-0.5, 0.5, 12) * length
        angle = rng.uniform(0, np.pi)
        bend = rng.normal(0, 0.25) * length
        long_px = steps
        short_px = bend * (steps / length) ** 2 * 4
        centre = rng.uniform(0, 1, 2) * shape
        points = np.stack(
            [
                centre[1] + long_px * np.cos(angle) - short_px * np.sin(angle),
                centre[0] + long_px * np.sin(angle) + short_px * np.cos(angle),
            ],
            axis=1,
        )
        cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, -rng.uniform(0.3, 1.0), max(1, round(width)))
    return cv2.GaussianBlur(canvas, (0, 0), draw_log_uniform(rng, 1.0, 4.0))
