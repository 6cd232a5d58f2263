"""Members' probabilities and an image's statistics -> its class, how sure that is, and whether it is out of domain."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import NDArray

from emqa_dask import imaging_conditions, models, tables, windows
from emqa_dask.uncertainty import entropy, referral, reliability, shift_model

HELD_OUT_FILE = "held_out.safetensors"


class Classifier(NamedTuple):
    """What a classifier's model directory says beside its networks."""

    name: str
    classes: tuple[str, ...]
    view: windows.WindowSettings
    temperature: float
    known: shift_model.ShiftModel | None  # None: nothing flags what is out of domain
    conditions: imaging_conditions.TrainingConditions | None  # None: those of the training images are unknown
    uncertainty: NDArray  # (n,) predictive entropy of held-out images, nats
    is_wrong: NDArray  # (n,) bool, of the same


def load_classifier(directory: Path) -> Classifier:
    """The judge in a classifier's model directory; it does not matter whether its networks are there."""
    return _load_cached(directory, models.digest_card(directory))


@functools.lru_cache(maxsize=4)
def _load_cached(directory: Path, digest: str) -> Classifier:
    card = models.read_card(directory)
    with models.blame_model(directory):
        return _build_classifier(directory, card)


def _build_classifier(directory: Path, card: dict) -> Classifier:
    p = np.zeros((1, 0, len(card["classes"])))
    y = np.zeros(0, int)
    if HELD_OUT_FILE in card["files"]:
        held = safetensors.numpy.load_file(models.check_file(directory, HELD_OUT_FILE, card))
        if "validation.classes" in held:
            p = held["validation.probabilities"]
            y = held["validation.classes"]
    mean = p.mean(axis=0)
    return Classifier(
        name=str(card["name"]),
        classes=tuple(card["classes"]),
        view=windows.WindowSettings(**card["input"]),
        temperature=float(card["ensemble"].get("temperature", 1.0)),
        known=shift_model.read_shift_model(directory),
        conditions=imaging_conditions.read_training_conditions(card),
        uncertainty=entropy.predictive_entropy(p),
        is_wrong=mean.argmax(axis=1) != y,
    )


def compute_entropy_limit(directory: Path, *, review_share: float = 0.1, target_risk: float = 0.0) -> float:
    """The predictive entropy, nats, above which an answer goes to a person; infinite where none needs to.

    From the classifier's held-out images: such that `review_share` of images like them is above it, or, with a
    `target_risk`, such that of those below it this share is wrong. NaN for a model without held-out images.
    """
    judge = load_classifier(directory)
    if not len(judge.uncertainty):
        return float("nan")
    if target_risk > 0:
        return referral.find_risk_threshold(judge.uncertainty, judge.is_wrong, target_risk)[0]
    return referral.find_budget_threshold(judge.uncertainty, review_share)[0]


def classify_images(probabilities: pd.DataFrame, known: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """One row of tables.CLASSIFICATIONS for every row of `known`, in its order.

    `probabilities` (tables.PROBABILITIES) are of one classifier and hold all members of a micrograph. `known`:
    micrograph_id, tables.IMAGE_STATISTICS, defocus_nm, voltage_kv, and of tables.REGIONS content, foreign_log_odds and
    the largest predictive entropy as largest_region_entropy_nats. A micrograph without probabilities has `refusal`. No
    rows give an empty table. Raises ValueError where members are missing or have other classes than the card.
    """
    judge = load_classifier(directory)
    if not len(known):
        return tables.empty(tables.CLASSIFICATIONS)
    said = probabilities[probabilities["micrograph_id"].isin(known["micrograph_id"])]
    is_seen = known["micrograph_id"].isin(said["micrograph_id"])
    unseen = known.loc[~is_seen, ["micrograph_id"]].assign(classifier=judge.name, n_members=0)
    unseen["refusal"] = [_describe_refusal(side, judge.view) for side in known["short_side_px"][~is_seen]]
    unseen["because"] = pd.Series([[] for _ in unseen.index], index=unseen.index, dtype=object)
    parts = [unseen] if len(unseen) else []
    if is_seen.any():
        parts.append(_classify_answered(said, known[is_seen].reset_index(drop=True), judge))
    found = pd.concat(parts).set_index("micrograph_id").loc[known["micrograph_id"]].reset_index()
    return found.reindex(columns=tables.CLASSIFICATIONS.names)


def _classify_answered(said: pd.DataFrame, known: pd.DataFrame, judge: Classifier) -> pd.DataFrame:
    """Rows of tables.CLASSIFICATIONS for `known`, all of which `said` (tables.PROBABILITIES) tells of."""
    place = pd.Index(known["micrograph_id"]).get_indexer(said["micrograph_id"])
    said = said.iloc[np.lexsort((said["member"], place))]
    p, embeddings = _stack_members(said, len(known), judge)
    cooled = reliability.apply_temperature(p.mean(axis=0), judge.temperature)
    told = pd.DataFrame(
        {
            "micrograph_id": known["micrograph_id"],
            "classifier": judge.name,
            "n_members": len(p),
            "refusal": pd.Series([None] * len(known), dtype=object),
            "predicted_class": np.array(judge.classes, object)[cooled.argmax(axis=1)],
            "class_probability": cooled.max(axis=1),
            "predictive_entropy_nats": entropy.predictive_entropy(p),
            "mutual_information_nats": entropy.mutual_information(p),
            "variation_ratio": entropy.variation_ratio(p),
            "largest_region_entropy_nats": known["largest_region_entropy_nats"],
            "imaging_distance": imaging_conditions.compute_condition_distances(judge.conditions, known),
        }
    )
    if judge.known is None:
        nothing = pd.Series([None] * len(told), dtype=object)
        told = told.assign(because=pd.Series([[] for _ in told.index], dtype=object), shift=nothing, shift_score=np.nan)
        told["shift_probability"] = np.nan
    else:
        content = np.stack(known["content"].to_list())
        odds = known["foreign_log_odds"].to_numpy(float)
        told = told.join(
            shift_model.classify_shift(judge.known, shift_model.EnsembleOutputs(p, embeddings, known, content, odds))
        )
    return _add_imaging_shift(told, known)


def _describe_refusal(side_px: float, view: windows.WindowSettings) -> str:
    return windows.explain_refusal((int(side_px),) * 2, view) or "the classifier gave no answer"


def _stack_members(said: pd.DataFrame, n: int, judge: Classifier) -> tuple[NDArray, NDArray]:
    """Probabilities (members, n, classes) and embeddings (k, n, d) of rows sorted by micrograph and member.

    Embeddings stand at their members' places on the card; those of a member that is not there are NaN.
    """
    counts = said.groupby("micrograph_id", sort=False).size()
    if counts.nunique() != 1 or said["classifier"].nunique() != 1:
        raise ValueError(f"{counts.idxmin()}: {counts.min()} members, {counts.idxmax()}: {counts.max()}: not as many")
    members = int(counts.iloc[0])
    wrong = said["probabilities"].map(len).ne(len(judge.classes))
    if wrong.any():
        first = said[wrong].iloc[0]
        raise ValueError(
            f"{first['micrograph_id']}: {len(first['probabilities'])} probabilities, the card has {len(judge.classes)} "
            "classes: it is another classifier's"
        )
    p = np.stack(said["probabilities"].to_list()).reshape(n, members, -1).transpose(1, 0, 2)
    kept = said["embedding"].to_numpy().reshape(n, members)
    known = {int(number): column for number, column in zip(said["member"], kept.T) if pd.notna(column).all()}
    if not known:
        return p, np.full((1, n, 1), np.nan)
    length = len(next(iter(known.values()))[0])
    embeddings = np.full((max(max(known) + 1, _count_embedded_members(judge)), n, length), np.nan, np.float32)
    for number, column in known.items():
        embeddings[number] = np.stack(list(column))
    return p, embeddings


def _count_embedded_members(judge: Classifier) -> int:
    return len(judge.known.yardsticks.members) if judge.known is not None else 1


def _add_imaging_shift(told: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Conditions far from those of training are a changed acquisition, where nothing worse was seen."""
    is_far = told["imaging_distance"].gt(1) & (told["shift"].isna() | told["shift"].eq("none"))
    for k in np.flatnonzero(is_far):
        text = f"defocus {features['defocus_nm'][k]:.0f} nm is unlike those of the training images"
        told.loc[k, "shift"] = "acquisition"
        told.loc[k, "shift_probability"] = 1.0
        told.at[k, "because"] = [text, *told.at[k, "because"]]
    told["shift_score"] = np.fmax(told["shift_score"], told["imaging_distance"])
    return told
