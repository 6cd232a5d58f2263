"""Detectors that were chosen for the sessions of a workspace, and the settings of detection that follow."""

import dataclasses
from collections.abc import Iterator, Mapping

import pandas as pd

from emqa_dask import tables
from emqa_dask.settings import Detect, Settings, load_settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

SessionKey = tuple[str, str]  # folder and instrument
# Sigmas, px, for dots: below those of the default settings, which take grain for objects at such sizes.
DOT_SIGMAS = {"min_sigma": 1.0, "max_sigma": 4.0, "num_sigma": 6}
LATTICE_TEMPLATE = "atomic-stem"


def find_session(uri: str, instrument: object) -> SessionKey:
    """The session of a micrograph: the folder of its file, and the instrument; pandas has None or NaN for none."""
    return uri.rpartition("/")[0], instrument if isinstance(instrument, str) else ""


def name_session(key: SessionKey) -> str:
    """Folder and instrument as one text; "all" without any."""
    return ", ".join(filter(None, key)) or "all"


class DetectorChoices:
    """The choices for the sessions of a workspace; without any for settings that name their detectors."""

    def __init__(self, rows: pd.DataFrame):
        """`rows` as tables.DETECTOR_CHOICES."""
        self._choices: Mapping[SessionKey, dict] = {
            (row["folder"], row["instrument"]): row for row in rows.to_dict("records")
        }

    def resolve(self, detect: Detect, uri: str, instrument: object) -> Detect:
        """`detect` with the detector of the micrograph's session; itself where the detectors are named.

        A session without a choice has all candidates: its first look has failed.
        """
        if not detect.is_automatic:
            return detect
        choice = self._choices.get(find_session(uri, instrument))
        if choice is None:
            return dataclasses.replace(detect, detectors=detect.candidates)
        if choice["detector"] != "log":
            return dataclasses.replace(
                detect, detectors=(choice["detector"],), classes=detect.classes or tuple(choice["classes"])
            )
        return _choose_log_settings(dataclasses.replace(detect, detectors=("log",)), choice["content"])


def _choose_log_settings(detect: Detect, content: str) -> Detect:
    """`detect` with the sizes of `content`, unless sizes were set."""
    sizes = ("min_sigma", "max_sigma", "min_diameter_nm", "max_diameter_nm", "threshold")
    if any(getattr(detect, name) != getattr(Detect(), name) for name in sizes):
        return detect
    if content == "dots":
        return dataclasses.replace(detect, **DOT_SIGMAS)
    template = load_settings(template=LATTICE_TEMPLATE).detect
    return dataclasses.replace(template, detectors=("log",), precision=detect.precision)


def read_choices(workspace: Workspace, settings: Settings) -> DetectorChoices:
    """The choices of the workspace; none are read for settings that name their detectors."""
    if not settings.detect.is_automatic:
        return DetectorChoices(tables.empty(tables.DETECTOR_CHOICES))
    return DetectorChoices(load_choices(workspace))


def load_choices(workspace: Workspace) -> pd.DataFrame:
    """Rows of tables.DETECTOR_CHOICES; none where there are none yet, or the table is damaged."""
    try:
        return parts.load_table(workspace.detector_choices, tables.DETECTOR_CHOICES)
    except parts.DamagedTable:
        return tables.empty(tables.DETECTOR_CHOICES)


def iter_choice_lines(rows: list[dict]) -> Iterator[str]:
    """A sentence about the choice of each row of tables.DETECTOR_CHOICES."""
    for row in rows:
        name = name_session((row["folder"], row["instrument"]))
        classes = f", class {', '.join(row['classes'])}" if len(row["classes"]) else ""
        yield f"session {name} ({row['n_micrographs']:,} micrographs): {row['detector']}{classes}: {row['because']}"
