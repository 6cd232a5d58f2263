"""Tables of measurements in whole runs: against the detections, and what a changed setting makes again."""

import math
import shutil

import pandas as pd
import pytest

from emqa_dask.pipeline.commands.rescore import rescore
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings, replace
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

SETTINGS = {
    "run": {"scheduler": "in-process"},
    "detect": {"detectors": ["log"]},
    "featurise": {"score_floor": 0.2},
    "measure": {"foil_thickness_nm": 60.0},
}
STEPS = ("ingest", "detect", "featurise", "measure")


def read(root, table, settings) -> pd.DataFrame:
    return parts.read_table(str(root), list_run_folders(settings)[table], SCHEMAS[table])


@pytest.fixture(scope="module")
def measured_run(small_archive, tmp_path_factory):
    """Workspace and settings of a run on a small archive."""
    folder = tmp_path_factory.mktemp("measuring")
    settings = replace(Settings(), SETTINGS)
    run(str(small_archive), str(folder / "ws"), settings, steps=STEPS, say=lambda text: None)
    return folder, settings


def test_measurements_are_those_of_the_detections_above_the_floor(measured_run):
    folder, settings = measured_run
    root = folder / "ws"
    measurements = read(root, "measurements", settings)
    ledger = pd.read_parquet(Workspace(str(root)).micrographs).set_index("micrograph_id")
    detections = read(root, "detections", settings)
    detections = detections[detections["score"] >= 0.2]
    rows = measurements[measurements["label"].isna()].set_index("micrograph_id")
    assert set(rows.index) == set(ledger.index)
    assert rows.index.is_unique
    n_objects = detections.groupby("micrograph_id").size().reindex(rows.index, fill_value=0)
    assert (rows["n_objects"] == n_objects).all()
    assert n_objects.sum() > 10
    areas = (ledger["height_px"] * ledger["width_px"] * ledger["nm_per_pixel"] ** 2).reindex(rows.index)
    assert rows["area_um2"].to_numpy() * 1e6 == pytest.approx(areas.to_numpy(), nan_ok=True)
    assert rows["area_um2"].notna().any()
    swelling = 100 * rows["volume_nm3"] / (rows["area_um2"] * 1e6 * 60 - rows["volume_nm3"])
    assert rows["swelling_percent"].to_numpy() == pytest.approx(swelling.to_numpy(), nan_ok=True)
    sizes = read(root, "sizes", settings)
    sizes = sizes[sizes["label"].isna()].groupby("micrograph_id")["n_objects"].sum().reindex(rows.index, fill_value=0)
    assert (sizes == rows["n_objects"] - rows["n_cut"]).all()


def test_main_values_are_in_the_triage_table(measured_run):
    folder, settings = measured_run
    run(None, str(folder / "ws"), settings, steps=("predict", "report"), say=lambda text: None)
    triage = pd.read_parquet(Workspace(str(folder / "ws")).triage)
    measurements = read(folder / "ws", "measurements", settings)
    rows = triage.merge(measurements[measurements["label"].isna()], on=["micrograph_id", "detector"], how="left")
    assert rows["mean_diameter_nm_x"].notna().sum() > 3
    for name in ("density_per_um2", "mean_diameter_nm", "area_fraction", "swelling_percent"):
        assert rows[f"{name}_x"].to_numpy() == pytest.approx(rows[f"{name}_y"].to_numpy(), nan_ok=True), name


def test_rescoring_with_another_floor_measures_again(measured_run):
    folder, settings = measured_run
    copy = shutil.copytree(folder / "ws", folder / "rescored")
    stricter = replace(settings, {"featurise": {"score_floor": 0.4}})
    assert rescore(str(copy), stricter, say=lambda text: None) in (0, 2)
    detections = read(copy, "detections", stricter)
    detector_rows = read(copy, "measurements", stricter)
    rows = detector_rows[detector_rows["label"].isna()]
    assert rows["n_objects"].sum() == (detections["score"] >= 0.4).sum() < (detections["score"] >= 0.2).sum()
    triage = pd.read_parquet(Workspace(str(copy)).triage)
    assert triage["density_per_um2"].notna().sum() > 3


def test_another_thickness_measures_again_without_pixels(measured_run):
    folder, settings = measured_run
    n_events = len(pd.read_parquet(Workspace(str(folder / "ws")).events))
    thicker = replace(settings, {"measure": {"foil_thickness_nm": 120.0}})
    run(None, str(folder / "ws"), thicker, steps=("measure",), say=lambda text: None)
    events = pd.read_parquet(Workspace(str(folder / "ws")).events).iloc[n_events:]
    assert set(events["stage"]) == {"measure"}
    old, new = (read(folder / "ws", "measurements", s) for s in (settings, thicker))
    assert list(old["micrograph_id"]) == list(new["micrograph_id"])
    assert old["density_per_um3"].to_numpy() == pytest.approx(2 * new["density_per_um3"].to_numpy(), nan_ok=True)
    assert old["n_corrected"].equals(new["n_corrected"])
    assert not math.isclose(old["swelling_percent"].sum(), new["swelling_percent"].sum())
