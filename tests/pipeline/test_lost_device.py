"""A GPU that is lost within a batch: its partition is repeated by a fresh worker, and nothing is there twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.synthetic import cavities
from tests.whole_runs import assert_same_tables, triage, undisturbed

# Python imports this module at the start of every process. The second image that is searched loses the device, once.
SITE = """
import os
from emqa_dask.backend import DeviceLost
from emqa_dask.run import supervise

call_as_always = supervise.Supervised.__call__
n_calls = 0

def call(self, function, *args, **options):
    global n_calls
    n_calls += ".detect." in function.__module__
    if n_calls == 2:
        try:
            os.close(os.open({marker!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            raise DeviceLost("cudaErrorIllegalAddress: an illegal memory access was encountered")
    return call_as_always(self, function, *args, **options)

supervise.Supervised.__call__ = call
"""


def write_archive(folder: Path) -> Path:
    """Eight images of one shape, which two partitions of four hold."""
    folder.mkdir()
    for seed in range(8):
        image = cavities.draw_cavities(np.random.default_rng(seed), (160, 192), n=8, contrast=0.6).image
        scaled = np.rint(4000 + 1000 * (image - image.mean()) / image.std()).clip(0, 65535)
        tifffile.imwrite(folder / f"{seed}.tif", scaled.astype(np.uint16))
    return folder


@pytest.mark.real
def test_a_device_lost_within_a_batch_costs_no_row(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    marker = tmp_path / "lost"
    (site / "sitecustomize.py").write_text(SITE.format(marker=str(marker)))
    python_path = f"{site}:{Path(__file__).parents[2]}"
    archive = write_archive(tmp_path / "archive")
    workspace = tmp_path / "disturbed"
    options = ("--set", "store.shard_length=4")
    triage(archive, workspace, "--workers", "2", *options, env={"PYTHONPATH": python_path})
    assert marker.exists()
    events = pd.read_parquet(workspace / "events.parquet")
    lost = events[(events["outcome"] == "lost") & (events["attempt"] == 1)]["partition"]
    repeated = events[events["attempt"] == 2]["partition"]
    assert 1 <= len(lost) <= 2  # another partition may have waited for the same worker
    assert set(lost) == set(repeated)
    assert_same_tables(workspace, undisturbed(archive, tmp_path / "undisturbed", *options))
