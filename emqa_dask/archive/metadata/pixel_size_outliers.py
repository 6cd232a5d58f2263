"""Pixel sizes that are 10 or 100 times off those of the same acquisition group."""

import numpy as np


def find_pixel_size_outliers(nm_per_pixel: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whether each of n pixel sizes (nm) is about 10 or 100 times off the median of its acquisition group.

    nm_per_pixel: (n,) float, NaN = unknown; group: (n,) labels (say, of instrument, magnification and shape), null = no
    group. Returns (n,) bool. "About" is within 20 %, up or down. NaN, and sizes of groups with fewer than three known
    sizes, are no outliers. Empty input gives an empty array.
    """
    import pandas as pd  # every worker imports this module, and only the report calls this function

    sizes = np.asarray(nm_per_pixel, dtype=float)
    labels = group if isinstance(group, np.ndarray | pd.Series) else np.asarray(group, object)
    codes = pd.factorize(labels)[0]
    rows = np.flatnonzero((codes >= 0) & ~np.isnan(sizes))
    rows = rows[np.lexsort((sizes[rows], codes[rows]))]  # by group, then size: a group's median is in its middle
    codes = codes[rows]
    sizes = sizes[rows]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    n_sizes = np.diff(starts, append=len(codes))
    median = (sizes[starts + (n_sizes - 1) // 2] + sizes[starts + n_sizes // 2]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sizes / np.repeat(median, n_sizes)
        ratio = np.maximum(ratio, 1 / ratio)
        is_off = (np.abs(ratio / 10 - 1) <= 0.2) | (np.abs(ratio / 100 - 1) <= 0.2)
    is_outlier = np.zeros(len(nm_per_pixel), bool)
    is_outlier[rows] = is_off & np.repeat(n_sizes >= 3, n_sizes)
    return is_outlier
