"""Laws of the whole run: same tables however it is cut, nothing twice, nothing lost."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import tables
from emqa_dask.archive.readers import open_source
from emqa_dask.pipeline.commands import ingest
from emqa_dask.pipeline.commands.dry_run import estimate_run
from emqa_dask.pipeline.commands.status import status
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.run.execute import execute
from emqa_dask.settings import replace
from emqa_dask.store import marker, micrographs, parts
from emqa_dask.store.layout import Workspace


def quietly(source, root, settings, **options) -> tuple[int, list[str]]:
    said: list[str] = []
    return run(None if source is None else str(source), str(root), settings, say=said.append, **options), said


def table(root, name: str, settings) -> pd.DataFrame:
    """All rows of a table in an order of its own, so that two workspaces can be compared."""
    rows = parts.read_table(str(root), list_run_folders(settings)[name], SCHEMAS[name])
    by = [c for c in rows.columns if rows[c].dtype != object or isinstance(rows[c].iloc[0] if len(rows) else "", str)]
    return rows.sort_values(by, ignore_index=True)


def triage_of(root) -> pd.DataFrame:
    return pd.read_parquet(Workspace(str(root)).triage)


def assert_same_results(one, other, settings_one, settings_other) -> None:
    for name in list_run_folders(settings_one):
        pd.testing.assert_frame_equal(table(one, name, settings_one), table(other, name, settings_other))
    # Which partition an image is in depends on the length of a shard and on the batches of files.
    pd.testing.assert_frame_equal(*(triage_of(root).drop(columns="partition") for root in (one, other)))


@pytest.fixture(scope="module")
def done(small_archive, in_process, tmp_path_factory):
    """A finished workspace of the small archive, in this process. Tests that change it work on a copy."""
    root = tmp_path_factory.mktemp("done") / "ws"
    code, said = quietly(small_archive, root, in_process)
    assert code == 0, said
    return root


def test_a_run_leaves_what_others_rely_on(done, small_archive, in_process):
    names = ["catalog.parquet", "triage.parquet", "triage.csv", "failures.parquet", "events.parquet", "provenance.json"]
    for name in [*names, "micrographs.zarr", "report/index.html", "settings.toml"]:
        assert (done / name).exists(), name
    rows = triage_of(done)
    assert list(rows.columns) == tables.TRIAGE.names
    provenance = parts.read_json(Workspace(str(done)).provenance)
    for folder in provenance["folders"].values():
        assert list((done / folder).glob("*.parquet"))


def test_every_file_and_frame_has_exactly_one_row(done, small_archive):
    rows = triage_of(done)
    files = {p.relative_to(small_archive).as_posix() for p in small_archive.rglob("*") if p.is_file()}
    assert set(rows["uri"]) == files
    assert not rows.duplicated(["uri", "frame"]).any()
    catalog = pd.read_parquet(Workspace(str(done)).catalog)
    n_rows = catalog["n_frames"].clip(lower=1).sum()
    assert len(rows) == n_rows
    assert set(rows["verdict"]) <= set(tables.VERDICTS)


def test_stored_micrographs_are_the_files_bit_for_bit(done, small_archive):
    ledger = pd.read_parquet(Workspace(str(done)).micrographs)
    seen = 0
    for partition, rows in micrograph_ledger.iter_partitions(Workspace(str(done))):
        for stored, row in zip(micrographs.read_partition(str(done), partition), rows.itertuples(), strict=True):
            original = open_source(small_archive / row.uri).frames[row.frame].read()
            assert stored.dtype == original.dtype
            np.testing.assert_array_equal(stored, original)
            seen += 1
    assert seen == len(ledger) >= 16


@pytest.mark.parametrize("shard_length", [1, 3])
def test_tables_do_not_depend_on_the_shard_length(done, small_archive, in_process, tmp_path, shard_length):
    other = replace(in_process, {"store": {"shard_length": shard_length}})
    assert quietly(small_archive, tmp_path / "ws", other)[0] == 0
    assert_same_results(done, tmp_path / "ws", in_process, other)


def test_tables_do_not_depend_on_file_order_or_batches(done, small_archive, in_process, tmp_path):
    files = sorted(p.relative_to(small_archive).as_posix() for p in small_archive.rglob("*") if p.is_file())
    np.random.default_rng(3).shuffle(files)
    shutil.copytree(small_archive, tmp_path / "copy")
    (tmp_path / "copy" / "list.txt").write_text("\n".join(files))
    other = replace(in_process, {"archive": {"files_per_task": 5}})
    assert quietly(tmp_path / "copy" / "list.txt", tmp_path / "ws", other)[0] == 0
    assert_same_results(done, tmp_path / "ws", in_process, other)


@pytest.mark.real
def test_tables_are_the_same_on_dask_workers(done, small_archive, in_process, tmp_path):
    workers = replace(in_process, {"run": {"scheduler": "local", "workers": 2}})
    assert quietly(small_archive, tmp_path / "ws", workers)[0] == 0
    assert_same_results(done, tmp_path / "ws", in_process, workers)
    events = pd.read_parquet(Workspace(str(tmp_path / "ws")).events)
    assert events["worker"].str.startswith("tls://127.0.0.1").all()
    assert set(events["outcome"]) == {"done"}


def test_a_second_run_executes_no_task_and_writes_no_table(done, small_archive, in_process):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file() and p.name != "settings.toml"}
    code, said = quietly(small_archive, done, in_process)
    assert code == 0
    assert "nothing was new" in "\n".join(said)
    changed = {p.name for p, when in before.items() if p.stat().st_mtime_ns != when}
    assert changed <= {"failures.parquet"}


def test_five_added_files_execute_only_their_own(done, small_archive, in_process, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(small_archive, archive)
    assert quietly(archive, root, in_process)[0] == 0
    n_events = len(pd.read_parquet(Workspace(str(root)).events))
    before = {
        p: p.stat().st_mtime_ns for p in root.rglob("*") if (p.is_file() and "c" in p.parts) or p.suffix == ".parquet"
    }
    old = triage_of(root)
    images = sorted(p for p in archive.rglob("*.png"))[:1]
    for k in range(5):
        shutil.copy(images[0], archive / f"added {k}.png")
    assert quietly(archive, root, in_process)[0] == 0
    events = pd.read_parquet(Workspace(str(root)).events).iloc[n_events:]
    assert events.loc[events["stage"] == "survey", "n_images"].sum() == 5
    assert events.loc[events["stage"] == "detect", "n_images"].sum() == 5
    kept = [p for p, when in before.items() if p.parent != root]
    assert kept
    assert all(p.stat().st_mtime_ns == before[p] for p in kept)
    rows = triage_of(root)
    assert len(rows) == len(old) + 5
    added = rows[rows["uri"].str.startswith("added")]
    assert added["reasons"].map(lambda codes: "duplicate" in codes).sum() >= 4


def test_a_changed_file_is_processed_again_and_others_kept(small_archive, in_process, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(small_archive, archive)
    assert quietly(archive, root, in_process)[0] == 0
    old = triage_of(root)
    one, other = sorted(archive.rglob("*.png"))[:2]
    shutil.copy(other, one)
    os.utime(one, (1, 1))
    assert quietly(archive, root, in_process)[0] == 0
    rows = triage_of(root)
    assert len(rows) == len(old)
    changed = set(rows["micrograph_id"].dropna()) ^ set(old["micrograph_id"].dropna())
    assert len(changed) == 2
    still = pd.concat(micrograph_ledger.iter_current(Workspace(str(root)), ["uri"]))
    assert still["uri"].duplicated().sum() == old["uri"].duplicated().sum()


def test_new_settings_redo_only_what_depends_on_them(done, small_archive, in_process, tmp_path):
    root = tmp_path / "ws"
    shutil.copytree(done, root)
    n_events = len(pd.read_parquet(Workspace(str(root)).events))
    floor = replace(
        in_process, {"featurise": {"score_floor": in_process.featurise.score_floor}, "triage": {"trust_f1": 0.99}}
    )
    quietly(small_archive, root, floor)
    assert len(pd.read_parquet(Workspace(str(root)).events)) == n_events
    assert not triage_of(root)["verdict"].eq("trust").any()
    fewer = replace(in_process, {"detect": {"threshold": 0.3}})
    quietly(small_archive, root, fewer)
    events = pd.read_parquet(Workspace(str(root)).events).iloc[n_events:]
    assert set(events["stage"]) == {"read", "detect", "tiles", "featurise", "predict", "measure"}
    assert triage_of(root)["n_detections"].sum() < triage_of(done)["n_detections"].sum()


def test_steps_alone_give_the_tables_of_the_whole(done, small_archive, in_process, tmp_path):
    root = tmp_path / "ws"
    assert quietly(small_archive, root, in_process, steps=["ingest"])[0] == 0
    for step in ("detect", "featurise", "predict", "measure", "report"):
        assert quietly(None, root, in_process, steps=[step])[0] == 0
    assert_same_results(done, root, in_process, in_process)


def test_a_lost_part_is_made_again(done, small_archive, in_process, tmp_path):
    root = tmp_path / "ws"
    shutil.copytree(done, root)
    victim = sorted((root / list_run_folders(in_process)["features"]).glob("*.parquet"))[0]
    victim.unlink()
    assert quietly(small_archive, root, in_process)[0] == 0
    assert victim.exists()
    assert_same_results(done, root, in_process, in_process)


@pytest.mark.parametrize("other", [None, "detections"])  # without detections, the partition gets its own task
def test_a_lost_part_leaves_other_parts_alone(done, small_archive, in_process, tmp_path, other):
    folders = list_run_folders(in_process)
    for table in sorted(set(folders) - {"thumbnails"}):  # thumbnails are made with the pixels
        root = tmp_path / table
        shutil.copytree(done, root)
        part_name = sorted(path.name for path in (root / folders[table]).glob("*.parquet"))[0]
        for lost in {table, other} - {None}:
            (root / folders[lost] / part_name).unlink()
        before = {p: p.stat().st_mtime_ns for name in folders.values() for p in (root / name).glob("*.parquet")}
        assert quietly(small_archive, root, in_process)[0] == 0
        assert {p.relative_to(root) for p, when in before.items() if p.stat().st_mtime_ns != when} == set(), table
        assert_same_results(done, root, in_process, in_process)


def test_a_file_that_vanishes_is_one_failed_row(small_archive, in_process, tmp_path):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    shutil.copytree(small_archive, archive)
    one_stack = replace(in_process, {"store": {"shard_length": 64}})

    def survey_only(function, tasks, stage, total=None):
        return list(execute(function, tasks, stage=stage))

    marker.claim_workspace(str(root), str(archive))
    ingest.ingest(Workspace(str(root)), str(archive), one_stack, survey_only)
    gone = sorted(archive.rglob("*.png"))[0]
    gone.unlink()
    code, _ = quietly(None, root, one_stack, steps=("detect", "featurise", "predict", "report"))
    assert code == 2
    rows = triage_of(root).set_index("uri")
    row = rows.loc[gone.relative_to(archive).as_posix()]
    assert row["verdict"] == "unknown"
    assert row["status"] == "failed"
    others = rows.drop(index=gone.relative_to(archive).as_posix())
    assert others.loc[others["micrograph_id"].notna(), "predicted_f1"].count() > 0
    assert not others["reasons"].map(lambda codes: "not_judged" in codes).any()
    failures = pd.read_parquet(Workspace(str(root)).failures)
    assert failures["uri"].tolist() == [gone.relative_to(archive).as_posix()]


def test_what_was_surveyed_is_stored_after_the_archive_settings_change(small_archive, in_process, tmp_path):
    root = tmp_path / "ws"
    marker.claim_workspace(str(root), str(small_archive))
    ingest.ingest(
        Workspace(str(root)),
        str(small_archive),
        in_process,
        lambda f, tasks, stage: list(execute(f, tasks, stage=stage)),
    )
    other = replace(in_process, {"archive": {"max_megapixels": 300.0}})
    assert quietly(small_archive, root, other)[0] == 0
    assert not triage_of(root)["reasons"].map(lambda codes: "not_judged" in codes).any()


def test_status_and_dry_run_speak(done, small_archive, in_process):
    said: list[str] = []
    assert status(str(done), said.append) == 0
    assert "unfinished" not in "\n".join(said)
    said.clear()
    assert estimate_run(str(small_archive), in_process, said.append, n_sample=4) == 0
    n_files = sum(p.is_file() for p in Path(small_archive).rglob("*"))
    assert said[0].startswith(f"{n_files} files")
