"""Tasks that train members of ensembles."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.train import ensemble


def train_member(out: str, k: int, device: str, call: Call = call_directly) -> dict:
    """A task: trains member `k` of the training that was prepared for `out`; returns its record."""
    return ensemble.train_member(Path(out), k, device=device) | {"n_images": 1}


def train_member_until(
    out: str,
    k: int,
    device: str,
    end_s: float,
    folder: str,
    extra_windows: Sequence[str],
    call: Call = call_directly,
) -> dict:
    """A task: as `train_member`, unless it is `end_s` already (time.time()), where nothing is trained.

    The member is also asked about windows, `<folder>/<name>.npy` for each name of `extra_windows`.
    """
    if time.time() >= end_s and k in ensemble.list_unfinished(Path(out)):
        return {"n_images": 0, "is_left": True}
    record = ensemble.train_member(Path(out), k, device=device, say=lambda line: None)
    for name in extra_windows:
        path = locate_probabilities(Path(folder), Path(out), k, name)
        if not path.is_file():
            windows = np.load(Path(folder) / f"{name}.npy", mmap_mode="r")
            fresh = path.with_name(f"{path.name}.{os.getpid()}.partial")
            with fresh.open("wb") as stream:
                np.save(stream, ensemble.predict_member(Path(out), k, windows, device))
            fresh.rename(path)
    return record | {"n_images": 1, "is_left": False}


def locate_probabilities(folder: Path, out: Path, k: int, name: str) -> Path:
    """The file in `folder` with the probabilities of member `k` of `out` for the windows `name`."""
    return folder / f"{name}.{out.name}.{k:02d}.npy"
