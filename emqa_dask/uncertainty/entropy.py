"""Uncertainty of an ensemble: entropy of its mean, disagreement of its members, and the histogram of entropies."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-3  # sums of float16 and float32 softmaxes differ from 1 by up to this


def predictive_entropy(p: ArrayLike) -> NDArray[np.float64]:
    """Entropy of the members' mean probabilities: the total uncertainty of a classification.

    `H = -sum_k m_k ln m_k` with m the mean over members.

    Parameters
    ----------
    p : array_like, shape (members, n, classes)
        Probabilities of each member for n images. One network is an ensemble of one member: ``p[None]``.

    Returns
    -------
    ndarray, shape (n,), float64
        Entropy in nats, in [0, ln classes]. No images give an empty array.

    Raises
    ------
    ValueError
        For probabilities of another shape, without members or classes, with NaN, below 0, or not summing to 1. The
        message names member, row and value.

    References
    ----------
    Shannon, Bell System Technical Journal 27 (1948) 379. Zhang et al. use it as the measure of total uncertainty of an
    ensemble of classifiers of micrographs, and refer images with a high entropy to a person.
    """
    return _compute_entropy(check_probabilities(p).mean(axis=0))


def mutual_information(p: ArrayLike) -> NDArray[np.float64]:
    """Disagreement of the members: entropy of their mean less the mean of their entropies.

    It is the part of the uncertainty that more training data would remove.

    Parameters
    ----------
    p : array_like, shape (members, n, classes)
        Probabilities of each member for n images.

    Returns
    -------
    ndarray, shape (n,), float64
        Mutual information in nats, in [0, predictive entropy]; 0 where all members give the same probabilities.

    Raises
    ------
    ValueError
        As in `predictive_entropy`.

    References
    ----------
    Houlsby et al., arXiv:1112.5745 (2011), eq. 2. Depeweg et al., ICML (2018).
    """
    p = check_probabilities(p)
    total = _compute_entropy(p.mean(axis=0))
    return np.clip(total - _compute_entropy(p).mean(axis=0), 0, total)


def variation_ratio(p: ArrayLike) -> NDArray:
    """Share of members (n,) that choose another class than most members do, in [0, 1 - 1 / members].

    A member's class is its largest probability's; of equal ones the first. p (members, n, classes) and errors as in
    `predictive_entropy`. Freeman, Elementary Applied Statistics (1965).
    """
    p = check_probabilities(p)
    votes = (p.argmax(axis=2)[..., None] == np.arange(p.shape[2])).sum(axis=0)
    return 1 - votes.max(axis=1) / len(p)


def summarise_entropies(entropy: ArrayLike, n_classes: int, n_bins: int = 10) -> dict[str, float]:
    """Histogram and moments of the entropies of n images: n_bins + 6 figures, always the same in the same order.

    `entropy` (n,) are the images' predictive entropies, nats; all figures are of entropy / ln n_classes, so that
    classifiers of different numbers of classes compare. `bin_00`...: share of images in each of `n_bins` equal bins of
    [0, 1]; `mean`, `std` (ddof 0), `skewness` (0 without spread), `quantile_10`, `_50`, `_90`. Of no images shares are
    0, the others NaN. In paper D the shape of the histogram distinguishes changed acquisition, unseen classes and
    unrelated images. Raises ValueError for entropies outside [0, ln n_classes] or NaN, and fewer than two classes or
    one bin.
    """
    h = np.asarray(entropy, float)
    if h.ndim != 1 or n_classes < 2 or n_bins < 1:
        raise ValueError(
            f"entropies {h.shape} of {n_classes} classes in {n_bins} bins: give (n,), two classes and a bin at least"
        )
    max_entropy = np.log(n_classes)
    invalid_rows = np.flatnonzero(~((h >= -SUM_TOLERANCE) & (h <= max_entropy + SUM_TOLERANCE)))
    if len(invalid_rows):
        raise ValueError(
            f"entropy {h[invalid_rows[0]]:g} of row {invalid_rows[0]} is not in 0...ln {n_classes} = "
            f"{max_entropy:.4g} nats"
        )
    h = np.clip(h / max_entropy, 0, 1)
    bin_fractions = np.histogram(h, n_bins, (0, 1))[0] / max(len(h), 1)
    entropy_statistics = {f"bin_{k:02d}": float(fraction) for k, fraction in enumerate(bin_fractions)}
    names = ("mean", "std", "skewness", "quantile_10", "quantile_50", "quantile_90")
    if len(h) == 0:
        return entropy_statistics | dict.fromkeys(names, np.nan)
    mean = h.mean()
    std = h.std()
    skewness = ((h - mean) ** 3).mean() / std**3 if std > 1e-9 else 0.0
    values = (mean, std, skewness, *np.quantile(h, (0.1, 0.5, 0.9)))
    return entropy_statistics | {name: float(value) for name, value in zip(names, values)}


def check_probabilities(p: ArrayLike) -> NDArray:
    """p (members, n, classes) as float64 whose classes sum to 1 exactly; errors as in `predictive_entropy`."""
    p = np.asarray(p, float)
    if p.ndim != 3 or p.shape[0] == 0 or p.shape[2] == 0:
        raise ValueError(
            f"probabilities of shape {p.shape}: give (members, n, classes) with a member and a class at least; "
            "p[None] makes one network's an ensemble of one"
        )
    for fault, is_invalid in (
        ("NaN or infinite", ~np.isfinite(p)),
        ("negative", p < 0),
        ("more than 1", p > 1 + SUM_TOLERANCE),
    ):
        if is_invalid.any():
            member, row, k = np.argwhere(is_invalid)[0]
            raise ValueError(f"probability {p[member, row, k]:g} of member {member}, row {row}, class {k} is {fault}")
    total = p.sum(axis=2, keepdims=True)
    is_invalid = np.abs(total[..., 0] - 1) > SUM_TOLERANCE
    if is_invalid.any():
        member, row = np.argwhere(is_invalid)[0]
        raise ValueError(
            f"probabilities of member {member}, row {row} sum to {total[member, row, 0]:g}, not 1: pass a softmax's "
            "output, not its logits"
        )
    return p / total


def _compute_entropy(p: NDArray) -> NDArray:
    """Entropy over the last axis, nats; 0 ln 0 = 0. Clipped to [0, ln classes]: rounding leaves it by 1e-16."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.clip(-(p * logs).sum(axis=-1), 0, np.log(p.shape[-1]))
