"""How far other imaging conditions are from those of training: information, overlap, and a signed shift of phase.

Paper C derives two such measures, epsilon(chi) and sigma(chi, chi'), from the contrast transfer function; its formulas
are not known to us. All of these are our own construct.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.optics import aberration_phase, contrast_transfer, temporal_envelope

Q_PER_NM = np.linspace(0.025, 10.0, 400)  # lattice fringes down to 0.1 nm
OUTWARD_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
MIN_LIMIT_RAD = 0.1  # a cohort of one defocus is no reason to flag its like
MAX_CONDITIONS = 64
PLANES_NM = tuple(float(d) for d in sorted(range(-10, 11), key=abs))


class ImagingSettings(NamedTuple):
    """Conditions of a set of images. `defocus_nm` is positive for overfocus, as in `optics.aberration_phase`."""

    defocus_nm: float
    cs_mm: float = 0.0
    voltage_kv: float = 300.0
    focal_spread_nm: float = 1.0  # 1/e half width
    defocus_range_nm: float = 1.0  # half width of the set's defoci around defocus_nm


def compute_information(imaging: ImagingSettings, q_per_nm: ArrayLike = Q_PER_NM) -> float:
    """`epsilon = integral <T^2> dq`, 1/nm: what the conditions transfer, <> the mean over the set's defoci."""
    q = np.asarray(q_per_nm, float)
    return float(np.trapezoid(_compute_mean_power(imaging, q), q))


def compute_overlap(train: ImagingSettings, test: ImagingSettings, q_per_nm: ArrayLike = Q_PER_NM) -> float:
    """`sigma = <|T|, |T'|> / (|T| |T'|)` with `|T| = sqrt(<T^2>)`, in [0, 1]: 1 where both transfer alike.

    Symmetric in the two; NaN where one of them transfers nothing.
    """
    q = np.asarray(q_per_nm, float)
    a = _compute_mean_power(train, q)
    b = _compute_mean_power(test, q)
    norm = np.sqrt(np.trapezoid(a, q) * np.trapezoid(b, q))
    return float(np.trapezoid(np.sqrt(a * b), q) / norm) if norm > 0 else float("nan")


def compute_missing_information(train: ImagingSettings, test: ImagingSettings, q_per_nm: ArrayLike = Q_PER_NM) -> float:
    """`integral max(<T'^2> - <T^2>, 0) dq / epsilon'`, in [0, 1]: the share of the test's information that no training
    image had. Not symmetric; NaN where the test transfers nothing.
    """
    q = np.asarray(q_per_nm, float)
    a = _compute_mean_power(train, q)
    b = _compute_mean_power(test, q)
    total = np.trapezoid(b, q)
    return float(np.trapezoid(np.maximum(b - a, 0), q) / total) if total > 0 else float("nan")


def compute_phase_shift(
    train: ImagingSettings,
    test: ImagingSettings,
    *,
    outward: float = 0.0,
    plane_nm: float = 0.0,
    q_per_nm: ArrayLike = Q_PER_NM,
) -> float:
    """`<|chi' - chi|> + outward <max(|chi'_p| - |chi_p|, 0)>`, radians: a signed distance, 0 for equal conditions.

    <> is the mean over q, weighted by what the test's envelope lets through; chi' is the test's phase and chi the
    training's; chi_p are the phases with the defocus counted from `plane_nm`. The first term is what every change
    costs. The second is what the test holds and training never had: a network that has seen many oscillations of the
    transfer copes with fewer (it has learnt to read through them), not with more, so leaving training *outwards*
    costs and coming back inwards does not. It is not symmetric under exchange; with a `plane_nm` other than 0 it is
    not under a change of both signs either: the defocus is counted from the plane where the sample's mean phase is
    flat, which need not be the one that the file or the simulation calls 0 (thickness, spherical aberration).
    `outward` 0 leaves the plain difference.
    """
    q = np.asarray(q_per_nm, float)
    a, b = (aberration_phase(q, x.defocus_nm, x.cs_mm, x.voltage_kv) for x in (train, test))
    a_from, b_from = (
        np.abs(aberration_phase(q, x.defocus_nm - plane_nm, x.cs_mm, x.voltage_kv)) for x in (train, test)
    )
    weight = np.asarray(temporal_envelope(q, test.voltage_kv, test.focal_spread_nm)) ** 2
    weight /= weight.sum()
    return float(weight @ (np.abs(b - a) + outward * np.maximum(b_from - a_from, 0)))


def fit_phase_shift(
    train: Sequence[ImagingSettings], test: Sequence[ImagingSettings], loss: ArrayLike
) -> tuple[float, float]:
    """`outward` and `plane_nm` for which `phase_shift` of the pairs ranks their measured `loss` (n,) best (Spearman).

    Tried over a fixed grid (`OUTWARD`, `PLANES_NM`); of equals the smaller ones. On 40 measured pairs of HRTEM defoci
    2 and 5 nm come out (`benchmarks/studies/transfer.py`). Raises ValueError for fewer than four pairs, or losses of
    which none differs.
    """
    from scipy.stats import spearmanr

    loss = np.asarray(loss, float)
    if not len(train) == len(test) == len(loss) or len(loss) < 4 or np.ptp(loss) == 0:
        raise ValueError(
            f"{len(train)} training and {len(test)} test conditions with {len(loss)} losses: give as many of each, "
            "four at least, with losses that differ"
        )
    plain = np.array([compute_phase_shift(a, b) for a, b in zip(train, test)])
    extra = {
        plane: np.array([compute_phase_shift(a, b, outward=1.0, plane_nm=plane) for a, b in zip(train, test)]) - plain
        for plane in PLANES_NM
    }
    grid = [(outward, plane) for outward in OUTWARD_WEIGHTS for plane in (PLANES_NM if outward else (0.0,))]
    # Rounded, for equal shifts have to tie.
    ranks = [spearmanr(np.round(plain + outward * extra[plane], 9), loss)[0] for outward, plane in grid]
    return grid[int(np.nanargmax(np.round(ranks, 6)))]


class TrainingConditions(NamedTuple):
    """Imaging conditions of training images, as far as their rings or their files tell; m of them."""

    defocus_nm: NDArray[np.float64]  # (m,), magnitudes
    voltage_kv: NDArray[np.float64]  # (m,)
    limit: float  # phase shift, radians, that counts as 1


def fit_training_conditions(
    defocus_nm: ArrayLike, voltage_kv: ArrayLike, *, false_flags: float = 0.05
) -> TrainingConditions | None:
    """The conditions of n training images, (n,) each, NaN where unknown; None where fewer than 20 are known.

    The limit is the split-conformal quantile of each one's distance to the nearest other, at least LEAST_RAD. Of many
    images MOST_CONDITIONS stand for all, evenly over the sorted defoci.
    """
    defocus = np.abs(np.asarray(defocus_nm, float))
    voltage = np.asarray(voltage_kv, float)
    is_known = np.isfinite(defocus) & np.isfinite(voltage) & (voltage > 0)
    n = int(is_known.sum())
    rank = int(np.ceil((n + 1) * (1 - false_flags)))
    if n < 20 or rank > n:
        return None
    defocus = defocus[is_known]
    voltage = voltage[is_known]
    order = np.lexsort((defocus, voltage))
    kept = order[np.unique(np.linspace(0, n - 1, min(n, MAX_CONDITIONS)).round().astype(int))]
    whole = TrainingConditions(defocus[kept], voltage[kept], 1.0)
    apart = [
        _find_nearest_shift(
            TrainingConditions(np.delete(whole.defocus_nm, k), np.delete(whole.voltage_kv, k), 1.0), d, v
        )
        for k, (d, v) in enumerate(zip(whole.defocus_nm, whole.voltage_kv))
    ]
    rank = min(len(apart), int(np.ceil((len(apart) + 1) * (1 - false_flags))))
    return whole._replace(limit=max(float(np.sort(apart)[rank - 1]), MIN_LIMIT_RAD))


def compute_condition_distance(known: TrainingConditions, defocus_nm: float, voltage_kv: float) -> float:
    """Phase shift of an image's conditions to the nearest training ones, 1 = the limit; NaN where they are unknown."""
    if not (np.isfinite(defocus_nm) and np.isfinite(voltage_kv) and voltage_kv > 0):
        return float("nan")
    return _find_nearest_shift(known, abs(defocus_nm), voltage_kv) / known.limit


def compute_condition_distances(known: TrainingConditions | None, features: pd.DataFrame) -> NDArray[np.float64]:
    """distance() of n rows with defocus_nm and voltage_kv, (n,); all NaN without conditions or these columns."""
    if known is None or not {"defocus_nm", "voltage_kv"} <= set(features.columns):
        return np.full(len(features), np.nan)
    return np.array(
        [compute_condition_distance(known, *one) for one in features[["defocus_nm", "voltage_kv"]].to_numpy(float)]
    )


def make_card_table(known: TrainingConditions | None) -> dict:
    """The table `imaging` of a model's card; none without conditions."""
    if known is None:
        return {}
    told = {"defocus_nm": known.defocus_nm.round(3).tolist(), "voltage_kv": known.voltage_kv.tolist()}
    return {"imaging": told | {"limit_rad": known.limit}}


def read_training_conditions(card: Mapping) -> TrainingConditions | None:
    """The conditions on a model's card; None where it has none."""
    if "imaging" not in card:
        return None
    told = card["imaging"]
    return TrainingConditions(
        np.array(told["defocus_nm"], float), np.array(told["voltage_kv"], float), told["limit_rad"]
    )


def _find_nearest_shift(known: TrainingConditions, defocus_nm: float, voltage_kv: float) -> float:
    test = ImagingSettings(defocus_nm, voltage_kv=voltage_kv)
    return min(
        compute_phase_shift(ImagingSettings(d, voltage_kv=v), test) for d, v in zip(known.defocus_nm, known.voltage_kv)
    )


def _compute_mean_power(imaging: ImagingSettings, q: NDArray) -> NDArray:
    """Mean of T^2 over the set's defoci, for each q."""
    defoci = imaging.defocus_nm + imaging.defocus_range_nm * np.linspace(-1, 1, 9)
    transfer = contrast_transfer(q, defoci[:, None], imaging.cs_mm, imaging.voltage_kv, imaging.focal_spread_nm)
    return np.square(transfer).mean(axis=0)
