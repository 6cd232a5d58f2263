"""Atomic columns with known sites under Gaussian noise, and a LoG detector that keeps its candidates."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.detect.candidates import find_candidates, select_detections
from emqa_dask.settings import Detect
from emqa_dask.synthetic import lattices
from emqa_dask.tune import rewards
from emqa_dask.tune.lattice import LatticePhysics, make_cell_physics
from emqa_dask.tune.rewards import Scene

# Drift-free, well exposed: the noise under study is added afterwards.
QUIET = {"disorder": False, "background": 0.3, "dtype": "float32", "vacancies": 0.0}
UNLIMITED = {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}
FLOOR = 0.01  # threshold down to which candidates are kept


class Case(NamedTuple):
    """An image in 0...1 before noise, what is in it, and what physics says."""

    name: str
    image: np.ndarray
    sites: np.ndarray  # n x 2, y, x, px
    physics: LatticePhysics
    nm_per_pixel: float


def physics_of(cell: str) -> LatticePhysics:
    """The physics of a cell of `synthetic.lattices.CELLS`."""
    a, b, gamma, basis = lattices.CELLS[cell]
    return make_cell_physics(a, b, gamma, [(u, v) for u, v, *_ in basis])


def synthetic(cell: str, seed: int, spacing_px: float = 13.0, shape: tuple[int, int] = (288, 288)) -> Case:
    """A lattice of columns with a standard deviation of 0.2 spacings."""
    physics = physics_of(cell)
    sample = lattices.draw_lattice(
        np.random.default_rng(seed), shape, cell=cell, nm_per_pixel=physics.spacing_nm / spacing_px, jitter_px=0.0,
        column_sigma_px=0.2 * spacing_px, exposure=UNLIMITED, **QUIET,
    )  # fmt: skip
    return Case(cell, unit_range(sample.image), sample.meta["sites_yx"], physics, sample.nm_per_pixel)


def unit_range(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    return (image - image.min()) / np.ptp(image)


def noisy(case: Case, noise: float, seed: int) -> Case:
    """`case` with Gaussian noise of standard deviation `noise`, in units of the clean image's range."""
    grain = np.random.default_rng([seed, round(1000 * noise)]).standard_normal(case.image.shape, dtype=np.float32)
    return case._replace(image=case.image + np.float32(noise) * grain)


class Log:
    """The LoG detector on one image, with the candidates of every set of scales kept."""

    def __init__(self, image: np.ndarray, polarity: str = "bright", floor: float = FLOOR):
        self.image = image
        self.polarity = polarity
        self.floor = floor
        self.kept = {}
        self.n_searched = 0

    def points(self, settings: dict) -> pd.DataFrame:
        """The detections under `settings` (of tune.Space)."""
        key = settings["min_sigma"], settings["max_sigma"], settings["num_sigma"]
        wanted = Detect(polarity=self.polarity, **settings)
        if key not in self.kept:
            at_floor = settings | {"threshold": self.floor}
            self.kept[key] = find_candidates(self.image, Detect(polarity=self.polarity, **at_floor))
            self.n_searched += 1
        return select_detections(self.kept[key], wanted)


def judged(points: pd.DataFrame, case: Case) -> dict[str, float]:
    """Count error (signed) against the true sites, crowding, and F1 against the sites within 0.3 spacings.

    The edge counts less, as in the reward (`rewards.tapered_count`); `physics_error` is the reward's own, signed.
    """
    scene = Scene(case.image, case.nm_per_pixel, case.physics, pd.DataFrame(case.sites, columns=["y_px", "x_px"]))
    return {
        "n": len(points),
        "count_error": rewards.count_tapered(points, scene) / rewards.count_tapered(scene.reference, scene) - 1,
        "physics_error": rewards.signed_count_error(points, scene),
        "crowding": rewards.crowding(points, scene),
        "true_f1": 1 - rewards.disagreement(points, scene),
    }
