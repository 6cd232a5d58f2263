"""A run of 100,000 images opens at once, and filters read few of its files and row groups."""

import time

import dask
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import emqa_dask
from emqa_dask import tables
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.store import files, marker, parts, row_groups, stored_settings
from emqa_dask.store.layout import Workspace

N_IMAGES = 100_000
N_PER_PART = 500
STACK = "2048x2048-uint16-0.31nm"

dask.config.set(scheduler="synchronous")


@pytest.fixture(scope="module")
def large_workspace(in_process, tmp_path_factory):
    """Ledger, verdicts and detections (one for each image) of 100,000 images; no pixels."""
    root = str(tmp_path_factory.mktemp("large") / "ws")
    marker.write_marker(root, "/archive")
    stored_settings.write_settings(root, in_process)
    numbers = np.arange(N_IMAGES)
    partitions = [f"{STACK}-{start:08d}" for start in range(0, N_IMAGES, N_PER_PART)]
    ids = [f"{number:032x}" for number in numbers]
    uris = [f"session-{number // 1000:03d}/image-{number:06d}.tif" for number in numbers]
    common = pd.DataFrame({"micrograph_id": ids, "uri": uris, "frame": 0, "nm_per_pixel": 0.31})
    names = np.repeat(partitions, N_PER_PART)
    ledger = common.assign(stack=STACK, index=numbers, partition=names, header="x" * 400)
    verdicts = np.where(numbers % 10 == 0, "junk", np.where(numbers % 3 == 0, "trust", "review"))
    triage = common.assign(verdict=verdicts, n_detections=1, explanation="x" * 100)
    for uri, rows, schema in (
        (Workspace(root).micrographs, ledger, tables.MICROGRAPHS),
        (Workspace(root).triage, triage, tables.TRIAGE),
    ):
        with parts.open_table_writer(uri, schema) as write:
            write(rows)
    detections = pd.DataFrame({"micrograph_id": ids, "diameter_nm": numbers + 0.5, "detector": "log"})
    folder = list_run_folders(in_process)["detections"]
    parts.write_parts(root, folder, detections, names, partitions, tables.DETECTIONS)
    return root


def test_opening_reads_two_small_files(large_workspace, monkeypatch):
    emqa_dask.open_run(large_workspace)
    uris = []
    read = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda uri: uris.append(uri) or read(uri))
    start_time_s = time.process_time()
    emqa_dask.open_run(large_workspace)
    assert time.process_time() - start_time_s < 1
    assert {uri.rpartition("/")[2] for uri in uris} <= {"workspace.json", "settings.toml"}


def test_filter_reads_the_row_groups_that_it_needs(large_workspace, monkeypatch):
    run = emqa_dask.open_run(large_workspace)
    n_groups = pq.ParquetFile(Workspace(large_workspace).triage).num_row_groups
    assert n_groups > 5
    assert run.triage.npartitions == n_groups
    groups = []
    read = row_groups.read_row_group
    monkeypatch.setattr(row_groups, "read_row_group", lambda *a, **k: groups.append(a[2]) or read(*a, **k))
    session = [("uri", ">=", "session-042/"), ("uri", "<", "session-043/"), ("verdict", "==", "trust")]
    rows = run.read_table("triage", ["uri", "verdict"], filters=session).compute()
    numbers = np.arange(42_000, 43_000)
    assert len(rows) == np.count_nonzero((numbers % 3 == 0) & (numbers % 10 != 0))
    assert len(groups) == 1
    assert len(run.read_table("triage", filters=[("uri", "==", "zzz")]).compute()) == 0
    assert len(groups) == 1


def test_checksums_may_be_left_out(large_workspace, monkeypatch):
    verified_uris = []
    monkeypatch.setattr(parts, "verify_table", lambda uri: verified_uris.append(uri) or b"")
    row_groups._verify_version.cache_clear()
    assert len(emqa_dask.open_run(large_workspace, verify=False).triage) == N_IMAGES
    assert verified_uris == []
    assert len(emqa_dask.open_run(large_workspace).triage["uri"].compute()) == N_IMAGES
    assert verified_uris == [Workspace(large_workspace).triage]  # once, not for each row group
    row_groups._verify_version.cache_clear()


def test_images_of_a_session_open_their_parts(large_workspace, monkeypatch):
    run = emqa_dask.open_run(large_workspace)
    session = [("uri", ">=", "session-042/"), ("uri", "<", "session-043/")]
    frame = run.read_table("detections", ["diameter_nm"], images=run.read_table("triage", filters=session))
    uris = []
    load = parts.load_arrow_table
    monkeypatch.setattr(parts, "load_arrow_table", lambda uri, *a: uris.append(uri) or load(uri, *a))
    assert frame["diameter_nm"].mean().compute() == pytest.approx(42_500)
    assert len(set(uris)) == 1000 / N_PER_PART


def test_whole_table_has_all_rows(large_workspace):
    run = emqa_dask.open_run(large_workspace)
    counts = run.triage["verdict"].value_counts().compute()
    assert counts.sum() == N_IMAGES
    assert counts["junk"] == N_IMAGES / 10
    assert run.detections["diameter_nm"].sum().compute() == pytest.approx(N_IMAGES**2 / 2)
