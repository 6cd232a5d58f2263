"""Labels of whole images: a CSV of uri,label[,split][,group], checked, and a split that keeps groups together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import windows

SPLITS = ("train", "validation", "test")
SPLIT_SHARES = (0.8, 0.1, 0.1)  # of the images of every class
COLUMNS = ("uri", "label", "split", "group")
REQUIRED_COLUMNS = ("uri", "label")
MAX_LISTED_ERRORS = 10  # findings that an error names


def read_class_labels(path: str | Path, exists: Callable[[str], bool]) -> pd.DataFrame:
    """The labels at `path` as strings: uri, label, and split and group where the file has these columns.

    `exists(uri)` tells whether there is such a file. Raises ValueError, naming file and line, for missing columns,
    empty cells, uris that occur twice, are unknown or lead out of the folder of images, splits other than train,
    validation, test or without a training image of a class, and fewer than two classes.
    """
    table = _read_csv(path)
    faults = [*_find_cell_faults(table), *_find_uri_faults(table["uri"], exists), *_find_split_faults(table)]
    if faults:
        raise ValueError(f"{path}: {_list_errors(faults)}")
    n_classes = table["label"].nunique()
    if n_classes < 2:
        raise ValueError(f"{path}: {n_classes} class(es) in {len(table)} rows: there have to be two")
    if "split" in table.columns:
        untrained = sorted(set(table["label"]) - set(table["label"][table["split"] == "train"]))
        if untrained:
            raise ValueError(f"{path}: no image of split train has the class {', '.join(untrained)}")
    return table


def _read_csv(path: str | Path) -> pd.DataFrame:
    """The known columns of the file, without surrounding blanks; ValueError for missing and repeated columns."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # also of its encoding
        raise ValueError(f"{path}: no CSV in UTF-8 with a header uri,label[,split][,group]: {error}") from error
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror}): give a CSV file of labels") from error
    table.columns = [str(name).strip() for name in table.columns]
    if not table.columns.is_unique:
        repeated = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{path}: the column {repeated} occurs twice; keep one of them")
    absent = [name for name in REQUIRED_COLUMNS if name not in table.columns]
    if absent:
        raise ValueError(f"{path}: lacks the column {' and '.join(absent)}; its header has to be uri,label[,split]")
    return table[[name for name in COLUMNS if name in table.columns]].apply(lambda column: column.str.strip())


def _find_cell_faults(table: pd.DataFrame) -> list[str]:
    """Empty cells and repeated uris, by line."""
    faults = []
    for name in table.columns:
        faults += [f"line {k + 2}: {name} is empty" for k in np.flatnonzero(table[name] == "")]
    repeated = np.flatnonzero(table["uri"].duplicated())
    return faults + [f"line {k + 2}: {table['uri'][k]!r} occurs twice; keep one label of it" for k in repeated]


def _find_uri_faults(uris: pd.Series, exists: Callable[[str], bool]) -> list[str]:
    """Uris that lead out of the folder of images or name no file, by line."""
    faults = []
    for k, uri in enumerate(uris):
        if uri.startswith(("/", "\\")) or ".." in uri.replace("\\", "/").split("/"):
            faults.append(f"line {k + 2}: the uri {uri!r} leads out of the folder of images; write it from there")
        elif uri and not exists(uri):
            faults.append(f"line {k + 2}: there is no file {uri!r}")
    return faults


def _find_split_faults(table: pd.DataFrame) -> list[str]:
    """Unknown splits, by line."""
    if "split" not in table.columns:
        return []
    unknown_rows = np.flatnonzero(~table["split"].isin([*SPLITS, ""]))
    return [f"line {k + 2}: split is {table['split'][k]!r}, not {', '.join(SPLITS)}" for k in unknown_rows]


def _list_errors(errors: Sequence[str]) -> str:
    """The first errors and the number of the others."""
    ending = f"; and {len(errors) - MAX_LISTED_ERRORS} more" if len(errors) > MAX_LISTED_ERRORS else ""
    return "; ".join(errors[:MAX_LISTED_ERRORS]) + ending


def cut_windows(
    images: Iterable[tuple[str, NDArray]], settings: windows.WindowSettings, *, max_per_image: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows (n, size, size) float32 in [0, 1] of (name, image) pairs, and the number (n,) of each window's image.

    At most `max_per_image` windows are cut from an image, evenly over it. One image at a time is in memory. Raises
    ValueError that names the images that are too small, and where there is no image.
    """
    settings = replace(settings, max_windows=max_per_image)
    stacks = []
    sources = []
    errors = []
    for number, (name, image) in enumerate(images):
        try:
            stack = _cut_image(image, settings)
        except ValueError as error:
            errors.append(f"{name}: {error}")
            continue
        stacks.append(stack)
        sources.append(np.full(len(stack), number))
    if errors or not stacks:
        raise ValueError(f"{len(errors)} images cannot be learnt from: {_list_errors(errors)}")
    return np.concatenate(stacks), np.concatenate(sources)


def _cut_image(image: NDArray, settings: windows.WindowSettings) -> NDArray[np.float32]:
    """Windows (n, size, size) of one image."""
    pixels = windows.normalise_image(image, settings)
    corners = windows.compute_corners(pixels.shape, settings).reshape(-1, 2)
    return np.stack([windows.cut_window(pixels, corner, settings) for corner in corners])


def split_groups(
    labels: Sequence, groups: Sequence | None = None, *, shares: Sequence[float] = SPLIT_SHARES, seed: int = 0
) -> NDArray:
    """Splits (n,) of n rows: train, validation or test, about `shares` of every class; groups stay together.

    Groups come in random order, the largest first. Each goes to the split that lacks most of its rows. Raises
    ValueError when a class has no training row because it is in too few groups.
    """
    labels = np.asarray(labels).astype(str)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if len(groups) != len(labels):
        raise ValueError(f"{len(labels)} labels, {len(groups)} groups: one each is needed")
    classes, class_number = np.unique(labels, return_inverse=True)
    _, group_number = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_number.max(initial=-1) + 1, len(classes)))
    np.add.at(counts, (group_number, class_number), 1)
    split_number = _assign_groups(counts, np.asarray(shares), np.random.default_rng(seed))
    splits = np.array(SPLITS)[split_number[group_number]]
    absent = [name for name in classes if not (splits[labels == name] == "train").any()]
    if absent:
        names = ", ".join(absent)
        raise ValueError(f"the class {names} lies in too few groups to learn from; label more, or give split")
    return splits


def _assign_groups(counts: NDArray, shares: NDArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """The number of the split (groups,) of each group, from its rows by class, `counts` (groups, classes)."""
    n_missing_rows = np.outer(shares / np.sum(shares), counts.sum(axis=0))  # rows that each split lacks, by class
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    split_number = np.zeros(len(counts), int)
    for k in order:
        gain = np.minimum(counts[k], n_missing_rows) - np.maximum(counts[k] - np.maximum(n_missing_rows, 0), 0)
        split_gain = gain.sum(axis=1)
        best_splits = np.flatnonzero(split_gain >= split_gain.max() - 1e-9)
        split_number[k] = rng.choice(best_splits, p=shares[best_splits] / shares[best_splits].sum())
        n_missing_rows[split_number[k]] -= counts[k]
    return split_number
