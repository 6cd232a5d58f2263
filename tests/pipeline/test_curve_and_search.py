"""emqa train ensemble with --learning-curve and --search, through the command line and interrupted."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask import models
from emqa_dask.cli import main
from emqa_dask.pipeline.commands import ensemble_search
from emqa_dask.pipeline.commands.ensemble_curve import CurveOptions
from emqa_dask.pipeline.commands.train_domain import DomainOptions
from emqa_dask.pipeline.commands.train_ensemble import train_ensemble
from emqa_dask.train.ensemble_plan import EnsembleOptions
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.windows import WindowSettings

N_IMAGES = 120
TINY = (
    "--window 16 --depth 10 --widen 1 --epochs 2 --batch 16 --windows-per-image 1 --examples 1 --scheduler in-process"
)
OPTIONS = EnsembleOptions(
    WindowSettings(16, max_windows=1),
    n_members=2,
    architecture={"depth": 10, "widen": 1},
    schedule=MemberSchedule(epochs=2, batch=16, halve_every=3),
)


def quiet(*_) -> None:
    pass


def write_stripes(root, n=N_IMAGES):
    """Noisy stripes of 16 px, upright or level, and labels.csv."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        stripes = np.tile(np.sin(np.arange(16) * 2 * np.pi / 5 + rng.uniform(0, 6)), (16, 1))
        image = 20000 + 5000 * (stripes if k % 2 else stripes.T) + rng.normal(0, 2500, (16, 16))
        tifffile.imwrite(root / f"{k:03d}.tif", np.clip(image, 0, 65535).astype(np.uint16))
        rows.append({"uri": f"{k:03d}.tif", "label": ("bars", "rows")[k % 2]})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_stripes(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def model(labelled, tmp_path_factory):
    """A model with a curve and a search, trained through the command line with every option of both."""
    folder = tmp_path_factory.mktemp("models")
    unlabelled = folder / "unlabelled"
    unlabelled.mkdir()
    for k in range(5):
        (unlabelled / f"{k}.tif").write_bytes((labelled / f"{k:03d}.tif").read_bytes())
    (unlabelled / "notes.txt").write_text("no image")
    curve = f"--learning-curve --target 0.8 --shares 0.2 0.5 1 --curve-members 2 --unlabelled {unlabelled}"
    text = f"train ensemble {labelled / 'labels.csv'} --out {folder / 'm'} --members 2 --search 3 {curve} {TINY}"
    assert main(text.split()) == 0
    return folder / "m"


def test_the_curve_is_in_the_model_directory(model):
    curve = pd.read_csv(model / "learning_curve.csv")
    assert curve["share"].tolist() == [0.2, 0.5, 1.0]
    assert curve["n_labels"].is_monotonic_increasing
    assert curve["n_labels"].iloc[-1] == models.load_model_card(model)["training"]["train_windows"]
    assert (curve["members"] == 2).all()
    assert curve[["accuracy", "confidence"]].stack().between(0, 1).all()
    card = models.load_model_card(model)
    assert curve["accuracy"].iloc[-1] == card["measured"]["test"]["accuracy"]
    assert card["learning_curve"]["accuracy"]["target"] == 0.8
    assert (model / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_lowest_validation_loss_of_the_trials_wins(model):
    trials = pd.read_csv(model / "search.csv")
    assert len(trials) == 3
    best = trials.loc[trials["validation_nll"].idxmin()]
    training = models.load_model_card(model)["training"]
    for name in ("learning_rate", "weight_decay", "flip"):
        assert training[name] == best[name]
    assert models.load_model_card(model)["architecture"]["widen"] == best["widen"]
    assert trials.loc[0, ["learning_rate", "weight_decay"]].tolist() == [1e-3, 5e-4]  # those that were given


def test_nothing_is_left_beside_the_model(model):
    assert sorted(path.name for path in model.parent.iterdir()) == ["m", "unlabelled"]


def test_an_interrupted_curve_ends_at_the_same_numbers(labelled, in_process, tmp_path):
    options = {"curve_options": CurveOptions(0.9, (0.2, 0.5, 1.0), 2), "domain_options": DomainOptions(examples=1)}
    labels = str(labelled / "labels.csv")
    n_lines = 0

    def stop(line):
        nonlocal n_lines
        n_lines += "of the labels, member" in line
        if n_lines == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(labels, tmp_path / "a", in_process, OPTIONS, **options, windows_per_image=1, say=stop)
    assert len(list((tmp_path / "a.curve").glob("*.training/member_*/record.json"))) == 3
    train_ensemble(labels, tmp_path / "a", in_process, OPTIONS, **options, windows_per_image=1, say=quiet)
    train_ensemble(labels, tmp_path / "b", in_process, OPTIONS, **options, windows_per_image=1, say=quiet)
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / name / "learning_curve.csv") for name in "ab"))


def test_an_interrupted_search_goes_on_with_its_trials(labelled, in_process, tmp_path):
    options = {"n_trials": 3, "domain_options": DomainOptions(examples=1), "windows_per_image": 1}
    labels = str(labelled / "labels.csv")

    def stop(line):
        if line.startswith("trial 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(labels, tmp_path / "a", in_process, OPTIONS, **options, say=stop)
    trials = json.loads((tmp_path / "a.search" / ensemble_search.TRIALS).read_text())
    assert len(trials) == 2
    train_ensemble(labels, tmp_path / "a", in_process, OPTIONS, **options, say=quiet)
    table = pd.read_csv(tmp_path / "a/search.csv")
    assert table["validation_nll"].iloc[:2].tolist() == [trial["validation_nll"] for trial in trials]
    assert table["seconds"].iloc[:2].tolist() == [trial["seconds"] for trial in trials]


@pytest.mark.parametrize(
    ("n", "changes", "says"),
    [
        (30, {}, "the split (validation|test) has . images, and 10 are needed: label 100 images in all"),
        (40, {"group": "one"}, "bars lies in 1 groups; 3 are needed"),
        (40, {"label": "one"}, "1 class"),
    ],
)
def test_too_few_labels_for_a_curve_are_refused(labelled, in_process, tmp_path, n, changes, says):
    table = pd.read_csv(labelled / "labels.csv").head(n).assign(**changes)
    table.to_csv(tmp_path / "few.csv", index=False)
    options = {"curve_options": CurveOptions(), "images": str(labelled), "say": quiet}
    with pytest.raises(ValueError, match=says):
        train_ensemble(str(tmp_path / "few.csv"), tmp_path / "m", in_process, OPTIONS, **options)
    assert not list(tmp_path.glob("m*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--shares 0.5 1", "three different"),
        ("--target 1.5", "target"),
        ("--curve-members 0", "curve_members"),
        ("--unlabelled absent", "absent is not there"),
        ("--unlabelled empty", "empty is empty"),
    ],
)
def test_options_of_a_curve_are_checked(labelled, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    text = f"train ensemble {labelled / 'labels.csv'} --out m --learning-curve {TINY} {options}"
    assert main(text.split()) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("m*"))
