"""Bootstrap intervals of ratios of totals over images."""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes 0.2 s to import

N_BUCKETS = 256  # that images share by chance where a sample has more: the bootstrap draws buckets
N_RESAMPLES = 2000
TAIL = 0.025  # of a 95 % interval, on either side
MIN_IMAGES = 5  # that have an interval; resamples of 4 and fewer reach the truth in 87, 74 and 49 % of samples


def bootstrap_ratios(
    totals: NDArray, ratios: Mapping[str, Callable[[NDArray], NDArray]], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Value and 95 % bootstrap interval (low, high) of each of `ratios`, by name.

    The percentile interval, expanded for few images: a sample of 5 varies less than its population, and its quantiles
    are those of a t distribution. NaN for fewer than MIN_IMAGES.

    Parameters
    ----------
    totals : array (n, k)
        k totals of each of n images, or of n random groups of images.
    ratios : mapping
        Name -> smooth function of totals (..., k) that gives (...,). NaN where it is unknown.

    References
    ----------
    Hesterberg, Am. Stat. 69 (2015) 371, section 4: expanded percentile interval.
    """
    n = len(totals)
    generator = np.random.default_rng(seed)
    results = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {name: float(function(totals.sum(axis=0))) for name, function in ratios.items()}
        if n < MIN_IMAGES:
            return {name: (value, math.nan, math.nan) for name, value in values.items()}
        resampled = generator.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES) @ totals
        levels = _expand_levels(n)
        for name, function in ratios.items():
            replicates = np.asarray(function(resampled))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # all NaN: a class without objects
                low, high = np.nanquantile(replicates, levels)
            results[name] = (values[name], float(low), float(high))
    return results


def _expand_levels(n: int) -> tuple[float, float]:
    """Levels of the quantiles of the replicates that give 95 % intervals for `n` images."""
    z = math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, TAIL)
    tail = float(special.ndtr(z))
    return tail, 1 - tail
