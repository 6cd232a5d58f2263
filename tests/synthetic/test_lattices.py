"""Lattices: sites are the maxima of the columns, spacing is the crystal's, no column in the disordered region."""

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from emqa_dask.synthetic import lattices

CLEAN = {
    "jitter_px": 0.0,
    "vacancies": 0.0,
    "background": 0.0,
    "dtype": "float32",
    "exposure": {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0},
}


@pytest.mark.parametrize("cell", sorted(lattices.CELLS))
def test_sites_are_the_maxima_of_the_columns(cell):
    sample = lattices.draw_lattice(
        np.random.default_rng(2),
        (200, 180),
        cell=cell,
        column_sigma_px=2.0,
        nm_per_pixel=0.008,
        disorder=False,
        **CLEAN,
    )
    image = np.log(sample.image.astype(float) - 0.999 * sample.image.min())
    sites = sample.meta["sites_yx"]
    assert len(sites) == len(sample.boxes) > 20
    inner = sites[((sites > 2) & (sites < np.array(image.shape) - 3)).all(axis=1)]
    # Columns that stand alone: within 5 sigma of a neighbour the maximum moves towards it.
    inner = inner[cKDTree(sites).query(inner, k=2)[0][:, 1] > 10]
    assert len(inner) > 10
    y, x = np.rint(inner).astype(int).T
    offsets = []
    for dy, dx in ((1, 0), (0, 1)):
        before = image[y - dy, x - dx]
        here = image[y, x]
        after = image[y + dy, x + dx]
        offsets.append(0.5 * (before - after) / (before - 2 * here + after))
    np.testing.assert_allclose(np.stack([y, x], axis=1) + np.stack(offsets, axis=1), inner, atol=0.06)


def test_the_nearest_spacing_is_the_crystals():
    sample = lattices.draw_lattice(
        np.random.default_rng(3), (300, 300), cell="SrTiO3 [001]", nm_per_pixel=0.02, disorder=False, **CLEAN
    )
    nearest = cKDTree(sample.meta["sites_yx"]).query(sample.meta["sites_yx"], k=2)[0][:, 1]
    np.testing.assert_allclose(nearest, 0.3905 / np.sqrt(2) / 0.02, rtol=1e-6)
    assert sample.meta["spacing_px"] == pytest.approx(0.3905 / np.sqrt(2) / 0.02)
    assert set(sample.labels) == {"Sr", "Ti"}


def test_column_boxes_have_the_width_at_1_over_e():
    sample = lattices.draw_lattice(
        np.random.default_rng(4), (200, 200), column_sigma_px=3.0, nm_per_pixel=0.01, disorder=False
    )
    y0, x0, y1, x1 = sample.boxes.T
    y, x = sample.meta["sites_yx"].T
    assert ((y0 - 0.5 <= y) & (y <= y1 - 0.5) & (x0 - 0.5 <= x) & (x <= x1 - 0.5)).all()
    whole = (y0 > 0) & (x0 > 0) & (y1 < 200) & (x1 < 200)
    np.testing.assert_allclose((y1 - y0)[whole], 2 * np.sqrt(2) * 3.0, atol=1.0)
    areas = np.array([crop.sum() for _, _, crop in sample.masks])[whole]
    np.testing.assert_allclose(areas, 2 * np.pi * 9, rtol=0.12)


@pytest.mark.parametrize("seed", range(6))
def test_neither_phase_has_islands_of_a_few_columns(seed):
    sample = lattices.draw_lattice(np.random.default_rng(seed), (300, 320), disorder=True, nm_per_pixel=0.03)
    region = sample.meta["disordered"]
    assert 0 < region.mean() < 1
    for phase in (region, ~region):
        sizes = cv2.connectedComponentsWithStats(phase.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        assert len(sizes) == 1 or sizes.min() >= (5 * sample.meta["spacing_px"]) ** 2


def test_the_disordered_region_has_no_column_and_equal_brightness():
    sample = lattices.draw_lattice(np.random.default_rng(5), (256, 256), disorder=True, **CLEAN)
    region = sample.meta["disordered"]
    assert 0.05 < region.mean() < 0.6
    y, x = np.rint(sample.meta["sites_yx"]).astype(int).T
    assert not region[np.clip(y, 0, 255), np.clip(x, 0, 255)].any()
    assert sample.image[region].mean() == pytest.approx(sample.image[~region].mean(), rel=0.25)


def test_vacancies_and_jitter_are_as_asked():
    settings = {"cell": "Au [001]", "nm_per_pixel": 0.012, "rotation_deg": 10.0, "disorder": False}
    perfect = lattices.draw_lattice(np.random.default_rng(6), (400, 400), jitter_px=0.0, vacancies=0.0, **settings)
    spoilt = lattices.draw_lattice(np.random.default_rng(6), (400, 400), jitter_px=0.8, vacancies=0.1, **settings)
    n = len(perfect.boxes)
    assert len(spoilt.boxes) == pytest.approx(0.9 * n, abs=3.5 * np.sqrt(0.09 * n) + 5)
    inner = spoilt.meta["sites_yx"]
    inner = inner[((inner > 10) & (inner < 390)).all(axis=1)]  # at the edge a neighbour may have left the image
    shift, _ = cKDTree(perfect.meta["sites_yx"]).query(inner)
    assert np.sqrt((shift**2).mean() / 2) == pytest.approx(0.8, rel=0.1)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="Unobtainium"):
        lattices.draw_lattice(np.random.default_rng(0), (64, 64), cell="Unobtainium")
