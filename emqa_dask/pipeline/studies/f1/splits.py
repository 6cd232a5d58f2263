"""The splits of the paper's Table 1 on own data: what each detector was trained on, and what it is tested on."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import pandas as pd

from emqa_dask.predict.published_table import MIN_SPLIT_ROWS

OTHERS = "others"  # set of the folders with few labelled images


class SplitPlan(NamedTuple):
    """Names of training and test sets, as --train-on and --test-on give them; empty: detectors and folders."""

    trained: dict[str, str]  # detector -> set that it was trained on
    tested: dict[str, str]  # pattern of URIs -> set


def parse_split_plan(train_on: Sequence[str], test_on: Sequence[str]) -> SplitPlan:
    """--train-on DETECTOR=SET and --test-on SET=GLOB; ValueError for a text of another form."""
    trained = {}
    for text in train_on:
        detector, _, name = text.rpartition("=")
        if not detector or not name or re.search(r"[_:\s]", name):
            raise ValueError(
                f"--train-on {text}: write DETECTOR=SET; a set's name has no space, colon or underscore, which part "
                "training and test set in the name of a split"
            )
        trained[detector] = name
    tested = {}
    for text in test_on:
        name, _, pattern = text.partition("=")
        if not name or not pattern or re.search(r"[:\s]", name):
            raise ValueError(f"--test-on {text}: write SET=GLOB; a set's name has no space and no colon")
        tested[pattern] = name
    return SplitPlan(trained, tested)


def select_detectors(plan: SplitPlan, available: Sequence[str], named_detectors: Sequence[str]) -> list[str]:
    """The detectors of the study: those of --detector or --train-on, by default all; ValueError for an unknown one."""
    for option, names in (("--train-on", plan.trained), ("--detector", named_detectors)):
        for name in names:
            if name not in available:
                raise ValueError(f"{option} {name}: names no detector of this run, which has {', '.join(available)}")
    return list(named_detectors or plan.trained or available)


def name_training_set(plan: SplitPlan, detector: str) -> str:
    """What a detector was trained on: the name of --train-on, or its own."""
    return plan.trained.get(detector) or re.sub(r"[\s_:]+", "-", detector)


def assign_test_sets(plan: SplitPlan, uris: pd.Series) -> pd.Series:
    """The test set of every URI: the first pattern that matches, NaN for none; without patterns the folder.

    Raises ValueError for a pattern that no URI matches.
    """
    if not plan.tested:
        folders = uris.str.rpartition("/")[0].str.replace(r"[\s:]+", "-", regex=True)
        return folders.where(folders != "", "archive")
    for pattern, name in plan.tested.items():
        if not any(fnmatchcase(uri, pattern) for uri in uris):
            raise ValueError(
                f"--test-on {name}={pattern}: no labelled image matches; the first one is {uris.iloc[0]!r}, and * "
                "stands for any text"
            )
    sets = [next((name for pattern, name in plan.tested.items() if fnmatchcase(uri, pattern)), None) for uri in uris]
    return pd.Series(sets, uris.index, dtype=object)


def unite_small_folders(sets: pd.Series) -> tuple[pd.Series, list[str]]:
    """Sets of folders in which those with few images are one, or left out (NaN) where that is small, too; notes."""
    counts = sets.value_counts()
    small = counts[counts < MIN_SPLIT_ROWS]
    if small.empty:
        return sets, []
    is_small = sets.isin(small.index)
    if small.sum() < MIN_SPLIT_ROWS:
        note = f"{small.sum()} images of {len(small)} folders are left out: a split needs {MIN_SPLIT_ROWS}"
        return sets.where(~is_small), [note]
    note = f"{len(small)} folders with fewer than {MIN_SPLIT_ROWS} labelled images are one test set, {OTHERS}"
    return sets.where(~is_small, OTHERS), [note]
