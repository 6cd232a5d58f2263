"""A quantity of images over time: its quantiles in intervals of equal length."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def summarise_over_time(values: pd.DataFrame, quantity: str, n_bins: int = 12) -> pd.DataFrame:
    """`quantity` in up to `n_bins` intervals: start, end, n, and median, low (5 %) and high (95 %) of known values.

    Where images have a date (`acquired`, ISO 8601; one with a time zone counts in UTC), the intervals are equally long
    in time, start and end are datetime64, and images without a date are left out. Where none has one the intervals
    are by rank: equally many rows, in their order; start and end (exclusive) are int64. Intervals without a known
    value are left out; no values give no rows. Raises ValueError for a missing column, or n_bins below 1.
    """
    missing_columns = [name for name in ("acquired", quantity) if name not in values]
    if missing_columns or n_bins < 1:
        raise ValueError(
            f"columns missing: {missing_columns}; n_bins is {n_bins}: give both columns, and 1 bin at least"
        )
    columns = ["start", "end", "n", "median", "low", "high"]
    x, y = _select_dated(values, quantity)
    if not len(x):
        return pd.DataFrame(columns=columns)
    positions = x.astype("int64")
    is_date = x.dtype.kind == "M"
    first_position = int(positions.min())
    last_position = int(positions.max())
    end = last_position if is_date and last_position > first_position else last_position + 1
    edges = np.unique(np.round(np.linspace(first_position, end, n_bins + 1)).astype("int64"))
    bins = np.clip(np.searchsorted(edges, positions, "right") - 1, 0, len(edges) - 2)
    rows = []
    for k in np.unique(bins):
        bin_values = y[bins == k]
        low, median, high = np.quantile(bin_values, [0.05, 0.5, 0.95])
        rows.append((edges[k], edges[k + 1], len(bin_values), median, low, high))
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(**{name: table[name].to_numpy().astype(x.dtype) for name in ("start", "end")})


def _select_dated(values: pd.DataFrame, quantity: str) -> tuple[NDArray, NDArray[np.float64]]:
    """Times (datetime64[s]) and values of the images with both; without any date, row numbers (int64) and values."""
    y = values[quantity].to_numpy(float)
    is_known = ~np.isnan(y)
    dates = pd.to_datetime(values["acquired"], format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    is_dated = dates.notna().to_numpy() & is_known
    if is_dated.any():
        return dates.to_numpy()[is_dated].astype("datetime64[s]"), y[is_dated]
    return np.arange(len(y), dtype="int64")[is_known], y[is_known]
