"""emqa study conditions: the grid, the surface on the card, own micrographs, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import models, response_surface
from emqa_dask.cli import main
from emqa_dask.pipeline.studies.conditions import acquire, study
from emqa_dask.synthetic.archive import synthesise

GRID = [
    *("--dose", "100", "600", "4000"),
    *("--defocus", "-200", "0", "200"),
    *("--pixel-size", "0.12", "0.16", "0.25"),
]
COMMAND = ["study", "conditions", "log-f1", "--template", "hrtem-particles"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    assert main([*COMMAND, "--specimens", "2", *GRID, "--seed", "4", "--out", str(out)]) == 0
    return out


def test_the_true_f1_of_every_point_is_written(studied):
    grid = pd.read_csv(studied / "grid.csv")
    assert len(grid) == 27
    assert grid["true_f1"].between(0, 1).all()
    by_dose = grid.groupby("dose_e_per_nm2")["true_f1"].mean()
    assert by_dose.is_monotonic_increasing
    assert by_dose[4000] > 0.6
    assert by_dose[100] < 0.3
    assert {path.stem for path in studied.glob("*.png")} == {"maps", "doses", "held_out"}
    page = (studied / "index.html").read_text()
    assert "no real image is among them" in page
    assert "construct of emqa_dask" in page


def test_the_card_of_a_copy_has_the_surface(studied):
    card = models.load_model_card(Path(f"{studied}-model"))
    surface = response_surface.read_response_surface(card)
    grid = pd.read_csv(studied / "grid.csv")
    f1 = response_surface.evaluate_surface(surface, grid[list(surface.axes)])
    assert np.abs(f1 - grid["true_f1"]).mean() < 0.08
    summary = json.loads((studied / "summary.json").read_text())
    assert card["conditions"]["held_out_mae"] == pytest.approx(summary["held_out_mae"])
    assert "conditions" not in models.load_model_card(models.locate_model("log-f1"))
    assert card["quality_model"] == models.load_model_card(models.locate_model("log-f1"))["quality_model"]


def test_an_interrupted_study_goes_on(studied, tmp_path, monkeypatch):
    out = tmp_path / "again"
    command = [*COMMAND, "--specimens", "2", *GRID, "--seed", "4", "--out", str(out)]
    acquired = []
    acquire_scene = acquire.acquire_scene

    def stop_at_the_second(number, *args):
        acquired.append(number)
        if number == 1 and len(acquired) == 2:
            raise KeyboardInterrupt
        return acquire_scene(number, *args)

    monkeypatch.setattr(acquire, "acquire_scene", stop_at_the_second)
    assert main(command) == 130
    assert not out.exists()
    assert main(command) == 0
    assert acquired == [0, 1, 1]
    assert (out / "grid.csv").read_bytes() == (studied / "grid.csv").read_bytes()
    assert not out.with_name("again.unfinished").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "log-f1 comes without labelled images: give --specimens N"),
        (["--specimens", "2", "--workspace", "w"], "comes without labelled images"),
        (["--specimens", "0"], "--specimens is 0"),
        (["--specimens", "2", "--dose", "100"], "at least 3 values"),
        (["--specimens", "2", "--pixel-size", "0.1", "0.2", "0"], "finite and above 0"),
        (["--specimens", "2", "--labels", "a.json"], "--labels without --workspace"),
        (["--workspace", "w", "--defocus", "0", "10", "20"], "cannot be changed"),
    ],
)
def test_what_makes_no_study_is_refused(options, message, tmp_path, capsys):
    assert main([*COMMAND, *options, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_model_of_a_detector_alone_is_refused(tmp_path, capsys):
    command = ["study", "conditions", "em-objects", "--specimens", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "neither the card of a quality model nor of a forest" in capsys.readouterr().err


def test_a_foreign_folder_is_not_replaced(tmp_path, capsys):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("mine")
    out = ["--out", str(tmp_path / "out"), "--model-out", str(tmp_path / "m")]
    assert main([*COMMAND, "--specimens", "1", *out]) == 1
    assert "is not what emqa would write there" in capsys.readouterr().err


def make_recording(**changes) -> acquire.Recording:
    image = np.random.default_rng(0).poisson(50.0, (200, 200)).astype(np.uint16)
    recording = acquire.Recording("a.tif", image, np.array([[20.0, 40, 60, 80]]), 0.1, 5000.0)
    return recording._replace(**changes)


def make_axes(doses=(1000, 2500, 5000), pixels=(0.1, 0.2, 0.4)):
    return {"nm_per_pixel": np.array(pixels, float), "dose_e_per_nm2": np.array(doses, float)}


def test_fewer_electrons_have_the_noise_of_their_dose():
    """Binomial thinning of Poisson counts gives Poisson counts: the variance is the mean."""
    axes = make_axes()
    acquisitions = list(acquire.acquire_recording(make_recording(), 0, 0, axes))
    for (nm_per_pixel, dose), acquisition in zip(response_surface.list_grid_points(axes), acquisitions, strict=True):
        mean = dose * nm_per_pixel**2
        assert acquisition.image.mean() == pytest.approx(mean, rel=0.02)
        assert acquisition.image.var() == pytest.approx(mean, rel=0.12)
        np.testing.assert_allclose(acquisition.boxes, np.array([[20, 40, 60, 80]]) * 0.1 / nm_per_pixel)


@pytest.mark.parametrize(
    ("changes", "axes", "message"),
    [
        ({"dose_e_per_nm2": np.nan}, {}, "a.tif: its dose is unknown"),
        ({"nm_per_pixel": np.nan}, {}, "a.tif: its pixel size is unknown"),
        ({}, {"doses": (1000, 2500, 6000)}, "no further electrons|holds no further"),
        ({}, {"pixels": (0.05, 0.1, 0.2)}, "no finer detail was recorded"),
        ({}, {"pixels": (0.1, 0.2, 0.8)}, "with pixels of 0.8 nm it has 25 px a side"),
    ],
)
def test_nothing_is_added_to_a_recorded_image(changes, axes, message):
    with pytest.raises(ValueError, match=message):
        acquire.check_recording(make_recording(**changes), make_axes(**axes))


def test_an_image_without_grey_values_has_no_electrons():
    with pytest.raises(ValueError, match="no electrons can be counted"):
        acquire.count_electrons(np.zeros((4, 4)), 100, 0.1)


def test_own_micrographs_are_studied_without_a_defocus(tmp_path, capsys):
    synthesise(tmp_path / "a", "hrtem-particles", n=2, seed=3, shape=(320, 320), faults=(), dose_factor=100.0)
    root = str(tmp_path / "w")
    triage = ["triage", str(tmp_path / "a"), "--workspace", root, "--template", "hrtem-particles"]
    assert main([*triage, "--scheduler", "in-process"]) == 0
    labels = str(tmp_path / "a.truth" / "annotations.json")
    command = ["study", "conditions", "log-f1", "--workspace", root, "--out", str(tmp_path / "out"), "--seed", "1"]
    grid = ["--dose", "50", "500", "5000", "--pixel-size", "0.2", "0.25", "0.3"]
    assert main([*command, *grid]) == 1
    assert "give --labels FILE" in capsys.readouterr().err
    assert main([*command, "--labels", labels, "--dose", "50", "500", "1e9", "--pixel-size", "0.2", "0.25", "0.3"]) == 1
    assert "holds no further electrons" in capsys.readouterr().err
    assert main([*command, "--labels", labels, *grid]) == 0
    table = pd.read_csv(tmp_path / "out" / "grid.csv")
    assert list(table.columns[:2]) == ["nm_per_pixel", "dose_e_per_nm2"]
    assert table["n_images"].eq(2).all()
    assert table.groupby("dose_e_per_nm2")["true_f1"].mean().is_monotonic_increasing
    card = models.load_model_card(tmp_path / "out-model")
    assert list(card["conditions"]["axes"]) == ["nm_per_pixel", "dose_e_per_nm2"]


def test_a_model_fitted_to_counts_is_refused(tmp_path):
    shutil.copytree(models.locate_model("log-f1"), tmp_path / "m")
    card = models.load_model_card(tmp_path / "m")
    card["quality_model"]["rule"] = "counts"
    models.write_model_card(tmp_path / "m", card)
    with pytest.raises(models.ModelError, match="calibrate with labels of boxes"):
        study.read_matching(str(tmp_path / "m"), study.Settings())
