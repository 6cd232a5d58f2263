"""Contents that no class of a user's has, drawn without noise, at any size: what examples of new classes show."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask.synthetic import camera, cavities, fields, lattices, particles, textures
from emqa_dask.synthetic.sample import draw_log_uniform

_DRAWN_PX = 256  # generators of whole micrographs need the room


def draw_content(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A content of CONTENTS at a random scale, (h, w) float32; its 0.5 and 99.5 percentile are 0 and 1."""
    names = list(CONTENTS)
    weights = np.array([2.0 if name in MICROGRAPHS else 1.0 for name in names])  # the nearest to what people have
    content = CONTENTS[str(rng.choice(names, p=weights / weights.sum()))](rng, shape)
    if rng.random() < 0.3:
        content = -content
    low, high = np.percentile(content, [0.5, 99.5])
    return ((content - low) / max(high - low, 1e-6)).astype(np.float32)


def draw_crop(rng: np.random.Generator, image: NDArray, side_fraction: float) -> NDArray:
    """A part of `image`, `share` of its sides long, at least 16 px."""
    h, w = (min(n, max(16, round(side_fraction * n))) for n in image.shape)
    y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape, (h, w)))
    return image[y : y + h, x : x + w]


def resize_image(image: NDArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """`image` as float32 of `shape`."""
    interpolation = cv2.INTER_AREA if image.shape[0] > shape[0] else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image, np.float32), shape[::-1], interpolation=interpolation)


def _make_micrograph_drawer(make: Callable) -> Callable:
    def draw_part(rng, shape):
        size = tuple(min(max(_DRAWN_PX, n), 1024) for n in shape)
        # Well exposed: noise is what acquisition adds.
        options = {"exposure": camera.draw_settings(rng, low_dose=400) | {"seam": False}}
        options |= {"lot": int(rng.integers(100, 1000))} if make is textures.draw_texture else {}
        image = make(rng, size, **options).image.astype(np.float32)
        min_share = min(1.0, 0.9 * min(shape) / min(size))
        return resize_image(draw_crop(rng, image, draw_log_uniform(rng, min_share, 1)), shape)

    return draw_part


def _draw_length_px(rng, shape):
    """A length, px, that a small and a large image may have."""
    return draw_log_uniform(rng, 3, max(6, min(min(shape) / 4, 64)))


def _draw_blobs(rng, shape):
    """Soft spots, or rings, thinly or densely strewn."""
    radius = _draw_length_px(rng, shape)
    n = int(np.clip(rng.uniform(0.2, 2) * shape[0] * shape[1] / (10 * radius**2), 2, 3000))
    seeds = np.zeros(shape, np.float32)
    seeds[rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)] = rng.uniform(0.4, 1, n)
    soft = cv2.GaussianBlur(seeds, (0, 0), radius / 2)
    return soft - cv2.GaussianBlur(seeds, (0, 0), radius / 3) if rng.random() < 0.3 else soft


def _draw_dead_leaves(rng, shape):
    """Disks and boxes that hide each other, of one grey each: the dead leaves of Lee, Mumford & Huang (2001)."""
    canvas = np.zeros(shape, np.float32)
    min_radius_px = _draw_length_px(rng, shape)
    for _ in range(int(np.clip(3 * shape[0] * shape[1] / min_radius_px**2, 10, 1500))):
        radius = min(min_radius_px * rng.random() ** -0.5, min(shape) / 2)
        y, x = (int(v) for v in rng.uniform(0, 1, 2) * shape)
        if rng.random() < 0.5:
            cv2.circle(canvas, (x, y), int(radius), float(rng.random()), -1, cv2.LINE_AA)
        else:
            box = cv2.boxPoints(((x, y), (2 * radius, radius), rng.uniform(0, 180))).astype(np.int32)
            cv2.fillConvexPoly(canvas, box, float(rng.random()), cv2.LINE_AA)
    return canvas


def _draw_grains(rng, shape):
    n = int(np.clip(shape[0] * shape[1] / _draw_length_px(rng, shape) ** 2 / 4, 3, 400))
    grains = fields.draw_grains(rng, shape, n)
    edges = cv2.Laplacian(grains, cv2.CV_32F)
    return [grains, np.abs(edges), grains + edges][int(rng.integers(3))]


def _draw_fibres(rng, shape):
    canvas = np.zeros(shape, np.float32)
    width = max(1, round(_draw_length_px(rng, shape) / 3))
    direction = rng.uniform(0, np.pi)
    spread = rng.uniform(0, 1.5)
    for _ in range(int(np.clip(rng.uniform(0.3, 2) * min(shape) / width, 3, 400))):
        angle = direction + spread * rng.standard_normal()
        reach = rng.uniform(0.1, 1) * max(shape)
        y, x = rng.uniform(0, 1, 2) * shape
        step = 0.5 * reach * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(v) for v in np.array([x, y]) + side * step) for side in (-1, 1)]
        cv2.line(canvas, *ends, float(rng.uniform(0.3, 1)), width, cv2.LINE_AA)
    return canvas


def _draw_two_phases(rng, shape):
    """A random field cut at a level, sharply or softly: spinodal, porous, islands."""
    reach = _draw_length_px(rng, shape)
    field = fields.draw_white_noise(rng, shape, reach / 2) - fields.draw_white_noise(rng, shape, reach) * rng.uniform(
        0, 1
    )
    return np.tanh((field - rng.uniform(-1, 1)) * draw_log_uniform(rng, 1, 20))


def _draw_mottle(rng, shape):
    return fields.draw_fractal(rng, shape, exponent=rng.uniform(1, 4), finest_px=draw_log_uniform(rng, 2, 6))


def _draw_lamellae(rng, shape):
    """Waves along one direction, bent a little: lamellae, fringes, moire."""
    bend = rng.uniform(0, 1.5) * fields.draw_fractal(rng, shape, exponent=4, finest_px=8)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / (2 * _draw_length_px(rng, shape)) + bend)
    return np.tanh(wave * draw_log_uniform(rng, 0.3, 8))


def _draw_contours(rng, shape):
    return fields.draw_bend_contours(rng, shape, int(rng.integers(1, 5))) + rng.uniform(
        0, 1
    ) * fields.draw_dislocations(rng, shape, int(rng.integers(2, 20)))


MICROGRAPHS = ("powder", "particles", "lattice", "cavities")
CONTENTS: dict[str, Callable] = {
    "powder": _make_micrograph_drawer(textures.draw_texture),
    "particles": _make_micrograph_drawer(particles.draw_particles),
    "lattice": _make_micrograph_drawer(lattices.draw_lattice),
    "cavities": _make_micrograph_drawer(cavities.draw_cavities),
    "blobs": _draw_blobs,
    "leaves": _draw_dead_leaves,
    "grains": _draw_grains,
    "fibres": _draw_fibres,
    "two_phases": _draw_two_phases,
    "mottle": _draw_mottle,
    "lamellae": _draw_lamellae,
    "contours": _draw_contours,
}
