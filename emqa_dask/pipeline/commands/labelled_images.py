"""Labelled images of a classifier: their table, splits and windows, checked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.pipeline.commands.network_set import LabelledSet
from emqa_dask.pipeline.tasks.train_domain import read_image
from emqa_dask.train import class_labels
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet
from emqa_dask.windows import WindowSettings, explain_refusal

MAX_LISTED_CLASSES = 8  # names that the first message shows
MIN_GROUPS = 3  # of a class, one for each split
MIN_HELD_OUT = 10  # images of validation and of test, below which their figures say nothing
Say = Callable[[str], None]


def read_labels(labels: str, root: Path, seed: int, say: Say, *, has_held_out: bool = False) -> pd.DataFrame:
    """The labels with the columns y (class number), group and split.

    With `has_held_out`, raises ValueError, with the number of images that are needed, where too few of them are held
    out of the training.
    """
    table = class_labels.read_class_labels(labels, lambda uri: (root / uri).is_file())
    names = sorted(set(table["label"]))
    ending = ", ..." if len(names) > MAX_LISTED_CLASSES else ""
    say(f"{len(table)} images of {len(names)} classes: {', '.join(names[:MAX_LISTED_CLASSES])}{ending}")
    table = table.assign(y=np.searchsorted(names, table["label"]), group=_fill_groups(table))
    if has_held_out:
        _check_groups(labels, table)
    table = table.assign(split=_fill_splits(table, seed))
    if has_held_out:
        _check_held_out(labels, table)
    return table


def _fill_groups(table: pd.DataFrame) -> pd.Series:
    """Groups that splits keep together: the column `group`, or each image as a group."""
    return table["group"].where(table["group"].ne(""), table["uri"]) if "group" in table else table["uri"]


def _fill_splits(table: pd.DataFrame, seed: int) -> np.ndarray:
    """The column `split`; images without a split are assigned at random."""
    splits = class_labels.split_groups(table["y"], table["group"], seed=seed)
    return np.where(table["split"].ne(""), table["split"], splits) if "split" in table else splits


def _check_groups(labels: str, table: pd.DataFrame) -> None:
    """Raises ValueError where a class lies in fewer than MIN_GROUPS groups, and the file does not give the splits."""
    if "split" in table and table["split"].ne("").all():
        return
    n_groups = table.groupby("label")["group"].nunique()
    if n_groups.min() < MIN_GROUPS:
        raise ValueError(
            f"{labels}: the class {n_groups.idxmin()} lies in {n_groups.min()} groups; {MIN_GROUPS} are needed, one "
            "each for train, validation and test: label more, or give the column split"
        )


def _check_held_out(labels: str, table: pd.DataFrame) -> None:
    """Raises ValueError where validation or test has fewer than MIN_HELD_OUT images."""
    for split, share in zip(class_labels.SPLITS[1:], class_labels.SPLIT_SHARES[1:]):
        n = int(table["split"].eq(split).sum())
        if n < MIN_HELD_OUT:
            n_needed = int(np.ceil(MIN_HELD_OUT / share - 1e-9))
            raise ValueError(
                f"{labels}: the split {split} has {n} images, and {MIN_HELD_OUT} are needed: label {n_needed} images "
                f"in all (there are {len(table)}), in groups small enough, or give the column split"
            )


def cut_labelled_windows(
    root: Path, table: pd.DataFrame, options: EnsembleOptions, windows_per_image: int
) -> LabelledSet:
    """The windows of the images of `table`."""
    images = ((uri, read_image(root / uri)[0]) for uri in table["uri"])
    windows, sources = class_labels.cut_windows(images, options.window_settings, max_per_image=windows_per_image)
    names = sorted(set(table["label"]))
    rows = table.iloc[sources]
    training_set = TrainingSet.from_arrays(windows, rows["y"].to_numpy(), rows["split"].to_numpy(), names)
    return LabelledSet(table, training_set, sources)


def list_image_files(folder: str | Path) -> list[Path]:
    """The files of a folder and its subfolders, without hidden ones, in order; ValueError for none."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder} is not there, or is no folder: give a folder of images")
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not files:
        raise ValueError(f"{folder} is empty: give a folder with images")
    return files


def cut_folder_windows(
    folder: str | Path, settings: WindowSettings, windows_per_image: int, say: Say
) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    """Windows (n, size, size) of the images of a folder, the number (n,) of each window's image, and their files.

    Files that cannot be read and images that are too small are reported and left out. Raises ValueError for a folder
    without a file, and where no image is left.
    """
    images = []
    files = []
    reasons = []
    for path in list_image_files(folder):
        try:
            image = read_image(path)[0]
        except ValueError as error:
            reasons.append(str(error))
            continue
        if reason := explain_refusal(image.shape, settings):
            reasons.append(f"{path.name}: {reason}")
            continue
        images.append(image)
        files.append(path)
    if not images:
        raise ValueError(f"{folder} has no image that can be read, of {len(reasons)} files; the first: {reasons[0]}")
    for reason in reasons:
        say(f"left out: {reason}")
    named = ((str(path), image) for path, image in zip(files, images))
    windows, sources = class_labels.cut_windows(named, settings, max_per_image=windows_per_image)
    return windows, sources, files
