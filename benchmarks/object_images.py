"""Drawn micrographs with exact masks for the detector of objects: what the package's own drawings do not have.

Opaque particles that overlap, dislocation loops among lines and dots, and cavities on real TEM backgrounds.
"""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from emqa_dask.synthetic import camera, fields, shapes
from emqa_dask.synthetic.sample import Mask, Sample, compute_tight_boxes, draw_log_uniform, trim_mask

BACKGROUNDS = Path(__file__).parents[2] / "shared" / "data" / "cosmic_background"
SHAPE = (512, 512)
_MIN_VISIBLE = 0.35  # of a covered particle; one that shows less is no object


def draw_opaque_particles(rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> Sample:
    """Particles that cover each other: shaded as secondary electrons show them, or evenly dark or bright."""
    median = draw_log_uniform(rng, 6, 110)
    spread = rng.uniform(0.03, 0.5)
    n_room = shape[0] * shape[1] / (np.pi * median**2)
    n = int(np.clip(n_room * draw_log_uniform(rng, 0.05, 1.4), 2, 160))
    radii = shapes.draw_log_normal_radii(rng, n, median, spread, 4, 0.45 * min(shape))
    overlap = float(rng.choice([0.0, 0.1, 0.3, 0.6]))
    centres = shapes.place_circles(rng, radii, shape, overlap=overlap)
    style = str(rng.choice(["shaded", "dark", "bright", "shell"], p=[0.4, 0.35, 0.15, 0.1]))
    kind = str(rng.choice(["sphere", "ellipse", "polygon", "rod"], p=[0.4, 0.25, 0.25, 0.1]))
    ground = rng.uniform(0.1, 0.35) if style in ("shaded", "bright") else rng.uniform(0.6, 0.9)
    image = np.full(shape, ground, np.float32)
    image += np.float32(rng.uniform(0, 0.08)) * fields.draw_fractal(rng, shape, exponent=rng.uniform(2, 4))
    if rng.random() < 0.3:
        image += np.float32(rng.uniform(0, 0.15)) * fields.draw_gradient(rng, shape)
    texture = fields.draw_fractal(rng, shape, exponent=rng.uniform(1.5, 3.0))
    level = ground + (1 if style in ("shaded", "bright") else -1) * rng.uniform(0.15, 0.5)
    owner = np.full(shape, -1, np.int32)
    outlines = []
    for k in rng.permutation(np.flatnonzero(np.isfinite(centres[:, 0]))):
        outline = _draw_outline(rng, kind, radii[k], centres[k])
        outlines.append(_paint_particle(rng, image, owner, len(outlines), outline, style, level, texture))
    masks = _cut_visible_masks(owner, outlines, shape)
    return _record(rng, image, masks, "particle", blur_px=draw_log_uniform(rng, 0.3, 2.0))


def _draw_outline(rng: np.random.Generator, kind: str, radius: float, centre: np.ndarray) -> np.ndarray:
    """Vertices (n, 2) float32, x and y, of a particle."""
    angle = rng.uniform(0, np.pi)
    if kind == "polygon":
        n = int(rng.choice([3, 4, 4, 5, 6, 6, 8]))
        t = np.sort(np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.12, n))
        r = np.full(n, radius)
    else:
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        wobble = rng.normal(0, 0.03, 3)[:, None] * np.cos(np.arange(2, 5)[:, None] * t + rng.uniform(0, 6.3, (3, 1)))
        r = radius * (1 + wobble.sum(axis=0))
    aspect = {"sphere": 1.0, "polygon": rng.uniform(0.75, 1.0), "ellipse": rng.uniform(0.5, 0.9)}.get(
        kind, rng.uniform(0.2, 0.4)
    )
    x = r * np.cos(t)
    y = aspect * r * np.sin(t)
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return (turned + centre[::-1]).astype(np.float32)


def _paint_particle(rng, image, owner, number, outline, style, level, texture) -> int:
    """Paints a particle on `image` and its number on `owner`; returns its area before others cover it."""
    mask = np.zeros(image.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, shift=4)
    inside = mask.astype(bool)
    area = int(inside.sum())
    if not area:
        return 0
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[inside]
    depth = depth / max(float(depth.max()), 1)
    value = level + rng.normal(0, 0.04) + np.float32(rng.uniform(0, 0.06)) * texture[inside]
    if style == "shaded":
        x = np.nonzero(inside)[1]
        side = (x - x.mean()) / max(np.ptp(x), 1) * rng.uniform(-0.2, 0.2)
        value = value + side + rng.uniform(0.05, 0.35) * np.exp(-depth / 0.12)
    elif style == "dark":
        value = value + rng.uniform(0, 0.25) * (1 - depth) ** 2
    elif style == "shell":
        value = np.where(depth < rng.uniform(0.2, 0.6), value + rng.uniform(0.1, 0.3), value)
    image[inside] = value
    owner[inside] = number
    return area


def _cut_visible_masks(owner: np.ndarray, areas: list[int], shape: tuple[int, int]) -> list[Mask]:
    """The visible part of every particle that shows enough of itself."""
    masks = []
    visible = np.bincount(owner[owner >= 0], minlength=len(areas))
    for number, area in enumerate(areas):
        if visible[number] >= max(20, _MIN_VISIBLE * area):
            masks.append(trim_mask(0, 0, owner == number, shape))
    return masks


def draw_loops(rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> Sample:
    """Dislocation loops as dark ellipses with bright or grey insides, among dark dots, dislocations and thickness."""
    image = np.full(shape, rng.uniform(0.5, 0.8), np.float32)
    image += np.float32(rng.uniform(0.01, 0.1)) * fields.draw_fractal(rng, shape, exponent=rng.uniform(2.5, 4))
    image += np.float32(rng.uniform(0, 0.2)) * fields.draw_gradient(rng, shape)
    if rng.random() < 0.7:
        image += np.float32(rng.uniform(0.05, 0.35)) * fields.draw_dislocations(rng, shape, int(rng.integers(2, 25)))
    median = draw_log_uniform(rng, 7, 45)
    n = int(np.clip(shape[0] * shape[1] / (np.pi * median**2) * draw_log_uniform(rng, 0.02, 0.3), 3, 120))
    radii = shapes.draw_log_normal_radii(rng, n, median, rng.uniform(0.15, 0.5), 5, 90)
    centres = shapes.place_circles(rng, radii, shape, overlap=0.15)
    angle = rng.uniform(0, np.pi)
    aspect = rng.uniform(0.35, 0.9)
    contrast = rng.uniform(0.12, 0.5)
    masks = []
    for radius, centre in zip(radii, centres):
        if np.isfinite(centre[0]):
            tilt = angle + rng.normal(0, 0.1) + (np.pi / 2 if rng.random() < 0.3 else 0)
            masks += _paint_loop(rng, image, radius, centre, tilt, aspect, contrast)
    _paint_dots(rng, image, median, contrast)
    return _record(rng, image, masks, "loop", blur_px=draw_log_uniform(rng, 0.5, 2.5))


def _paint_loop(rng, image, radius, centre, angle, aspect, contrast) -> list[Mask]:
    """Paints a loop; returns its mask, or none where it lies outside."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    reach = int(1.6 * radius) + 4
    rows = slice(max(0, int(centre[0]) - reach), int(centre[0]) + reach)
    columns = slice(max(0, int(centre[1]) - reach), int(centre[1]) + reach)
    y = y[rows, columns] - centre[0]
    x = x[rows, columns] - centre[1]
    if not y.size:
        return []
    u = x * np.cos(angle) + y * np.sin(angle)
    v = (y * np.cos(angle) - x * np.sin(angle)) / (aspect * rng.uniform(0.85, 1.15))
    distance = np.hypot(u, v) / radius
    width = max(0.08, rng.uniform(1.0, 3.0) / radius)
    ring = np.exp(-(((distance - 1) / width) ** 2))
    if rng.random() < 0.4:  # two arcs, with no contrast along the Burgers vector
        ring *= np.abs(np.sin(np.arctan2(v, u) + rng.uniform(0, 0.3))) ** rng.uniform(0.3, 1.5)
    inside = rng.uniform(-0.3, 0.5) * (distance < 1)
    image[rows, columns] -= np.float32(contrast) * (ring + inside)
    mask = trim_mask(rows.start, columns.start, distance < 1 + width, image.shape)
    return [mask] if mask else []


def _paint_dots(rng, image, median, contrast) -> None:
    """Paints dark dots and short rods that are no loops."""
    for _ in range(int(rng.integers(0, 120))):
        centre = tuple(int(v) for v in rng.uniform(0, 1, 2) * image.shape[::-1])
        long_axis = max(1, int(draw_log_uniform(rng, 1.5, max(2.0, 0.5 * median))))
        axes = (long_axis, max(1, int(long_axis * rng.uniform(0.3, 1.0))))
        patch = np.zeros(image.shape, np.float32)
        cv2.ellipse(patch, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        image -= np.float32(contrast * rng.uniform(0.4, 1.2)) * patch


@cache
def _load_backgrounds() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Real backgrounds, and radial contrast profiles (defocus, radius, rho) with their defoci."""
    entries = json.loads((BACKGROUNDS / "images.json").read_text(encoding="utf-8"))
    images = [cv2.imread(str(BACKGROUNDS / entry["file_name"]), cv2.IMREAD_GRAYSCALE) for entry in entries]
    tables = np.load(BACKGROUNDS / "cavity_contrast_tables.npz")
    return images, tables["intensity"], tables["defocus_nm"]


def draw_cavities_on_background(rng: np.random.Generator, shape: tuple[int, int] = SHAPE, *, n: int | None = None):
    """Cavities with calculated defocus contrast on a real TEM background."""
    images, profiles, _ = _load_backgrounds()
    image = images[int(rng.integers(len(images)))]
    factor = draw_log_uniform(rng, 1.0, 2.0)
    side = int(min(shape[0] / factor, *image.shape))
    top, left = (int(rng.integers(0, size - side + 1)) for size in image.shape)
    crop = image[top : top + side, left : left + side].astype(np.float32) / 255
    background = cv2.resize(crop, shape[::-1], interpolation=cv2.INTER_LINEAR)
    usable = np.argwhere(np.isfinite(profiles).all(axis=2) & (np.arange(profiles.shape[1]) > 2))
    row = usable[int(rng.integers(len(usable)))]
    if rng.random() < 0.45:  # overfocus has 3 of the 44 defoci
        over = usable[usable[:, 0] >= profiles.shape[0] - 3]
        row = over[int(rng.integers(len(over)))]
    profile = cv2.GaussianBlur(profiles[tuple(row)][None].astype(np.float32) - 1, (0, 0), rng.uniform(1, 8))[0]
    profile = profile / np.percentile(np.abs(profile), 97)
    median = draw_log_uniform(rng, 3.5, 40)
    n_room = shape[0] * shape[1] / (np.pi * median**2)
    drawn = int(np.clip(n_room * draw_log_uniform(rng, 0.02, 0.35), 2, 300))
    radii = shapes.draw_log_normal_radii(rng, drawn if n is None else n, median, rng.uniform(0.05, 0.45), 3, 120)
    centres = shapes.place_circles(rng, radii, shape, overlap=0.1)
    contrast = draw_log_uniform(rng, 0.15, 0.7)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    signal = np.zeros(shape, np.float32)
    masks = []
    for radius, centre in zip(radii, centres):
        if not np.isfinite(centre[0]):
            continue
        reach = int(1.5 * radius) + 2
        rows = slice(max(0, int(centre[0]) - reach), max(0, int(centre[0]) + reach + 1))
        columns = slice(max(0, int(centre[1]) - reach), max(0, int(centre[1]) + reach + 1))
        rho = np.hypot(y[rows, columns] - centre[0], x[rows, columns] - centre[1]) / radius
        if not rho.size:
            continue
        value = np.interp(rho, np.linspace(0, 1.5, len(profile)), np.clip(profile, -1.5, 1.5))
        signal[rows, columns] += value * np.clip((1.5 - rho) / 0.3, 0, 1) * rng.uniform(0.6, 1.2)
        mask = trim_mask(rows.start, columns.start, rho <= 1, shape)
        masks += [mask] if mask else []
    return _record(rng, background * (1 + np.float32(contrast) * signal), masks, "cavity", blur_px=rng.uniform(0, 1.5))


def _record(rng: np.random.Generator, image: np.ndarray, masks: list[Mask], label: str, *, blur_px: float) -> Sample:
    if blur_px > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur_px)
    settings = camera.draw_settings(rng, low_dose=60)
    recorded = camera.record(rng, np.clip(image, 0.01, None), "uint8", settings)
    return Sample(recorded, compute_tight_boxes(masks), masks, [label] * len(masks), 1.0)
