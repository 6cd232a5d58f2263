"""Laws of failure: what fails is written down with its cause and costs nobody else; retry makes good for it."""

import os
import shutil
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from emqa_dask import tables
from emqa_dask.pipeline.commands import ingest
from emqa_dask.pipeline.commands.retry import retry
from emqa_dask.pipeline.commands.status import status, watch
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.part_folders import name_failures_folder
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.run.execute import execute
from emqa_dask.settings import replace
from emqa_dask.store import files, lock, marker, parts
from emqa_dask.store.layout import Workspace


def quietly(function, *args, **options) -> tuple[int, list[str]]:
    said: list[str] = []
    return function(*args, say=said.append, **options), said


def written(root) -> dict[str, int]:
    """Modification times of every part and shard."""
    kept = [*root.glob("*/*.parquet"), *(root / "micrographs.zarr").glob("*/0/c/*/*/*")]
    return {str(path): path.stat().st_mtime_ns for path in kept if "events.parquet" not in str(path)}


def results(root, settings) -> dict[str, pd.DataFrame]:
    found = {}
    for table, folder in list_run_folders(settings).items():
        rows = parts.read_table(str(root), folder, SCHEMAS[table])
        by = ["micrograph_id", *(c for c in ("y_px", "x_px") if c in rows)]
        found[table] = rows.sort_values(by, ignore_index=True)
    found["triage"] = parts.load_table(Workspace(str(root)).triage, tables.TRIAGE)
    return found


def surveyed_only(archive, root, settings) -> None:
    """A workspace whose archive is surveyed, and nothing else."""
    marker.claim_workspace(str(root), str(archive))
    ingest.ingest(
        Workspace(str(root)),
        str(archive),
        settings,
        lambda function, tasks, stage: execute(function, tasks, stage=stage),
    )


@pytest.fixture(scope="module")
def lossy(small_archive, in_process, tmp_path_factory):
    return make_lossy(tmp_path_factory.mktemp("lossy"), small_archive, in_process)


def make_lossy(folder, small_archive, in_process):
    """A workspace in which a file of a shard of several was damaged when it was to be stored; and the whole file."""
    archive = folder / "archive"
    root = folder / "ws"
    settings = replace(in_process, {"store": {"shard_length": 8}})
    shutil.copytree(small_archive, archive)
    surveyed_only(archive, root, settings)
    sizes = [
        (len(p), p.name, rows["uri"].iloc[0]) for p, rows in micrograph_ledger.iter_partitions(Workspace(str(root)))
    ]
    _, name, uri = max(sizes)
    whole = Path(shutil.copy2(archive / uri, folder / "whole"))
    (archive / uri).write_bytes(bytes(whole.stat().st_size))  # of the same size and date: it is not surveyed again
    os.utime(archive / uri, ns=(whole.stat().st_mtime_ns, whole.stat().st_mtime_ns))
    code, said = quietly(run, str(archive), str(root), settings)
    assert code == 2, said
    return archive, root, settings, whole, uri, name


def test_what_fails_is_written_down_and_costs_nobody_else(lossy):
    _, root, settings, _, uri, _ = lossy
    failures = parts.load_table(Workspace(str(root)).failures, tables.FAILURES)
    (row,) = failures.to_dict("records")
    assert (row["uri"], row["stage"], row["kind"], row["attempts"]) == (uri, "store", "error", 2)
    assert "changed since it was surveyed" in row["error"]
    assert "Traceback" in row["traceback"]
    triage = parts.load_table(Workspace(str(root)).triage, tables.TRIAGE).set_index("uri")
    assert (triage.loc[[uri], "status"] == "failed").all()
    judged = triage.loc[triage.index != uri]
    assert set(judged.loc[judged["status"] == "failed"].index) == set()
    n = sum(len(rows) for rows in micrograph_ledger.iter_current(Workspace(str(root))))
    for rows in results(root, settings).values():
        assert rows["micrograph_id"].nunique() in (n - 1, n)  # triage has a row for it, the others have none


def test_a_second_run_repeats_nothing_and_says_it_again(lossy):
    archive, root, settings, *_ = lossy
    before = written(root)
    code, _ = quietly(run, str(archive), str(root), settings)
    assert code == 2
    assert written(root) == before
    code, said = quietly(status, str(root))
    assert code == 2
    assert any("emqa retry" in line for line in said)


@pytest.mark.parametrize(("change", "table"), [({"score_floor": 0.3}, "evidence"), ({"order": True}, "features")])
def test_a_failure_does_not_pass_for_an_image_without_detections(lossy, tmp_path, change, table):
    """Detections that failed leave no row, as an empty image does; new features must not be made from that."""
    archive, root, settings, *_ = lossy
    copy = tmp_path / "ws"
    shutil.copytree(root, copy)
    detections = list_run_folders(settings)["detections"]
    name = parts.list_parts(str(copy), detections)[0]
    rows = parts.read_part(str(copy), detections, name, tables.DETECTIONS)
    victim = parts.read_part(str(copy), "thumbnails", name, tables.THUMBNAILS)["micrograph_id"].iloc[0]
    parts.write_part(str(copy), detections, name, rows[rows["micrograph_id"] != victim], tables.DETECTIONS, 1)
    failure = {"uri": "x", "micrograph_id": victim, "stage": "detect", "kind": "crash", "error": "e", "attempts": 2}
    parts.write_part(str(copy), name_failures_folder(detections), name, [failure], tables.FAILURES)
    other = replace(settings, {"featurise": change})
    if table == "features":  # else its evidence from before the failure would be taken for the image's
        shutil.rmtree(copy / list_run_folders(settings)["evidence"])
    code, _ = quietly(run, str(archive), str(copy), other)
    assert code == 2
    made = parts.read_table(str(copy), list_run_folders(other)[table], SCHEMAS[table])
    assert victim not in set(made["micrograph_id"])
    triage = parts.load_table(Workspace(str(copy)).triage, tables.TRIAGE).set_index("micrograph_id")
    assert (triage.loc[victim, "status"], triage.loc[victim, "verdict"]) == ("failed", "unknown")


def test_retry_makes_the_failed_partition_again_and_nothing_else(small_archive, in_process, tmp_path):
    archive, root, settings, whole, uri, name = make_lossy(tmp_path, small_archive, in_process)
    whole.rename(archive / uri)
    before = written(root)
    code, said = quietly(retry, str(root), settings, stage="detect")
    assert code == 2, said  # nothing has failed in detect
    assert written(root) == before
    code, said = quietly(retry, str(root), settings)
    assert code == 0, said
    after = written(root)
    shard_and_parts = {path for path in before if after.get(path) != before[path]}
    assert all(name in path or "micrographs.zarr" in path or "failures-" in path for path in shard_and_parts)
    assert len([path for path in shard_and_parts if "micrographs.zarr" in path]) == 1
    assert parts.load_table(Workspace(str(root)).failures, tables.FAILURES).empty
    surveyed_only(archive, tmp_path / "other", settings)
    assert quietly(run, str(archive), str(tmp_path / "other"), settings)[0] == 0
    for table, rows in results(tmp_path / "other", settings).items():
        pd.testing.assert_frame_equal(rows, results(root, settings)[table])


def test_retry_reads_files_again_that_could_not_be_read(small_archive, in_process, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(small_archive, archive)
    whole = next(path for path in sorted(archive.rglob("*.tif")))
    data = whole.read_bytes()
    whole.write_bytes(b"")
    code, _ = quietly(run, str(archive), str(root), in_process)
    assert code == 2
    whole.write_bytes(data)
    code, said = quietly(retry, str(root), in_process, stage="ingest")
    assert code == 0, said


def test_retry_of_an_unknown_stage_names_those_that_there_are(lossy):
    _, root, settings, *_ = lossy
    with pytest.raises(ValueError, match="ingest, store, thumbnail, detect, classify, featurise"):
        retry(str(root), settings, stage="detection")


def test_a_concurrent_run_is_refused_and_status_names_the_holder(lossy):
    archive, root, settings, *_ = lossy
    said: list[str] = []
    with lock.hold_lock(str(root)):
        with pytest.raises(RuntimeError, match=r"process \d+ on "):
            run(str(archive), str(root), settings, say=lambda text: None)
        code, text = quietly(status, str(root))
        assert any("at work" in line for line in text)
        watching = threading.Thread(target=watch, args=(str(root), 0.05, said.append), daemon=True)
        watching.start()
        while len(said) < 2:
            time.sleep(0.01)
    watching.join(30)
    assert not watching.is_alive()
    assert any("partitions" in line for line in said)
    assert files.exists(Workspace(str(root)).triage)
    assert code in (0, 2)
