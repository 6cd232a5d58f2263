"""The table of tiles in whole runs: against detections and features, and what a changed score floor makes again."""

import shutil

import numpy as np
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
}
PLACE = ["y_px", "x_px", "height_px", "width_px"]


def read(root, table, settings) -> pd.DataFrame:
    return parts.read_table(str(root), list_run_folders(settings)[table], SCHEMAS[table])


@pytest.fixture(scope="module")
def mapped_run(small_archive, tmp_path_factory):
    """Workspace and settings of a run on a small archive."""
    root = tmp_path_factory.mktemp("mapping") / "ws"
    settings = replace(Settings(), SETTINGS)
    run(str(small_archive), str(root), settings, steps=("ingest", "detect", "featurise"), say=lambda text: None)
    return root, settings


def check_counts(root, settings, floor):
    """Every tile has the detections above `floor` whose centre lies in it."""
    tiles = read(root, "tiles", settings)
    detections = read(root, "detections", settings)
    detections = detections[detections["score"] >= floor]
    ledger = pd.read_parquet(Workspace(str(root)).micrographs).set_index("micrograph_id")
    assert set(tiles["micrograph_id"]) == set(ledger.index)
    for row in tiles.itertuples():
        own = detections[detections["micrograph_id"] == row.micrograph_id]
        y, x = own["y_px"] + 0.5, own["x_px"] + 0.5
        is_inside = (y >= row.y_px) & (y < row.y_px + row.height_px) & (x >= row.x_px) & (x < row.x_px + row.width_px)
        assert row.n_detections == is_inside.sum()
        area_um2 = row.height_px * row.width_px * ledger["nm_per_pixel"][row.micrograph_id] ** 2 / 1e6
        assert row.density_per_um2 == pytest.approx(is_inside.sum() / area_um2, rel=1e-6, nan_ok=True)
    areas = (tiles["height_px"] * tiles["width_px"]).groupby(tiles["micrograph_id"]).sum()
    assert (areas == (ledger["height_px"] * ledger["width_px"]).reindex(areas.index)).all()
    assert tiles["n_detections"].sum() == len(detections)
    return tiles


def test_tiles_count_the_detections_above_the_floor(mapped_run):
    root, settings = mapped_run
    tiles = check_counts(root, settings, 0.2)
    assert tiles["agreement"].isna().all()
    features = read(root, "features", settings).set_index("micrograph_id")
    for micrograph_id, own in tiles.groupby("micrograph_id"):
        np.testing.assert_array_equal(own["noise"], features["tile_noise"][micrograph_id])
        np.testing.assert_array_equal(own["sharpness"], features["tile_sharpness"][micrograph_id])
    assert tiles["noise"].notna().any()


def test_another_floor_maps_again_without_pixels(mapped_run):
    root, settings = mapped_run
    copy = shutil.copytree(root, root.parent / "rescored")
    shutil.rmtree(Workspace(str(copy)).stacks)
    stricter = replace(settings, {"featurise": {"score_floor": 0.4}})
    assert rescore(str(copy), stricter, say=lambda text: None) in (0, 2)
    tiles = check_counts(copy, stricter, 0.4)
    former_tiles = read(root, "tiles", settings)
    pd.testing.assert_frame_equal(tiles[[*PLACE, "noise"]], former_tiles[[*PLACE, "noise"]])
    assert tiles["n_detections"].sum() < former_tiles["n_detections"].sum()
