"""Cavities: the sign of the rim, sizes, thickness, overlaps; and the optics behind them."""

import numpy as np
import pytest
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from emqa_dask.synthetic import cavities, optics, particles, shapes
from emqa_dask.synthetic.sample import merge_masks

CLEAN = {"background": 0.0, "dtype": "float32", "exposure": {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}}


def rim_and_inside(seed, defocus, facet):
    """Mean contrast of a band one fringe wide outside the cavity, and of one just inside, relative to the bare foil."""
    rng = np.random.default_rng(seed)
    sample = cavities.draw_cavities(
        rng, (256, 256), defocus=defocus, facet=facet, n=1, median_radius_px=30, sigma_log=0.05,
        fringe_px=5.0, amplitude=0.02, contrast=0.3, **CLEAN,
    )  # fmt: skip
    inside = merge_masks(sample.masks, sample.image.shape)
    distance = ndimage.distance_transform_edt(~inside)
    depth = ndimage.distance_transform_edt(inside)
    bare = np.median(sample.image[distance > 40])
    rim = (distance >= 1) & (distance <= 4)
    edge = (depth >= 3) & (depth <= 6)
    return sample.image[rim].mean() / bare - 1, sample.image[edge].mean() / bare - 1


@pytest.mark.parametrize("facet", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_rim_is_bright_in_overfocus_and_dark_in_underfocus(seed, facet):
    over, over_inside = rim_and_inside(seed, "over", facet)
    under, under_inside = rim_and_inside(seed, "under", facet)
    assert over > 0.01 > -0.01 > under
    assert under_inside > over_inside
    if not facet:  # a facet's edge is a wedge, whose fringes lie inside the shadow
        assert under_inside > 0.01 > over_inside


def test_another_defocus_is_refused():
    with pytest.raises(ValueError, match="'in'"):
        cavities.draw_cavities(np.random.default_rng(0), (64, 64), defocus="in")


@pytest.mark.parametrize("make", [cavities.draw_cavities, particles.draw_particles])
def test_sizes_follow_the_log_normal_asked_for(make):
    rng = np.random.default_rng(8)
    extra = {"facet": None} if make is cavities.draw_cavities else {"support": "carbon"}
    sample = make(rng, (1400, 1400), n=300, median_radius_px=14.0, sigma_log=0.3, **extra)
    y0, x0, y1, x1 = sample.boxes.T
    whole = (y0 > 0) & (x0 > 0) & (y1 < 1400) & (x1 < 1400)
    radii = np.sqrt([crop.sum() / np.pi for (_, _, crop), w in zip(sample.masks, whole) if w])
    assert len(radii) > 200
    assert np.median(radii) == pytest.approx(14.0, rel=0.06)
    assert np.log(radii).std() == pytest.approx(0.3, rel=0.2)


def test_overlapping_cavities_keep_whole_masks():
    for seed in range(20):
        sample = cavities.draw_cavities(
            np.random.default_rng(seed), (300, 300), n=60, median_radius_px=22, sigma_log=0.2
        )
        area = sum(int(crop.sum()) for _, _, crop in sample.masks)
        union = int(merge_masks(sample.masks, sample.image.shape).sum())
        assert area >= union
        if area > 1.1 * union:
            return
    pytest.fail("no overlap in 20 crowded images")


def test_a_spheres_thickness_adds_up_to_its_volume():
    for cy, cx in ((30.0, 30.0), (30.3, 29.6)):
        *_, patch = shapes.project_spheroid(cy, cx, 20.0)
        assert patch.sum() == pytest.approx(4 / 3 * np.pi * 20.0**3, rel=5e-3)
        assert patch.max() == pytest.approx(40.0, rel=5e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", ["octahedron", "cube", "dodecahedron"])
def test_a_facetted_shadow_has_the_area_of_its_circle(seed, family):
    turn = Rotation.random(rng=np.random.default_rng(seed))
    normals, distances = shapes.make_facets(turn, truncation=0.75, crystal_shape=family)
    *_, patch = shapes.project_polyhedron(40.2, 39.7, 30.0, normals, distances)
    assert (patch > 0).sum() == pytest.approx(np.pi * 30.0**2, rel=0.04)
    assert not patch[0].any()
    assert not patch[:, -1].any()


def test_an_uncut_cube_has_its_volume_and_its_square_shadow():
    normals, distances = shapes.make_facets(Rotation.identity(), truncation=1.0, crystal_shape="cube")
    *_, patch = shapes.project_polyhedron(0.5, 0.5, 30.0, normals, distances)
    side = 30.0 * np.sqrt(np.pi)
    assert patch.max() == pytest.approx(side, rel=0.02)
    assert patch.sum() == pytest.approx(side**3, rel=0.06)


def test_scattered_circles_keep_their_distance():
    radii = np.full(60, 10.0)
    centres = shapes.place_circles(np.random.default_rng(0), radii, (300, 300), overlap=0.0)
    centres = centres[~np.isnan(centres[:, 0])]
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(len(centres))
    assert len(centres) > 40
    assert gaps.min() >= 20.0


def test_wavelength_and_transfer_follow_the_textbook():
    assert optics.compute_wavelength(300) == pytest.approx(0.00196876, rel=1e-5)
    assert optics.compute_wavelength(200) == pytest.approx(0.00250793, rel=1e-5)
    settings = {"nm_per_pixel": 0.5, "cs_mm": 0.0, "focal_spread_nm": 0.0, "convergence_mrad": 0.0}
    over, under = (
        optics.compute_transfer((128, 128), defocus_nm=df, amplitude=0.1, **settings).astype(float)
        for df in (800.0, -800.0)
    )
    assert over[0, 0] == pytest.approx(0.1)
    q2 = fft.fftfreq(128, 0.5)[:, None] ** 2 + fft.rfftfreq(128, 0.5)[None] ** 2
    chi = np.pi * optics.compute_wavelength(200) * 800 * q2
    np.testing.assert_allclose(over + under, 0.2 * np.cos(chi), atol=2e-4)
    np.testing.assert_allclose(under - over, 2 * np.sqrt(0.99) * np.sin(chi), atol=2e-3)


def test_envelopes_only_damp():
    plain = optics.compute_transfer((64, 64), nm_per_pixel=0.1, defocus_nm=-300, focal_spread_nm=0, convergence_mrad=0)
    damped = optics.compute_transfer(
        (64, 64), nm_per_pixel=0.1, defocus_nm=-300, focal_spread_nm=8, convergence_mrad=0.5
    )
    assert (np.abs(damped) <= np.abs(plain) + 1e-6).all()
    assert np.abs(damped[32, 0]) < 0.1 * np.abs(plain).max()
