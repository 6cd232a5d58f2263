"""Pictures that archives hold and that are no micrographs: photographs, plots, diffraction patterns, EDS maps."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from emqa_dask.synthetic.overlays import draw_text

FOREIGN = {
    "photograph": "a photograph of the laboratory, a person, the street: not a micrograph at all",
    "plot": "a diagram with axes, ticks and curves",
    "diffraction": "a diffraction pattern: spots on a lattice or rings around a central beam",
    "eds_map": "an element map: sparse x-ray counts, in colour or grey",
}

# The photographs that scikit-image's wheel ships (its other samples are textures, drawings, micrographs, or
# look like particles under an SEM: coins.png).
_PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)


@cache
def _load_photograph(name: str) -> np.ndarray:
    import skimage.data

    path = Path(skimage.data.__file__).parent / name
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path}: scikit-image's sample photograph is not there")
    return image[..., ::-1]


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _convert_to_grey(image: np.ndarray) -> np.ndarray:
    return _to_uint8(image.astype(np.float64) @ [0.299, 0.587, 0.114])


def _recolour_photograph(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gains = rng.uniform(0.75, 1.25, 3)
    return _to_uint8(255 * (photo / 255.0) ** rng.uniform(0.7, 1.4) * gains)


def _crop_photograph(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    photo = _load_photograph(str(rng.choice(_PHOTOGRAPHS)))
    h, w = photo.shape[:2]
    side_fraction = rng.uniform(0.6, 1.0)
    ch = max(int(h * side_fraction), 2)
    cw = max(int(w * side_fraction), 2)
    y, x = rng.integers(0, h - ch + 1), rng.integers(0, w - cw + 1)
    crop = photo[y : y + ch, x : x + cw]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    shrink = cv2.INTER_AREA if crop.shape[0] > shape[0] else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(crop), (shape[1], shape[0]), interpolation=shrink)


def _draw_street_scene(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A procedural street: sky, sun, hills, houses with windows, trees, a road, soft shadows, a little sensor noise."""
    h, w = shape
    y = np.linspace(0, 1, h)[:, None, None]
    horizon_y = rng.uniform(0.35, 0.6)
    sky = rng.uniform([60, 110, 180], [140, 180, 255])
    haze = rng.uniform(190, 245, 3)
    ground = rng.uniform([50, 60, 30], [150, 140, 110])
    scene = np.where(y < horizon_y, sky + (haze - sky) * y / horizon_y, ground * (0.7 + 0.5 * (y - horizon_y)))
    scene = np.ascontiguousarray(np.broadcast_to(scene, (h, w, 3)), dtype=np.float64)
    cloud = ndimage.gaussian_filter(rng.standard_normal((h, w)), (h / 30, w / 12))
    scene += (40 * np.clip(cloud / (cloud.std() + 1e-12), 0, 2) * (y[..., 0] < horizon_y))[..., None]
    if rng.random() < 0.6:
        centre = (int(rng.uniform(0, w)), int(rng.uniform(0, horizon_y * h)))
        cv2.circle(scene, centre, max(int(0.05 * h), 1), (255, 245, 210), -1, cv2.LINE_AA)
    hill = horizon_y - 0.1 * np.abs(np.interp(np.arange(w), np.linspace(0, w, 7), rng.uniform(0, 1, 7)))
    scene[(np.arange(h)[:, None] / h > hill[None]) & (np.arange(h)[:, None] / h < horizon_y)] = ground * 0.8
    for _ in range(int(rng.integers(3, 8))):  # houses
        bw = int(rng.uniform(0.08, 0.25) * w)
        bh = int(rng.uniform(0.15, 0.5) * h)
        x0 = int(rng.uniform(-0.05, 0.95) * w)
        y1 = int((horizon_y + rng.uniform(0.02, 0.25)) * h)
        colour = rng.uniform(60, 220, 3)
        cv2.rectangle(scene, (x0, y1 - bh), (x0 + bw, y1), tuple(colour), -1)
        n = int(rng.integers(2, 5))
        m = int(rng.integers(2, 6))
        for i in range(n):
            for j in range(m):
                wx = x0 + int((i + 0.25) * bw / n)
                wy = y1 - bh + int((j + 0.25) * bh / m)
                glass = tuple(colour * 0.35) if rng.random() < 0.8 else (250, 230, 160)
                cv2.rectangle(scene, (wx, wy), (wx + bw // (2 * n), wy + bh // (2 * m)), glass, -1)
    for _ in range(int(rng.integers(2, 6))):  # trees
        x0 = int(rng.uniform(0, w))
        y1 = int(rng.uniform(horizon_y, 1) * h)
        r = max(int(rng.uniform(0.03, 0.09) * h), 1)
        cv2.rectangle(scene, (x0 - r // 6, y1 - 3 * r), (x0 + r // 6, y1), (70, 50, 35), -1)
        for _ in range(12):
            dy, dx = rng.normal(0, r / 1.6, 2)
            leaf = tuple(rng.uniform([30, 80, 20], [90, 160, 70]))
            cv2.circle(scene, (int(x0 + dx), int(y1 - 3 * r + dy)), max(r // 2, 1), leaf, -1, cv2.LINE_AA)
    grain = ndimage.gaussian_filter(rng.standard_normal((h, w)), 0.7)
    return _to_uint8(cv2.GaussianBlur(scene, (0, 0), 0.8) + 3 * grain[..., None])


def draw_photograph(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A photograph in colour (h, w, 3) or, one time in three, grey (h, w); uint8."""
    photograph = _crop_photograph(rng, shape) if rng.random() < 0.7 else _draw_street_scene(rng, shape)
    photograph = _recolour_photograph(photograph, rng)
    return _convert_to_grey(photograph) if rng.random() < 0.33 else photograph


def draw_plot(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A diagram on white: axes, ticks, letters, curves, bars or points; colour (h, w, 3) or grey (h, w); uint8."""
    h, w = shape
    plot_image = np.full((h, w, 3), 255.0)
    x0 = int(0.13 * w)
    x1 = int(0.95 * w)
    y0 = int(0.08 * h)
    y1 = int(0.86 * h)
    line = max(1, round(min(h, w) / 400))
    black = (0, 0, 0)
    if rng.random() < 0.3:
        for t in np.linspace(0, 1, 7)[1:-1]:
            cv2.line(plot_image, (x0, int(y0 + t * (y1 - y0))), (x1, int(y0 + t * (y1 - y0))), (220, 220, 220), line)
    frame = rng.random() < 0.6
    cv2.line(plot_image, (x0, y1), (x1, y1), black, line)
    cv2.line(plot_image, (x0, y0), (x0, y1), black, line)
    if frame:
        cv2.rectangle(plot_image, (x0, y0), (x1, y1), black, line)
    ink = np.zeros((h, w), np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    for k, t in enumerate(np.linspace(0, 1, 6)):
        tx = int(x0 + t * (x1 - x0))
        ty = int(y1 - t * (y1 - y0))
        cv2.line(plot_image, (tx, y1), (tx, y1 + max(h // 80, 2)), black, line)
        cv2.line(plot_image, (x0 - max(w // 80, 2), ty), (x0, ty), black, line)
        draw_text(ink, str(k * int(rng.integers(1, 50))), tx - w // 60, int(y1 + 0.05 * h), 0.022 * h, font)
        draw_text(ink, f"{0.2 * k:.1f}", int(0.05 * w), ty + h // 100, 0.022 * h, font)
    draw_text(
        ink, str(rng.choice(["Energy (keV)", "Angle (deg)", "Time (s)"])), int(0.4 * w), int(0.97 * h), 0.03 * h, font
    )
    colours = [(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (0, 0, 0)]
    t = np.linspace(0, 1, 400)
    kind = rng.choice(["curves", "bars", "points"])
    for _ in range(int(rng.integers(1, 4))):
        colour = colours[int(rng.integers(0, len(colours)))]
        if kind == "bars":
            n = int(rng.integers(5, 20))
            for i, v in enumerate(rng.uniform(0.1, 0.9, n)):
                left = int(x0 + (i + 0.15) * (x1 - x0) / n)
                right = int(x0 + (i + 0.85) * (x1 - x0) / n)
                cv2.rectangle(plot_image, (left, int(y1 - v * (y1 - y0))), (right, y1), colour, -1)
            break
        peaks = rng.uniform(0, 1, (int(rng.integers(2, 8)), 3))
        v = sum(a * np.exp(-0.5 * ((t - m) / (0.01 + 0.08 * s)) ** 2) for m, a, s in peaks)
        v = v + 0.02 * rng.standard_normal(400)
        v = np.clip(v / (max(v.max(), 1e-9) * 1.1), 0, 1)
        points = np.stack([x0 + t * (x1 - x0), y1 - v * (y1 - y0)], 1).round().astype(np.int32)
        if kind == "curves":
            cv2.polylines(plot_image, [points], False, colour, line, cv2.LINE_AA)
        else:
            for p in points[:: int(rng.integers(6, 16))]:
                cv2.circle(plot_image, tuple(int(c) for c in p), max(2 * line, 2), colour, -1, cv2.LINE_AA)
    plot_image = _to_uint8(plot_image * (1 - ink[..., None] / 255.0))
    if rng.random() < 0.1:  # white on black, as acquisition software draws spectra
        plot_image = 255 - plot_image
    return _convert_to_grey(plot_image) if rng.random() < 0.5 else plot_image


def draw_diffraction(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A selected-area pattern, grey (h, w) uint8: spots or rings, central beam or its stop, diffuse halo, noise."""
    h, w = shape
    size = min(h, w)
    cy = h * rng.uniform(0.45, 0.55)
    cx = w * rng.uniform(0.45, 0.55)
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float64)
    r = np.hypot(yy - cy, xx - cx)
    pattern = rng.uniform(0.1, 0.5) * np.exp(-r / (size * rng.uniform(0.06, 0.15)))
    reach = size * rng.uniform(0.18, 0.35)
    kind = rng.choice(["spots", "rings", "both"])
    if kind != "rings":
        a, b = size * rng.uniform(0.05, 0.12, 2)
        angle = rng.uniform(0, np.pi)
        lattice_angle = rng.uniform(np.pi / 3, np.pi / 2)
        spot = max(size * rng.uniform(0.003, 0.008), 1.0)
        n = int(size / min(a, b)) + 1
        i, j = (g.ravel() for g in np.mgrid[-n : n + 1, -n : n + 1])
        py = cy + i * a * np.sin(angle) + j * b * np.sin(angle + lattice_angle)
        px = cx + i * a * np.cos(angle) + j * b * np.cos(angle + lattice_angle)
        strength = np.exp(-np.hypot(py - cy, px - cx) / reach) * rng.uniform(0.2, 1.0, len(py))
        is_visible = (py > 0) & (py < h - 1) & (px > 0) & (px < w - 1) & (strength > 0.01)
        deposit = np.zeros((h, w))
        np.add.at(
            deposit, (py[is_visible].round().astype(int), px[is_visible].round().astype(int)), strength[is_visible]
        )
        pattern += ndimage.gaussian_filter(deposit, spot) * 2 * np.pi * spot**2
    if kind != "spots":
        for radius in np.sort(rng.uniform(0.08, 0.45, int(rng.integers(3, 8)))) * size:
            thick = max(size * rng.uniform(0.003, 0.008), 1.0)
            pattern += rng.uniform(0.2, 0.6) * np.exp(-radius / reach) * np.exp(-0.5 * ((r - radius) / thick) ** 2)
    pattern += 1.5 * np.exp(-0.5 * (r / (size * rng.uniform(0.008, 0.02))) ** 2)
    if rng.random() < 0.4:  # beam stop: a needle from an edge to the centre
        angle = rng.uniform(0, 2 * np.pi)
        tip = (int(cx), int(cy))
        needle_end = (int(cx + 2 * size * np.cos(angle)), int(cy + 2 * size * np.sin(angle)))
        beam_stop = np.zeros((h, w), np.float32)
        cv2.line(beam_stop, tip, needle_end, 1.0, max(int(0.03 * size), 1))
        cv2.circle(beam_stop, tip, max(int(0.03 * size), 1), 1.0, -1)
        pattern *= 1 - 0.97 * beam_stop
    counts = rng.poisson(np.clip(pattern, 0, 1.2) * rng.uniform(60, 600)).astype(np.float64)
    counts = counts / max(np.percentile(counts, 99.7), 1) * 255 + rng.normal(rng.uniform(3, 12), 1.2, (h, w))
    return _to_uint8(counts)


def draw_eds_map(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One element's counts in a colour on black or in grey, or a composite of two or three elements; uint8.

    Counts are 0 to a few a pixel, as a minutes-long map has (Poisson), sometimes binned 2 x 2.
    """
    h, w = shape
    binned = int(rng.choice([1, 1, 2]))
    low = (-(-h // binned), -(-w // binned))

    def element():
        field = ndimage.gaussian_filter(rng.standard_normal(low), min(low) * rng.uniform(0.02, 0.08))
        has_element = field > np.quantile(field, rng.uniform(0.5, 0.85))
        counts = rng.poisson(np.where(has_element, rng.uniform(0.3, 1.5), rng.uniform(0.01, 0.06)))
        big = np.kron(counts, np.ones((binned, binned)))[:h, :w]
        return np.clip(big / max(counts.max(), 1), 0, 1)

    kind = rng.choice(["colour", "grey", "composite"])
    if kind == "grey":
        return _to_uint8(255 * element())
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 80, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)], float)
    colour_indices = rng.permutation(len(colours))[: 1 if kind == "colour" else int(rng.integers(2, 4))]
    return _to_uint8(sum(element()[..., None] * colours[k] for k in colour_indices))


def make_foreign_image(name: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A picture of kind `name` of FOREIGN and of `shape` (h, w): uint8, (h, w) grey or (h, w, 3) RGB."""
    return {"photograph": draw_photograph, "plot": draw_plot, "diffraction": draw_diffraction, "eds_map": draw_eds_map}[
        name
    ](rng, shape)
