"""emqa study robustness: settings tuned at each level of noise, counts, what is refused and what is resumed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.cli import main
from emqa_dask.pipeline.studies.robustness import levels
from emqa_dask.synthetic import lattices

NM = 0.03  # 13 px between columns
COMMAND = ["study", "robustness"]
OPTIONS = ["--template", "atomic-stem", "--scheduler", "in-process", "--evaluations", "20", "--seed", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An archive of two lattice images and one without columns, a lattice file and a file of the columns."""
    root = tmp_path_factory.mktemp("robustness")
    (root / "archive").mkdir()
    rows = ["uri,y,x\n"]
    choices = {"nm_per_pixel": NM, "vacancies": 0.0, "jitter_px": 0.0, "background": 0.1, "disorder": False}
    for name in ("a.tif", "b.tif"):
        sample = lattices.draw_lattice(np.random.default_rng(ord(name[0])), (160, 160), cell="SrTiO3 [001]", **choices)
        image = sample.image.astype(float)
        tifffile.imwrite(root / "archive" / name, (60000 * (image - image.min()) / np.ptp(image)).astype(np.uint16))
        rows += [f"{name},{y + 0.5},{x + 0.5}\n" for y, x in sample.meta["sites_yx"]]
    tifffile.imwrite(root / "archive" / "other.tif", np.random.default_rng(0).integers(0, 99, (160, 160), np.uint16))
    (root / "columns.csv").write_text("".join(rows))
    (root / "srtio3.toml").write_text("a_nm = 0.3905\nb_nm = 0.3905\ngamma_deg = 90\ncolumns = [[0, 0], [0.5, 0.5]]\n")
    return root


def make_command(folder: Path, out: Path, *more: str) -> list[str]:
    """The study of the two lattice images at two levels."""
    physics = ["--lattice", str(folder / "srtio3.toml"), "--nm-per-pixel", str(NM)]
    store = ["--workspace", str(folder / "ws"), "--out", str(out), "--cohort", "[ab].tif", "--noise", "0", "0.4"]
    return [*COMMAND, str(folder / "archive"), *physics, *store, *OPTIONS, *more]


@pytest.fixture(scope="module")
def studied(folder) -> Path:
    out = folder / "out"
    assert main(make_command(folder, out, "--labels", str(folder / "columns.csv"))) == 0
    return out


def test_tuned_settings_keep_the_count(studied):
    counts = pd.read_csv(studied / "counts.csv")
    assert list(counts.groupby(["noise", "detector"]).size()) == [2] * 4
    tuned = counts[counts["detector"] == "LoG*"]
    assert tuned["count_error"].abs().max() < 0.05
    assert tuned["known_count_error"].abs().max() < 0.05
    assert tuned["f1"].min() > 0.9
    untuned = counts[(counts["detector"] == "untuned LoG") & (counts["noise"] == 0.4)]
    assert untuned["count_error"].abs().min() > 0.3
    area_nm2 = (160 * NM) ** 2
    assert counts["n_expected"].to_numpy() == pytest.approx(2 * area_nm2 / 0.3905**2)


def test_each_level_has_its_settings_and_search(studied):
    settings = pd.read_csv(studied / "settings.csv")
    assert list(settings["noise"]) == [0, 0.4]
    evaluations = pd.read_csv(studied / "evaluations.csv")
    assert list(evaluations.groupby("noise").size()) == [20, 20]
    summary = json.loads((studied / "summary.json").read_text())
    assert summary["n_images"] == 2
    assert summary["settings"]["seed"] == 1
    assert {path.name for path in studied.glob("figure3.*")} == {"figure3.png", "figure3.svg"}
    assert "Barakati" in (studied / "index.html").read_text()


def test_an_interrupted_study_goes_on_by_level(folder, studied, tmp_path, monkeypatch):
    out = tmp_path / "again"
    command = make_command(folder, out, "--labels", str(folder / "columns.csv"))
    computed = []
    compute = levels.LevelRunner._compute

    def stop_at_the_second(runner, noise):
        computed.append(noise)
        if computed == [0.0, 0.4]:
            raise KeyboardInterrupt
        return compute(runner, noise)

    monkeypatch.setattr(levels.LevelRunner, "_compute", stop_at_the_second)
    assert main(command) == 130
    assert not out.exists()
    assert main(command) == 0
    assert computed == [0.0, 0.4, 0.4]
    assert (out / "counts.csv").read_bytes() == (studied / "counts.csv").read_bytes()
    assert not out.with_name("again.unfinished").exists()


def test_networks_and_a_density_are_compared(folder, studied, tmp_path):
    out = tmp_path / "density"
    physics = ["--count-per-um2", "1.3e7", "--nm-per-pixel", str(NM), "--images", "1", "--noise", "0", "0.5"]
    command = [*COMMAND, str(folder / "ws"), "--out", str(out), "--detector", "em-objects", *physics, *OPTIONS]
    assert main([*command, "--cohort", "[ab].tif"]) == 0
    counts = pd.read_csv(out / "counts.csv")
    assert list(counts["detector"]) == ["LoG*", "untuned LoG", "em-objects"] * 2
    assert counts["n_expected"].to_numpy() == pytest.approx(13 * (160 * NM) ** 2)
    assert "f1" not in counts


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--noise", "0", "-0.1"], "--noise -0.1: a level is a number from 0 to 10"),
        (["--noise", "0", "11"], "--noise 11: a level"),
        (["--noise", "nan", "1"], "--noise nan: a level"),
        (["--noise", "0.5"], "two levels or more"),
        (["--noise", "0.5", "0.5"], "each once"),
        (["--evaluations", "0"], "--evaluations is 0"),
        (["--lattice", "", "--noise", "0", "1"], "no physics to tune by: give --lattice FILE or --count-per-um2"),
        (["--labels", "no.csv"], "no.csv"),
        (["--cohort", "z*"], "--cohort z*"),
        (["--detector", "no-such-network"], "no-such-network"),
    ],
)
def test_what_makes_no_study_is_refused(folder, tmp_path, capsys, more, message):
    assert main(make_command(folder, tmp_path / "out", *more)) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_pixel_sizes_are_named(folder, studied, tmp_path, capsys):
    lattice = ["--lattice", str(folder / "srtio3.toml")]
    command = [*COMMAND, str(folder / "ws"), *lattice, "--out", str(tmp_path / "out"), *OPTIONS]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert ".tif: nm_per_pixel is nan" in error
    assert "--nm-per-pixel" in error


def test_a_folder_without_images_is_refused(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    command = [*COMMAND, str(tmp_path / "empty"), "--count-per-um2", "9", "--workspace", str(tmp_path / "ws"), *OPTIONS]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_not_replaced(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(make_command(folder, tmp_path / "out")) == 1
    assert "is not what emqa would write there" in capsys.readouterr().err
