"""From members' probabilities and image statistics to classifications: class, uncertainty and shift of an image."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import NDArray

from emqa_dask import imaging_conditions, models, tables, windows
from emqa_dask.uncertainty import entropy, referral, reliability, shift_files, shift_model
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs

HELD_OUT_FILE = "held_out.safetensors"


class Classifier(NamedTuple):
    """A classifier's model directory without its networks."""

    name: str
    classes: tuple[str, ...]
    view: windows.WindowSettings
    temperature: float
    shift: shift_model.ShiftModel | None  # None: nothing is flagged as out of domain
    conditions: imaging_conditions.TrainingConditions | None  # None: those of the training images are unknown
    uncertainty: NDArray[np.float64]  # (n,) predictive entropy of held-out images, nats
    is_wrong: NDArray[np.bool_]  # (n,), of the same


def load_classifier(directory: Path) -> Classifier:
    """The classifier in a model directory; its networks need not be there."""
    return _load_cached(directory, models.digest_model_card(directory))


@functools.lru_cache(maxsize=4)
def _load_cached(directory: Path, digest: str) -> Classifier:
    model_card = models.read_model_card(directory)
    with models.blame_model(directory):
        return _build_classifier(directory, model_card)


def _build_classifier(directory: Path, model_card: dict) -> Classifier:
    """The classifier of a card and the files that it lists."""
    p = np.zeros((1, 0, len(model_card["classes"])))
    y = np.zeros(0, int)
    if HELD_OUT_FILE in model_card["files"]:
        held_out = safetensors.numpy.load_file(models.check_file(directory, HELD_OUT_FILE, model_card))
        if "validation.classes" in held_out:
            p = held_out["validation.probabilities"]
            y = held_out["validation.classes"]
    return Classifier(
        name=str(model_card["name"]),
        classes=tuple(model_card["classes"]),
        view=windows.WindowSettings(**model_card["input"]),
        temperature=float(model_card["ensemble"].get("temperature", 1.0)),
        shift=shift_files.read_shift_model(directory),
        conditions=imaging_conditions.read_training_conditions(model_card),
        uncertainty=entropy.predictive_entropy(p),
        is_wrong=p.mean(axis=0).argmax(axis=1) != y,
    )


def compute_entropy_limit(directory: Path, *, review_share: float = 0.1, target_risk: float = 0.0) -> float:
    """The predictive entropy, nats, above which a person reviews a classification; infinite where none needs to.

    From the classifier's held-out images: such that `review_share` of images like them is above it, or, with a
    `target_risk`, such that this share of those below it is wrong. NaN for a model without held-out images.
    """
    classifier = load_classifier(directory)
    if not len(classifier.uncertainty):
        return float("nan")
    if target_risk > 0:
        return referral.find_risk_threshold(classifier.uncertainty, classifier.is_wrong, target_risk)[0]
    return referral.find_budget_threshold(classifier.uncertainty, review_share)[0]


def classify_images(probabilities: pd.DataFrame, features: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """One row of tables.CLASSIFICATIONS for every row of `features`, in its order.

    `probabilities` (tables.PROBABILITIES) are of one classifier and hold all members of a micrograph. `features`:
    micrograph_id, tables.IMAGE_STATISTICS, defocus_nm, voltage_kv, and of tables.REGIONS content, foreign_log_odds and
    the largest predictive entropy as largest_region_entropy_nats. A micrograph without probabilities has `refusal`. No
    rows give an empty table. Raises ValueError where members are missing or have other classes than the card.
    """
    classifier = load_classifier(directory)
    if not len(features):
        return tables.empty(tables.CLASSIFICATIONS)
    probabilities = probabilities[probabilities["micrograph_id"].isin(features["micrograph_id"])]
    is_classified = features["micrograph_id"].isin(probabilities["micrograph_id"])
    part_tables = []
    if not is_classified.all():
        part_tables.append(_make_refusals(features[~is_classified], classifier))
    if is_classified.any():
        rows = features[is_classified].reset_index(drop=True)
        part_tables.append(_classify_rows(probabilities, rows, classifier))
    table = pd.concat(part_tables).set_index("micrograph_id").loc[features["micrograph_id"]].reset_index()
    return table.reindex(columns=tables.CLASSIFICATIONS.names)


def _make_refusals(features: pd.DataFrame, classifier: Classifier) -> pd.DataFrame:
    """Rows of images without probabilities, with the reason in `refusal`."""
    rows = features[["micrograph_id"]].assign(classifier=classifier.name, n_members=0)
    rows["refusal"] = [
        windows.explain_refusal((int(side_px),) * 2, classifier.view) or "the classifier gave no answer"
        for side_px in features["short_side_px"]
    ]
    rows["because"] = _make_empty_lists(rows.index)
    return rows


def _make_empty_lists(index: pd.Index) -> pd.Series:
    return pd.Series([[] for _ in index], index=index, dtype=object)


def _classify_rows(probabilities: pd.DataFrame, features: pd.DataFrame, classifier: Classifier) -> pd.DataFrame:
    """Rows of tables.CLASSIFICATIONS for `features`, all of which have `probabilities`."""
    position = pd.Index(features["micrograph_id"]).get_indexer(probabilities["micrograph_id"])
    probabilities = probabilities.iloc[np.lexsort((probabilities["member"], position))]
    p, embeddings = _stack_members(probabilities, len(features), classifier)
    scaled_probabilities = reliability.apply_temperature(p.mean(axis=0), classifier.temperature)
    table = pd.DataFrame(
        {
            "micrograph_id": features["micrograph_id"],
            "classifier": classifier.name,
            "n_members": len(p),
            "refusal": pd.Series([None] * len(features), dtype=object),
            "predicted_class": np.array(classifier.classes, object)[scaled_probabilities.argmax(axis=1)],
            "class_probability": scaled_probabilities.max(axis=1),
            "predictive_entropy_nats": entropy.predictive_entropy(p),
            "mutual_information_nats": entropy.mutual_information(p),
            "variation_ratio": entropy.variation_ratio(p),
            "largest_region_entropy_nats": features["largest_region_entropy_nats"],
            "imaging_distance": imaging_conditions.compute_condition_distances(classifier.conditions, features),
        }
    )
    return _add_imaging_shift(table.join(_classify_shifts(p, embeddings, features, classifier)), features)


def _classify_shifts(p: NDArray, embeddings: NDArray, features: pd.DataFrame, classifier: Classifier) -> pd.DataFrame:
    """The columns of shift_model.classify_shift(), unknown for a classifier without a shift model."""
    if classifier.shift is None:
        table = pd.DataFrame({"shift_score": np.nan, "shift_probability": np.nan}, index=features.index)
        no_shifts = pd.Series([None] * len(table), dtype=object)
        return table.assign(shift=no_shifts, because=_make_empty_lists(table.index))
    content = np.stack(features["content"].to_list())
    log_odds = features["foreign_log_odds"].to_numpy(float)
    outputs = EnsembleOutputs(p, embeddings, features, content, log_odds)
    return shift_model.classify_shift(classifier.shift, outputs)


def _stack_members(
    probabilities: pd.DataFrame, n: int, classifier: Classifier
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Probabilities (members, n, classes) and embeddings (k, n, d) of rows sorted by micrograph and member.

    Embeddings are at their members' positions on the card; those of absent members are NaN.
    """
    n_members = _count_members(probabilities, classifier)
    p = np.stack(probabilities["probabilities"].to_list()).reshape(n, n_members, -1).transpose(1, 0, 2)
    columns = probabilities["embedding"].to_numpy().reshape(n, n_members).T
    present = {
        int(number): column for number, column in zip(probabilities["member"], columns) if pd.notna(column).all()
    }
    if not present:
        return p, np.full((1, n, 1), np.nan)
    length = len(next(iter(present.values()))[0])
    n_fitted = len(classifier.shift.reference.members) if classifier.shift is not None else 1
    embeddings = np.full((max(max(present) + 1, n_fitted), n, length), np.nan, np.float32)
    for number, column in present.items():
        embeddings[number] = np.stack(list(column))
    return p, embeddings


def _count_members(probabilities: pd.DataFrame, classifier: Classifier) -> int:
    """The number of members of every micrograph; ValueError where they differ or have other classes than the card."""
    counts = probabilities.groupby("micrograph_id", sort=False).size()
    if counts.nunique() != 1 or probabilities["classifier"].nunique() != 1:
        raise ValueError(f"{counts.idxmin()}: {counts.min()} members, {counts.idxmax()}: {counts.max()}: not as many")
    n_classes = len(classifier.classes)
    is_wrong = probabilities["probabilities"].map(len).ne(n_classes)
    if is_wrong.any():
        first = probabilities[is_wrong].iloc[0]
        raise ValueError(
            f"{first['micrograph_id']}: {len(first['probabilities'])} probabilities, the card has {n_classes} "
            "classes: it is another classifier's"
        )
    return int(counts.iloc[0])


def _add_imaging_shift(table: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """`table` with the shift "acquisition" where the imaging conditions are unlike those of training.

    Only images without another shift change; shift_score becomes the larger of it and the imaging distance.
    """
    is_far = table["imaging_distance"].gt(1) & (table["shift"].isna() | table["shift"].eq("none"))
    for k in np.flatnonzero(is_far):
        text = f"defocus {features['defocus_nm'][k]:.0f} nm is unlike those of the training images"
        table.loc[k, "shift"] = "acquisition"
        table.loc[k, "shift_probability"] = 1.0
        table.at[k, "because"] = [text, *table.at[k, "because"]]
    table["shift_score"] = np.fmax(table["shift_score"], table["imaging_distance"])
    return table
