"""HRTEM particles: contrast of both signs of defocus, dose, pixel size, and the conditions noted beside the image."""

import numpy as np
import pytest

from emqa_dask.archive.readers import read_micrograph
from emqa_dask.cli import main
from emqa_dask.synthetic import hrtem
from emqa_dask.synthetic.archive import synthesise
from emqa_dask.synthetic.sample import merge_masks


def draw_scene(**choices):
    return hrtem.draw_scene(np.random.default_rng(5), (256, 256), 0.1, n=12, median_radius_nm=1.6, **choices)


def measure_contrast(scene, defocus_nm):
    """Mean intensity on particles, less that beside them."""
    intensity = hrtem.compute_intensity(scene, defocus_nm)
    is_particle = merge_masks(scene.masks, scene.shape)
    return intensity[is_particle].mean() - intensity[~is_particle].mean()


def test_particles_are_darker_at_underfocus_than_at_overfocus():
    scene = draw_scene(film_rad=0.0)
    under, focus, over = (measure_contrast(scene, defocus) for defocus in (-200, 0, 200))
    assert under < focus < over
    assert under < -0.05


def test_thickness_gives_amplitude_contrast_in_focus():
    """A wide, flat phase at zero frequency's neighbourhood: contrast -2 * amplitude * phase, as the transfer says."""
    scene = draw_scene(film_rad=0.0)
    shape = scene.phase_rad.shape
    wave = np.tile(0.02 * np.cos(2 * np.pi * 4 * np.arange(shape[1]) / shape[1]), (shape[0], 1)).astype(np.float32)
    image = hrtem.compute_intensity(scene._replace(phase_rad=wave), 0.0) - 1
    pad_px = round(hrtem.PAD_NM / 0.1)
    expected = -2 * scene.lens["amplitude"] * wave[pad_px : pad_px + 256, pad_px : pad_px + 256]
    np.testing.assert_allclose(image, expected, atol=2e-4)


@pytest.mark.parametrize("nm_per_pixel", [0.1, 0.2, 0.35])
def test_counts_and_noise_follow_the_dose_per_area(nm_per_pixel):
    flat = np.ones((210, 210), np.float32)
    electrons = hrtem.record_intensity(np.random.default_rng(0), flat, 0.1, nm_per_pixel, 4000)
    expected = 4000 * nm_per_pixel**2
    assert electrons.shape == (round(210 * 0.1 / nm_per_pixel),) * 2
    assert electrons.mean() == pytest.approx(expected, rel=0.01)
    # Noise of a blurred Poisson image: variance times the sum of the squared kernel, 1 / (4 pi sigma^2) for wide ones.
    line = np.exp(-0.5 * (np.arange(-4, 5) / hrtem.MTF_SIGMA_PX) ** 2)
    kernel_power = (line**2).sum() / line.sum() ** 2
    assert electrons.std() == pytest.approx(np.sqrt(expected) * kernel_power, rel=0.08)


def test_pixels_finer_than_the_drawing_are_refused():
    with pytest.raises(ValueError, match=r"0\.05 is finer than that of the drawing, 0\.1"):
        hrtem.record_intensity(np.random.default_rng(0), np.ones((8, 8), np.float32), 0.1, 0.05, 100)


def test_another_dose_keeps_specimen_and_defocus():
    first, second = (
        hrtem.draw_hrtem_particles(np.random.default_rng(3), (96, 96), dose_factor=factor) for factor in (1, 8)
    )
    assert second.meta["dose_e_per_nm2"] == pytest.approx(8 * first.meta["dose_e_per_nm2"])
    assert second.meta["defocus_nm"] == first.meta["defocus_nm"]
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_an_archive_notes_dose_defocus_and_pixel_size(tmp_path):
    counts = synthesise(tmp_path / "a", "hrtem-particles", n=3, seed=1, shape=(64, 64), faults=())
    notes = sorted((tmp_path / "a").rglob("*.mdoc"))
    assert len(notes) == counts["n_micrographs"] == 3
    for path in notes:
        _, header = read_micrograph(path.with_suffix(""))
        values = dict(line.split(" = ") for line in path.read_text().splitlines() if " = " in line and "[" not in line)
        assert header.dose_e_per_nm2 == pytest.approx(100 * float(values["ExposureDose"]))
        assert header.nm_per_pixel == pytest.approx(float(values["PixelSpacing"]) / 10)
        assert header.voltage_kv == 300


def test_the_command_line_acquires_an_archive_at_another_dose(tmp_path):
    doses = []
    for factor in ("1", "4"):
        out = tmp_path / factor
        assert main(["synthesise", str(out), "--profile", "hrtem-particles", "--n", "1", "--dose-factor", factor]) == 0
        (note,) = out.rglob("*.mdoc")
        doses.append(float(note.read_text().partition("ExposureDose = ")[2].split()[0]))
    assert doses[1] == pytest.approx(4 * doses[0], rel=1e-4)


def test_a_dose_factor_asks_for_a_profile_with_doses(tmp_path):
    with pytest.raises(ValueError, match="profile cavity-tem note no dose; draw hrtem-particles"):
        synthesise(tmp_path / "a", "cavity-tem", n=2, dose_factor=2.0)
