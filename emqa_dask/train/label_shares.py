"""Nested shares of the labels of a training, for learning curves: groups stay together, every class is in each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHARES = tuple(k / 10 for k in range(1, 11))  # of the published learning curves


def rank_rows(labels: ArrayLike, groups: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """The smallest share (n,), in (0, 1], of the rows at which each row is used; whole groups are used together.

    Groups are taken one after the other in random order; the next group has the class of which the smallest part was
    taken. So a share has every class from the first few groups on, and a larger share has all rows of a smaller one.
    """
    labels = np.asarray(labels)
    classes, class_number = np.unique(labels, return_inverse=True)
    names, group_number = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), int)
    np.add.at(counts, (group_number, class_number), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    queues = [[k for k in order[::-1] if counts[k, c]] for c in range(len(classes))]
    share = np.full(len(names), np.nan)
    n_used = np.zeros(len(classes))
    for _ in range(len(names)):
        for queue in queues:
            while queue and not np.isnan(share[queue[-1]]):
                queue.pop()
        used_part = [n / total if queue else np.inf for n, total, queue in zip(n_used, counts.sum(axis=0), queues)]
        k = queues[int(np.argmin(used_part))].pop()
        n_used += counts[k]
        share[k] = n_used.sum() / len(labels)
    return share[group_number]


def select_share(rank: NDArray, labels: ArrayLike, share: float) -> NDArray[np.bool_]:
    """Rows (n,) of a share of the labels by `rank_rows`, at least as many as give every class a row."""
    labels = np.asarray(labels)
    first = max(rank[labels == name].min() for name in np.unique(labels))
    return rank <= max(share, first) + 1e-9


def check_shares(shares: Sequence[float]) -> None:
    """Raises ValueError for shares that are no learning curve: three different ones in (0, 1], the last of them 1."""
    if len(set(shares)) < 3 or not all(0 < share <= 1 for share in shares) or max(shares) < 1:
        raise ValueError(f"shares {list(shares)}: a learning curve needs three different ones above 0, the largest 1")
