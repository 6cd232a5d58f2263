"""Whether a whole session has drifted though no image of it stands out, and how a quantity went over time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, ks_2samp, kstwo

from emqa_dask import tables

MAX_EXACT_VALUES = (
    1000  # values in both samples: up to here the exact distribution, which is off the asymptotic one by up to 2x
)


def detect_drifts(
    values: pd.DataFrame,
    reference: pd.DataFrame | None,
    *,
    quantities: Sequence[str],
    false_discoveries: float = 0.01,
    least_effect: float = 0.33,
    min_images: int = 8,
) -> pd.DataFrame:
    """Rows of tables.DRIFTS: each cohort's values of each quantity against the reference's, by cohort.

    `values` has a row per image: `cohort` (rows without one are left out), `acquired` (ISO 8601, null when unknown) and
    the quantities (float, NaN = unknown: ignored). `reference` has the same quantities of the images that a cohort is
    held against; None holds it against all other cohorts together, of which a drifted one is a part: then its effect
    on the others is that of a mixture, small where it is one of many.

    Two-sample Kolmogorov-Smirnov, corrected over all rows so that of what is called drifted a share of
    `false_discoveries` at most is expected to be false (Benjamini & Hochberg, J. R. Stat. Soc. B 57, 289, 1995); with
    many images every cohort differs, so that Cliff's delta (2 U / (n m) - 1 with Mann-Whitney's U) has to reach
    `least_effect` as well: 0.33 is what Romano et al. (2006) call medium. A session that spreads more about the same
    middle is therefore none. Measured at these limits, a shift of one standard deviation in 30 images, against 200, is
    found in 96 % of archives where it is the only row, in 82 to 88 % as one of four to eight; of 1.25 in 97 % or more.

    Fewer than `min_images` values on either side are listed with NaN and not drifted. Only ranks count: a monotone
    transformation of a quantity, or another order of the rows, changes nothing but the medians.

    No rows, or no quantities, give an empty table. Raises ValueError for columns that are missing and for limits that
    make no sense.
    """
    _check_arguments(values, reference, quantities, false_discoveries, least_effect, min_images)
    values = values[values["cohort"].notna()]
    groups = {str(name): at for name, at in values.groupby("cohort", sort=True).indices.items()}
    dates = {name: values["acquired"].iloc[at].dropna() for name, at in groups.items()}
    rows = []
    for quantity in quantities:
        whole = values[quantity].to_numpy(float)
        pool = np.sort(_drop_unknown((values if reference is None else reference)[quantity].to_numpy(float)))
        for name, at in groups.items():
            own = np.sort(_drop_unknown(whole[at]))
            found = _compare_samples(own, pool, reference is None, min_images)
            first, last = (dates[name].min(), dates[name].max()) if len(dates[name]) else (None, None)
            rows.append({"cohort": name, "quantity": quantity, "first_acquired": first, "last_acquired": last, **found})
    out = pd.DataFrame(rows, columns=[name for name in tables.DRIFTS.names if name != "reference"])
    out["reference"] = "others" if reference is None else "held_out"
    is_known = out["p_value"].notna().to_numpy()
    if is_known.any():
        p = out.loc[is_known, "p_value"].to_numpy(float)
        out.loc[is_known, "p_corrected"] = false_discovery_control(p, method="bh")
    is_sure = out["p_corrected"].astype(float) <= false_discoveries
    out["is_drifted"] = is_sure & (out["effect"].astype(float).abs() >= least_effect)
    out = out.sort_values("cohort", kind="stable", ignore_index=True)  # of a cohort in the order of `quantities`
    return tables.conform(out, tables.DRIFTS).to_pandas()


def summarise_over_time(values: pd.DataFrame, quantity: str, n_bins: int = 12) -> pd.DataFrame:
    """`quantity` in up to `n_bins` stretches: start, end, n, and median, low (5 %) and high (95 %) of its known values.

    Where images have a date (`acquired`, ISO 8601; one with a time zone counts in UTC), the stretches are equally long
    in time, start and end are datetime64, and images without a date are left out. Where none has one they are by rank:
    equally many rows, in their order, start and end (exclusive) are int64. Stretches without a known value are left
    out; no values give no rows. Raises ValueError for a missing column, or n_bins below 1.
    """
    missing = [name for name in ("acquired", quantity) if name not in values]
    if missing or n_bins < 1:
        raise ValueError(f"columns missing: {missing}; n_bins is {n_bins}: give both columns, and 1 bin at least")
    y = values[quantity].to_numpy(float)
    when = pd.to_datetime(values["acquired"], format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    is_dated = bool((when.notna() & ~np.isnan(y)).any())
    x = (when if is_dated else pd.Series(np.arange(len(y), dtype="int64"))).to_numpy()
    keep = ~np.isnan(y) & ~(np.isnat(x) if is_dated else np.zeros(len(x), bool))
    x, y = x[keep].astype("datetime64[s]" if is_dated else "int64"), y[keep]
    columns = ["start", "end", "n", "median", "low", "high"]
    if not len(x):
        return pd.DataFrame(columns=columns)
    first = int(x.min().astype("int64"))
    last = int(x.max().astype("int64"))
    end = last if is_dated and last > first else last + 1
    edges = np.unique(np.round(np.linspace(first, end, n_bins + 1)).astype("int64"))
    bins = np.clip(np.searchsorted(edges, x.astype("int64"), "right") - 1, 0, len(edges) - 2)
    rows = []
    for b in np.unique(bins):
        here = y[bins == b]
        low, middle, high = np.quantile(here, [0.05, 0.5, 0.95])
        rows.append((edges[b], edges[b + 1], len(here), middle, low, high))
    out = pd.DataFrame(rows, columns=columns)
    return out.assign(**{name: out[name].to_numpy().astype(x.dtype) for name in ("start", "end")})


def _drop_unknown(values: NDArray) -> NDArray:
    return values[~np.isnan(values)]


def _compare_samples(own: NDArray, pool: NDArray, is_within: bool, min_images: int) -> dict[str, float]:
    """The numbers of a row for sorted values; `is_within`: `own` is a part of `pool`, and is held against the rest."""
    n = len(own)
    m = len(pool) - (len(own) if is_within else 0)
    found = {"n": n, "n_reference": m, "median": _compute_median(own)}
    names = ("reference_median", "statistic", "p_value", "p_corrected", "effect")
    if min(n, m) == 0:
        return found | dict.fromkeys(names, np.nan)
    taken = _find_positions(pool, own) if is_within else np.zeros(0, int)
    found |= dict.fromkeys(names, np.nan) | {"reference_median": _compute_median(_find_middle_values(pool, taken))}
    if min(n, m) < min_images:
        return found
    at, after = (np.searchsorted(own, own, side) for side in ("left", "right"))
    below, upto = (np.searchsorted(pool, own, side) for side in ("left", "right"))
    below, upto = (below - at, upto - after) if is_within else (below, upto)
    # The distance of two step functions is largest at a step of `own`: just behind it, or just in front of it.
    statistic = float(max((after / n - upto / m).max(), (below / m - at / n).max(), 0.0))
    effect = float((below + upto).sum() / (n * m) - 1)
    if n + m <= MAX_EXACT_VALUES:
        p = float(ks_2samp(own, np.delete(pool, taken), method="exact").pvalue)
    else:
        p = float(np.clip(kstwo.sf(statistic, round(n * m / (n + m))), 0, 1))
    return found | {"statistic": statistic, "p_value": p, "effect": effect}


def _find_positions(pool: NDArray, own: NDArray) -> NDArray:
    """Ascending positions in sorted `pool` of the sorted values `own`, which are a part of it; each once."""
    return np.searchsorted(pool, own, "left") + np.arange(len(own)) - np.searchsorted(own, own, "left")


def _find_middle_values(pool: NDArray, taken: NDArray) -> NDArray:
    """The two values (twice the one) in the middle of sorted `pool` without the positions `taken`."""
    m = len(pool) - len(taken)
    middle = np.array([(m - 1) // 2, m // 2])
    return pool[middle + np.searchsorted(taken - np.arange(len(taken)), middle, "right")]


def _compute_median(values: NDArray) -> float:
    with np.errstate(invalid="ignore"):  # of -inf and inf
        return float(np.median(values)) if len(values) else np.nan


def _check_arguments(values, reference, quantities, false_discoveries, least_effect, min_images) -> None:
    for name, table, needed in (
        ("values", values, ("cohort", "acquired", *quantities)),
        ("reference", reference, quantities),
    ):
        missing = [] if table is None else [column for column in needed if column not in table]
        if missing:
            raise ValueError(f"{name} lacks the columns {', '.join(missing)}")
    if len(set(quantities)) != len(quantities):
        raise ValueError(f"quantities {list(quantities)} name one twice")
    if not 0 < false_discoveries < 1 or not 0 <= least_effect <= 1 or min_images < 2:
        raise ValueError(
            f"false_discoveries {false_discoveries}, least_effect {least_effect}, min_images {min_images}: "
            "give a share in (0, 1), an effect in 0...1 and 2 images at least"
        )
