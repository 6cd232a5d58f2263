"""The probability from which images are trusted, from a few labelled images, and what the labels can claim about it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

PRECISION = 0.95  # share of trusted images whose F1 has to reach the limit
CONFIDENCE = 0.9  # of a claim about the precision
N_PRIOR = 4  # labelled images that the probabilities of the quality model count as
MIN_LABELLED = 10  # labelled images, below which no limit is chosen
MIN_TRUSTED = 3  # labelled images above a limit; their precision is too uncertain to say more
UNREACHABLE_LIMIT = 1.0  # limit that no image reaches: probabilities end at 0.99


class TrustRecord(NamedTuple):
    """Trust at a limit, on labelled images that the model has not seen and on the archive."""

    limit: float  # probability from which an image is trusted; UNREACHABLE_LIMIT: none is
    n_labelled: int
    n_good: int  # labelled images whose F1 reaches the limit of good
    n_trusted: int  # labelled images
    n_right: int  # labelled images, trusted and good
    expected_precision: float  # on the archive's images; NaN where none is trusted
    share: float  # of the archive's images that are trusted

    @property
    def precision(self) -> float:
        """Share of the trusted labelled images that are good; NaN without any."""
        return self.n_right / self.n_trusted if self.n_trusted else math.nan

    @property
    def recall(self) -> float:
        """Share of the good labelled images that are trusted; NaN without any."""
        return self.n_right / self.n_good if self.n_good else math.nan

    @property
    def precision_bound(self) -> float:
        """Lower bound of the precision with CONFIDENCE, of Clopper and Pearson; 0 where none is trusted."""
        return compute_lower_bound(self.n_right, self.n_trusted)


def choose_trust_limit(probability: NDArray, is_good: NDArray, archive: NDArray, precision: float = PRECISION) -> float:
    """The lowest probability of trust that is expected to reach `precision`; UNREACHABLE_LIMIT where none is.

    probability and is_good: (n,), of labelled images by models that have not seen them. archive: (m,), probabilities of
    images of the archive. Their mean above the limit, which is the precision if the probabilities are right, has to
    reach `precision`, and so has compute_expected_precision(). By the labels alone the limit would be the highest
    probability of a bad one, which the next bad image may exceed. By the probabilities alone, a model would be taken at
    its word: MIN_TRUSTED labelled images have to be above the limit. NaN is trusted at no limit. With less than
    MIN_LABELLED labels it is UNREACHABLE_LIMIT.
    """
    if np.isfinite(probability).sum() < MIN_LABELLED:
        return UNREACHABLE_LIMIT
    limits = np.unique(np.concatenate([probability, archive]))
    sufficient = [
        limit
        for limit in limits[np.isfinite(limits)]
        if (probability >= limit).sum() >= MIN_TRUSTED
        and compute_expected_precision(limit, probability, is_good, archive) >= precision
        and _compute_mean(archive[archive >= limit], limit) >= precision
    ]
    return _round_down(min(sufficient)) if sufficient else UNREACHABLE_LIMIT


def compute_expected_precision(limit: float, probability: NDArray, is_good: NDArray, archive: NDArray) -> float:
    """Precision on the labelled images above `limit` and N_PRIOR more with the archive's mean probability above it."""
    is_trusted = probability >= limit
    n_right = (is_good & is_trusted).sum()
    return float((n_right + N_PRIOR * _compute_mean(archive[archive >= limit], limit)) / (is_trusted.sum() + N_PRIOR))


def _compute_mean(values: NDArray, default: float) -> float:
    return float(values.mean()) if len(values) else default


def _round_down(limit: float) -> float:
    return math.floor(limit * 1e6) / 1e6  # short enough for the settings; images at the limit stay trusted


def record_trust(limit: float, probability: NDArray, is_good: NDArray, archive: NDArray) -> TrustRecord:
    """Trust at `limit`; arguments as of choose_trust_limit()."""
    is_trusted = probability >= limit
    is_archive_trusted = archive >= limit
    expected = math.nan
    if is_archive_trusted.any():
        expected = compute_expected_precision(limit, probability, is_good, archive)
    return TrustRecord(
        limit,
        n_labelled=len(probability),
        n_good=int(is_good.sum()),
        n_trusted=int(is_trusted.sum()),
        n_right=int((is_good & is_trusted).sum()),
        expected_precision=expected,
        share=float(is_archive_trusted.mean()) if len(archive) else 0.0,
    )


def compute_lower_bound(n_right: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's lower bound of a share of which n_right of n are seen; 0 where nothing is right."""
    return float(beta.ppf(1 - confidence, n_right, n - n_right + 1)) if n_right else 0.0


def count_needed_images(n_wrong: int, precision: float = PRECISION, confidence: float = CONFIDENCE) -> int:
    """Number of trusted labelled images, n_wrong of them wrong, from which the lower bound reaches `precision`."""
    n = n_wrong + 1
    while compute_lower_bound(n - n_wrong, n, confidence) < precision:
        n += 1
    return n


def describe_claim(record: TrustRecord) -> str:
    """What the labels can claim about the precision of trust, and the number of labels that the claim needs."""
    n_needed = count_needed_images(record.n_trusted - record.n_right)
    claim = f"a precision of {PRECISION:g} with {CONFIDENCE:.0%} confidence"
    if record.n_trusted >= n_needed:
        return f"claim: {claim}"
    demand = f"{n_needed} trusted labelled images, of which {record.n_trusted - record.n_right} are wrong"
    if not record.n_trusted:
        return f"too few labels for a claim: none of them is trusted; {claim} needs {demand}"
    n_labels = math.ceil(n_needed * record.n_labelled / record.n_trusted)
    return (
        f"too few labels for a claim: these show a precision of at least {record.precision_bound:.2f}; {claim} needs "
        f"{demand}: about {n_labels} labels"
    )
