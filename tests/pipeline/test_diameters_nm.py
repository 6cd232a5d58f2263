"""Detector sizes in nm: converted by the pixel size of each image, in px where that is unknown."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from emqa_dask.detect import log
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Detect, replace
from emqa_dask.store import parts
from emqa_dask.synthetic import writers

SIZES = {"min_diameter_nm": 4.0, "max_diameter_nm": 12.0}


def test_diameters_become_sigmas_by_the_pixel_size():
    detect = Detect(min_diameter_nm=10.0, max_diameter_nm=40.0).with_pixel_size(0.5)
    # 10 nm are 20 px; a disk of radius r answers at r / sqrt(2), and 10 / sqrt(2) = 7.0711.
    assert detect.min_sigma == pytest.approx(7.0711, abs=1e-4)
    assert detect.max_sigma == pytest.approx(28.2843, abs=1e-4)
    assert (detect.min_diameter_nm, detect.max_diameter_nm) == (0, 0)
    assert detect.with_pixel_size(2.0) is detect


def test_unknown_pixel_size_falls_back_to_px():
    detect = Detect(min_sigma=2.0, max_sigma=9.0, **SIZES)
    for nm_per_pixel in (float("nan"), 0.0, float("inf")):
        assert detect.with_pixel_size(nm_per_pixel) == Detect(min_sigma=2.0, max_sigma=9.0)
    assert Detect().with_pixel_size(0.5) == Detect()


def test_sigmas_stay_in_their_range():
    detect = Detect(min_diameter_nm=1e-3, max_diameter_nm=1e7).with_pixel_size(10.0)
    assert (detect.min_sigma, detect.max_sigma) == (0.1, 1000)


def draw_disks(radius_px: float) -> np.ndarray:
    """Nine bright disks of one radius on noise, uint16."""
    image = np.random.default_rng(3).normal(1000, 15, (240, 240)).astype(np.float32)
    for y in (40, 120, 200):
        for x in (40, 120, 200):
            image[np.hypot(np.arange(240)[:, None] - y, np.arange(240) - x) <= radius_px] += 400
    return image.astype(np.uint16)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Disks of 8 nm at 0.25 and at 0.5 nm/px, and disks of 40 px without a pixel size."""
    folder = tmp_path_factory.mktemp("disks")
    writers.write_frames(folder / "fine.mrc", "mrc", draw_disks(16)[None], 0.25)
    writers.write_frames(folder / "coarse.mrc", "mrc", draw_disks(8)[None], 0.5)
    writers.write_frames(folder / "unknown.tif", "tiff", draw_disks(20)[None], None)
    return folder


def read_table(root, name: str, settings) -> pd.DataFrame:
    return parts.read_table(str(root), list_run_folders(settings)[name], SCHEMAS[name])


def test_images_of_two_pixel_sizes_are_searched_for_one_size(archive, in_process, tmp_path):
    px = {"min_sigma": 12.0, "max_sigma": 18.0, "threshold": 0.15, "polarity": "bright"}
    settings = replace(in_process, {"detect": px | SIZES})
    assert run(str(archive), str(tmp_path / "ws"), settings, say=lambda *_: None) == 0
    triage = pd.read_parquet(tmp_path / "ws" / "triage.parquet").set_index("uri")
    found = read_table(tmp_path / "ws", "detections", settings).groupby("micrograph_id")
    tables = {uri: found.get_group(triage.loc[uri, "micrograph_id"]) for uri in triage.index}
    for uri in ("fine.mrc", "coarse.mrc"):
        assert len(tables[uri]) == 9
        assert tables[uri]["diameter_nm"].mean() == pytest.approx(8, rel=0.1)
    assert len(tables["unknown.tif"]) == 9
    assert tables["unknown.tif"]["diameter_px"].mean() == pytest.approx(40, rel=0.1)
    in_px = dataclasses.replace(settings.detect, min_diameter_nm=0.0, max_diameter_nm=0.0)
    assert log.detect_image(draw_disks(8), in_px)["diameter_px"].min() > 30
