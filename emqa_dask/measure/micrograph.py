"""Measurements of one micrograph from its detections."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.measure import weighted
from emqa_dask.measure.edge_correction import compute_edge_weights
from emqa_dask.measure.neighbours import compute_neighbour_distance
from emqa_dask.measure.sizes import BIN_LIMITS, count_sizes
from emqa_dask.measure.swelling import NM2_PER_UM2, compute_swelling
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.settings import Measure
from emqa_dask.tables import DIAMETER_STATISTICS

QUANTILE_LEVELS = (0.1, 0.5, 0.9)
NM3_PER_UM3 = 1e9
# Columns of tables.DETECTIONS that are measured.
COLUMNS = ["y_px", "x_px", "y0", "x0", "y1", "x1", "area_px", "circularity", "diameter_px", "label"]


class Field(NamedTuple):
    """The part of the specimen that a micrograph shows."""

    shape: tuple[int, int]  # height, width, px
    nm_per_pixel: float = math.nan  # along x
    nm_per_pixel_y: float = math.nan

    @property
    def pixel_side_nm(self) -> float:
        """Side of the square with the area of a pixel; NaN where the pixel size is unknown."""
        return (
            float(compute_pixel_side_nm(self.nm_per_pixel, self.nm_per_pixel_y)) if self.nm_per_pixel > 0 else math.nan
        )

    @property
    def area_nm2(self) -> float:
        """Area of the image; NaN where the pixel size is unknown."""
        return math.prod(self.shape) * self.pixel_side_nm**2


class Objects(NamedTuple):
    """Columns of n objects of one detector on one image."""

    centres: NDArray[np.float64]  # (n, 2): y, x, px
    boxes: NDArray[np.float64]  # (n, 4): y0, x0, y1, x1, px
    areas_px: NDArray[np.float64]
    circularity: NDArray[np.float64]
    diameters_px: NDArray[np.float64]
    labels: NDArray  # names of classes

    @classmethod
    def from_detections(cls, rows: pd.DataFrame) -> "Objects":
        """The objects of rows with COLUMNS."""
        return cls(
            centres=rows[["y_px", "x_px"]].to_numpy(float),
            boxes=rows[["y0", "x0", "y1", "x1"]].to_numpy(float),
            areas_px=rows["area_px"].to_numpy(float),
            circularity=rows["circularity"].to_numpy(float),
            diameters_px=rows["diameter_px"].to_numpy(float),
            labels=rows["label"].to_numpy(object),
        )

    def select(self, positions: NDArray | slice) -> "Objects":
        """The objects at `positions`."""
        return Objects(*(column[positions] for column in self))

    def iter_classes(self) -> Iterator[tuple[str | None, NDArray | slice]]:
        """(None, all positions), then (class, its positions) in the order of the names."""
        yield None, slice(None)
        for label in sorted({label for label in self.labels if label is not None}):
            yield label, np.flatnonzero(self.labels == label)


def measure_objects(objects: Objects, field: Field, settings: Measure) -> tuple[list[dict], list[dict]]:
    """Rows of tables.MEASUREMENTS and of tables.SIZES, without ids, of one detector on one image.

    A row for all classes together (label None), then one for each class. Without objects the number, the density, the
    area fraction, the volume and the swelling are 0, and sizes NaN.
    """
    edge_weights = compute_edge_weights(objects.boxes, field.shape)
    weights = edge_weights if settings.edge_correction else np.ones(len(edge_weights))
    measurements = []
    size_rows = []
    for label, positions in objects.iter_classes():
        members = objects.select(positions)
        counts = {"label": label, "n_objects": len(members.boxes), "n_cut": int((edge_weights[positions] == 0).sum())}
        measurements.append(counts | _measure_members(members, weights[positions], field, settings))
        size_rows += [{"label": label, **row} for row in _count_sizes(members, weights[positions], field)]
    return measurements, size_rows


def _measure_members(objects: Objects, weights: NDArray, field: Field, settings: Measure) -> dict:
    side = field.pixel_side_nm
    n_corrected = float(weights.sum())
    density_per_nm2 = n_corrected / field.area_nm2
    thickness = settings.foil_thickness_nm or math.nan
    is_sized = np.isfinite(objects.diameters_px)
    volume = math.pi / 6 * float(weights[is_sized] @ objects.diameters_px[is_sized] ** 3) * side**3
    swelling, uncertainty = compute_swelling(volume, field.area_nm2, thickness, settings.foil_thickness_uncertainty_nm)
    distance = compute_neighbour_distance(objects.centres, field.shape)
    return {
        "n_corrected": n_corrected,
        "area_um2": field.area_nm2 / NM2_PER_UM2,
        "foil_thickness_nm": thickness,
        "density_per_mpx": 1e6 * n_corrected / math.prod(field.shape),
        "density_per_um2": density_per_nm2 * NM2_PER_UM2,
        "density_per_nm2": density_per_nm2,
        "density_per_um3": density_per_nm2 / thickness * NM3_PER_UM3,
        **_summarise_diameters(objects.diameters_px, weights, side),
        "area_fraction": float(np.nansum(weights * objects.areas_px)) / math.prod(field.shape),
        "mean_circularity": weighted.compute_mean(objects.circularity, weights),
        "neighbour_distance_px": distance,
        "neighbour_distance_nm": distance * side,
        "volume_nm3": volume,
        "swelling_percent": float(swelling),
        "swelling_uncertainty_percent": float(uncertainty),
    }


def _summarise_diameters(diameters: NDArray, weights: NDArray, side: float) -> dict[str, float]:
    """DIAMETER_STATISTICS in px and in nm."""
    values = (
        weighted.compute_mean(diameters, weights),
        weighted.compute_std(diameters, weights),
        *weighted.compute_quantiles(diameters, weights, QUANTILE_LEVELS),
    )
    in_px = {f"{name}_px": value for name, value in zip(DIAMETER_STATISTICS, values, strict=True)}
    return in_px | {f"{name}_nm": value * side for name, value in zip(DIAMETER_STATISTICS, values, strict=True)}


def _count_sizes(objects: Objects, weights: NDArray, field: Field) -> list[dict]:
    """Rows of tables.SIZES without ids and class."""
    has_scale = field.pixel_side_nm > 0
    diameters = objects.diameters_px * (field.pixel_side_nm if has_scale else 1.0)
    return [
        {
            "unit": "nm" if has_scale else "px",
            "low": BIN_LIMITS[k],
            "high": BIN_LIMITS[k + 1],
            "n_objects": int(n_objects),
            "n_corrected": float(n_corrected),
        }
        for k, n_objects, n_corrected in zip(*count_sizes(diameters, weights), strict=True)
    ]
