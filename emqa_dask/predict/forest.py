"""The forest that predicts a detector's F1 on an image from detection features, with a conformal interval."""

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import models

if TYPE_CHECKING:  # scikit-learn and skops take most of a second to import: only forests need them
    from sklearn.pipeline import Pipeline

# The published model's inputs, in its order (Li et al., Digital Discovery 4 (2025) 987).
PAPER_FEATURES = (
    "score_fraction_8",
    "n_detections",
    "area_ratio",
    "image_confidence",
    "mean_score",
    "mean_size",
    "std_score",
    "std_size",
)
FOREST_FILE = "forest.skops"
TRUSTED_TYPES = ("sklearn.tree._tree.Tree",)  # beyond the types that skops trusts by itself
SPREAD_FLOOR = 0.05  # of F1; added to the spread, so that an interval always has a width


@dataclass(frozen=True)
class Forest:
    """A fitted pipeline (StandardScaler, RandomForestRegressor) and the conditions under which it holds."""

    pipeline: "Pipeline"
    columns: tuple[str, ...]  # the features it takes, in order
    detector: str
    score_floor: float
    iou_threshold: float
    rule: str
    coverage: float  # nominal, of the two-sided interval
    width_low: float  # the interval reaches width_low * (spread of the trees + SPREAD_FLOOR) below the mean
    width_high: float


def predict_trees(pipeline: "Pipeline", values: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (ddof = 0) over the trees, for n rows of finite features (n x columns)."""
    if len(values) == 0:
        return np.zeros(0), np.zeros(0)
    scaled = pipeline[:-1].transform(values).astype(np.float32)
    # A row's trees lie side by side: summed over the other axis, the last bits would depend on the rows beside it.
    each = np.stack([tree.predict(scaled, check_input=False) for tree in pipeline[-1].estimators_], axis=1)
    return each.mean(axis=1), each.std(axis=1)


def compute_interval(mean: NDArray, spread: NDArray, widths: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Lower and upper end, clipped to [0, 1]."""
    scale = spread + SPREAD_FLOOR
    return np.clip(mean - widths[0] * scale, 0, 1), np.clip(mean + widths[1] * scale, 0, 1)


def select_feature_values(features: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """Values (n, columns) of a table; `size_variation` is std_size / mean_size. ValueError names missing columns."""
    if "size_variation" in columns and "size_variation" not in features.columns:
        features = features.assign(size_variation=features["std_size"] / features["mean_size"])
    missing = [name for name in columns if name not in features.columns]
    if missing:
        raise ValueError(f"the features lack {', '.join(missing)}, which the forest needs")
    return features[list(columns)].to_numpy(dtype=np.float64)


def check_conditions(model, features: pd.DataFrame, model_type: str) -> None:
    """Raises ValueError for features of another score floor or detector than those of `model`, a `model_type`."""
    for name in ("score_floor", "detector"):
        present = set(features[name].unique()) if name in features.columns else set()
        if present - {getattr(model, name)}:
            raise ValueError(
                f"features have {name} {sorted(present, key=str)}, the {model_type} was fitted with "
                f"{getattr(model, name)!r}: use the same or fit a {model_type} for these"
            )
    if "score_floor" not in features.columns:
        raise ValueError(f"the features lack score_floor: a {model_type} holds for one floor only")


def predict_forest(forest: Forest, features: pd.DataFrame) -> pd.DataFrame:
    """`predicted_f1`, `predicted_f1_low`, `predicted_f1_high` and `evidence` for every row, with its index.

    features: the forest's columns, `n_detections` and `score_floor`; a column `detector` has to name the forest's
    detector. `evidence` is `detections`, `no_detections` (n_detections is 0) or `none` (a feature is unknown); the last
    two have NaN. No rows give an empty table. Raises ValueError for missing columns and for features of another score
    floor or detector.
    """
    check_conditions(forest, features, "forest")
    values = select_feature_values(features, forest.columns)
    counts = features["n_detections"].to_numpy(dtype=np.float64)
    is_predicted = (counts > 0) & np.isfinite(values).all(axis=1)
    table = pd.DataFrame(np.nan, features.index, ["predicted_f1", "predicted_f1_low", "predicted_f1_high"])
    mean, spread = predict_trees(forest.pipeline, values[is_predicted])
    low, high = compute_interval(mean, spread, (forest.width_low, forest.width_high))
    table.iloc[is_predicted] = np.column_stack([mean, low, high])
    evidence = np.select([is_predicted, counts == 0], ["detections", "no_detections"], "none")
    return table.assign(evidence=pd.Series(evidence, features.index, dtype=object))


def write_forest(forest: Forest, directory: Path) -> dict:
    """Writes FOREST_FILE and returns the card's table `forest`: the conditions under which the forest holds."""
    from emqa_dask.predict import skops_files

    directory.mkdir(parents=True, exist_ok=True)
    skops_files.dump(forest.pipeline, directory / FOREST_FILE, compression=zipfile.ZIP_DEFLATED, compresslevel=9)
    record = {f.name: getattr(forest, f.name) for f in dataclasses.fields(Forest) if f.name != "pipeline"}
    return {"forest": {**record, "columns": list(forest.columns)}}


def read_forest(directory: Path) -> Forest:
    """The forest in a model directory, after its files were checked against the card's SHA-256; never a pickle.

    Raises FileNotFoundError without card, ValueError for a changed file or a card without a forest, and skops'
    UntrustedTypesFoundException for a file that holds anything but a scaler and trees.
    """
    from emqa_dask.predict import skops_files

    model_card = models.load_model_card(directory)
    if "forest" not in model_card or FOREST_FILE not in model_card.get("files", {}):
        raise models.ModelError(f"{directory / 'card.toml'}: not the card of a forest")
    pipeline = skops_files.load(directory / FOREST_FILE, trusted=list(TRUSTED_TYPES))
    record = model_card["forest"]
    for name in ("score_floor", "iou_threshold", "coverage", "width_low", "width_high"):
        if not isinstance(record.get(name), int | float):
            raise models.ModelError(f"{directory / 'card.toml'}: [forest] {name} is {record.get(name)!r}, not a number")
    return Forest(pipeline, **{**record, "columns": tuple(record["columns"])})
