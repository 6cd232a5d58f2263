"""Order maps: which atoms of a lattice image lie in amorphous regions, and where these regions are."""

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from emqa_dask.tune import order_mixture, periodicity

MIN_POINTS = 30  # fewer say nothing about order
# principal components of patches; patches that a patch is compared with
N_COMPONENTS = 8
N_NEIGHBOURS = 5
PATCH_SPACINGS = 1.0  # side of a patch, in spacings
MIN_SNR = 5.0  # signal-to-noise ratio below which the points' spacing is not relied on
TILE_SPACINGS = 8.0  # side of a window of the table, in spacings
POINT_REACH_SPACINGS = 1.5  # from a point, in spacings: so far a place counts as judged whatever its contrast
MIN_TEXTURE = 0.05  # of the texture at the points: below it, and out of their reach, there is nothing to judge


class OrderMap(NamedTuple):
    points: pd.DataFrame  # y_px, x_px, p_disordered (NaN where it cannot be judged), is_disordered; the input's order
    tiles: pd.DataFrame  # y0, x0, y1, x1 (px, half-open), n_points, disordered_fraction (of the area)
    mask: NDArray[np.bool_]  # (h, w): the disordered regions
    area_fraction: float  # of the image; 0 for a perfect crystal, NaN where it cannot be judged
    settings: dict  # verdict, covariance, threshold, both rewards, and the lengths that were used


def compute_order_map(
    image: NDArray,
    points: ArrayLike | pd.DataFrame,
    *,
    patch_px: int | None = None,
    covariance: str | None = None,
    threshold: float | None = None,
    window_px: int | None = None,
    seed: int = 0,
) -> OrderMap:
    """Disordered regions of a lattice `image` (h, w, real, finite) around detected `points` (n, 2; y, x px).

    Points are columns y_px and x_px of a table or rows of an array; false ones inside an amorphous region do no harm.
    Two numbers describe a place: its order, how well it repeats under the lattice translations around it
    (`periodicity.measure`), and its scatter, how far patches of `patch_px` (None: one spacing) are from the most
    similar ones among the principal components of all patches. A Gaussian mixture of two components is fitted at the
    points; the disordered component has less order and more scatter (`order_mixture.fit`), no sign of a principal
    component decides. `covariance` and `threshold` (of the posterior, in 0...1) are tuned where they are None, by
    compactness and perimeter of the regions (`order_mixture.tune`).
    Barakati et al., Physics-based reward driven image analysis in microscopy, figures 2B and 4.

    Order is in units of that of the intact lattice, and a region is claimed by it alone: no place of order 0.5 or more
    belongs to one, its mean is at most 0.32, it has at least 8 squared spacings and room for a disc of 1.2 spacings'
    radius, more where the whole lattice is irregular (`order_mixture.regions`). So vacancies and thickness are no
    regions and a perfect crystal has none. Where there are neither points nor texture (vacuum) nothing is claimed. A
    textured image without any lattice is disordered throughout; fewer than 30 points, or nothing above white noise,
    give NaN. `is_disordered` says that a point lies in a claimed region, `p_disordered` only what it looks like.
    The image's gain and offset and the points' order change nothing. `window_px` is the side of the table's windows
    (None: about 8 spacings). Raises ValueError for images that are not two-dimensional, real and finite, points outside
    the image, and settings that make no sense.
    """
    image = _check_image(image)
    where = _check_points(points, image.shape)
    searched = _check_search(covariance, threshold, patch_px, window_px)
    spacing = _measure_spacing(where)
    settings = {"verdict": "", "covariance": None, "threshold": np.nan, "compactness": np.nan, "perimeter_px": np.nan}
    settings |= {"spacing_px": spacing, "patch_px": 0, "n_lattices": 0, "order_level": np.nan, "seed": seed}
    if len(where) < MIN_POINTS or not spacing > 0 or image.min() == image.max():
        settings["verdict"] = f"unknown: {len(where)} points of at least {MIN_POINTS}, or no contrast"
        mask = None
        p = np.full(len(where), np.nan)
    else:
        found = _filter_image(image, spacing)
        settings["spacing_px"] = found.spacing_px
        settings["patch_px"] = int(patch_px or round(PATCH_SPACINGS * found.spacing_px)) // 2 * 2 + 1
        lattice = periodicity.measure_periodicity(found)
        if lattice is None:
            mask, p, more = _map_texture(found, where)
        else:
            mask, p, more = _map_lattice(found, lattice, where, settings["patch_px"], searched, seed)
        settings |= more
    return _make_order_map(where, mask, p, image.shape, window_px, settings)


def _filter_image(image: NDArray, spacing: float) -> periodicity.FilteredImage:
    """`image` around the points' spacing; or, since noise is full of blobs, around its own when it is noisy and shows
    nothing at theirs."""
    found = periodicity.filter_band(image, spacing)
    if (
        periodicity.compute_snr(found) < MIN_SNR
        and (nearest := periodicity.find_nearest_peak_px(found)) > 1.3 * spacing
    ):
        return periodicity.filter_band(image, nearest)
    return found


def _map_lattice(found, lattice, where, patch_px, searched, seed) -> tuple[NDArray, NDArray, dict]:
    """Mask, posterior at the points, and settings."""
    shape = found.signal.shape
    spacing = found.spacing_px
    level = float(np.clip(periodicity.compute_ordered_level(lattice.order), 0.3, 1.0))
    settings = {"n_lattices": lattice.n_lattices, "order_level": level}
    order = lattice.order / level
    fields = np.stack([order, _compute_scatter(found, where, patch_px, order.shape)], axis=-1)
    # In an order of their own, so that rounding does not depend on the table's.
    in_turn = _interpolate(fields, where[np.lexsort(where.T[::-1])], shape)
    judged = _find_assessable(found, where)
    coarse = cv2.resize(judged.astype(np.uint8), order.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    step = shape[0] / order.shape[0]
    covariances, thresholds = searched
    choice = order_mixture.tune_mixture(in_turn, fields, coarse, step, spacing, level, covariances, thresholds, seed)
    settings |= {name: value for name, value in choice._asdict().items() if name != "mixture"}
    if choice.mixture is None:
        settings["verdict"] = "ordered: no component or region passes as disordered"
        return np.zeros(shape, bool), np.zeros(len(where)), settings
    settings["verdict"] = "disordered regions"
    fields_px = cv2.resize(fields, shape[::-1])
    p_px = order_mixture.compute_posterior(choice.mixture, fields_px)
    mask = order_mixture.find_regions((p_px >= choice.threshold) & judged, fields_px[..., 0], spacing, level)
    return mask, order_mixture.compute_posterior(choice.mixture, _interpolate(fields, where, shape)), settings


def _map_texture(found: periodicity.FilteredImage, where: NDArray) -> tuple[NDArray | None, NDArray, dict]:
    """All of a texture is disordered; white noise says nothing."""
    texture = float(
        np.median(periodicity.blur_image(found.signal**2, found.spacing_px) / np.maximum(found.noise, 1e-12))
    )
    if texture < 2:
        return None, np.full(len(where), np.nan), {"verdict": "unknown: nothing stands out of white noise"}
    return _find_assessable(found, where), np.ones(len(where)), {"verdict": "disordered: a texture without a lattice"}


def _check_image(image: NDArray) -> NDArray:
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype.kind not in "buif" or image.size == 0:
        raise ValueError(f"the image has shape {image.shape} and dtype {image.dtype}: it has to be (h, w) real numbers")
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite pixels: replace them, by the median for instance")
    return image


def _check_points(points: ArrayLike | pd.DataFrame, shape: tuple[int, int]) -> NDArray:
    if isinstance(points, pd.DataFrame):
        points = points[["y_px", "x_px"]].to_numpy()
    where = np.asarray(points, np.float64)
    where = where.reshape(0, 2) if where.size == 0 else where
    if where.ndim != 2 or where.shape[1] != 2:
        raise ValueError(f"the points have shape {where.shape}: they have to be (n, 2), y and x in px")
    inside = ((where >= -0.5) & (where <= np.array(shape) - 0.5)).all(axis=1)
    if not inside.all():
        raise ValueError(f"point {where[~inside][0]} lies outside the image of {shape}: points are y, x in px")
    return where


def _check_search(covariance, threshold, patch_px, window_px) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The covariance types and thresholds to try."""
    known = order_mixture.COVARIANCES
    if covariance is not None and covariance not in known:
        raise ValueError(f"covariance is {covariance!r}: it is one of {', '.join(known)}, or None to tune it")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: it has to be in (0, 1), or None to tune it")
    for name, value, least in (("patch_px", patch_px, 3), ("window_px", window_px, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: it has to be at least {least}, or None")
    return (
        known if covariance is None else (covariance,),
        order_mixture.THRESHOLDS if threshold is None else (float(threshold),),
    )


def _measure_spacing(where: NDArray) -> float:
    """Median distance of a point to its nearest neighbour, px; NaN for fewer than two points."""
    if len(where) < 2:
        return float("nan")
    return float(np.median(cKDTree(where).query(where, k=2)[0][:, 1]))


def _find_assessable(found: periodicity.FilteredImage, where: NDArray) -> NDArray:
    """Where there is something to judge: points nearby, or at least a twentieth of the texture at the points."""
    away = np.ones(found.signal.shape, np.uint8)
    y, x = _round_to_pixels(where, away.shape)
    away[y, x] = 0
    is_near = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= POINT_REACH_SPACINGS * found.spacing_px
    return is_near | (found.texture > MIN_TEXTURE * np.median(found.texture[y, x]))


def _compute_scatter(
    found: periodicity.FilteredImage, where: NDArray, patch_px: int, shape: tuple[int, int]
) -> NDArray:
    """How unlike any other patch those around a place are, on a grid of `shape`, float32: 0 alike, about 1 unlike.

    The mean distance from a patch (of unit length) to its 5 most similar ones in the space of 8 principal components,
    spread over one spacing.
    """
    y, x = _round_to_pixels(where, found.signal.shape)
    half = patch_px // 2
    padded = np.pad(found.signal, half, mode="reflect" if half < min(found.signal.shape) else "symmetric")
    patches = np.lib.stride_tricks.sliding_window_view(padded, (patch_px, patch_px))[y, x].reshape(len(y), -1)
    patches = patches - patches.mean(axis=1, keepdims=True)
    patches /= np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)
    _, vectors = np.linalg.eigh(np.cov(patches.T, dtype=np.float64))
    reduced = patches @ vectors[:, -N_COMPONENTS:]
    distance = cKDTree(reduced).query(reduced, k=N_NEIGHBOURS + 1)[0][:, 1:].mean(axis=1)
    weight, total = np.zeros((2, *found.signal.shape), np.float32)
    np.add.at(weight, (y, x), 1)
    np.add.at(total, (y, x), distance.astype(np.float32))
    weight, total = (
        periodicity.blur_image(
            cv2.resize(a, shape[::-1], interpolation=cv2.INTER_AREA), found.spacing_px * shape[0] / a.shape[0]
        )
        for a in (weight, total)
    )
    few = 1e-3 * weight.max()
    return (total + few * np.float32(np.median(distance))) / (weight + few)


def _round_to_pixels(where: NDArray, shape: tuple[int, int]) -> tuple[NDArray, NDArray]:
    return tuple(np.clip(np.rint(where).astype(int), 0, np.array(shape) - 1).T)


def _interpolate(fields: NDArray, where: NDArray, shape: tuple[int, int]) -> NDArray:
    """`fields` (a, b, 2) of an image of `shape` at the points `where`, interpolated: (n, 2)."""
    if not len(where):
        return np.empty((0, fields.shape[-1]))
    scale = np.array(fields.shape[:2]) / shape
    y, x = ((where + 0.5) * scale - 0.5).astype(np.float32).T
    at = cv2.remap(fields.astype(np.float32), x[:, None], y[:, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return at[:, 0].astype(np.float64)


def _make_order_map(where, mask, p, shape, window_px, settings) -> OrderMap:
    """The map; `mask` None means that it cannot be judged."""
    known = np.zeros(shape, bool) if mask is None else mask
    y, x = _round_to_pixels(where, shape)
    points = pd.DataFrame({"y_px": where[:, 0], "x_px": where[:, 1], "p_disordered": p, "is_disordered": known[y, x]})
    spacing = settings["spacing_px"]
    side = window_px or max(1, round(TILE_SPACINGS * spacing) if spacing > 0 else max(shape))
    edges = [np.rint(np.linspace(0, n, max(1, round(n / side)) + 1)).astype(int) for n in shape]
    y0, x0 = (a.ravel() for a in np.meshgrid(edges[0][:-1], edges[1][:-1], indexing="ij"))
    y1, x1 = (a.ravel() for a in np.meshgrid(edges[0][1:], edges[1][1:], indexing="ij"))
    count = np.histogram2d(y, x, bins=edges)[0].astype(np.int64).ravel()
    total = np.pad(known.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    share = (total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]) / ((y1 - y0) * (x1 - x0))
    share = np.full(len(share), np.nan) if mask is None else share
    windows = pd.DataFrame({"y0": y0, "x0": x0, "y1": y1, "x1": x1, "n_points": count, "disordered_fraction": share})
    return OrderMap(points, windows, known, float("nan") if mask is None else float(known.mean()), settings)
