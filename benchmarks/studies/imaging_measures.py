"""Measures of the shift between imaging conditions: information, overlap, and the fit of a signed phase shift.

Paper C derives two such measures, epsilon(chi) and sigma(chi, chi'), from the contrast transfer function; its formulas
are not known to us. All of these are our own construct.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from emqa_dask.imaging_conditions import Q_PER_NM, ImagingSettings, compute_phase_shift
from emqa_dask.optics import contrast_transfer

OUTWARD_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # tried for the second term of compute_phase_shift()
PLANES_NM = tuple(float(d) for d in sorted(range(-10, 11), key=abs))  # tried for its plane


def compute_information(imaging: ImagingSettings, q_per_nm: ArrayLike = Q_PER_NM) -> float:
    """`epsilon = integral <T^2> dq`, 1/nm: the transferred information; <> is the mean over the set's defoci."""
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


def fit_phase_shift(
    train: Sequence[ImagingSettings], test: Sequence[ImagingSettings], loss: ArrayLike
) -> tuple[float, float]:
    """`outward` and `plane_nm` for which compute_phase_shift() ranks the pairs' `loss` (n,) best (Spearman).

    From the grid of OUTWARD_WEIGHTS and PLANES_NM; of equals the smaller ones. On 40 measured pairs of HRTEM defoci
    the result is 2 and 5 nm (benchmarks/studies/transfer.py). Raises ValueError for fewer than four pairs and for
    losses that are all equal.
    """
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
    # Rounded, so that equal shifts tie.
    ranks = [spearmanr(np.round(plain + outward * extra[plane], 9), loss)[0] for outward, plane in grid]
    return grid[int(np.nanargmax(np.round(ranks, 6)))]


def _compute_mean_power(imaging: ImagingSettings, q: NDArray) -> NDArray:
    """Mean of T^2 over the set's defoci, for each q."""
    defoci = imaging.defocus_nm + imaging.defocus_range_nm * np.linspace(-1, 1, 9)
    transfer = contrast_transfer(q, defoci[:, None], imaging.cs_mm, imaging.voltage_kv, imaging.focal_spread_nm)
    return np.square(transfer).mean(axis=0)
