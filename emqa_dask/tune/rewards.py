"""Rewards of a detection result: functions of its points and their scene, all to be minimised."""

import importlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from emqa_dask import boxes
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.tune.boundaries import compute_gradient_alignment, compute_radii
from emqa_dask.tune.lattice import LatticePhysics, compute_expected_count
from emqa_dask.tune.registration import compute_lattice_rms, compute_spacing_nm, compute_spacing_px

CROWDING_LIMIT = 0.75  # of the lattice's own summed distance to four neighbours; below it a point is crowded
MATCH_IOU = 0.3  # between a detection's box and the reference's
MATCH_SPACINGS = 0.3  # of the spacing: points of two tables nearer than this are one column
TAPER_SPACINGS = 2.0  # spacings over which the weight of points falls to 0 at the edge: see `count_tapered`
CLEAR_ALIGNMENT = 0.7  # gradient alignment of a boundary above which a detection counts in favour


class Scene(NamedTuple):
    """What a reward takes into account beside the points."""

    image: NDArray  # (h, w), real; the micrograph, on any scale
    nm_per_pixel: float = math.nan  # along x; NaN when unknown
    physics: LatticePhysics | None = None
    reference: pd.DataFrame | None = None  # other detections: boxes y0, x0, y1, x1, or points y_px, x_px
    nm_per_pixel_y: float = math.nan  # along y; NaN: the same as along x

    @property
    def pixel_side_nm(self) -> float:
        """Side of the square with a pixel's area; NaN when unknown."""
        return float(compute_pixel_side_nm(self.nm_per_pixel, self.nm_per_pixel_y))

    @property
    def pixel_sides_nm(self) -> tuple[float, float]:
        """Sides of a pixel along y and x."""
        is_known = self.nm_per_pixel_y > 0
        return (self.nm_per_pixel_y if is_known else self.nm_per_pixel), self.nm_per_pixel


Reward = Callable[[pd.DataFrame, Scene], float]


def load_reward(name: str) -> Reward:
    """The reward of that name, or the function at an import path "package.module:function".

    A user's function gets the same arguments: the points (columns y_px, x_px, sigma_px, score, y0, x0, y1, x1) and the
    scene; it returns a number to be minimised, NaN or infinity where the reward is unknown. Raises ValueError for names
    that do not exist, with those that do.
    """
    if ":" not in name:
        if name not in REWARDS:
            raise ValueError(f"unknown reward {name!r}: {', '.join(REWARDS)}, or a function as package.module:function")
        return REWARDS[name]
    module, _, function = name.partition(":")
    try:
        function_object = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward {name!r} cannot be imported: {error}") from error
    if not callable(function_object):
        raise ValueError(f"reward {name!r} is a {type(function_object).__name__}, not a function")
    return function_object


def signed_count_error(points: pd.DataFrame, scene: Scene) -> float:
    """QC: (points - expected) / expected; -1 when nothing is found. A figure to look at; its minimum is no aim.

    Points are counted by `count_tapered`, and the area likewise. Barakati et al., Physics-based reward driven image
    analysis in microscopy, eq. 1, where each counts one: then columns beyond the edge whose flanks are in view, found
    on the edge, make up for columns missed inside. Raises ValueError without physics or pixel size, as all rewards
    that need them.
    """
    expected = _compute_expected(scene)
    for side, width in zip(scene.image.shape, _compute_tapers_px(scene)):
        expected *= 1 - width / side
    return float((count_tapered(points, scene) - expected) / expected)


def count_tapered(points: pd.DataFrame, scene: Scene) -> float:
    """How many points there are, where one at the image's edge counts 0, and 1 from `TAPER` spacings on.

    A sine squared lies between. A lattice's columns then count as density times the weights' integral, as good as
    wherever the edge cuts the cells. No point gives 0.
    """
    centres = _list_centres(points)
    weights = np.ones(len(centres))
    for axis, (side, width) in enumerate(zip(scene.image.shape, _compute_tapers_px(scene))):
        edge_distance = np.minimum(centres[:, axis] + 0.5, side - 0.5 - centres[:, axis])
        weights *= np.sin(0.5 * np.pi * np.clip(edge_distance / width, 0, 1)) ** 2
    return float(weights.sum())


def _compute_tapers_px(scene: Scene) -> list[float]:
    """The width of the edge that counts less along each axis, at most half of the image."""
    sides = zip(scene.image.shape, scene.pixel_sides_nm, strict=True)
    return [min(TAPER_SPACINGS * compute_spacing_px(scene.physics, nm), length / 2) for length, nm in sides]


def count_error(points: pd.DataFrame, scene: Scene) -> float:
    """|QC|: what the number of points is off the expected one, as a fraction of that; 1 when nothing is found."""
    return abs(signed_count_error(points, scene))


def crowding(points: pd.DataFrame, scene: Scene) -> float:
    """ER: points whose summed distance to their four nearest neighbours is below DS, over the expected number.

    DS is `CROWDING_LIMIT` times that of the lattice (`LatticePhysics.four_nearest_nm`): an extra point amid four
    columns of a square lattice has 0.71 of it. Fewer than five points have no four neighbours and give 0; other rewards
    have to see those. Barakati et al., eq. 2, where DS is a number of pixels.
    """
    expected = _compute_expected(scene)
    centres_nm = _list_centres(points) * scene.pixel_sides_nm
    if len(centres_nm) < 5:
        return 0.0
    summed = cKDTree(centres_nm).query(centres_nm, k=5)[0].sum(axis=1)
    return float((summed < CROWDING_LIMIT * scene.physics.four_nearest_nm).sum() / expected)


def lattice_residual(points: pd.DataFrame, scene: Scene) -> float:
    """Rms distance of the points to the best-fitting lattice of the physics, in spacings; see `registration`.

    About 0.4 for random points; infinite for fewer than 4. Needs a cell.
    """
    _compute_expected(scene)
    residual = compute_lattice_rms(_list_centres(points) * scene.pixel_sides_nm, scene.physics)
    return residual if math.isfinite(residual) else math.inf


def disagreement(points: pd.DataFrame, scene: Scene) -> float:
    """1 - F1 of the points against `scene.reference` (a network's result, or labels); 0 when both are empty.

    A reference with boxes is matched one to one at an IoU of `MATCH_IOU`; one with places only by mutual nearest
    neighbours within `MATCH_SPACINGS` of the spacing, or without physics within the detection's radius. Raises
    ValueError without a reference.
    """
    if scene.reference is None:
        raise ValueError("disagreement needs a reference: detections or labels of the same image")
    if {"y0", "x0", "y1", "x1"} <= set(scene.reference.columns):
        corners = ["y0", "x0", "y1", "x1"]
        f1 = boxes.match_boxes(points[corners], scene.reference[corners], MATCH_IOU, "optimal").f1
        return 0.0 if math.isnan(f1) else 1 - f1
    detected_centres = _list_centres(points)
    reference_centres = _list_centres(scene.reference)
    reach: float | NDArray[np.float64] = compute_radii(points)  # px
    if scene.physics is not None:
        _compute_expected(scene)
        reach = MATCH_SPACINGS * compute_spacing_nm(scene.physics)
        detected_centres = detected_centres * scene.pixel_sides_nm
        reference_centres = reference_centres * scene.pixel_sides_nm
    total = len(detected_centres) + len(reference_centres)
    return 1 - 2 * len(match_mutual_nearest(detected_centres, reference_centres, reach)) / total if total else 0.0


def match_mutual_nearest(a: NDArray, b: NDArray, reach: float | NDArray[np.float64]) -> NDArray[np.int64]:
    """Pairs (i, j) of points that are each other's nearest, at most `reach` apart: k x 2.

    a, b: (n, 2), (m, 2); reach: a number, or one for each of `a` (n,).
    """
    if len(a) == 0 or len(b) == 0:
        return np.zeros((0, 2), np.int64)
    distance, j = cKDTree(b).query(a)
    nearest_a = cKDTree(a).query(b)[1]
    is_mutual = (nearest_a[j] == np.arange(len(a))) & (distance <= reach)
    return np.column_stack([np.flatnonzero(is_mutual), j[is_mutual]])


def size_prior(points: pd.DataFrame, scene: Scene) -> float:
    """|ln(median sigma / expected sigma)|: 0.69 when objects are half or twice as large as they should be.

    For a lattice sigma is expected at 0.225 of the spacing, where rows of columns answer most; with a `reference` table
    that has sigma_px or boxes, at the median of those. Infinite without points.
    """
    if len(points) == 0:
        return math.inf
    if scene.reference is not None and len(scene.reference):
        expected = float(_compute_sigmas(scene.reference).median())
    else:
        _compute_expected(scene)
        expected = 0.225 * compute_spacing_px(scene.physics, scene.pixel_side_nm)
    return abs(math.log(float(_compute_sigmas(points).median()) / expected))


def doubtful_count(points: pd.DataFrame, scene: Scene) -> float:
    """Detections without a clear boundary less those with one: -sum(alignment - `CLEAR_ALIGNMENT`); 0 for no points.

    Needs neither labels nor physics: an object has an edge all the way round (`boundaries.compute_gradient_alignment`).
    A clear one lowers the value, a doubtful one raises it, so neither few sure detections nor all possible ones are
    best. For many small particles; where texture is finer than the particles search from a larger min_sigma, or use
    `doubtful_area`. Our own construct: benchmarks/studies/log_star.py says what it is worth.
    """
    return float((CLEAR_ALIGNMENT - compute_gradient_alignment(points, scene.image)).sum())


def doubtful_area(points: pd.DataFrame, scene: Scene) -> float:
    """`doubtful_count` with every detection weighted by its disk's area and its squared score, over the image's area.

    For a few large particles on fine texture: a thousand grains weigh less than one particle. No points give 0.
    """
    weight = math.pi * compute_radii(points) ** 2 * points["score"].to_numpy(np.float64) ** 2
    return float(
        ((CLEAR_ALIGNMENT - compute_gradient_alignment(points, scene.image)) * weight).sum() / scene.image.size
    )


def _compute_sigmas(table: pd.DataFrame) -> pd.Series:
    if "sigma_px" in table:
        return table["sigma_px"]
    return np.sqrt((table["y1"] - table["y0"]) * (table["x1"] - table["x0"])) / (2 * math.sqrt(2))


def _compute_expected(scene: Scene) -> float:
    if scene.physics is None:
        raise ValueError("this reward needs physics: a lattice file or a density (tune --lattice)")
    return compute_expected_count(scene.physics, scene.image.shape, scene.pixel_side_nm)


def _list_centres(points: pd.DataFrame) -> NDArray[np.float64]:
    return points[["y_px", "x_px"]].to_numpy(np.float64)


REWARDS: dict[str, Reward] = {
    f.__name__: f
    for f in (
        count_error,
        signed_count_error,
        crowding,
        lattice_residual,
        disagreement,
        size_prior,
        doubtful_count,
        doubtful_area,
    )
}
