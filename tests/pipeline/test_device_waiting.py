"""Tasks of a GPU worker wait little for its GPU, which others use while they read their images and finish tables."""

import time

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch  # noqa: F401 (workers import it before their first task; else one task does so while it holds the GPU)
from distributed import LocalCluster

from emqa_dask import device_batches
from emqa_dask.pipeline.commands import triage
from emqa_dask.pipeline.tasks import device_step
from emqa_dask.settings import Settings, replace
from emqa_dask.store import micrographs

N_IMAGES = 32
N_THREADS = 4
READ_S = 0.6  # of one image; far longer than what a busy machine adds
DEVICE_S = 0.02
MAX_WAIT = 0.1  # of the time of the tasks


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Those of a run on one GPU worker, played by threads of this process: each step takes a fixed time."""
    (tmp_path / "archive").mkdir()
    for seed in range(N_IMAGES):
        image = np.random.default_rng(seed).integers(0, 60_000, (40, 44), np.uint16)
        tifffile.imwrite(tmp_path / "archive" / f"{seed:02d}.tif", image)
    iterate_micrographs = micrographs.iterate_micrographs
    compute_batch = device_step._compute_batch

    def read_slowly(*args):
        for image in iterate_micrographs(*args):
            time.sleep(READ_S)
            yield image

    def compute_slowly(work, batch, dtype):
        time.sleep(DEVICE_S)
        return compute_batch(work, batch, dtype)

    monkeypatch.setattr(micrographs, "iterate_micrographs", read_slowly)
    monkeypatch.setattr(device_step, "_compute_batch", compute_slowly)
    for module in (device_batches, triage):
        monkeypatch.setattr(module, "to_device", lambda array, _: array)
    workers = {"n_workers": 1, "threads_per_worker": N_THREADS, "processes": False, "resources": {"GPU": 1}}
    with LocalCluster(**workers, dashboard_address=None, protocol="tcp", host="127.0.0.1") as cluster:
        run = {"scheduler": cluster.scheduler_address, "device": "cuda", "gpu_threads": N_THREADS}
        sections = {"run": run, "detect": {"detectors": ["log"]}, "store": {"shard_length": 1}}
        yield replace(Settings(), sections)


@pytest.mark.real
def test_tasks_wait_less_than_a_tenth_of_their_time(settings, tmp_path):
    root = tmp_path / "workspace"
    assert triage.run(str(tmp_path / "archive"), str(root), settings, say=lambda text: None) == 0
    events = pd.read_parquet(root / "events.parquet")
    seconds = events.groupby("stage")["seconds"].sum()
    assert seconds["read"] >= N_IMAGES * READ_S
    assert seconds["device"] >= N_IMAGES * DEVICE_S
    steps = seconds.drop("survey")
    assert seconds.get("wait", 0.0) < MAX_WAIT * steps.sum()
