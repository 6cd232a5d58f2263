"""Precision and recall of trust against the number of labelled images."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.predict.candidates import CandidateFits
from emqa_dask.predict.quality_model import predict_distribution
from emqa_dask.predict.trust_limit import MIN_LABELLED, choose_trust_limit

SIZES = (10, 15, 20, 30, 40)  # numbers of labels
MIN_TEST_IMAGES = 5  # labelled images that have to remain to measure trust on
N_REPEATS = 8  # random selections of each number; each takes some tenths of a second

ComputeProbability = Callable[[NDArray], NDArray]  # of quantiles (n, k): P(F1 >= limit) (n,)


def compute_label_curve(
    fits: CandidateFits, candidate: str, compute_probability: ComputeProbability, trust_f1: float
) -> pd.DataFrame:
    """Precision and recall of trust on labelled images beside those that model and limit come from.

    A row per number of labels: n_labels; precision and recall, pooled over N_REPEATS random selections, with `_low` and
    `_high`, the 10th and 90th percentile of the selections; and `n_trusted`, mean number of trusted images. The
    candidate is that of all labels. No rows with fewer than MIN_LABELLED + MIN_TEST_IMAGES labelled images.
    """
    true = fits.rows.truths["f1"]
    rng = np.random.default_rng(0)
    rows = []
    for size in SIZES:
        if size < MIN_LABELLED or size + MIN_TEST_IMAGES > len(true):
            continue
        counts = []
        for _ in range(N_REPEATS):
            order = rng.permutation(len(true))
            counts.append(_count_trusted(fits, candidate, compute_probability, trust_f1, np.sort(order[:size])))
        rows.append({"n_labels": size, **_summarise_counts(np.array(counts, dtype=np.float64))})
    return pd.DataFrame(rows)


def _count_trusted(
    fits: CandidateFits, candidate: str, compute_probability: ComputeProbability, trust_f1: float, fit_rows: NDArray
) -> tuple[int, int, int]:
    """Numbers of trusted, right and good images among the rows beside `fit_rows`."""
    is_good = fits.rows.truths["f1"] >= trust_f1
    target, quantiles = fits.fit_distribution(candidate, "f1", fit_rows)
    rest = np.setdiff1d(np.arange(len(is_good)), fit_rows)
    rest_probability = compute_probability(predict_distribution(target, fits.rows.columns, fits.rows.values[rest])[1])
    limit = choose_trust_limit(compute_probability(quantiles), is_good[fit_rows], rest_probability)
    is_trusted = rest_probability >= limit
    return int(is_trusted.sum()), int((is_trusted & is_good[rest]).sum()), int(is_good[rest].sum())


def _summarise_counts(counts: NDArray) -> dict[str, float]:
    """Pooled precision and recall of counts (r, 3) of trusted, right and good images, with their percentiles."""
    n_trusted, n_right, n_good = counts.T
    summary = {"n_trusted": float(n_trusted.mean())}
    for name, total in (("precision", n_trusted), ("recall", n_good)):
        shares = n_right[total > 0] / total[total > 0]
        low, high = np.quantile(shares, [0.1, 0.9]) if len(shares) else (np.nan, np.nan)
        pooled = n_right.sum() / total.sum() if total.sum() else np.nan
        summary |= {name: float(pooled), f"{name}_low": float(low), f"{name}_high": float(high)}
    return summary
