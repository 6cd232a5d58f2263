"""The published table of images, their detections' features and measured F1, in the layouts that it came in.

Li et al., Digital Discovery 4 (2025) 987, released it twice: 833 rows of 21 columns without shape and swelling, in
which one split's columns are rotated, and 832 rows of 26 columns whose labels carry double spaces.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.predict.identities import check_identities
from emqa_dask.tables import SCORE_BINS

# Names as they are compared: lower case, letters and digits only.
_NAMES = {
    "image": ("names", "name", "image", "images", "imagename", "filename", "file"),
    "split": ("label", "labels", "split", "domain"),
    "true_f1": ("f1", "truef1", "f1score", "defectfindf1"),
    "precision": ("precision", "trueprecision"),
    "recall": ("recall", "truerecall"),
    "area_ratio": ("arearatio",),
    "image_confidence": ("imageconfidence", "imageconf"),
    "mean_score": ("avgobjconf", "avgconf", "meanconf", "averageconf", "meanscore"),
    "std_score": ("stdevobjconf", "stdobjconf", "stdconf", "stdevconf", "stdscore"),
    "mean_size": ("avgobjsize", "avgsize", "meansize", "averagesize"),
    "std_size": ("stdevobjsize", "stdobjsize", "stdsize", "stdevsize"),
    "n_detections": ("counts", "count", "n", "ndetections", "numpred"),
    "mean_circularity": ("avgpredshape", "avgshape", "meanshape", "meancircularity"),
    "std_circularity": ("stdevpredshape", "stdpredshape", "stdshape", "stdcircularity"),
    "swelling_error": ("swell", "swelling", "swellingerror"),
}
_BINS = {name: (f"num0{k}", f"counts0{k}", f"num{k}") for k, name in enumerate(SCORE_BINS, 1)}
_FRACTIONS = {name: (f"scorefraction{k}", f"frac0{k}", f"fraction0{k}") for k, name in enumerate(SCORE_BINS)}
_OPTIONAL = ("mean_circularity", "std_circularity", "swelling_error")
_HEADS = {  # columns of the layout with 26 columns, in its order, but for the bins
    "image": "names",
    "true_f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "area_ratio": "area_ratio",
    "image_confidence": "image_confidence",
    "mean_score": "avg obj conf",
    "mean_size": "avg obj size",
    "std_score": "stdev obj conf",
    "std_size": "stdev obj size",
    "mean_circularity": "avg pred shape",
    "std_circularity": "stdev pred shape",
    "n_detections": "counts",
    "swelling_error": "swell",
}
MIN_SPLIT_ROWS = 5  # of a split: fewer say nothing about its error
MIN_ROWS = 20  # of a table: 5 folds with 16 rows to fit
GOOD_F1 = 0.5  # from which an image counts as good


def read_published(path: str | Path) -> pd.DataFrame:
    """One row for each image and split of a table in the published format, checked, with this package's names.

    Columns: image, split (spaces as in the paper: "A: over_under"), true_f1 (0 where nothing matched), precision,
    recall, the 18 features of `tables.DETECTION_FEATURES` and swelling_error, less the shapes and swelling where the
    file has none; counts of scores are divided by n_detections. The index counts rows from 0. Raises ValueError that
    names missing columns, and the rows (number, line of the file, image, split) of missing or infinite values and of
    broken identities (predict.identities).
    """
    path = Path(path)
    raw = pd.read_csv(path, skipinitialspace=True)
    if raw.empty:
        raise ValueError(f"{path}: the table has no rows: give a CSV file with a row for each image and split")
    table = _rename_columns(raw, path)

    def name_row(i: object) -> str:
        return f"row {i} (line {i + 2}, image {table['image'][i]!r}, split {table['split'][i]})"

    is_nothing = (table["precision"] == 0) & (table["recall"] == 0)
    table["true_f1"] = table["true_f1"].where(~(table["true_f1"].isna() & is_nothing), 0.0)
    unusable = [
        f"{column}: {', '.join(map(name_row, table.index[bad]))}"
        for column in table.columns.drop(["image", "split", "swelling_error"], errors="ignore")
        if (bad := ~np.isfinite(table[column])).any()
    ]
    if unusable:
        raise ValueError(f"{path}: missing or infinite values in {'; '.join(unusable)}")
    try:
        check_identities(table, name_row)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return table


def _rename_columns(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of a published file with this package's names; ValueError names those that are missing."""
    keys = {re.sub(r"[^a-z0-9]", "", str(column).lower()): column for column in reversed(raw.columns)}
    results = {}
    missing = []
    for name, spellings in {**_NAMES, **_FRACTIONS}.items():
        column = _find_column(keys, spellings)
        if column is not None:
            results[name] = raw[column]
        elif name in _BINS:
            column = _find_column(keys, _BINS[name])
            if column is None:
                missing.append(_BINS[name][0].replace("num0", "num_0."))
            else:
                results[name] = _to_numbers(raw[column]) / _to_numbers(results["n_detections"])
        elif name not in _OPTIONAL:
            missing.append(f"{name} ({spellings[0]})")
        if name == "n_detections" and column is None:
            break
    if missing:
        raise ValueError(f"{path}: the table lacks {', '.join(missing)}; it has {', '.join(map(str, raw.columns))}")
    table = pd.DataFrame({n: v if n in ("image", "split") else _to_numbers(v) for n, v in results.items()})
    table["image"] = table["image"].astype(str).str.strip()
    table["split"] = table["split"].astype(str).str.split().str.join("").str.replace(":", ": ")
    return table


def format_published(table: pd.DataFrame) -> pd.DataFrame:
    """A table of read_published() in the published layout of 26 columns, which read_published() reads.

    Columns that the table lacks are left out.
    """
    heads = {name: head for name, head in _HEADS.items() if name in table}
    counts = table["n_detections"].to_numpy(dtype=np.float64)
    bins = {f"num_0.{k}": np.round(table[name] * counts).astype(int) for k, name in enumerate(SCORE_BINS, 1)}
    return table[list(heads)].rename(columns=heads).assign(**bins, label=table["split"])


def check_splits(table: pd.DataFrame) -> None:
    """Raises ValueError, with the number that is needed, for too few rows and for an F1 that is the same in all."""
    counts = table["split"].value_counts()
    small = [f"{split} has {n}" for split, n in counts.items() if n < MIN_SPLIT_ROWS]
    if small:
        raise ValueError(
            f"too few labelled images with detections in a split: {', '.join(sorted(small))}, {MIN_SPLIT_ROWS} are "
            "needed; label more, or leave its rows out, or unite splits"
        )
    if len(table) < MIN_ROWS:
        raise ValueError(f"{len(table)} labelled images with detections: the study needs {MIN_ROWS}; label more")
    if table["true_f1"].nunique() < 2:
        raise ValueError(
            f"the true F1 is {table['true_f1'].iloc[0]:g} in all {len(table)} rows: there is nothing to predict; label "
            "images that look better, and some that look worse"
        )


def name_single_class(true_f1: NDArray) -> list[str]:
    """Notes where all images are good, or none is: figures 7 to 9 then tell nothing apart."""
    n_good = int((true_f1 >= GOOD_F1).sum())
    if n_good == 0:
        return [f"one class only: no image has an F1 of {GOOD_F1:g}, so there is no good one to tell"]
    if n_good == len(true_f1):
        return [
            f"one class only: all {n_good} images have an F1 of at least {GOOD_F1:g}, so there is no bad one to tell"
        ]
    return []


def _find_column(keys: dict[str, object], spellings: tuple[str, ...]) -> object | None:
    return next((keys[spelling] for spelling in spellings if spelling in keys), None)


def _to_numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce").astype(np.float64)


def list_repeated_rows(table: pd.DataFrame) -> list[str]:
    """Notes on images with several rows in one split: their number, and the rows that are equal in every value."""
    is_repeated = table.duplicated(["image", "split"], keep=False)
    is_equal = table.duplicated(keep="first")
    notes = []
    if is_repeated.any():
        counts = table.loc[is_repeated].groupby(["image", "split"]).size()
        notes.append(f"{len(counts)} images have more than one row in one split ({int(counts.sum())} rows)")
    notes += [
        f"row {i} (image {table['image'][i]!r}, split {table['split'][i]}) repeats another in every value"
        for i in table.index[is_equal]
    ]
    return notes


def is_grouped(split: str) -> bool:
    """Whether a split tests on another domain than it was trained on ("A_B", "A: over_under"; not "A&B_A&B")."""
    trained, _, tested = split.split(":")[-1].strip().partition("_")
    return trained != tested
