"""Order maps: which atoms of a lattice image lie in amorphous regions, and where these regions are."""

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from emqa_dask.tune import band_filter, order_mixture, periodicity, translations
from emqa_dask.tune.order_input import check_image, check_points, check_search, measure_spacing_px

MIN_POINTS = 30  # with fewer points the order is unknown
N_COMPONENTS = 8  # principal components of patches
N_NEIGHBOURS = 5  # patches that a patch is compared with
PATCH_SPACINGS = 1.0  # side of a patch, in spacings
MIN_SNR = 5.0  # signal-to-noise ratio below which the points' spacing is not relied on
TILE_SPACINGS = 8.0  # side of a tile of the table, in spacings
POINT_REACH_SPACINGS = 1.5  # a place this near a point can be assessed whatever its contrast
MIN_TEXTURE = 0.05  # of the texture at the points: a place with less, and far from points, is vacuum


class OrderMap(NamedTuple):
    """Disordered regions of an image, and the detected points in them."""

    points: pd.DataFrame  # y_px, x_px, p_disordered (NaN where unknown), is_disordered; the input's order
    tiles: pd.DataFrame  # y0, x0, y1, x1 (px, half-open), n_points, disordered_fraction (of the area)
    mask: NDArray[np.bool_]  # (h, w): the disordered regions
    area_fraction: float  # of the image; 0 for a perfect crystal, NaN where unknown
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
    (`periodicity.measure_periodicity`), and its scatter, how far patches of `patch_px` (None: one spacing) are from the
    most similar ones among the principal components of all patches. A Gaussian mixture of two components is fitted at
    the points; the disordered component has less order and more scatter (`order_mixture.fit_mixture`), no sign of a
    principal component decides. `covariance` and `threshold` (of the posterior, in 0...1) are tuned where they are
    None, by compactness and perimeter of the regions (`order_mixture.tune_mixture`). Barakati et al., Physics-based
    reward driven image analysis in microscopy, figures 2B and 4.

    Order is in units of that of the intact lattice, and a region is claimed by it alone: no place of order 0.5 or more
    belongs to one, its mean is at most 0.32, it has at least 8 squared spacings and room for a disc of 1.2 spacings'
    radius, more where the whole lattice is irregular (`order_mixture.find_regions`). So vacancies and thickness are no
    regions and a perfect crystal has none. Where there are neither points nor texture (vacuum) nothing is claimed. A
    textured image without any lattice is disordered everywhere; fewer than 30 points, or nothing above white noise,
    give NaN. `is_disordered`: the point lies in a claimed region; `p_disordered`: the posterior at the point.
    The image's gain and offset and the points' order change nothing. `window_px` is the side of the table's tiles
    (None: about 8 spacings). Raises ValueError for images that are not two-dimensional, real and finite, points outside
    the image, and settings that make no sense.
    """
    image = check_image(image)
    points_px = check_points(points, image.shape)
    candidates = check_search(covariance, threshold, patch_px, window_px)
    spacing = measure_spacing_px(points_px)
    settings = {"verdict": "", "covariance": None, "threshold": np.nan, "compactness": np.nan, "perimeter_px": np.nan}
    settings |= {"spacing_px": spacing, "patch_px": 0, "n_lattices": 0, "order_level": np.nan, "seed": seed}
    if len(points_px) < MIN_POINTS or not spacing > 0 or image.min() == image.max():
        settings["verdict"] = f"unknown: {len(points_px)} points of at least {MIN_POINTS}, or no contrast"
        mask = None
        p = np.full(len(points_px), np.nan)
    else:
        filtered = _filter_image(image, spacing)
        settings["spacing_px"] = filtered.spacing_px
        settings["patch_px"] = int(patch_px or round(PATCH_SPACINGS * filtered.spacing_px)) // 2 * 2 + 1
        lattice = periodicity.measure_periodicity(filtered)
        if lattice is None:
            mask, p, region_settings = _map_texture(filtered, points_px)
        else:
            mask, p, region_settings = _map_lattice(
                filtered, lattice, points_px, settings["patch_px"], candidates, seed
            )
        settings |= region_settings
    return _make_order_map(points_px, mask, p, image.shape, window_px, settings)


def _filter_image(image: NDArray, spacing: float) -> band_filter.FilteredImage:
    """`image` filtered around the points' spacing.

    Noise has blobs at any spacing. So an image that is noisy and has no structure at the points' spacing is filtered
    around the spacing of its own autocorrelation.
    """
    filtered = band_filter.filter_band(image, spacing)
    if (
        band_filter.compute_snr(filtered) < MIN_SNR
        and (nearest := translations.find_nearest_peak_px(filtered)) > 1.3 * spacing
    ):
        return band_filter.filter_band(image, nearest)
    return filtered


def _map_lattice(filtered, lattice, points_px, patch_px, candidates, seed) -> tuple[NDArray, NDArray, dict]:
    """Mask, posterior at the points, and settings."""
    shape = filtered.signal.shape
    spacing = filtered.spacing_px
    level = float(np.clip(periodicity.compute_ordered_level(lattice.order), 0.3, 1.0))
    settings = {"n_lattices": lattice.n_lattices, "order_level": level}
    order = lattice.order / level
    fields = np.stack([order, _compute_scatter(filtered, points_px, patch_px, order.shape)], axis=-1)
    # Sorted points, so that rounding does not depend on the order of the table.
    sorted_values = _interpolate(fields, points_px[np.lexsort(points_px.T[::-1])], shape)
    is_assessable = _find_assessable(filtered, points_px)
    is_assessable_coarse = (
        cv2.resize(is_assessable.astype(np.uint8), order.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    )
    step = shape[0] / order.shape[0]
    covariances, thresholds = candidates
    choice = order_mixture.tune_mixture(
        sorted_values, fields, is_assessable_coarse, step, spacing, level, covariances, thresholds, seed
    )
    settings |= {name: value for name, value in choice._asdict().items() if name != "mixture"}
    if choice.mixture is None:
        settings["verdict"] = "ordered: no component or region passes as disordered"
        return np.zeros(shape, bool), np.zeros(len(points_px)), settings
    settings["verdict"] = "disordered regions"
    fields_px = cv2.resize(fields, shape[::-1])
    p_px = order_mixture.compute_posterior(choice.mixture, fields_px)
    mask = order_mixture.find_regions((p_px >= choice.threshold) & is_assessable, fields_px[..., 0], spacing, level)
    return mask, order_mixture.compute_posterior(choice.mixture, _interpolate(fields, points_px, shape)), settings


def _map_texture(filtered: band_filter.FilteredImage, points_px: NDArray) -> tuple[NDArray | None, NDArray, dict]:
    """Mask, posterior at the points, and settings of an image without a lattice."""
    texture = float(
        np.median(band_filter.blur_image(filtered.signal**2, filtered.spacing_px) / np.maximum(filtered.noise, 1e-12))
    )
    if texture < 2:
        return None, np.full(len(points_px), np.nan), {"verdict": "unknown: nothing stands out of white noise"}
    return (
        _find_assessable(filtered, points_px),
        np.ones(len(points_px)),
        {"verdict": "disordered: a texture without a lattice"},
    )


def _find_assessable(filtered: band_filter.FilteredImage, points_px: NDArray) -> NDArray:
    """Places (h, w) bool that are no vacuum: with points nearby, or a twentieth of the texture at the points."""
    is_empty = np.ones(filtered.signal.shape, np.uint8)
    y, x = _round_to_pixels(points_px, is_empty.shape)
    is_empty[y, x] = 0
    is_near_point = (
        cv2.distanceTransform(is_empty, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        <= POINT_REACH_SPACINGS * filtered.spacing_px
    )
    return is_near_point | (filtered.texture > MIN_TEXTURE * np.median(filtered.texture[y, x]))


def _compute_scatter(
    filtered: band_filter.FilteredImage, points_px: NDArray, patch_px: int, shape: tuple[int, int]
) -> NDArray:
    """Dissimilarity of the patches around a place to all other patches, on a grid of `shape`, float32: 0 to about 1.

    The mean distance from a patch (of unit length) to its 5 most similar ones in the space of 8 principal components,
    spread over one spacing.
    """
    y, x = _round_to_pixels(points_px, filtered.signal.shape)
    half_patch_px = patch_px // 2
    padded = np.pad(
        filtered.signal, half_patch_px, mode="reflect" if half_patch_px < min(filtered.signal.shape) else "symmetric"
    )
    patches = np.lib.stride_tricks.sliding_window_view(padded, (patch_px, patch_px))[y, x].reshape(len(y), -1)
    patches = patches - patches.mean(axis=1, keepdims=True)
    patches /= np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)
    _, vectors = np.linalg.eigh(np.cov(patches.T, dtype=np.float64))
    reduced = patches @ vectors[:, -N_COMPONENTS:]
    distance = cKDTree(reduced).query(reduced, k=N_NEIGHBOURS + 1)[0][:, 1:].mean(axis=1)
    weight, total = np.zeros((2, *filtered.signal.shape), np.float32)
    np.add.at(weight, (y, x), 1)
    np.add.at(total, (y, x), distance.astype(np.float32))
    weight, total = (
        band_filter.blur_image(
            cv2.resize(a, shape[::-1], interpolation=cv2.INTER_AREA), filtered.spacing_px * shape[0] / a.shape[0]
        )
        for a in (weight, total)
    )
    few = 1e-3 * weight.max()
    return (total + few * np.float32(np.median(distance))) / (weight + few)


def _round_to_pixels(points_px: NDArray, shape: tuple[int, int]) -> tuple[NDArray, NDArray]:
    return tuple(np.clip(np.rint(points_px).astype(int), 0, np.array(shape) - 1).T)


def _interpolate(fields: NDArray, points_px: NDArray, shape: tuple[int, int]) -> NDArray:
    """`fields` (a, b, 2) of an image of `shape` at the points `points_px`, interpolated: (n, 2)."""
    if not len(points_px):
        return np.empty((0, fields.shape[-1]))
    scale = np.array(fields.shape[:2]) / shape
    y, x = ((points_px + 0.5) * scale - 0.5).astype(np.float32).T
    values = cv2.remap(
        fields.astype(np.float32), x[:, None], y[:, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return values[:, 0].astype(np.float64)


def _make_order_map(points_px, mask, p, shape, window_px, settings) -> OrderMap:
    """The map and its tables; `mask` None: unknown."""
    region_mask = np.zeros(shape, bool) if mask is None else mask
    y, x = _round_to_pixels(points_px, shape)
    points = pd.DataFrame(
        {"y_px": points_px[:, 0], "x_px": points_px[:, 1], "p_disordered": p, "is_disordered": region_mask[y, x]}
    )
    spacing = settings["spacing_px"]
    side = window_px or max(1, round(TILE_SPACINGS * spacing) if spacing > 0 else max(shape))
    edges = [np.rint(np.linspace(0, n, max(1, round(n / side)) + 1)).astype(int) for n in shape]
    y0, x0 = (a.ravel() for a in np.meshgrid(edges[0][:-1], edges[1][:-1], indexing="ij"))
    y1, x1 = (a.ravel() for a in np.meshgrid(edges[0][1:], edges[1][1:], indexing="ij"))
    point_counts = np.histogram2d(y, x, bins=edges)[0].astype(np.int64).ravel()
    cumulative_area = np.pad(region_mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    disordered_fraction = (
        cumulative_area[y1, x1] - cumulative_area[y0, x1] - cumulative_area[y1, x0] + cumulative_area[y0, x0]
    ) / ((y1 - y0) * (x1 - x0))
    disordered_fraction = np.full(len(disordered_fraction), np.nan) if mask is None else disordered_fraction
    tiles = pd.DataFrame(
        {"y0": y0, "x0": x0, "y1": y1, "x1": x1, "n_points": point_counts, "disordered_fraction": disordered_fraction}
    )
    return OrderMap(points, tiles, region_mask, float("nan") if mask is None else float(region_mask.mean()), settings)
