"""The storage of a partition: decodes its files again and writes their pixels as a shard."""

import functools
import os
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd

from emqa_dask.archive import readers
from emqa_dask.archive.name_escapes import unescape_name
from emqa_dask.archive.source import Frame, ReadError
from emqa_dask.archive.survey import fetch_file
from emqa_dask.partition import Partition
from emqa_dask.pipeline.tasks.image_stages import count_megapixels, make_micrograph_failure
from emqa_dask.run.supervise import Call, CallFailed
from emqa_dask.store import micrographs
from emqa_dask.store.layout import Workspace


def store_partition(workspace: Workspace, partition: Partition, rows: pd.DataFrame, call: Call) -> list[dict]:
    """Failures of the storage of `partition`. Writes its shard; `write_partition` compares every checksum.

    A failure is a micrograph that cannot be read any more or differs from the surveyed one.
    """
    records = rows.to_dict("records")
    dead: dict[int, CallFailed] = {}
    with ExitStack() as copies:
        current = {"path": None, "copy": None}  # the frames of a file follow one another: it is fetched once

        def read_windows(slot: int) -> Iterator[np.ndarray]:
            row = records[slot]
            if current["path"] != row["path"]:
                copies.close()
                current.update(path=row["path"], copy=copies.enter_context(fetch_file(unescape_name(row["path"]))))
            size = {"label": row["uri"], "megapixels": count_megapixels(row)}
            try:
                for y0, y1 in call(read_row_windows, current["copy"], row["frame"], **size):
                    yield call(read_window, current["copy"], row["frame"], y0, y1, **size)
            except CallFailed as died:
                dead[slot] = died
                raise

        checksums = list(rows["pixel_sha256"])
        errors = micrographs.write_partition(workspace.uri, partition, read_windows, checksums, list(rows["uri"]))[
            "lost"
        ]
    return [
        make_micrograph_failure(records[slot], "store", dead.get(slot) or CallFailed("error", error))
        for slot, error in errors.items()
    ]


def read_row_windows(path: str, number: int) -> list[tuple[int, int]]:
    """Row windows of frame `number` of the file at `path`, see Frame.row_ranges()."""
    return list(_open_frame(path, number).row_ranges())


def read_window(path: str, number: int, y0: int, y1: int) -> np.ndarray:
    """Rows y0:y1 of frame `number` of the file at `path`."""
    return _open_frame(path, number).read(y0, y1)


def _open_frame(path: str, number: int) -> Frame:
    frames = _open_source(path, os.stat(path).st_mtime_ns).frames
    if number >= len(frames):
        raise ReadError(f"changed since it was surveyed: it has no image {number} any more")
    return frames[number]


@functools.lru_cache(maxsize=1)
def _open_source(path: str, modified_ns: int) -> readers.Source:
    return readers.open_source(path)
