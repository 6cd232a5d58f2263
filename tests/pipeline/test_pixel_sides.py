"""Pixels that are not square: sizes in nm follow from both sides, and Thon rings are not measured."""

import math

import mrcfile
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.tasks import image_measurement
from emqa_dask.pipeline.tasks.thon_rings import measure_thon_rings
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.pixel_sides import compute_pixel_side_nm, is_square_pixel
from emqa_dask.settings import Featurise, Settings, replace
from emqa_dask.store import parts
from emqa_dask.tables import THON_RINGS
from tests.pipeline.test_diameters_nm import draw_disks

NM = st.floats(1e-3, 1e5)


@given(x=NM, y=NM)
def test_the_square_has_the_area_of_the_pixel(x, y):
    side = float(compute_pixel_side_nm(x, y))
    assert side**2 == pytest.approx(x * y)
    assert min(x, y) <= side * (1 + 1e-12)
    assert compute_pixel_side_nm(x, x) == x
    assert compute_pixel_side_nm(x, math.nan) == x
    assert math.isnan(compute_pixel_side_nm(math.nan, y))


def test_square_within_one_percent_and_where_unknown():
    assert is_square_pixel(0.5, 0.504)
    assert not is_square_pixel(0.5, 0.506)
    assert not is_square_pixel(0.506, 0.5)
    assert is_square_pixel(math.nan, 0.5)
    assert is_square_pixel(0.5, math.nan)


@pytest.mark.parametrize(("x_nm", "y_nm", "side_nm"), [(0.5, 0.5, 0.5), (1.0, 0.25, 0.5), (0.25, 1.0, 0.5)])
def test_diameters_are_those_of_circles_of_the_same_area(x_nm, y_nm, side_nm):
    """Disks of 16 px cover 64 pi px; at 1 nm x 0.25 nm these are 16 pi nm2, a circle of 8 nm."""
    row = {"micrograph_id": "m", "nm_per_pixel": x_nm, "nm_per_pixel_y": y_nm}
    detect = {"detectors": ["log"], "min_diameter_nm": 4.0, "max_diameter_nm": 12.0, "polarity": "bright"}
    settings = replace(Settings(), {"detect": detect})
    detections = image_measurement.detect_objects(draw_disks(8), row, settings)
    assert len(detections) == 9
    np.testing.assert_allclose(detections["diameter_nm"], detections["diameter_px"] * side_nm)
    assert detections["diameter_nm"].mean() == pytest.approx(8, rel=0.1)


def test_thon_rings_need_square_pixels():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512] - 256.0
    q_per_nm = np.hypot(y, x) / (512 * 0.1)
    wave = np.fft.fft2(rng.normal(0, 1, (512, 512))) * np.fft.ifftshift(np.sin(np.pi * 0.00251 * 500 * q_per_nm**2))
    image = np.fft.ifft2(wave).real.astype(np.float32)
    row = {"nm_per_pixel": 0.1, "nm_per_pixel_y": 0.1, "voltage_kv": 200.0}
    square = measure_thon_rings(image, row, Featurise(rings="on", cs_mm=0.0))
    assert square["defocus_nm"] == pytest.approx(500, rel=0.1)
    stretched = measure_thon_rings(image, row | {"nm_per_pixel_y": 0.12}, Featurise(rings="on"))
    assert list(stretched) == list(THON_RINGS)
    assert all(math.isnan(value) for value in stretched.values())


def test_a_run_keeps_both_sizes_and_flags_them(in_process, tmp_path):
    """An MRC file of 0.25 nm along x and 1 nm along y: disks of 16 px are circles of 8 nm by their area."""
    folder = tmp_path / "archive"
    folder.mkdir()
    with mrcfile.new(folder / "tall.mrc") as file:
        file.set_data(draw_disks(8))
        file.voxel_size = (2.5, 10.0, 10.0)  # angstrom, along x, y, z
    sizes = {"min_diameter_nm": 4.0, "max_diameter_nm": 12.0, "polarity": "bright"}
    settings = replace(in_process, {"detect": sizes})
    assert run(str(folder), str(tmp_path / "ws"), settings, say=lambda text: None) == 0
    (row,) = pd.read_parquet(tmp_path / "ws" / "triage.parquet").itertuples()
    assert (row.nm_per_pixel, row.nm_per_pixel_y) == pytest.approx((0.25, 1.0))
    assert "non_square_pixels" in row.reasons
    assert "0.25 nm along x and 1 nm along y" in row.explanation
    ledger = pd.read_parquet(tmp_path / "ws" / "micrographs.parquet")
    assert ledger["stack"].tolist() == ["240x240-uint16-1x0.25nm"]
    group = zarr.open_group(tmp_path / "ws" / "micrographs.zarr" / ledger["stack"][0], mode="r")
    level = group.attrs["ome"]["multiscales"][0]["datasets"][0]
    assert level["coordinateTransformations"][0]["scale"] == pytest.approx([1.0, 1.0, 0.25])
    detections = parts.read_table(str(tmp_path / "ws"), list_run_folders(settings)["detections"], SCHEMAS["detections"])
    assert len(detections) == 9
    assert detections["diameter_nm"].mean() == pytest.approx(8, rel=0.1)
