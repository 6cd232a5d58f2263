"""emqa study uncertainty through the command line: files, figures, resumption, made shifts and refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.cli import main
from emqa_dask.pipeline.commands.labelled_images import cut_labelled_windows, read_labels
from emqa_dask.pipeline.studies.uncertainty.cohorts import KINDS, MADE_NAME, read_cohorts
from emqa_dask.train.ensemble_plan import EnsembleOptions
from emqa_dask.windows import WindowSettings
from tests.pipeline.test_curve_and_search import write_stripes

TINY = (
    "--window 16 --depth 10 --widen 1 --epochs 1 --patience 5 --halve-every 2 --batch 32 --learning-rate 0.003 "
    "--whole --windows-per-image 2 --members 2 --curve-members 1 --shares 0.2 0.5 1 --seed 3 --scheduler in-process"
)
FIGURES = {"04", "05", "07", "08", "09", "10", "11", "12"}
TABLES = {
    "table1", "table2", "members", "shifts", "learning_curve", "labels_needed", "entropy_shapes", "risk_coverage",
    "images",
}  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_stripes(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Folders of shifted images: the classes with more noise, and noise alone."""
    root = tmp_path_factory.mktemp("shifted")
    rng = np.random.default_rng(1)
    for folder in ("acquisition/bars", "acquisition/rows", "new_class", "unrelated"):
        (root / folder).mkdir(parents=True)
        for k in range(4):
            tifffile.imwrite(root / folder / f"{k}.tif", rng.integers(0, 60000, (16, 16)).astype(np.uint16))
    (root / "new_class/notes.txt").write_text("no image")
    return root


def make_command(labels, out, folders, *more):
    shifts = [text for kind in KINDS for text in ("--shifted", f"{kind}={folders / kind}")]
    return ["study", "uncertainty", str(labels), "--out", str(out), *shifts, *TINY.split(), *more]


@pytest.fixture(scope="module")
def studied(labelled, shifted, tmp_path_factory):
    """A study with every option, first interrupted by --minutes, then run to its end."""
    folder = tmp_path_factory.mktemp("studies")
    more = ["--target", "0.7", "--images", str(labelled), "--unlabelled", str(shifted / "acquisition")]
    command = make_command(labelled / "labels.csv", folder / "out", shifted, *more)
    assert main([*command, "--minutes", "1e-9"]) == 1  # no network of dropout yet
    assert (folder / "out.unfinished").is_dir()
    assert main(command) == 0
    return folder / "out"


def test_every_table_and_figure_is_written(studied):
    assert {path.stem for path in studied.glob("*.csv")} == TABLES
    for ending in ("png", "svg"):
        assert {path.stem.removeprefix("figure").split("_")[0] for path in studied.glob(f"*.{ending}")} == FIGURES
    page = (studied / "index.html").read_text()
    assert all(f'id="{path.stem}"' in page for path in studied.glob("*.png"))
    assert sorted(path.name for path in studied.parent.iterdir()) == ["out"]


def test_tables_agree_with_each_other(studied):
    table = pd.read_csv(studied / "table1.csv").set_index("method")
    assert table["members"].to_dict() == {"softmax": 1, "dropout": 16, "ensemble": 2}
    images = pd.read_csv(studied / "images.csv")
    own = images[images["kind"] == "in-distribution"]
    accuracy = (own["label"] == own["predicted_class"]).groupby(own["method"]).mean()
    np.testing.assert_allclose(table["accuracy"], accuracy[table.index], atol=1e-4)
    drop = pd.read_csv(studied / "table2.csv")
    assert set(drop["kind"]) == {"acquisition"}
    assert (drop["n"] == 8).all()
    np.testing.assert_allclose(drop["in_distribution"], accuracy[drop["method"]], atol=1e-4)
    curve = pd.read_csv(studied / "learning_curve.csv")
    last = curve[curve["share"] == 1].set_index("method")["accuracy"]
    assert last["softmax"] == table.loc["softmax", "accuracy"]
    assert last["dropout"] == table.loc["dropout", "accuracy"]


def test_the_summary_states_settings_and_counts(studied):
    summary = json.loads((studied / "summary.json").read_text())
    assert summary["networks_trained"] == summary["networks_planned"] == 2 + 1 + 2 * 2
    assert summary["settings"]["networks"]["seed"] == 3
    assert sum(summary["n_images"].values()) == 120


def test_a_study_in_two_parts_equals_one_in_one(labelled, shifted, studied, tmp_path):
    more = ["--target", "0.7", "--unlabelled", str(shifted / "acquisition")]
    assert main(make_command(labelled / "labels.csv", tmp_path / "out", shifted, *more)) == 0
    for name in ("table1", "shifts", "learning_curve"):
        pd.testing.assert_frame_equal(pd.read_csv(studied / f"{name}.csv"), pd.read_csv(tmp_path / f"out/{name}.csv"))


def test_kinds_without_a_folder_are_made_of_test_images(tmp_path, shifted):
    rng = np.random.default_rng(2)
    rows = []
    for k in range(40):
        tifffile.imwrite(tmp_path / f"{k}.tif", rng.integers(0, 60000, (72, 72)).astype(np.uint16))
        rows.append(
            {"uri": f"{k}.tif", "label": "ab"[k % 2], "split": ("train", "train", "validation", "test")[k // 10]}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    table = read_labels(str(tmp_path / "labels.csv"), tmp_path, 0, lambda line: None, has_held_out=True)
    view = WindowSettings(64)
    labelled = cut_labelled_windows(tmp_path, table, EnsembleOptions(view), 1)
    cohorts = read_cohorts(tmp_path / "w", [], labelled, tmp_path, view, 1, lambda line: None)
    assert [(cohort.kind, cohort.name, len(cohort.images)) for cohort in cohorts] == [
        (kind, MADE_NAME, 10) for kind in KINDS
    ]
    assert cohorts[0].y.tolist() == table["y"][30:].tolist()
    assert set(cohorts[1].y) == set(cohorts[2].y) == {-1}
    assert len(np.load(tmp_path / "w" / f"{cohorts[0].file}.npy")) == 10


@pytest.mark.parametrize(
    ("shift", "says"),
    [
        ("colour=empty", "acquisition, new_class, unrelated"),
        ("acquisition=absent", "a folder of images"),
        ("acquisition=empty", "is empty"),
        ("acquisition=texts", "has no image that can be read, of 1 files"),
    ],
)
def test_folders_of_no_use_are_refused_before_work(labelled, tmp_path, monkeypatch, capsys, shift, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/notes.txt").write_text("no image")
    command = ["study", "uncertainty", str(labelled / "labels.csv"), "--shifted", shift, *TINY.split()]
    assert main(command) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("study-uncertainty*"))


@pytest.mark.parametrize(
    ("n", "changes", "says"),
    [(30, {}, "images, and 10 are needed"), (40, {"group": "one"}, "3 are needed"), (40, {"label": "one"}, "1 class")],
)
def test_too_few_labels_are_refused(labelled, tmp_path, capsys, n, changes, says):
    pd.read_csv(labelled / "labels.csv").head(n).assign(**changes).to_csv(tmp_path / "few.csv", index=False)
    command = [
        "study",
        "uncertainty",
        str(tmp_path / "few.csv"),
        "--images",
        str(labelled),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, *TINY.split()]) == 1
    assert says in capsys.readouterr().err
