"""The choice of a detector for each session of a workspace, from a first look at a few of its images."""

import math
from collections import Counter
from collections.abc import Callable

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.tasks.entry import look_at_session
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detector_choices import (
    SessionKey,
    find_session,
    iter_choice_lines,
    load_choices,
    name_session,
)
from emqa_dask.run.executor import Executor
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.settings.stages import AUTO_CLASS_NETWORKS, AUTO_NETWORK
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.session_choice import choose_session_detector

MIN_LOOKS = 3  # images of a session: one alone may be blank, a diffraction pattern or of something else
MAX_LOOKS = 5
IMAGES_PER_LOOK = 8  # a look costs about as much as a detection: an eighth more work
MAX_SAID = 20  # sessions whose choice is printed
LOOK_COLUMNS = ("micrograph_id", "uri", "frame", "path", "instrument", "height_px", "width_px")


def choose_detectors(workspace: Workspace, settings: Settings, execute: Executor, say: Callable[[str], None]) -> None:
    """Adds a row of tables.DETECTOR_CHOICES for every session that has none yet. A stored choice never changes."""
    known_rows = load_choices(workspace)
    known_keys = set(zip(known_rows["folder"], known_rows["instrument"]))
    counts: Counter[SessionKey] = Counter()
    sample = _sample_sessions(workspace, known_keys, counts)
    tasks = [Task(name_session(key), (workspace, sample[key], settings), len(sample[key])) for key in sorted(sample)]
    rows = []
    n_images = sum(len(images) for images in sample.values())
    for result in execute(look_at_session, iter(tasks), "choose", n_images):
        if result.outcome == "failed" or not result.value["looks"]:
            continue
        key = (result.value["folder"], result.value["instrument"])
        choice = choose_session_detector(result.value["looks"], AUTO_NETWORK, AUTO_CLASS_NETWORKS)
        rows.append(
            {
                "folder": key[0],
                "instrument": key[1],
                **choice._asdict(),
                "n_looked_at": len(result.value["looks"]),
                "n_micrographs": counts[key],
            }
        )
    if rows:
        rows = sorted(rows, key=lambda row: (row["folder"], row["instrument"]))
        _say_choices(rows, say)
        new_rows = pd.DataFrame(rows)
        table = pd.concat([known_rows, new_rows], ignore_index=True) if len(known_rows) else new_rows
        parts.write_table(workspace.detector_choices, table, tables.DETECTOR_CHOICES)


def count_looks(n_images: int) -> int:
    """How many of the `n_images` of a session are looked at; where there are fewer, all."""
    return min(MAX_LOOKS, max(MIN_LOOKS, math.ceil(n_images / IMAGES_PER_LOOK)))


def _sample_sessions(
    workspace: Workspace, known_keys: set[SessionKey], counts: Counter[SessionKey]
) -> dict[SessionKey, pd.DataFrame]:
    """The first images by id of every session that is not known; `counts` gets the numbers of its images.

    Ids are hashes, so that the sample is even and reproducible.
    """
    first_rows: dict[SessionKey, pd.DataFrame] = {}
    for rows in micrograph_ledger.iter_current(workspace, list(LOOK_COLUMNS)):
        keys = [find_session(uri, instrument) for uri, instrument in zip(rows["uri"], rows["instrument"], strict=True)]
        rows = rows.assign(folder=[key[0] for key in keys], session_instrument=[key[1] for key in keys])
        for key, session_rows in rows.groupby(["folder", "session_instrument"], sort=False):
            if key in known_keys:
                continue
            counts[key] += len(session_rows)
            joined = pd.concat([first_rows[key], session_rows]) if key in first_rows else session_rows
            first_rows[key] = joined.sort_values("micrograph_id", kind="stable").head(MAX_LOOKS)
    return {key: rows.head(count_looks(counts[key])) for key, rows in first_rows.items()}


def _say_choices(rows: list[dict], say: Callable[[str], None]) -> None:
    for line in list(iter_choice_lines(rows))[:MAX_SAID]:
        say(line)
    if len(rows) > MAX_SAID:
        say(f"and {len(rows) - MAX_SAID:,} more sessions: detector_choices.parquet")
