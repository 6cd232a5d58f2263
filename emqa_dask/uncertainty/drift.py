"""Drift of whole sessions of which no image stands out by itself, and a quantity over time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, ks_2samp, kstwo

from emqa_dask import tables

MAX_EXACT_VALUES = 1000  # in both samples: below, the asymptotic distribution is off by up to 2x


def detect_drifts(
    values: pd.DataFrame,
    reference: pd.DataFrame | None,
    *,
    quantities: Sequence[str],
    false_discoveries: float = 0.01,
    least_effect: float = 0.33,
    min_images: int = 8,
) -> pd.DataFrame:
    """Rows of tables.DRIFTS: each cohort's values of each quantity compared with the reference's, by cohort.

    `values` has a row per image: `cohort` (rows without one are left out), `acquired` (ISO 8601, null when unknown) and
    the quantities (float, NaN = unknown: ignored). `reference` has the same quantities of the images to compare with;
    None compares each cohort with all others together, which include the drifted ones: then the effect on the others
    is that of a mixture, small where a drifted cohort is one of many.

    Two-sample Kolmogorov-Smirnov tests, corrected over all rows so that among the rows called drifted a share of at
    most `false_discoveries` is expected to be false (Benjamini & Hochberg, J. R. Stat. Soc. B 57, 289, 1995). With
    many images every cohort differs significantly, so Cliff's delta (2 U / (n m) - 1 with Mann-Whitney's U) has to
    reach `least_effect` as well: 0.33 is what Romano et al. (2006) call medium. A session with another spread about
    the same middle is therefore not drifted. Measured at these limits, a shift of one standard deviation in 30 images,
    against 200, is found in 96 % of archives where it is the only row, in 82 to 88 % as one of four to eight; of 1.25
    in 97 % or more.

    Cohorts with less than `min_images` values on either side are listed with NaN and not drifted. Only ranks count: a
    monotone transformation of a quantity, or another order of the rows, changes nothing but the medians.

    No rows, or no quantities, give an empty table. Raises ValueError for missing columns and invalid limits.
    """
    _check_arguments(values, reference, quantities, false_discoveries, least_effect, min_images)
    values = values[values["cohort"].notna()]
    compared_images = values if reference is None else reference
    cohorts = values.groupby("cohort", sort=True).indices
    rows = []
    for quantity in quantities:
        pooled_values = np.sort(_drop_missing_values(compared_images[quantity].to_numpy(float)))
        column = values[quantity].to_numpy(float)
        for name, indices in cohorts.items():
            cohort_values = np.sort(_drop_missing_values(column[indices]))
            comparison = _compare_samples(cohort_values, pooled_values, reference is None, min_images)
            rows.append({"cohort": str(name), "quantity": quantity, **_find_period(values, indices), **comparison})
    table = pd.DataFrame(rows, columns=[name for name in tables.DRIFTS.names if name != "reference"])
    table["reference"] = "others" if reference is None else "held_out"
    table = _mark_drifted(table, false_discoveries, least_effect)
    table = table.sort_values("cohort", kind="stable", ignore_index=True)  # in a cohort in the order of `quantities`
    return tables.conform(table, tables.DRIFTS).to_pandas()


def _find_period(values: pd.DataFrame, indices: NDArray) -> dict[str, str | None]:
    """First and last date of acquisition of the rows `indices`; None without dates."""
    dates = values["acquired"].iloc[indices].dropna()
    if not len(dates):
        return {"first_acquired": None, "last_acquired": None}
    return {"first_acquired": dates.min(), "last_acquired": dates.max()}


def _mark_drifted(table: pd.DataFrame, false_discoveries: float, least_effect: float) -> pd.DataFrame:
    """`table` with p_corrected, over all rows with a p_value, and is_drifted."""
    has_p_value = table["p_value"].notna().to_numpy()
    if has_p_value.any():
        p = table.loc[has_p_value, "p_value"].to_numpy(float)
        table.loc[has_p_value, "p_corrected"] = false_discovery_control(p, method="bh")
    is_significant = table["p_corrected"].astype(float) <= false_discoveries
    is_large = table["effect"].astype(float).abs() >= least_effect
    table["is_drifted"] = is_significant & is_large
    return table


def _drop_missing_values(values: NDArray) -> NDArray:
    return values[~np.isnan(values)]


def _compare_samples(
    cohort_values: NDArray, pooled_values: NDArray, is_cohort_pooled: bool, min_images: int
) -> dict[str, float]:
    """The figures of a row for sorted values.

    `is_cohort_pooled`: `cohort_values` is a part of `pooled_values`, and is compared with the rest.
    """
    n = len(cohort_values)
    m = len(pooled_values) - (n if is_cohort_pooled else 0)
    names = ("reference_median", "statistic", "p_value", "p_corrected", "effect")
    comparison = {"n": n, "n_reference": m, "median": _compute_median(cohort_values), **dict.fromkeys(names, np.nan)}
    if min(n, m) == 0:
        return comparison
    positions = _find_cohort_positions(pooled_values, cohort_values) if is_cohort_pooled else np.zeros(0, int)
    comparison["reference_median"] = _compute_median(_find_middle_values(pooled_values, positions))
    if min(n, m) < min_images:
        return comparison
    statistic, effect = _compute_statistics(cohort_values, pooled_values, is_cohort_pooled)
    if n + m <= MAX_EXACT_VALUES:
        p = float(ks_2samp(cohort_values, np.delete(pooled_values, positions), method="exact").pvalue)
    else:
        p = float(np.clip(kstwo.sf(statistic, round(n * m / (n + m))), 0, 1))
    return comparison | {"statistic": statistic, "p_value": p, "effect": effect}


def _compute_statistics(cohort_values: NDArray, pooled_values: NDArray, is_cohort_pooled: bool) -> tuple[float, float]:
    """Kolmogorov-Smirnov statistic and Cliff's delta of sorted values; arguments as in _compare_samples()."""
    n = len(cohort_values)
    m = len(pooled_values) - (n if is_cohort_pooled else 0)
    n_cohort_below = np.searchsorted(cohort_values, cohort_values, "left")
    n_cohort_not_above = np.searchsorted(cohort_values, cohort_values, "right")
    n_pooled_below = np.searchsorted(pooled_values, cohort_values, "left")
    n_pooled_not_above = np.searchsorted(pooled_values, cohort_values, "right")
    if is_cohort_pooled:
        n_pooled_below = n_pooled_below - n_cohort_below
        n_pooled_not_above = n_pooled_not_above - n_cohort_not_above
    # The distance of two step functions is largest at a step of `cohort_values`, just behind or just before it.
    statistic = float(
        max(
            (n_cohort_not_above / n - n_pooled_not_above / m).max(),
            (n_pooled_below / m - n_cohort_below / n).max(),
            0.0,
        )
    )
    return statistic, float((n_pooled_below + n_pooled_not_above).sum() / (n * m) - 1)


def _find_cohort_positions(pooled_values: NDArray, cohort_values: NDArray) -> NDArray:
    """Ascending positions in sorted `pooled_values` of the sorted `cohort_values`, a part of it; each once."""
    return (
        np.searchsorted(pooled_values, cohort_values, "left")
        + np.arange(len(cohort_values))
        - np.searchsorted(cohort_values, cohort_values, "left")
    )


def _find_middle_values(pooled_values: NDArray, positions: NDArray) -> NDArray:
    """The two middle values of sorted `pooled_values` without those at `positions`; twice the same if odd."""
    m = len(pooled_values) - len(positions)
    middle_ranks = np.array([(m - 1) // 2, m // 2])
    return pooled_values[middle_ranks + np.searchsorted(positions - np.arange(len(positions)), middle_ranks, "right")]


def _compute_median(values: NDArray) -> float:
    with np.errstate(invalid="ignore"):  # of -inf and inf
        return float(np.median(values)) if len(values) else np.nan


def _check_arguments(values, reference, quantities, false_discoveries, least_effect, min_images) -> None:
    for name, table, required_columns in (
        ("values", values, ("cohort", "acquired", *quantities)),
        ("reference", reference, quantities),
    ):
        missing_columns = [] if table is None else [column for column in required_columns if column not in table]
        if missing_columns:
            raise ValueError(f"{name} lacks the columns {', '.join(missing_columns)}")
    if len(set(quantities)) != len(quantities):
        raise ValueError(f"quantities {list(quantities)} name one twice")
    if not 0 < false_discoveries < 1 or not 0 <= least_effect <= 1 or min_images < 2:
        raise ValueError(
            f"false_discoveries {false_discoveries}, least_effect {least_effect}, min_images {min_images}: "
            "give a share in (0, 1), an effect in 0...1 and 2 images at least"
        )
