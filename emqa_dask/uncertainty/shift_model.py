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
from scipy.stats import binom

from emqa_dask import domain_distance, models
from emqa_dask.tables import SHIFT_SCORES, SHIFTS
from emqa_dask.uncertainty import embedding_distances, fusion, shift_kinds, shift_scores
from emqa_dask.uncertainty.shift_kinds import LogisticModel
from emqa_dask.uncertainty.shift_scores import DomainReference, EnsembleOutputs

SHIFT_MODEL_FILE = "shift.safetensors"
N_FOLDS = 5
# Percentiles of held-out images at which a score by itself counts as much as the learnt one at its 95th: false flags
# are better spent on the latter. What no example resembles shows in the embeddings first.
SCORE_PERCENTILES = {"mahalanobis": 97.5, "nearest": 97.5, "content": 97.5, "statistics": 99.5, "spectrum": 99.5}


@dataclass(frozen=True)
class ShiftModel:
    """What in-domain images look like to an ensemble, and what shifted ones do."""

    yardsticks: DomainReference
    kinds: tuple[str, ...]  # none, then the kinds of shift that there were examples of
    odds: LogisticModel  # of any shift, on all of the evidence
    among: (
        LogisticModel  # of the kinds of shift, on the scores: statistics tell made examples apart better than real ones
    )
    scale: fusion.FusionScale  # of "learnt" and the distances
    false_flags: float  # share of in-domain images that may be flagged


def fit_shift_model(
    train: EnsembleOutputs,
    y: ArrayLike,
    groups: ArrayLike,
    held_out: EnsembleOutputs,
    shifted: Mapping[str, EnsembleOutputs],
    *,
    false_flags: float = 0.05,
    held_out_groups: ArrayLike | None = None,
    seed: int = 0,
) -> ShiftModel:
    """What `judge` needs, from training images, in-domain images held out of training, and shifted examples by kind.

    `y` (n,) are the classes and `groups` (n,) the source images of the training rows; `held_out_groups` (m,) those of
    the held-out ones (default: each its own). Example j of each kind is taken to be made of held-out image j modulo m,
    as synthetic.shifts gives them. The fused score is the largest of what a logistic regression says against "none"
    and of the five distances: the regression must not open the door to what it has no example of, but a distance by
    itself flags only what is farther out than nearly all held-out images. The limit is split-conformal: of new images
    like the held-out ones about `false_flags` are above it; the regression's word on a held-out image is that of a fit
    without its group (cross-fitting). Raises ValueError for arrays that do not fit, unknown kinds, and too few images
    or sources.
    """
    unknown = [kind for kind in shifted if kind not in SHIFTS[1:]]
    if unknown or not shifted:
        raise ValueError(f"shifted has {', '.join(unknown) or 'no kind'}: kinds are {', '.join(SHIFTS[1:])}")
    yardsticks = shift_scores.fit_domain_reference(train, y, groups, held_out, seed=seed)
    kinds = ("none", *(kind for kind in SHIFTS[1:] if kind in shifted))
    for kind in kinds[1:]:
        shift_scores.check_outputs(shifted[kind], kind, yardsticks)
    own, trained = (shift_scores.compute_shift_features(yardsticks, seen) for seen in (held_out, train))
    trained = trained[np.sort(np.random.default_rng(seed).permutation(len(trained))[: shift_scores.MAX_EMBEDDINGS])]
    parts = [shift_scores.compute_shift_features(yardsticks, shifted[kind]) for kind in kinds[1:]]
    x = np.concatenate(parts)
    of = np.repeat(np.arange(1, len(kinds)), [len(part) for part in parts])
    n = len(own)
    folds = _assign_folds(np.arange(n) if held_out_groups is None else held_out_groups, seed)
    fold = np.concatenate([folds[np.arange(len(part)) % n] for part in parts])
    learnt = np.zeros(n)
    for k in range(N_FOLDS):
        odds = _fit_shift_logits(own[folds != k], trained, x[fold != k], of[fold != k], seed)
        learnt[folds == k] = shift_kinds.compute_shift_log_odds(odds, own[folds == k])
    apart = _select_distances(shift_scores.compute_shift_scores(yardsticks, held_out))
    scale = fusion.fit_scale({"learnt": learnt, **apart}, false_flags, SCORE_PERCENTILES)
    among = shift_kinds.fit_logistic_model(shift_scores.select_score_columns(x), of - 1)
    return ShiftModel(yardsticks, kinds, _fit_shift_logits(own, trained, x, of, seed), among, scale, false_flags)


def classify_shift(known: ShiftModel, seen: EnsembleOutputs) -> pd.DataFrame:
    """Rows of what is said of n images: the scores, shift_score, shift, shift_probability, because.

    Columns as in tables.CLASSIFICATIONS, index 0 to n - 1. A row is its own: it does not depend on the others. Where
    probabilities or embeddings are not finite, scores are NaN and shift is null; a member of which no embedding is
    known has no word in the distances. An image whose shift_score is 1 or
    below has shift "none" and no probability; above, the most probable kind, with its probability among the kinds.
    Raises ValueError for fewer members' embeddings than `fit` had, other sizes of arrays, and missing statistics.
    """
    shift_scores.check_outputs(seen, "seen", known.yardsticks)
    yardsticks, seen = shift_scores.drop_missing_members(known.yardsticks, seen)
    n = len(seen.features)
    heard = np.flatnonzero(shift_scores.find_finite_rows(seen))
    columns = {f"{name}_score": np.full(n, np.nan) for name in (*SHIFT_SCORES, "shift")}
    columns["shift"] = np.full(n, None, object)
    columns["shift_probability"] = np.full(n, np.nan)
    because: list[list[str]] = [[] for _ in range(n)]
    if len(heard):
        seen = shift_scores.select_rows(seen, heard)
        scores = shift_scores.compute_shift_scores(yardsticks, seen)
        z = shift_scores.standardise_statistics(yardsticks, seen)
        x = shift_scores.compute_shift_features(yardsticks, seen)
        learnt = shift_kinds.compute_shift_log_odds(known.odds, x)
        score = fusion.fuse_scores(known.scale, {"learnt": learnt, **_select_distances(scores)}) / known.scale.limit
        among = shift_kinds.compute_log_probabilities(known.among, shift_scores.select_score_columns(x))
        p = np.exp(among.max(axis=1))
        is_flagged = score > 1
        for name, values in {**scores, "shift": score}.items():
            columns[f"{name}_score"][heard] = values
        columns["shift_probability"][heard] = np.where(is_flagged, p, np.nan)
        kinds = np.array(known.kinds[1:], object)[among.argmax(axis=1)]
        columns["shift"][heard] = np.where(is_flagged, kinds, "none")
        for k in np.flatnonzero(is_flagged):
            own = {name: values[k] for name, values in scores.items()}
            because[heard[k]] = shift_scores.describe_shift(yardsticks, own, seen.features.iloc[k], z[k])
    return pd.DataFrame({**columns, "because": because}, index=range(n))


def _select_distances(scores: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """The distances; entropy has no word of its own in the fused score: it may be low where an image is foreign."""
    return {name: values for name, values in scores.items() if name != "entropy"}


def _fit_shift_logits(own: NDArray, trained: NDArray, shifted: NDArray, of: NDArray, seed: int) -> LogisticModel:
    """The odds from held-out, training and shifted images' evidence.

    Of training images the scores are too good, as the networks and the domains know them, but their statistics are as
    in-domain as any: each takes the scores of some held-out image.
    """
    lent = np.random.default_rng(seed).integers(0, len(own), len(trained))
    trained = np.concatenate([own[lent, : shift_scores.N_SCORES], trained[:, shift_scores.N_SCORES :]], axis=1)
    none = np.zeros(len(own) + len(trained), int)
    return shift_kinds.fit_logistic_model(np.concatenate([own, trained, shifted]), np.concatenate([none, of]))


def _assign_folds(groups: ArrayLike, seed: int) -> NDArray[np.int64]:
    """A fold (n,) for each row, of about equal sizes; rows of a group are in one."""
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("the held-out images are of one source: hold out images of two sources at least")
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    fold = np.empty(len(sizes), int)
    fold[order] = np.minimum((ends - sizes[order] / 2) * N_FOLDS / ends[-1], N_FOLDS - 1).astype(int)
    return fold[of]


def classify_cohort_shift(told: pd.DataFrame, *, false_flags: float = 0.05, significance: float = 0.01) -> str | None:
    """The kind of shift of a whole cohort, from what `judge` says of its images (columns shift, shift_probability).

    What shifts one image of a session shifts most of them, so that together they tell the kind more surely than each.
    "none" unless more images are out of domain than false flags explain (binomial test); else the kind with the largest
    sum of probabilities. None where no image was judged.
    """
    told = told[told["shift"].notna()]
    flagged = told[told["shift"].ne("none")]
    if not len(told):
        return None
    if binom.sf(len(flagged) - 1, len(told), false_flags) > significance:
        return "none"
    return str(flagged.groupby("shift")["shift_probability"].sum().idxmax())


def write_shift_model(known: ShiftModel, directory: Path) -> dict:
    """Writes FILE and returns the card's table `shift`: kinds, names and limit."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays, table = _pack_reference(known.yardsticks)
    arrays |= {f"odds.{name}": array for name, array in vars(known.odds).items()}
    arrays |= {f"kinds.{name}": array for name, array in vars(known.among).items()}
    arrays |= {"middle": known.scale.middle, "span": known.scale.span}
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / SHIFT_MODEL_FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    table |= {"kinds": list(known.kinds), "fused": list(known.scale.names), "limit": known.scale.limit}
    table |= {"false_flags": known.false_flags, "content": models.digest_card(models.CONTENT_MODEL)}
    return {"shift": table}


def read_shift_model(directory: Path) -> ShiftModel | None:
    """What `save` wrote, its file checked against the card's SHA-256; None for a model whose card has no `shift`."""
    card = models.read_card(directory)
    if "shift" not in card:
        return None
    if SHIFT_MODEL_FILE not in card.get("files", {}):
        raise ValueError(
            f"{directory / 'card.toml'}: has a table shift but no {SHIFT_MODEL_FILE}; train the classifier again"
        )
    if card["shift"].get("content") != models.digest_card(models.CONTENT_MODEL):
        said = "what is in domain was learnt with another version's network `content`"
        raise ValueError(f"{directory / 'card.toml'}: {said}; train the classifier again")
    table = card["shift"]
    arrays = safetensors.numpy.load_file(models.check_file(directory, SHIFT_MODEL_FILE, card))
    scale = fusion.FusionScale(tuple(table["fused"]), arrays["middle"], arrays["span"], table["limit"])
    yardsticks = _unpack_reference(arrays, table)
    odds, among = (_select_prefixed(arrays, prefix) for prefix in ("odds", "kinds"))
    return ShiftModel(
        yardsticks, tuple(table["kinds"]), LogisticModel(**odds), LogisticModel(**among), scale, table["false_flags"]
    )


def _pack_reference(known: DomainReference) -> tuple[dict[str, NDArray], dict]:
    """The arrays of `known` by name, and what a card's table has to say of them."""
    arrays = {name: getattr(known, name) for name in ("typical", "middle", "span", "disagreement", "centre", "spread")}
    arrays = {f"scores.{name}": array for name, array in arrays.items()}
    table: dict = {"members": len(known.members)}
    for name, members in (("member", known.members), ("background", known.backgrounds)):
        for k, member in enumerate(members):
            arrays |= {f"{name}_{k}.{key}": array for key, array in member._asdict().items()}
    arrays |= {f"content.{key}": array for key, array in known.content._asdict().items()}
    for name in ("statistics", "spectrum"):
        domain = getattr(known, name)
        arrays |= {f"{name}.{key}": getattr(domain, key) for key in ("centre", "scale", "whiten", "rows")}
        table[name] = {"columns": list(domain.columns), "limit": domain.limit}
    return arrays, table


def _unpack_reference(arrays: Mapping[str, NDArray], table: Mapping) -> DomainReference:
    """What `_pack` took apart."""
    members, backgrounds = (
        tuple(
            embedding_distances.EmbeddingReference(**_select_prefixed(arrays, f"{name}_{k}"))
            for k in range(table["members"])
        )
        for name in ("member", "background")
    )
    statistics, spectrum = (
        domain_distance.Domain(
            tuple(table[name]["columns"]), **_select_prefixed(arrays, name), limit=table[name]["limit"]
        )
        for name in ("statistics", "spectrum")
    )
    content = embedding_distances.EmbeddingReference(**_select_prefixed(arrays, "content"))
    return DomainReference(
        members, backgrounds, content, statistics=statistics, spectrum=spectrum, **_select_prefixed(arrays, "scores")
    )


def _select_prefixed(arrays: Mapping[str, NDArray], prefix: str) -> dict[str, NDArray]:
    """Those whose names begin with `prefix` and a dot, by the rest of the name."""
    return {key.removeprefix(f"{prefix}."): a for key, a in arrays.items() if key.startswith(f"{prefix}.")}
