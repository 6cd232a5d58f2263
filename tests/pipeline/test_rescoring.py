"""Rescoring: predictions made of many partitions at once are those that tasks make, whatever comes between."""

import shutil
import signal
import subprocess
import sys

import fsspec
import pandas as pd
import pytest

from emqa_dask import models, tables
from emqa_dask.pipeline.commands import bundled_tables
from emqa_dask.pipeline.commands.calibrate import calibrate
from emqa_dask.pipeline.commands.make_tables import TASK_COLUMNS
from emqa_dask.pipeline.commands.rescore import rescore
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.tasks import partition_tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import replace
from emqa_dask.store import files, parts, stored_settings
from emqa_dask.store.layout import Workspace


def quiet(*_) -> None:
    pass


@pytest.fixture(scope="module")
def short(in_process):
    """Settings that cut the archive into many partitions."""
    return replace(in_process, {"store": {"shard_length": 2}})


@pytest.fixture(scope="module")
def done(small_archive, short, tmp_path_factory):
    root = tmp_path_factory.mktemp("rescoring") / "ws"
    assert run(str(small_archive), str(root), short, say=quiet) == 0
    return root


@pytest.fixture(scope="module")
def fitted(small_archive, done, short, tmp_path_factory):
    """A model that was calibrated on the archive's labels."""
    out = tmp_path_factory.mktemp("fitted")
    copy = shutil.copytree(done, out / "ws")
    labels = small_archive.parent / f"{small_archive.name}.truth" / "annotations.json"
    assert calibrate(str(copy), str(labels), short, out=str(out / "models"), say=quiet) == 0
    return str(out / "models" / "log")


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "ws")


@pytest.fixture(params=["the bundled forest", "a calibrated model"])
def settings(request, short, fitted):
    return short if request.param == "the bundled forest" else use_model(short, fitted)


def use_model(settings, folder: str):
    """The settings with a quality model and its score floor."""
    score_floor = models.read_detector_and_floor(folder)[1]
    return replace(settings, {"predict": {"models": [folder]}, "featurise": {"score_floor": score_floor}})


def content(root, settings, table: str = "predictions") -> dict[str, bytes]:
    folder = files.join(str(root), list_run_folders(settings)[table])
    return {name: files.read_bytes(files.join(folder, name)) for name in files.list_names(folder)}


def forget(root, settings) -> None:
    shutil.rmtree(root / list_run_folders(settings)["predictions"], ignore_errors=True)


def by_tasks(root, settings) -> dict[str, bytes]:
    """The predictions as a task for each partition makes them; they are gone afterwards."""
    forget(root, settings)
    for partition, rows in micrograph_ledger.iter_partitions(Workspace(str(root)), TASK_COLUMNS):
        partition_tables.make_tables(
            Workspace(str(root)), partition, rows, settings, ("evidence", "features", "predictions")
        )
    made = content(root, settings)
    forget(root, settings)
    return made


def events(root) -> pd.DataFrame:
    return parts.read_table(str(root), "events.parquet", tables.EVENTS)


def test_predictions_made_together_are_those_of_tasks_to_the_byte(copy, settings):
    expected = by_tasks(copy, settings)
    assert len(expected) > 3
    before = len(events(copy))
    assert rescore(str(copy), settings, say=quiet) == 0
    assert content(copy, settings) == expected
    rows = parts.read_table(str(copy), list_run_folders(settings)["predictions"], tables.PREDICTIONS)
    assert rows["predicted_f1"].notna().any()
    new = events(copy).iloc[before:]
    assert list(new["stage"]) == ["predict"]  # one task for all
    assert new["n_images"].sum() == sum(len(rows) for rows in micrograph_ledger.iter_current(Workspace(str(copy))))


def test_detection_features_are_repeated_to_the_byte(copy, short):
    """That was made image by image from pixels, this from the table of a partition's detections."""
    expected = {table: content(copy, short, table) for table in ("evidence", "predictions")}
    for table in expected:
        shutil.rmtree(copy / list_run_folders(short)[table])
    before = len(events(copy))
    assert rescore(str(copy), short, say=quiet) == 0
    assert {table: content(copy, short, table) for table in expected} == expected
    assert list(events(copy)["stage"].iloc[before:]) == ["featurise", "predict"]  # one task for all


def test_another_score_floor_is_judged_by_models_for_it_alone(copy, short, small_archive):
    floor = replace(short, {"featurise": {"score_floor": 0.2}})
    said = []
    assert rescore(str(copy), floor, say=said.append) == 0
    assert any("log-f1 knows log at a score floor of 0.1, this run has 0.2" in line for line in said)
    rows = parts.read_table(str(copy), list_run_folders(floor)["predictions"], tables.PREDICTIONS)
    assert set(rows["evidence"]) == {"no_model"}
    assert rows["predicted_f1"].isna().all()
    labels = small_archive.parent / f"{small_archive.name}.truth" / "annotations.json"
    assert calibrate(str(copy), str(labels), stored_settings.read_settings(str(copy)), say=quiet) == 0
    said.clear()
    fitted = stored_settings.read_settings(str(copy))
    assert rescore(str(copy), fitted, say=said.append) == 0
    rows = parts.read_table(str(copy), list_run_folders(fitted)["predictions"], tables.PREDICTIONS)
    assert rows["predicted_f1"].notna().any()


def test_a_bundle_is_bounded_and_all_of_them_are_everything(done, short):
    names = set(parts.list_parts(str(done), "thumbnails"))
    left_out = min(names)
    bundles = [task.args[1] for task in bundled_tables.iter_bundles(Workspace(str(done)), names - {left_out}, short, 5)]
    assert all(len(rows) <= 5 for rows in bundles)
    assert len(bundles) > 1
    rows = pd.concat(bundles)
    assert set(rows["partition"]) == names - {left_out}
    assert rows["micrograph_id"].is_unique


def test_only_what_is_lacking_is_made(copy, settings):
    expected = by_tasks(copy, settings)
    assert rescore(str(copy), settings, say=quiet) == 0
    folder = copy / list_run_folders(settings)["predictions"]
    for name in list(expected)[::2]:
        (folder / name).unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert rescore(str(copy), settings, say=quiet) == 0
    assert content(copy, settings) == expected
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept


KILLED_AT_THE_FIFTH_PART = """
import itertools, os, signal, sys
from emqa_dask.pipeline.commands.rescore import rescore
from emqa_dask.store import files, stored_settings

def write_or_die(uri, data, write=files.write_bytes, number=itertools.count(1)):
    if "predictions-" in uri and next(number) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    write(uri, data)

files.write_bytes = write_or_die
rescore(sys.argv[1], stored_settings.read_settings(sys.argv[1]))
"""


def test_killed_in_between_and_run_again_it_gives_the_same(copy, short, fitted):
    settings = use_model(short, fitted)
    expected = by_tasks(copy, settings)
    stored_settings.write_settings(str(copy), settings)
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_THE_FIFTH_PART, str(copy)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    half = content(copy, settings)
    assert half.items() <= expected.items()  # each part whole, or not there
    assert len(half) < 5 < len(expected)
    assert stored_settings.read_settings(str(copy)) == settings
    assert rescore(str(copy), settings, say=quiet) == 0
    assert content(copy, settings) == expected


def test_a_damaged_part_is_left_to_its_own_task(copy, settings):
    expected = by_tasks(copy, settings)
    name = sorted(expected)[1]
    path = copy / list_run_folders(settings)["evidence"] / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert rescore(str(copy), settings, say=quiet) == 0
    assert content(copy, settings) == expected
    assert path.read_bytes() == whole


def test_an_incompatible_model_fails_partitions_and_is_not_stored(copy, short, fitted, tmp_path):
    folder = shutil.copytree(fitted, tmp_path / "unfit")
    card = models.load_model_card(folder)
    card["quality_model"]["columns"] = ["no_such_feature", *card["quality_model"]["columns"][1:]]
    models.write_model_card(folder, card)
    unfit = use_model(short, str(folder))
    assert rescore(str(copy), unfit, say=quiet) == 2
    assert content(copy, unfit) == {}
    failures = parts.load_table(Workspace(str(copy)).failures, tables.FAILURES)
    assert set(failures["stage"]) == {"predictions"}
    assert len(failures) == sum(len(rows) for rows in micrograph_ledger.iter_current(Workspace(str(copy))))
    assert failures["error"].str.contains("no_such_feature").all()
    assert rescore(str(copy), short, say=quiet) == 0
    assert parts.load_table(Workspace(str(copy)).failures, tables.FAILURES).empty


def test_a_bucket_gets_the_same_parts(copy, short, fitted):
    settings = use_model(short, fitted)
    expected = by_tasks(copy, settings)
    root = f"memory://rescoring{copy}"
    bucket, path = files.locate(root)
    for one in copy.rglob("*"):
        if one.is_file():
            bucket.pipe_file(f"{path}/{one.relative_to(copy).as_posix()}", one.read_bytes())
    try:
        assert rescore(root, settings, say=quiet) == 0
        assert content(root, settings) == expected
    finally:
        fsspec.filesystem("memory").rm(path, recursive=True)


@pytest.mark.real
def test_workers_make_the_same_parts(copy, settings):
    expected = by_tasks(copy, settings)
    local = replace(settings, {"run": {"scheduler": "local", "workers": 1}})
    before = len(events(copy))
    assert run(None, str(copy), local, steps=["predict"], say=quiet) == 0
    assert content(copy, settings) == expected
    new = events(copy).iloc[before:]
    assert list(new["stage"]) == ["predict"]
    assert set(new["worker"]) != {"in-process"}


def test_settings_of_later_runs_do_not_change(copy, short):
    """Rescoring starts no worker, and says nothing of that in settings.toml: neither at its end nor when it fails."""
    local = replace(short, {"run": {"scheduler": "local"}})
    assert rescore(str(copy), local, say=quiet) == 0
    assert set(events(copy)["worker"]) == {"in-process"}
    assert stored_settings.read_settings(str(copy)) == local
    catalog = copy / "catalog.parquet"
    catalog.write_bytes(catalog.read_bytes()[:100])
    changed = replace(local, {"triage": {"trust_f1": 0.6}})
    with pytest.raises(ValueError, match="damaged"):
        rescore(str(copy), changed, say=quiet)
    assert stored_settings.read_settings(str(copy)).run.scheduler == "local"
    assert "in-process" not in (copy / "settings.toml").read_text()


def test_every_table_is_that_of_a_run_from_the_start(copy, small_archive, settings, tmp_path):
    fresh = tmp_path / "fresh"
    assert run(str(small_archive), str(fresh), settings, say=quiet) == 0
    forget(copy, settings)
    assert rescore(str(copy), settings, say=quiet) == 0
    for table, folder in list_run_folders(settings).items():
        one, other = (parts.read_table(str(root), folder, SCHEMAS[table]) for root in (copy, fresh))
        pd.testing.assert_frame_equal(one, other)
    for table in ("triage", "flags"):
        one, other = (pd.read_parquet(getattr(Workspace(str(root)), table)) for root in (copy, fresh))
        pd.testing.assert_frame_equal(one, other)
