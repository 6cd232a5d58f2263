"""A run in a bucket opens in Python as one on a disk does, and few requests are made."""

import numpy as np
import pandas as pd
import pytest

import emqa_dask
from emqa_dask.pipeline.commands.triage import triage_archive
from emqa_dask.settings import Settings, replace

pytestmark = pytest.mark.real
SETTINGS = {
    "store": {"shard_length": 2},
    "run": {"scheduler": "in-process"},
    "detect": {"detectors": ["log"]},
}


def list_fetched(proxy, folder: str) -> set[str]:
    """Paths in `folder` of which bytes were fetched."""
    paths = {request.path.partition("?")[0] for request in proxy.requests if request.method == "GET"}
    return {path for path in paths if f"/{folder}/" in path}


def test_run_in_a_bucket_reads_what_it_needs(healthy, small_archive):
    bucket, proxy = healthy
    root = f"{bucket}/ws"
    expected = triage_archive(small_archive, root, replace(Settings(), SETTINGS), say=lambda text: None)
    proxy.requests.clear()
    run = emqa_dask.open_run(root)
    assert len(proxy.requests) <= 4
    triage = run.triage.compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(
        triage[["uri", "verdict", "predicted_f1"]].reset_index(drop=True),
        expected[["uri", "verdict", "predicted_f1"]],
        check_dtype=False,
    )
    row = expected.loc[expected["n_detections"].fillna(0).idxmax()]
    detections = run.read_table("detections", images=row["uri"]).compute(scheduler="synchronous")
    is_image = detections["micrograph_id"] == row["micrograph_id"]
    assert is_image.sum() >= row["n_detections"]
    assert len(list_fetched(proxy, run.folders["detections"])) == 1
    pixels, _ = emqa_dask.read_micrograph(small_archive / row["uri"], int(row["frame"]))
    np.testing.assert_array_equal(run.image(row["uri"], int(row["frame"])), pixels)
    stack = run.images(run.stacks[0])
    assert stack[-1].compute(scheduler="synchronous").shape == stack.shape[1:]
    n_partitions = run.micrographs["partition"].nunique().compute(scheduler="synchronous")
    assert len(list_fetched(proxy, "c/0") | list_fetched(proxy, "0/c")) < n_partitions
    assert "micrographs" in repr(run)
    assert run.show(row["uri"], int(row["frame"])).axes
