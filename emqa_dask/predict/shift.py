"""Whether an image lies out of a classifier's domain, and what kind of shift took it there: fit, judge, save, load.

Zhang et al. name three kinds and tell them apart by the entropy of a cohort. Here every image is judged by itself, by
its entropy, distances of its embeddings and distances of its statistics, weighed by what a user's own images give when
they are shifted (synthetic.shifts): our construct.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from emqa_dask import models
from emqa_dask.predict import embeddings, shift_scores
from emqa_dask.predict.shift_scores import Seen, Yardsticks
from emqa_dask.tables import SHIFT_SCORES, SHIFTS

FILE = "shift.safetensors"
ADVICE = {
    "acquisition": "Known content, recorded otherwise: acquire such images as the training images were, or train again "
    "with images, or augmentations, of these conditions.",
    "new_class": "Content that the classifier has no class for: have it looked at, and label and train a class of it "
    "if it is to be told apart.",
    "unrelated": "No image of the classifier's kind: discard what it says of it.",
}
N_FOLDS = 5
STRENGTH = 0.05  # inverse of the penalty on the weights


@dataclass(frozen=True)
class Known:
    """What in-domain images look like to an ensemble, and what shifted ones do."""

    yardsticks: Yardsticks
    kinds: tuple[str, ...]  # none, then the kinds of shift that there were examples of
    weights: NDArray[np.float64]  # (kinds, evidence)
    bias: NDArray[np.float64]  # (kinds,)
    scale: embeddings.Scale  # of "learnt" and the distances


def fit(
    train: Seen,
    y: ArrayLike,
    groups: ArrayLike,
    held_out: Seen,
    shifted: Mapping[str, Seen],
    *,
    false_flags: float = 0.05,
    held_out_groups: ArrayLike | None = None,
    seed: int = 0,
) -> Known:
    """What `judge` needs, from training images, in-domain images held out of training, and shifted examples by kind.

    `y` (n,) are the classes and `groups` (n,) the source images of the training rows; `held_out_groups` (m,) those of
    the held-out ones (default: each its own). The fused score is the largest of the distances' excesses and of what a
    multinomial logistic regression says against "none"; it is not to open the door to shifts it has no example of, so
    the distances stand beside it. Its limit is split-conformal: of new images like the held-out ones about
    `false_flags` are above it; the regression's word on a held-out image is that of a fit without it (cross-fitting).
    Raises ValueError for arrays that do not fit, unknown kinds, and too few images.
    """
    unknown = [kind for kind in shifted if kind not in SHIFTS[1:]]
    if unknown or not shifted:
        raise ValueError(f"shifted has {', '.join(unknown) or 'no kind'}: kinds are {', '.join(SHIFTS[1:])}")
    yardsticks = shift_scores.measure(train, y, groups, held_out, seed=seed)
    kinds = ("none", *(kind for kind in SHIFTS[1:] if kind in shifted))
    parts = [shift_scores.evidence(yardsticks, held_out)]
    parts += [shift_scores.evidence(yardsticks, shifted[kind]) for kind in kinds[1:]]
    x, of = np.concatenate(parts), np.repeat(np.arange(len(kinds)), [len(part) for part in parts])
    n = len(parts[0])
    folds = _folds(np.arange(n) if held_out_groups is None else held_out_groups, seed)
    learnt = np.zeros(n)
    for k in range(N_FOLDS):
        rest = np.concatenate([folds != k, np.ones(len(x) - n, bool)])
        learnt[folds == k] = _against_none(_logits(*_regression(x[rest], of[rest]), parts[0][folds == k]))
    weights, bias = _regression(x, of)
    apart = _apart(shift_scores.scores(yardsticks, held_out))
    scale = embeddings.calibrate({"learnt": learnt, **apart}, false_flags)
    return Known(yardsticks, kinds, weights, bias, scale)


def judge(known: Known, seen: Seen) -> pd.DataFrame:
    """Rows of what is said of n images: the scores, shift_score, shift, shift_probability, because.

    Columns as in tables.CLASSIFICATIONS, index 0 to n - 1. A row is its own: it does not depend on the others. Where
    probabilities or embeddings are not finite, scores are NaN and shift is null. An image whose shift_score is 1 or
    below has shift "none" and no probability; above, the most probable kind, with its probability among the kinds.
    Raises ValueError for fewer members' embeddings than `fit` had, other sizes of arrays, and missing statistics.
    """
    shift_scores.check(seen, "seen", known.yardsticks)
    n, heard = len(seen.features), np.flatnonzero(shift_scores.finite(seen))
    columns = {f"{name}_score": np.full(n, np.nan) for name in (*SHIFT_SCORES, "shift")}
    columns["shift"], columns["shift_probability"] = np.full(n, None, object), np.full(n, np.nan)
    because: list[list[str]] = [[] for _ in range(n)]
    if len(heard):
        seen = shift_scores.rows(seen, heard)
        scores, z = shift_scores.scores(known.yardsticks, seen), shift_scores.signed(known.yardsticks, seen)
        logits = _logits(known.weights, known.bias, shift_scores.evidence(known.yardsticks, seen))
        fused = embeddings.fuse(known.scale, {"learnt": _against_none(logits), **_apart(scores)}) / known.scale.limit
        among = logits[:, 1:]
        p = np.exp(among.max(axis=1) - logsumexp(among, axis=1))
        is_flagged = fused > 1
        for name, values in {**scores, "shift": fused}.items():
            columns[f"{name}_score"][heard] = values
        columns["shift_probability"][heard] = np.where(is_flagged, p, np.nan)
        kinds = np.array(known.kinds[1:], object)[among.argmax(axis=1)]
        columns["shift"][heard] = np.where(is_flagged, kinds, "none")
        for k in np.flatnonzero(is_flagged):
            own = {name: values[k] for name, values in scores.items()}
            because[heard[k]] = shift_scores.words(known.yardsticks, own, seen.features.iloc[k], z[k])
    return pd.DataFrame({**columns, "because": because}, index=range(n))


def _apart(scores: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """The distances; entropy has no word of its own in the fused score: it may be low where an image is foreign."""
    return {name: values for name, values in scores.items() if name != "entropy"}


def _folds(groups: ArrayLike, seed: int) -> NDArray[np.int64]:
    """A fold (n,) for each row, of about equal sizes; rows of a group are in one."""
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    fold = np.empty(len(sizes), int)
    fold[order] = np.minimum((ends - sizes[order] / 2) * N_FOLDS / ends[-1], N_FOLDS - 1).astype(int)
    return fold[of]


def _regression(x: NDArray, of: NDArray) -> tuple[NDArray, NDArray]:
    """Weights (kinds, f) and bias (kinds,) of a multinomial logistic regression; every kind weighs the same."""
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000).fit(x, of)
    if len(model.classes_) == 2:  # scikit-learn keeps the second's alone
        return np.stack([-model.coef_[0], model.coef_[0]]) / 2, np.array([-0.5, 0.5]) * model.intercept_[0]
    return np.ascontiguousarray(model.coef_), model.intercept_


def _logits(weights: NDArray, bias: NDArray, x: NDArray) -> NDArray[np.float64]:
    return np.einsum("nf,kf->nk", x, weights) + bias


def _against_none(logits: NDArray) -> NDArray[np.float64]:
    """Log odds (n,) of any shift."""
    return logsumexp(logits[:, 1:], axis=1) - logits[:, 0]


def save(known: Known, directory: Path) -> dict:
    """Writes FILE and returns the card's table `shift`: kinds, names and limit."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays, table = shift_scores.pack(known.yardsticks)
    arrays |= {"weights": known.weights, "bias": known.bias, "middle": known.scale.middle, "span": known.scale.span}
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    table |= {"kinds": list(known.kinds), "fused": list(known.scale.names), "limit": known.scale.limit}
    return {"shift": table}


def load(directory: Path) -> Known | None:
    """What `save` wrote, its file checked against the card's SHA-256; None for a model whose card has no `shift`."""
    card = models.read_card(directory)
    if "shift" not in card:
        return None
    if FILE not in card.get("files", {}):
        raise ValueError(f"{directory / 'card.toml'}: has a table shift but no {FILE}; train the classifier again")
    table, arrays = card["shift"], safetensors.numpy.load_file(models.check_file(directory, FILE, card))
    scale = embeddings.Scale(tuple(table["fused"]), arrays["middle"], arrays["span"], table["limit"])
    yardsticks = shift_scores.unpack(arrays, table)
    return Known(yardsticks, tuple(table["kinds"]), arrays["weights"], arrays["bias"], scale)
