"""Rings of amorphous films give the lens back; images without rings give NaN."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import rings
from emqa_dask.featurise.rings import MIN_QUALITY, ThonRings, measure_thon_rings
from emqa_dask.synthetic import fields, foreign
from emqa_dask.synthetic.films import draw_amorphous_film
from emqa_dask.synthetic.profiles import make_sample

CLEAR = {"contrast": 0.1, "dose_e_per_px": 200.0, "amplitude": 0.1, "convergence_mrad": 0.05}
LENSES = [  # kV, Cs mm, nm/px, defocus nm
    (80, 0.0, 0.2, -450.0),
    (80, 2.7, 0.12, 1000.0),
    (120, 1.2, 0.15, 300.0),
    (120, 2.7, 0.2, -2000.0),
    (200, 0.0, 0.1, 700.0),
    (200, 1.2, 0.06, -350.0),
    (200, 2.7, 0.17, 1500.0),
    (300, 1.2, 0.08, -600.0),
    (300, 2.7, 0.1, 3000.0),
    (300, 0.0, 0.2, -3000.0),
]


def film(seed: int, lens: tuple, shape: tuple[int, int] = (640, 640), **more: float) -> np.ndarray:
    kv, cs, nm_per_pixel, defocus = lens
    imaging = {"voltage_kv": kv, "cs_mm": cs, "focal_spread_nm": 3.0} | CLEAR | more
    return draw_amorphous_film(
        np.random.default_rng(seed), shape, nm_per_pixel=nm_per_pixel, defocus_nm=defocus, **imaging
    )


@pytest.mark.parametrize("lens", LENSES)
def test_the_defocus_is_recovered(lens):
    kv, cs, nm_per_pixel, defocus = lens
    found = measure_thon_rings(film(3, lens), nm_per_pixel, kv, cs_mm=cs)
    assert found.defocus_nm == pytest.approx(abs(defocus), rel=0.03)
    assert found.defocus_long_nm / found.defocus_short_nm == pytest.approx(1, abs=0.05)
    assert MIN_QUALITY <= found.quality <= 1
    assert 0 < found.limit_per_nm < 0.5 / nm_per_pixel


@pytest.mark.parametrize("angle", [0.0, 40.0, 125.0])
@pytest.mark.parametrize("defocus", [-800.0, 800.0])
def test_astigmatism_and_its_direction_are_recovered(defocus, angle):
    image = film(1, (200, 1.2, 0.12, defocus), astigmatism_nm=100.0, astigmatism_deg=angle)
    found = measure_thon_rings(image, 0.12, 200, cs_mm=1.2)
    assert [found.defocus_long_nm, found.defocus_short_nm] == pytest.approx([900, 700], rel=0.02)
    longest = angle if defocus > 0 else angle + 90  # where the magnitude is largest
    assert abs((found.astigmatism_deg - longest + 90) % 180 - 90) < 3


def test_turning_the_image_turns_the_astigmatism_and_nothing_else():
    image = film(2, (200, 1.2, 0.12, -700.0), astigmatism_nm=70.0, astigmatism_deg=20.0)
    found, turned = (measure_thon_rings(x, 0.12, 200, cs_mm=1.2) for x in (image, np.rot90(image)))
    assert turned.defocus_nm == pytest.approx(found.defocus_nm, rel=0.005)
    assert abs((turned.astigmatism_deg - found.astigmatism_deg) % 180 - 90) < 3


def test_the_information_limit_falls_with_focal_spread_and_dose():
    def limit(**more: float) -> float:
        return measure_thon_rings(film(4, (200, 1.2, 0.06, -500.0), **more), 0.06, 200, cs_mm=1.2).limit_per_nm

    limits = [limit(focal_spread_nm=spread, convergence_mrad=0.01) for spread in (2.0, 8.0, 16.0)]
    assert limits[0] > 1.2 * limits[1] > 1.2 * 1.2 * limits[2]
    assert limit(dose_e_per_px=10.0) < limit(dose_e_per_px=1000.0)


def test_grey_scale_offset_and_a_few_x_rays_change_nothing():
    image = film(5, (300, 1.2, 0.1, -900.0))
    found = measure_thon_rings(image, 0.1, 300)
    counts = np.rint(image * 20 + 400).astype(np.uint16)
    counts[np.random.default_rng(0).integers(0, 640, (2, 60)).tolist()] = 65535
    assert measure_thon_rings(counts, 0.1, 300).defocus_nm == pytest.approx(found.defocus_nm, rel=0.01)


def ringless(name: str, rng: np.random.Generator) -> np.ndarray:
    shape = (512, 512)
    if name in ("nanoparticle-tem", "atomic-stem", "sem-texture"):
        return make_sample(name, rng, shape).image
    if name in foreign.FOREIGN:
        image = foreign.make_foreign_image(name, rng, shape)
        return image.mean(axis=2) if image.ndim == 3 else image
    if name == "white":
        return rng.poisson(30, shape)
    return fields.draw_fractal(rng, shape, exponent=rng.uniform(0.5, 3)) + 0.05 * fields.draw_white_noise(rng, shape)


def test_images_without_rings_give_nan():
    names = ["nanoparticle-tem", "atomic-stem", "sem-texture", "white", "fractal", *foreign.FOREIGN]
    wrong = []
    for name in names:
        for seed in range(8):
            rng = np.random.default_rng([seed, names.index(name)])
            image = ringless(name, rng)
            found = measure_thon_rings(image, float(np.exp(rng.uniform(-3.5, -0.7))), 200)
            assert 0 <= found.quality <= 1
            if np.isfinite(found.defocus_nm):
                wrong.append((name, seed, found))
            else:
                assert np.isnan(found[:5]).all()
    assert len(wrong) <= 0.02 * 8 * len(names), wrong


def test_a_film_drowned_in_noise_gives_nan_not_a_number():
    for seed in range(6):
        found = measure_thon_rings(film(seed, (200, 1.2, 0.1, -700.0), dose_e_per_px=0.3, contrast=0.02), 0.1, 200)
        assert np.isnan(found.defocus_nm)


@pytest.mark.parametrize(
    ("image", "nm_per_pixel", "kv"),
    [
        (np.ones((512, 512)), 0.1, 200),
        (np.random.default_rng(0).random((200, 900)), 0.1, 200),
        (np.where(np.arange(512 * 512).reshape(512, 512) == 777, np.nan, np.arange(512) % 9), 0.1, 200),
        (np.random.default_rng(0).random((512, 512)), np.nan, 200),
        (np.random.default_rng(0).random((512, 512)), 0.1, np.nan),
    ],
)
def test_what_cannot_be_known_is_nan_with_quality_0(image, nm_per_pixel, kv):
    found = measure_thon_rings(image, nm_per_pixel, kv)
    assert isinstance(found, ThonRings)
    assert np.isnan(found[:5]).all()
    assert found.quality == 0


def test_a_stack_is_refused():
    with pytest.raises(ValueError, match="one frame"):
        measure_thon_rings(np.zeros((3, 512, 512)), 0.1, 200)


def test_the_study_writes_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rings.py", "--out", str(tmp_path), "--films", "6", "--others", "1"])
    rings.main()
    summary = json.loads((tmp_path / "summary.json").read_text())
    films = pd.read_csv(tmp_path / "films.csv")
    assert summary["films"] == len(films) == 6
    assert summary["found"] == films["found_defocus_nm"].notna().sum()
    assert summary["found_and_right_within_5_percent"] == 1
    assert summary["images_without_rings"] == len(pd.read_csv(tmp_path / "others.csv")) == 6 + len(foreign.FOREIGN)
    bright = rings.draw(np.random.default_rng(0)) | {"contrast": 0.1, "nm_per_pixel": 0.1, "defocus_nm": -800.0}
    counts = [rings.visible_rings(bright | {"dose_e_per_px": dose}, 1024) for dose in (0.1, 10.0, 1000.0)]
    assert counts[0] < counts[1] <= counts[2]
