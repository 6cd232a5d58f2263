"""Names of the samples that micrographs belong to: by session, folder, instrument, date, or a CSV file of patterns."""

import math
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.pipeline.workspace.acquisition_groups import name_groups
from emqa_dask.review.labels.csv_tables import read_text_table
from emqa_dask.settings import SettingsError

LEDGER_COLUMNS = ["uri", "instrument", "magnification", "acquired"]
UNKNOWN = "unknown"  # sample of images without an instrument or a date
NO_SAMPLE = "no sample"  # sample of images that no pattern of a CSV file matches
CONDITIONS = ("dose", "temperature")  # columns of numbers


class Grouping(NamedTuple):
    """An entry of report.samples."""

    name: str
    name_samples: Callable[[pd.DataFrame], pd.Series]  # rows with LEDGER_COLUMNS -> name of the sample of each
    conditions: dict[str, dict[str, float]]  # sample -> CONDITIONS
    find_overlaps: Callable[[pd.DataFrame], NDArray[np.bool_]]  # rows -> whether they match several samples


def make_grouping(name: str) -> Grouping:
    """The grouping of the entry `name` of report.samples. Raises SettingsError for a CSV file with faults."""
    if name == "session":
        return Grouping(name, name_groups, {}, _find_no_overlaps)
    if name == "instrument":
        return Grouping(name, _name_instruments, {}, _find_no_overlaps)
    if name == "date":
        return Grouping(name, _name_dates, {}, _find_no_overlaps)
    if name.startswith("folder") and not name.lower().endswith(".csv"):
        depth = int(name.partition(":")[2] or 1)
        return Grouping(name, lambda rows: name_folders(rows["uri"], depth), {}, _find_no_overlaps)
    return _read_patterns(name)


def _name_instruments(rows: pd.DataFrame) -> pd.Series:
    return rows["instrument"].fillna(UNKNOWN).replace("", UNKNOWN)


def _name_dates(rows: pd.DataFrame) -> pd.Series:
    return rows["acquired"].str.slice(0, 10).fillna(UNKNOWN)


def name_folders(uris: pd.Series, depth: int) -> pd.Series:
    """The first `depth` folders of each URI, fewer if it has fewer; "." for a file in the archive's root."""
    return uris.map(lambda uri: "/".join(uri.split("/")[:-1][:depth]) or ".")


def _read_patterns(path: str) -> Grouping:
    """The samples of a CSV file with the columns uri (pattern), sample, and optionally dose and temperature.

    The first row whose pattern matches an image's URI gives its sample.
    """
    if not Path(path).exists():
        raise SettingsError(f"report.samples: there is no file {os.path.abspath(path)}")
    try:
        rows = read_text_table(path, "uri,sample[,dose][,temperature]")
    except ValueError as error:
        raise SettingsError(str(error)) from error
    missing = [name for name in ("uri", "sample") if name not in rows]
    surplus = sorted(set(rows.columns) - {"uri", "sample", *CONDITIONS})
    if missing or surplus:
        fault = f"has no column {missing[0]}" if missing else f"has the column {surplus[0]}"
        raise SettingsError(f"{path}: it {fault}; its columns are uri, sample, and optionally dose and temperature")
    conditions: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows.to_dict("records"), start=2):
        if not row["uri"] or not row["sample"]:
            raise SettingsError(f"{path}, line {number}: uri and sample may not be empty")
        values = {name: _parse_number(row.get(name, ""), f"{path}, line {number}: {name}") for name in CONDITIONS}
        first_values = conditions.setdefault(row["sample"], values)
        if str(first_values) != str(values):
            raise SettingsError(
                f"{path}, line {number}: sample {row['sample']!r} has another dose or temperature above"
            )
    patterns = list(zip(rows["uri"], rows["sample"], strict=True))

    def name_samples(ledger: pd.DataFrame) -> pd.Series:
        return ledger["uri"].map(lambda uri: next((s for p, s in patterns if fnmatchcase(uri, p)), NO_SAMPLE))

    def find_overlaps(ledger: pd.DataFrame) -> NDArray[np.bool_]:
        # The pattern of everything is for the images that no other pattern matches.
        special = [(pattern, sample) for pattern, sample in patterns if pattern != "*"]
        return np.array([len({s for p, s in special if fnmatchcase(uri, p)}) > 1 for uri in ledger["uri"]], bool)

    return Grouping(path, name_samples, conditions, find_overlaps)


def _find_no_overlaps(ledger: pd.DataFrame) -> NDArray[np.bool_]:
    return np.zeros(len(ledger), bool)


def _parse_number(text: str, place: str) -> float:
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{place} is {text!r}, not a number") from None
