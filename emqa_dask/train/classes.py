"""Labels of whole images: a CSV of uri,label[,split][,group], checked, and a split that keeps groups together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import windows

SPLITS = ("train", "validation", "test")
SPLIT_SHARES = (0.8, 0.1, 0.1)
MAX_LISTED_ERRORS = 10  # findings that an error names


def read_class_labels(path: str | Path, exists: Callable[[str], bool]) -> pd.DataFrame:
    """The labels at `path` as strings: uri, label, and split and group where the file has these columns.

    `exists(uri)` says whether there is such a file. Raises ValueError, naming file and line, for missing columns, empty
    cells, uris that occur twice, are unknown or lead out of the folder of images, splits that are none of train,
    validation, test or leave no image to learn from, and fewer than two classes.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # also of its encoding
        raise ValueError(f"{path}: no CSV in UTF-8 with a header uri,label[,split][,group]: {error}") from error
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror}): give a CSV file of labels") from error
    table.columns = [str(name).strip() for name in table.columns]
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{path}: the column {twice} occurs twice; keep one of them")
    absent = [name for name in ("uri", "label") if name not in table.columns]
    if absent:
        raise ValueError(f"{path}: lacks the column {' and '.join(absent)}; its header has to be uri,label[,split]")
    table = table[[name for name in ("uri", "label", "split", "group") if name in table.columns]]
    table = table.apply(lambda column: column.str.strip())
    wrong = []
    for name in table.columns:
        wrong += [f"line {k + 2}: {name} is empty" for k in np.flatnonzero(table[name] == "")]
    wrong += [
        f"line {k + 2}: {table['uri'][k]!r} occurs twice; keep one label of it"
        for k in np.flatnonzero(table["uri"].duplicated())
    ]
    for k, uri in enumerate(table["uri"]):
        if uri.startswith(("/", "\\")) or ".." in uri.replace("\\", "/").split("/"):
            wrong.append(f"line {k + 2}: the uri {uri!r} leads out of the folder of images; write it from there")
        elif uri and not exists(uri):
            wrong.append(f"line {k + 2}: there is no file {uri!r}")
    if "split" in table.columns:
        odd = ~table["split"].isin([*SPLITS, ""])
        wrong += [f"line {k + 2}: split is {table['split'][k]!r}, not {', '.join(SPLITS)}" for k in np.flatnonzero(odd)]
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED_ERRORS} more" if len(wrong) > MAX_LISTED_ERRORS else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:MAX_LISTED_ERRORS])}{more}")
    if table["label"].nunique() < 2:
        raise ValueError(f"{path}: {table['label'].nunique()} class(es) in {len(table)} rows: there have to be two")
    if "split" in table.columns:
        unlearnt = sorted(set(table["label"]) - set(table["label"][table["split"] == "train"]))
        if unlearnt:
            raise ValueError(f"{path}: no image of split train has the class {', '.join(unlearnt)}")
    return table


def cut_windows(
    images: Iterable[tuple[str, NDArray]], view: windows.WindowSettings, *, most: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows (n, size, size) float32 in [0, 1] of (name, image) pairs, and the place (n,) of the image each is from.

    At most `most` windows an image, evenly over it. One image at a time is in memory. Raises ValueError that names the
    images that are too small or none.
    """
    stacks = []
    sources = []
    wrong = []
    view = replace(view, max_windows=most)
    for place, (name, image) in enumerate(images):
        try:
            pixels = windows.normalise_image(image, view)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
            continue
        grid = windows.compute_corners(pixels.shape, view).reshape(-1, 2)
        stacks.append(np.stack([windows.cut_window(pixels, corner, view) for corner in grid]))
        sources.append(np.full(len(grid), place))
    if wrong or not stacks:
        more = f"; and {len(wrong) - MAX_LISTED_ERRORS} more" if len(wrong) > MAX_LISTED_ERRORS else ""
        raise ValueError(f"{len(wrong)} images cannot be learnt from: {'; '.join(wrong[:MAX_LISTED_ERRORS])}{more}")
    return np.concatenate(stacks), np.concatenate(sources)


def split_groups(
    labels: Sequence, groups: Sequence | None = None, *, shares: Sequence[float] = SPLIT_SHARES, seed: int = 0
) -> NDArray:
    """train, validation or test (n,) of n rows, about `shares` of every class; rows of one group stay together.

    Groups come in random order, the largest first; each goes where most of its rows are still wanted. Raises ValueError
    when a class is left without a row to learn from: it lies in too few groups.
    """
    labels = np.asarray(labels).astype(str)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if len(groups) != len(labels):
        raise ValueError(f"{len(labels)} labels, {len(groups)} groups: one each is needed")
    names, of = np.unique(labels, return_inverse=True)
    _, member = np.unique(groups, return_inverse=True)
    content = np.zeros((member.max(initial=-1) + 1, len(names)))
    np.add.at(content, (member, of), 1)
    left = np.outer(np.asarray(shares) / np.sum(shares), content.sum(axis=0))  # rows still wanted, per split and class
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(content))
    order = order[np.argsort(-content[order].sum(axis=1), kind="stable")]
    chosen = np.zeros(len(content), int)
    for k in order:
        fit = (np.minimum(content[k], left) - np.maximum(content[k] - np.maximum(left, 0), 0)).sum(axis=1)
        best = np.flatnonzero(fit >= fit.max() - 1e-9)
        chosen[k] = rng.choice(best, p=np.asarray(shares)[best] / np.asarray(shares)[best].sum())
        left[chosen[k]] -= content[k]
    found = np.array(SPLITS)[chosen[member]]
    absent = [name for name in names if not (found[labels == name] == "train").any()]
    if absent:
        raise ValueError(
            f"the class {', '.join(absent)} lies in too few groups to learn from; label more, or give split"
        )
    return found
