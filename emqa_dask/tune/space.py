"""The search space of a LoG detector's settings as a unit cube; every point has min_sigma < max_sigma."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emqa_dask.tune.lattice import LatticePhysics
from emqa_dask.tune.registration import compute_spacing_px

FIELDS = ("threshold", "overlap", "min_sigma", "sigma_ratio")
Bounds = tuple[float, float]


@dataclass(frozen=True)
class SearchSpace:
    """Bounds of the searched settings; equal bounds fix one. Logarithmic, but for the overlap.

    The largest sigma is searched as a multiple of the smallest, so every point of the space is a valid
    setting. Sigmas lie on a grid that starts at the lowest: many settings share their scales, and a threshold or an
    overlap costs nothing where the candidates of those scales are kept. Raises ValueError for bounds that cannot be.
    """

    threshold: Bounds = (0.01, 0.4)  # of the response on the normalised image
    overlap: Bounds = (0.01, 0.9)
    min_sigma: Bounds = (1.0, 8.0)  # px
    sigma_ratio: Bounds = (1.2, 6.0)  # max_sigma / min_sigma
    scales_per_octave: int = 4

    def __post_init__(self):
        for name, floor in (("threshold", 0), ("overlap", -1e-9), ("min_sigma", 0), ("sigma_ratio", 1)):
            low, high = getattr(self, name)
            if not floor < low <= high < math.inf:
                raise ValueError(
                    f"{name} is searched in {low}...{high}: low <= high, above {max(floor, 0)}, are needed"
                )
        if self.overlap[1] > 1:
            raise ValueError(f"overlap is searched in {self.overlap}: it has to be in 0...1")
        if self.scales_per_octave < 1:
            raise ValueError(f"scales_per_octave is {self.scales_per_octave}: it has to be at least 1")

    @staticmethod
    def make_for_physics(physics: LatticePhysics, nm_per_pixel: float, **bounds: Bounds) -> "SearchSpace":
        """Scales from the distance between neighbours d, where a row of columns answers most: sigma = 0.225 d.

        That is the maximum over s of (s k)^2 exp(-(s k)^2 / 2) for k = 2 pi / d. Searched from 0.1 d (below is grain)
        to 0.26 d, times at most 2.2. `bounds` replace these or others. ValueError where the image has no pixel size.
        """
        d = compute_spacing_px(physics, nm_per_pixel)
        return SearchSpace(**({"min_sigma": (0.1 * d, 0.26 * d), "sigma_ratio": (1.1, 2.2)} | bounds))

    @property
    def names(self) -> tuple[str, ...]:
        """The coordinates of the unit cube: the fields whose bounds differ."""
        return tuple(name for name in FIELDS if np.ptp(getattr(self, name)) > 0)

    def make_settings(self, unit: Sequence[float]) -> dict[str, float | int | bool]:
        """Settings as `settings.Detect` has them, at a point of the unit cube (one coordinate for each of `names`)."""
        coordinates = dict(zip(self.names, unit))
        value = {
            name: _interpolate_bounds(getattr(self, name), coordinates.get(name, 0.0), name != "overlap")
            for name in FIELDS
        }
        low = self.min_sigma[0]
        step = self.scales_per_octave
        first_step = round(math.log2(value["min_sigma"] / low) * step)
        n_steps = max(1, round(math.log2(value["sigma_ratio"]) * step))
        return {
            "threshold": value["threshold"],
            "overlap": value["overlap"],
            "min_sigma": float(low * 2 ** (first_step / step)),
            "max_sigma": float(low * 2 ** ((first_step + n_steps) / step)),
            "num_sigma": n_steps + 1,
            "log_scale": True,
        }

    def locate(self, settings: dict) -> NDArray[np.float64]:
        """The point of the unit cube nearest to `settings`, of which threshold, overlap, min_ and max_sigma count."""
        value = settings | {"sigma_ratio": settings["max_sigma"] / settings["min_sigma"]}
        return np.array([_locate_in_bounds(getattr(self, name), value[name], name != "overlap") for name in self.names])


def _interpolate_bounds(bounds: Bounds, fraction: float, is_log: bool) -> float:
    low, high = bounds
    return float(low * (high / low) ** fraction if is_log else low + (high - low) * fraction)


def _locate_in_bounds(bounds: Bounds, value: float, is_log: bool) -> float:
    low, high = np.log(bounds) if is_log else bounds
    value = math.log(max(value, 1e-12)) if is_log else value
    return float(np.clip((value - low) / (high - low), 0, 1))
