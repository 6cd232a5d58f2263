"""Types of atomic columns against crystals whose columns are known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.synthetic import camera, lattices
from emqa_dask.tune import atom_figures
from emqa_dask.tune.atom_types import MIN_COLUMNS, find_types

SIMULATED = Path(__file__).parents[3] / "shared/data/abtem_sim"
# (cell, its labels by falling intensity)
CRYSTALS = {
    "Au [001]": ["Au"],
    "Si [110]": ["Si"],
    "SrTiO3 [001]": ["Sr", "Ti"],
    "MoS2 [001]": ["Mo", "S"],
    "YBCO [100]": ["Ba", "Y", "Cu"],
    "four types [001]": ["A", "B", "C", "D"],
}


def draw_crystal(cell: str, noise: float, seed: int, spacing_px: float = 16.0):
    """An image from 0 to 1 with Gaussian noise of that standard deviation, the columns and their true types."""
    rng = np.random.default_rng(seed)
    spacing_nm = lattices._compute_nearest_spacing_nm(*lattices.get_cell(cell))
    choices = {"vacancies": 0.0, "jitter_px": 0.0, "background": 0.1, "disorder": False, "dtype": "float32"}
    exposure = camera.draw_settings(rng, low_dose=690, high_dose=700) | {"mtf_sigma_px": 0.0, "seam": False}
    choices |= {"nm_per_pixel": spacing_nm / spacing_px, "column_sigma_px": 0.22 * spacing_px, "exposure": exposure}
    sample = lattices.draw_lattice(rng, (320, 320), cell=cell, **choices)
    image = (sample.image - sample.image.min()) / np.ptp(sample.image).astype(float)
    types = np.array([CRYSTALS[cell].index(label) + 1 for label in sample.labels])
    return image + noise * rng.standard_normal(image.shape), sample.meta["sites_yx"], types


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("cell", CRYSTALS)
def test_columns_of_a_crystal_get_their_types(cell, noise):
    image, sites, types = draw_crystal(cell, noise, seed=1)
    found = find_types(image, sites)
    assert len(found.types) == len(CRYSTALS[cell])
    assert (found.columns["type"].to_numpy(int) == types).mean() >= 0.95
    assert found.types["mean_intensity"].is_monotonic_decreasing
    assert found.types["n_columns"].sum() == len(sites)
    assert len(found.bic) == 6
    assert np.nanargmin(found.bic) + 1 == len(found.types)


def test_noise_does_not_hide_types_of_narrow_columns():
    image, sites, types = draw_crystal("four types [001]", 0.3, seed=12, spacing_px=12.0)
    found = find_types(image, sites)
    assert len(found.types) == 4
    assert (found.columns["type"].to_numpy(int) == types).mean() >= 0.9


def test_gain_offset_order_and_a_second_run_change_no_type():
    image, sites, _ = draw_crystal("YBCO [100]", 0.2, seed=2)
    first = find_types(image, sites).columns
    pd.testing.assert_frame_equal(first, find_types(image, sites).columns)
    other = find_types(400 * image + 7000, sites[::-1]).columns[::-1].reset_index(drop=True)
    pd.testing.assert_series_equal(first["type"], other["type"])
    np.testing.assert_allclose(first["intensity"] * 400, other["intensity"], rtol=1e-4)


def test_the_limit_of_types_is_kept():
    image, sites, _ = draw_crystal("four types [001]", 0.0, seed=3)
    found = find_types(image, sites, max_types=2)
    assert len(found.bic) == 2
    assert len(found.types) == 2


@pytest.mark.parametrize("n", [0, 1, MIN_COLUMNS - 1])
def test_unknown_types_of_few_columns_state_the_needed_number(n):
    image, sites, _ = draw_crystal("Au [001]", 0.0, seed=4)
    found = find_types(image, sites[:n])
    assert found.verdict == f"unknown: {n} columns of at least 30"
    assert found.columns["type"].isna().all()
    assert (len(found.columns), len(found.types), found.bic) == (n, 0, [])
    assert find_types(np.zeros((64, 64)), sites[sites.max(axis=1) < 63]).verdict.startswith("unknown")


def test_faulty_inputs_are_named():
    image, sites, _ = draw_crystal("Au [001]", 0.0, seed=4)
    with pytest.raises(ValueError, match="max_types is 0"):
        find_types(image, sites, max_types=0)
    with pytest.raises(ValueError, match="outside the image"):
        find_types(image, sites + 1000)


def test_the_overlay_names_every_type():
    image, sites, types = draw_crystal("SrTiO3 [001]", 0.0, seed=5)
    figure = atom_figures.draw_overlay(image, find_types(image, sites), title="scan.tif")
    counts = np.bincount(types)[1:]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [f"type {k + 1}: {n}" for k, n in enumerate(counts)]
    assert figure.axes[0].get_title() == "scan.tif\n2 types"


@pytest.mark.parametrize("dose", ["1e+05", "2e+06"])
def test_simulated_strontium_titanate_has_two_types(dose):
    path = SIMULATED / f"sto_haadf_dose{dose}.tif"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    columns = pd.DataFrame(json.loads((SIMULATED / "sto_haadf.json").read_text())["columns_px"])
    columns = columns[columns["element"] != "O"]  # too light for HAADF
    image = tifffile.imread(path)
    found = find_types(image, columns[["y", "x"]].to_numpy())
    assert len(found.types) == 2
    assert (found.columns["type"].eq(1).to_numpy() == columns["element"].eq("Sr").to_numpy()).mean() == 1
