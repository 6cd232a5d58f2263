"""How unsure an ensemble is: entropy of its mean, what its members disagree on; and the entropies of a cohort."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-3  # float16 and float32 softmaxes sum to 1 only so far


def predictive_entropy(p: ArrayLike) -> NDArray:
    """Entropy (n,) of the members' mean probabilities, nats, in [0, ln classes]; p is (members, n, classes).

    `H = -sum_k m_k ln m_k` with m the mean over members: paper D's measure of total uncertainty. One network is an
    ensemble of one member. float64. Raises ValueError, naming member, row and value, for p of another shape, without
    members or classes, with a NaN, below 0, or not summing to 1.
    """
    return _compute_entropy(check_probabilities(p).mean(axis=0))


def mutual_information(p: ArrayLike) -> NDArray:
    """What the members disagree on (n,), nats: entropy of their mean less the mean of their entropies.

    In [0, H]: 0 where all members say the same, whatever they say; it is the part of the uncertainty that more
    training data would take away (Houlsby et al., arXiv 1112.5745; Depeweg et al., ICML 2018). p (members, n,
    classes) and errors as in `predictive_entropy`.
    """
    p = check_probabilities(p)
    total = _compute_entropy(p.mean(axis=0))
    return np.clip(total - _compute_entropy(p).mean(axis=0), 0, total)


def variation_ratio(p: ArrayLike) -> NDArray:
    """Share of members (n,) whose class is not the one that most members choose, in [0, 1 - 1 / members].

    A member's class is its largest probability's; of equal ones the first. p (members, n, classes) and errors as in
    `predictive_entropy`. Freeman, Elementary Applied Statistics (1965).
    """
    p = check_probabilities(p)
    votes = (p.argmax(axis=2)[..., None] == np.arange(p.shape[2])).sum(axis=0)
    return 1 - votes.max(axis=1) / len(p)


def summarise_entropies(entropy: ArrayLike, n_classes: int, n_bins: int = 10) -> dict[str, float]:
    """The shape of a cohort's entropy histogram in n_bins + 6 figures, always the same ones in the same order.

    `entropy` (n,) are the images' predictive entropies, nats; all figures are of entropy / ln n_classes, so that
    classifiers of unlike numbers of classes compare. `bin_00`...: share of images in each of `n_bins` equal bins of
    [0, 1]; `mean`, `std` (ddof 0), `skewness` (0 without spread), `quantile_10`, `_50`, `_90`. Of no images shares are
    0, the others NaN. In paper D the histogram's shape tells changed acquisition, unseen classes and unrelated images
    apart. Raises ValueError for entropies outside of [0, ln n_classes] or NaN, and fewer than two classes or one bin.
    """
    h = np.asarray(entropy, float)
    if h.ndim != 1 or n_classes < 2 or n_bins < 1:
        raise ValueError(
            f"entropies {h.shape} of {n_classes} classes in {n_bins} bins: give (n,), two classes and a bin at least"
        )
    top = np.log(n_classes)
    bad = np.flatnonzero(~((h >= -SUM_TOLERANCE) & (h <= top + SUM_TOLERANCE)))
    if len(bad):
        raise ValueError(f"entropy {h[bad[0]]:g} of row {bad[0]} is not in 0...ln {n_classes} = {top:.4g} nats")
    h = np.clip(h / top, 0, 1)
    shares = np.histogram(h, n_bins, (0, 1))[0] / max(len(h), 1)
    found = {f"bin_{k:02d}": float(share) for k, share in enumerate(shares)}
    names = ("mean", "std", "skewness", "quantile_10", "quantile_50", "quantile_90")
    if len(h) == 0:
        return found | dict.fromkeys(names, np.nan)
    mean = h.mean()
    std = h.std()
    skewness = ((h - mean) ** 3).mean() / std**3 if std > 1e-9 else 0.0
    return found | {
        name: float(value) for name, value in zip(names, (mean, std, skewness, *np.quantile(h, (0.1, 0.5, 0.9))))
    }


def check_probabilities(p: ArrayLike) -> NDArray:
    """p (members, n, classes) as float64 whose classes sum to 1 exactly; errors as in `predictive_entropy`."""
    p = np.asarray(p, float)
    if p.ndim != 3 or p.shape[0] == 0 or p.shape[2] == 0:
        raise ValueError(
            f"probabilities of shape {p.shape}: give (members, n, classes) with a member and a class at least; "
            "p[None] makes one network's an ensemble of one"
        )
    for what, bad in (
        ("NaN or infinite", ~np.isfinite(p)),
        ("negative", p < 0),
        ("more than 1", p > 1 + SUM_TOLERANCE),
    ):
        if bad.any():
            member, row, k = np.argwhere(bad)[0]
            raise ValueError(f"probability {p[member, row, k]:g} of member {member}, row {row}, class {k} is {what}")
    total = p.sum(axis=2, keepdims=True)
    bad = np.abs(total[..., 0] - 1) > SUM_TOLERANCE
    if bad.any():
        member, row = np.argwhere(bad)[0]
        raise ValueError(
            f"probabilities of member {member}, row {row} sum to {total[member, row, 0]:g}, not 1: pass a softmax's "
            "output, not its logits"
        )
    return p / total


def _compute_entropy(p: NDArray) -> NDArray:
    """Entropy over the last axis, nats; 0 ln 0 = 0. Clipped to [0, ln classes]: rounding leaves it by 1e-16."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.clip(-(p * logs).sum(axis=-1), 0, np.log(p.shape[-1]))
