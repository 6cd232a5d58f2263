"""The forest that predicts a detector's F1 on an image from the detections' features, with a conformal interval."""

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask import models
from emqa_dask.tables import SCORE_BINS

if TYPE_CHECKING:  # scikit-learn and skops take most of a second: who predicts by other models does without
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
# The same without pixels: an image twice as large with twice the objects has the same. `size_variation` is derived.
SCALE_FREE_FEATURES = (
    *SCORE_BINS,
    "area_ratio",
    "image_confidence",
    "mean_score",
    "std_score",
    "size_variation",
)
FOREST_FILE = "forest.skops"
TRUSTED_TYPES = ("sklearn.tree._tree.Tree",)  # all that a forest needs beyond what skops trusts by itself
SPREAD_FLOOR = 0.05  # F1; where all trees agree the interval still has a width


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


def create_pipeline(
    n_trees: int = 100, min_samples_leaf: int = 1, max_features: float = 1.0, seed: int = 0
) -> "Pipeline":
    """An unfitted scaler and forest; the defaults are the published model's."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    trees = RandomForestRegressor(
        n_trees, min_samples_leaf=min_samples_leaf, max_features=max_features, random_state=seed, n_jobs=1
    )
    return make_pipeline(StandardScaler(), trees)


def predict_trees(pipeline: "Pipeline", values: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (ddof = 0) over the trees, for n rows of finite features (n x columns)."""
    if len(values) == 0:
        return np.zeros(0), np.zeros(0)
    scaled = pipeline[:-1].transform(values).astype(np.float32)
    # A row's trees lie side by side: summed over the other axis, the last bits would depend on the rows beside it.
    each = np.stack([tree.predict(scaled, check_input=False) for tree in pipeline[-1].estimators_], axis=1)
    return each.mean(axis=1), each.std(axis=1)


def predict_held_out(
    pipeline: "Pipeline", values: NDArray, true_f1: NDArray, groups: ArrayLike, n_folds: int = 5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread for every row from forests that saw no row of its group.

    With at most `n_folds` groups each is left out in turn; else they are spread over that many folds.
    """
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError("all rows are of one group: holding it out leaves nothing to fit")
    mean = np.empty(len(values))
    spread = np.empty(len(values))
    for fit_rows, held_out in GroupKFold(min(n_folds, n_groups)).split(values, true_f1, groups):
        fitted = clone(pipeline).fit(values[fit_rows], true_f1[fit_rows])
        mean[held_out], spread[held_out] = predict_trees(fitted, values[held_out])
    return mean, spread


def compute_conformal_widths(
    mean: NDArray, spread: NDArray, true_f1: NDArray, coverage: float = 0.9
) -> tuple[float, float]:
    """How far the interval reaches below and above the mean, in units of spread + SPREAD_FLOOR.

    Split conformal on held-out predictions, each side by itself at (1 + coverage) / 2: the truth of an exchangeable
    image lies below the lower end with probability of at most (1 - coverage) / 2. Forests over-estimate low F1, so the
    two sides differ. Never negative: the mean lies within. (Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094.)
    """
    n = len(mean)
    level = min(np.ceil((n + 1) * (1 + coverage) / 2) / n, 1.0)
    residual = (mean - true_f1) / (spread + SPREAD_FLOOR)
    below, above = (np.quantile(side, level, method="higher") for side in (residual, -residual))
    return max(float(below), 0.0), max(float(above), 0.0)


def compute_interval(mean: NDArray, spread: NDArray, widths: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Lower and upper end, clipped to [0, 1]."""
    scale = spread + SPREAD_FLOOR
    return np.clip(mean - widths[0] * scale, 0, 1), np.clip(mean + widths[1] * scale, 0, 1)


def fit_forest(
    features: pd.DataFrame,
    true_f1: ArrayLike,
    groups: ArrayLike,
    *,
    columns: Sequence[str] = PAPER_FEATURES,
    detector: str,
    score_floor: float,
    iou_threshold: float,
    rule: str = "greedy",
    coverage: float = 0.9,
    pipeline: "Pipeline | None" = None,
) -> Forest:
    """A forest fitted on all rows, its interval on predictions of forests that had not seen the row's group.

    features: n rows with `columns`, all finite (leave out images without detections); true_f1: n, in [0, 1]; groups: n
    labels of what must not be in the fit and the test at once (the image, its parent, better its family). Raises
    ValueError for missing or non-finite values and for a single group.
    """
    from sklearn.base import clone

    values = select_values(features, columns)
    true_f1 = np.asarray(true_f1, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = [c for c, ok in zip(columns, np.isfinite(values).all(axis=0)) if not ok]
        raise ValueError(f"features hold NaN or infinite values: {', '.join(bad)}")
    if not ((true_f1 >= 0) & (true_f1 <= 1)).all():
        raise ValueError("true_f1 has to be in [0, 1]; count it as 0 where nothing matched")
    pipeline = create_pipeline() if pipeline is None else pipeline
    mean, spread = predict_held_out(pipeline, values, true_f1, groups)
    low, high = compute_conformal_widths(mean, spread, true_f1, coverage)
    return Forest(
        clone(pipeline).fit(values, true_f1),
        tuple(columns),
        detector,
        float(score_floor),
        float(iou_threshold),
        rule,
        coverage,
        low,
        high,
    )


def select_values(features: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """n x columns of a table of features, deriving `size_variation` = std_size / mean_size; ValueError names gaps."""
    if "size_variation" in columns and "size_variation" not in features.columns:
        features = features.assign(size_variation=features["std_size"] / features["mean_size"])
    missing = [name for name in columns if name not in features.columns]
    if missing:
        raise ValueError(f"the features lack {', '.join(missing)}, which the forest needs")
    return features[list(columns)].to_numpy(dtype=np.float64)


def check_conditions(model, features: pd.DataFrame, what: str) -> None:
    """Raises ValueError for features of another score floor or detector than those of `model`, a `what`."""
    for name in ("score_floor", "detector"):
        found = set(features[name].unique()) if name in features.columns else set()
        if found - {getattr(model, name)}:
            raise ValueError(
                f"features have {name} {sorted(found, key=str)}, the {what} was fitted with "
                f"{getattr(model, name)!r}: use the same or fit a {what} for these"
            )
    if "score_floor" not in features.columns:
        raise ValueError(f"the features lack score_floor: a {what} holds for one floor only")


def predict_forest(forest: Forest, features: pd.DataFrame) -> pd.DataFrame:
    """`predicted_f1`, `predicted_f1_low`, `predicted_f1_high` and `evidence` for every row, with its index.

    features: the forest's columns, `n_detections` and `score_floor`; where there is a column `detector` it has to be
    the forest's. Evidence is `detections`; `no_detections` (n_detections is 0: nothing to judge by) or `none` (a
    feature is unknown), both with NaN: neither F1 = 0 nor a guess. No rows give an empty table. Raises ValueError for
    missing columns and for features of another score floor or detector.
    """
    check_conditions(forest, features, "forest")
    values = select_values(features, forest.columns)
    counts = features["n_detections"].to_numpy(dtype=np.float64)
    judged = (counts > 0) & np.isfinite(values).all(axis=1)
    table = pd.DataFrame(np.nan, features.index, ["predicted_f1", "predicted_f1_low", "predicted_f1_high"])
    mean, spread = predict_trees(forest.pipeline, values[judged])
    low, high = compute_interval(mean, spread, (forest.width_low, forest.width_high))
    table.iloc[judged] = np.column_stack([mean, low, high])
    evidence = np.select([judged, counts == 0], ["detections", "no_detections"], "none")
    return table.assign(evidence=pd.Series(evidence, features.index, dtype=object))


def write_forest(forest: Forest, directory: Path) -> dict:
    """Writes `forest.skops` and returns the forest's part of the card: its conditions, under the key `forest`."""
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

    card = models.load_card(directory)
    if "forest" not in card or FOREST_FILE not in card.get("files", {}):
        raise models.ModelError(f"{directory / 'card.toml'}: not the card of a forest")
    pipeline = skops_files.load(directory / FOREST_FILE, trusted=list(TRUSTED_TYPES))
    known = card["forest"]
    for name in ("score_floor", "iou_threshold", "coverage", "width_low", "width_high"):
        if not isinstance(known.get(name), int | float):
            raise models.ModelError(f"{directory / 'card.toml'}: [forest] {name} is {known.get(name)!r}, not a number")
    return Forest(pipeline, **{**known, "columns": tuple(known["columns"])})
