"""Distance of an image's imaging conditions (defocus, voltage) to those of training images: a signed phase shift.

The distance is our own construct; benchmarks/studies/transfer.py compares it with measured losses.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.optics import aberration_phase, temporal_envelope

Q_PER_NM = np.linspace(0.025, 10.0, 400)  # lattice fringes down to 0.1 nm
MIN_LIMIT_RAD = 0.1  # images of equal defocus have a limit near 0, and images almost like them would be flagged
MIN_IMAGES = 20  # training images of known conditions, below which no limit is set
MAX_CONDITIONS = 64  # kept on the card


class ImagingSettings(NamedTuple):
    """Conditions of a set of images. `defocus_nm` is positive for overfocus, as in `optics.aberration_phase`."""

    defocus_nm: float
    cs_mm: float = 0.0
    voltage_kv: float = 300.0
    focal_spread_nm: float = 1.0  # 1/e half width
    defocus_range_nm: float = 1.0  # half width of the set's defoci around defocus_nm


def compute_phase_shift(
    train: ImagingSettings,
    test: ImagingSettings,
    *,
    outward: float = 0.0,
    plane_nm: float = 0.0,
    q_per_nm: ArrayLike = Q_PER_NM,
) -> float:
    """`<|chi' - chi|> + outward <max(|chi'_p| - |chi_p|, 0)>`, radians: a signed distance, 0 for equal conditions.

    <> is the mean over q, weighted by the test's envelope; chi' is the test's phase and chi the training's; chi_p are
    the phases with the defocus counted from `plane_nm`. The first term is the cost of every change. The second is the
    cost of conditions beyond training: a network that was trained on many oscillations of the transfer copes with
    fewer, not with more, so leaving the training conditions *outwards* costs and returning inwards does not. The
    distance is not symmetric under exchange, and with a `plane_nm` other than 0 not under a change of both signs: the
    defocus counts from the plane where the sample's mean phase is flat, which may differ from the 0 of the file or the
    simulation (thickness, spherical aberration). `outward` 0 gives the plain difference.
    """
    q = np.asarray(q_per_nm, float)
    train_phase_rad = aberration_phase(q, train.defocus_nm, train.cs_mm, train.voltage_kv)
    test_phase_rad = aberration_phase(q, test.defocus_nm, test.cs_mm, test.voltage_kv)
    train_plane_phase_rad = aberration_phase(q, train.defocus_nm - plane_nm, train.cs_mm, train.voltage_kv)
    test_plane_phase_rad = aberration_phase(q, test.defocus_nm - plane_nm, test.cs_mm, test.voltage_kv)
    weight = np.asarray(temporal_envelope(q, test.voltage_kv, test.focal_spread_nm)) ** 2
    weight /= weight.sum()
    excess = np.maximum(np.abs(test_plane_phase_rad) - np.abs(train_plane_phase_rad), 0)
    return float(weight @ (np.abs(test_phase_rad - train_phase_rad) + outward * excess))


class TrainingConditions(NamedTuple):
    """Imaging conditions of m training images, as far as their Thon rings or their files tell."""

    defocus_nm: NDArray[np.float64]  # (m,), magnitudes
    voltage_kv: NDArray[np.float64]  # (m,)
    limit: float  # phase shift, radians, that counts as distance 1


def fit_training_conditions(
    defocus_nm: ArrayLike, voltage_kv: ArrayLike, *, false_flags: float = 0.05
) -> TrainingConditions | None:
    """The conditions of n training images, (n,) each, NaN where unknown; None where fewer than MIN_IMAGES are known.

    The limit is the split-conformal quantile of each one's distance to the nearest other, at least MIN_LIMIT_RAD. At
    most MAX_CONDITIONS are kept, evenly over the sorted defoci.
    """
    defocus = np.abs(np.asarray(defocus_nm, float))
    voltage = np.asarray(voltage_kv, float)
    is_known = np.isfinite(defocus) & np.isfinite(voltage) & (voltage > 0)
    n = int(is_known.sum())
    if n < MIN_IMAGES or _compute_rank(n, false_flags) > n:
        return None
    defocus = defocus[is_known]
    voltage = voltage[is_known]
    order = np.lexsort((defocus, voltage))
    indices = order[np.unique(np.linspace(0, n - 1, min(n, MAX_CONDITIONS)).round().astype(int))]
    defocus = defocus[indices]
    voltage = voltage[indices]
    distances = []
    for k in range(len(indices)):
        remaining_conditions = TrainingConditions(np.delete(defocus, k), np.delete(voltage, k), 1.0)
        distances.append(_find_nearest_shift(remaining_conditions, defocus[k], voltage[k]))
    rank = min(len(distances), _compute_rank(len(distances), false_flags))
    return TrainingConditions(defocus, voltage, max(float(np.sort(distances)[rank - 1]), MIN_LIMIT_RAD))


def _compute_rank(n: int, false_flags: float) -> int:
    """The rank, from 1, of the split-conformal quantile of n values; above n where n are too few."""
    return int(np.ceil((n + 1) * (1 - false_flags)))


def compute_condition_distance(conditions: TrainingConditions, defocus_nm: float, voltage_kv: float) -> float:
    """Phase shift of an image's conditions to the nearest training ones, 1 = the limit; NaN where they are unknown."""
    if not (np.isfinite(defocus_nm) and np.isfinite(voltage_kv) and voltage_kv > 0):
        return float("nan")
    return _find_nearest_shift(conditions, abs(defocus_nm), voltage_kv) / conditions.limit


def compute_condition_distances(conditions: TrainingConditions | None, features: pd.DataFrame) -> NDArray[np.float64]:
    """compute_condition_distance() of n rows with defocus_nm and voltage_kv, (n,).

    All NaN without conditions or without these columns.
    """
    if conditions is None or not {"defocus_nm", "voltage_kv"} <= set(features.columns):
        return np.full(len(features), np.nan)
    rows = features[["defocus_nm", "voltage_kv"]].to_numpy(float)
    return np.array([compute_condition_distance(conditions, defocus, voltage) for defocus, voltage in rows])


def make_card_table(conditions: TrainingConditions | None) -> dict:
    """The table `imaging` of a model's card; none without conditions."""
    if conditions is None:
        return {}
    table = {
        "defocus_nm": conditions.defocus_nm.round(3).tolist(),
        "voltage_kv": conditions.voltage_kv.tolist(),
        "limit_rad": conditions.limit,
    }
    return {"imaging": table}


def read_training_conditions(model_card: Mapping) -> TrainingConditions | None:
    """The conditions on a model's card; None where it has none."""
    if "imaging" not in model_card:
        return None
    table = model_card["imaging"]
    return TrainingConditions(
        np.array(table["defocus_nm"], float), np.array(table["voltage_kv"], float), table["limit_rad"]
    )


def _find_nearest_shift(conditions: TrainingConditions, defocus_nm: float, voltage_kv: float) -> float:
    """Phase shift, radians, to the nearest of the training conditions."""
    test = ImagingSettings(defocus_nm, voltage_kv=voltage_kv)
    return min(
        compute_phase_shift(ImagingSettings(defocus, voltage_kv=voltage), test)
        for defocus, voltage in zip(conditions.defocus_nm, conditions.voltage_kv)
    )
