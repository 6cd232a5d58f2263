"""How unsure an ensemble is: entropy of its mean, what its members disagree on, and how many go another way."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-3  # float16 and float32 softmaxes sum to 1 only so far


def predictive_entropy(p: ArrayLike) -> NDArray:
    """Entropy (n,) of the members' mean probabilities, nats, in [0, ln classes]; p is (members, n, classes).

    `H = -sum_k m_k ln m_k` with m the mean over members: paper D's measure of total uncertainty. One network is an
    ensemble of one member. float64. Raises ValueError, naming member, row and value, for p of another shape, without
    members or classes, with a NaN, below 0, or not summing to 1.
    """
    return _entropy(checked(p).mean(axis=0))


def mutual_information(p: ArrayLike) -> NDArray:
    """What the members disagree on (n,), nats: entropy of their mean less the mean of their entropies.

    In [0, H]: 0 where all members say the same, whatever they say; it is the part of the uncertainty that more
    training data would take away (Houlsby et al., arXiv 1112.5745; Depeweg et al., ICML 2018). p (members, n,
    classes) and errors as in `predictive_entropy`.
    """
    p = checked(p)
    total = _entropy(p.mean(axis=0))
    return np.clip(total - _entropy(p).mean(axis=0), 0, total)


def variation_ratio(p: ArrayLike) -> NDArray:
    """Share of members (n,) whose class is not the one that most members choose, in [0, 1 - 1 / members].

    A member's class is its largest probability's; of equal ones the first. p (members, n, classes) and errors as in
    `predictive_entropy`. Freeman, Elementary Applied Statistics (1965).
    """
    p = checked(p)
    votes = (p.argmax(axis=2)[..., None] == np.arange(p.shape[2])).sum(axis=0)
    return 1 - votes.max(axis=1) / len(p)


def checked(p: ArrayLike) -> NDArray:
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


def _entropy(p: NDArray) -> NDArray:
    """Entropy over the last axis, nats; 0 ln 0 = 0. Clipped to [0, ln classes]: rounding leaves it by 1e-16."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.clip(-(p * logs).sum(axis=-1), 0, np.log(p.shape[-1]))
