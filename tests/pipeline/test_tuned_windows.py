"""A search by window on a crystal whose halves need different settings, and triages that use its map."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.spatial import cKDTree

from emqa_dask.cli import main
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import load_settings, replace
from emqa_dask.settings.detect_windows import COLUMNS
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace
from emqa_dask.tables import DETECTIONS, FAILURES

HALF_PX = 180
DOT_SIGMA_PX = 1.4
DISC_RADIUS_PX = 8.0
REACHES_PX = (2.5, 4.0)  # within which a detection is at the place of a dot, and of a disc


def quiet(text: str) -> None:
    pass


def list_objects(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) of the dots of the left half and of the discs of the right half."""
    rng = np.random.default_rng(seed)
    dots = np.array([(y, x) for y in range(4, HALF_PX, 8) for x in range(4, HALF_PX, 8)], float)
    discs = np.array([(y, x) for y in range(15, HALF_PX, 30) for x in range(HALF_PX + 15, 2 * HALF_PX, 30)], float)
    return dots + rng.uniform(-0.7, 0.7, dots.shape), discs + rng.uniform(-4, 4, discs.shape)


def draw_halves(seed: int) -> np.ndarray:
    """Dots are the objects on the left; on the right they are grain between discs, so that no one setting does."""
    rng = np.random.default_rng([seed, 1])
    y, x = np.mgrid[:HALF_PX, : 2 * HALF_PX]
    dots, discs = list_objects(seed)
    image = np.zeros(y.shape)
    for row, column in discs:
        image += 0.5 - 0.5 * np.tanh(np.hypot(y - row, x - column) - DISC_RADIUS_PX)
    grain = rng.uniform([0, HALF_PX + 4], [HALF_PX, 2 * HALF_PX], (150, 2))
    for row, column in np.concatenate([dots, grain]):
        image += 0.6 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * DOT_SIGMA_PX**2))
    return (20000 + 10000 * (image + rng.normal(0, 0.02, image.shape))).clip(0, 65535).astype(np.uint16)


def score_halves(points: pd.DataFrame, seed: int) -> list[tuple[float, float]]:
    """Share of the objects of each half that are found, and share of its detections that are objects."""
    scores = []
    for objects, reach_px in zip(list_objects(seed), REACHES_PX, strict=True):
        places = points.loc[(points["x_px"] >= HALF_PX) == (objects[0, 1] >= HALF_PX), ["y_px", "x_px"]].to_numpy()
        if len(places) == 0:
            scores.append((0.0, 1.0))
            continue
        distance, nearest = cKDTree(places).query(objects)
        n_found = len(np.unique(nearest[distance < reach_px]))
        scores.append((n_found / len(objects), n_found / len(places)))
    return scores


def read_detections(root: str) -> pd.DataFrame:
    settings = stored_settings.read_settings(root)
    return parts.read_table(root, list_run_folders(settings)["detections"], DETECTIONS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves") / "archive"
    folder.mkdir()
    for seed in range(2):
        tifffile.imwrite(folder / f"{seed}.tif", draw_halves(seed))
    return folder


def make_command(source, out, *options: str) -> list[str]:
    return [
        "tune", "log", str(source), "--out", str(out), "--evaluations", "24", "--windows", "180", "--template",
        "atomic-stem", "--scheduler", "in-process", *options,
    ]  # fmt: skip


def write_labels(path, seed: int) -> None:
    """COCO JSON with the boxes of all objects of an image."""
    boxes = []
    for centres, radius in zip(list_objects(seed), (1.4142 * DOT_SIGMA_PX, DISC_RADIUS_PX)):
        boxes += [[x + 0.5 - radius, y + 0.5 - radius, 2 * radius, 2 * radius] for y, x in centres]
    annotations = [{"id": k, "image_id": 1, "category_id": 1, "bbox": box} for k, box in enumerate(boxes, 1)]
    images = [{"id": 1, "file_name": f"{seed}.tif", "height": HALF_PX, "width": 2 * HALF_PX}]
    categories = [{"id": 1, "name": "object"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture(scope="module")
def tuned(archive, tmp_path_factory):
    """Folder with tuned.toml and its map, from labels of the first image, written through the command line."""
    out = tmp_path_factory.mktemp("tuned")
    write_labels(out / "labels.json", seed=0)
    options = ("--reference", str(out / "labels.json"), "--workspace", str(out / "ws"))
    assert main(make_command(archive, out / "tuned.toml", *options)) == 0
    return out


@pytest.fixture(scope="module")
def triaged(archive, tuned, tmp_path_factory):
    """Workspace of a triage with the map of settings, through the command line."""
    root = str(tmp_path_factory.mktemp("triaged") / "ws")
    command = ["triage", str(archive), "--settings", str(tuned / "tuned.toml"), "--workspace", root]
    assert main([*command, "--set", "featurise.order=false", "--scheduler", "in-process"]) == 0
    return root


def score_images(root: str) -> np.ndarray:
    """Scores (images, halves, 2) of the detections of a workspace."""
    ledger = pd.concat(micrograph_ledger.iter_current(Workspace(root), ["micrograph_id", "uri"]))
    points = read_detections(root)
    return np.array(
        [
            score_halves(points[points["micrograph_id"] == row.micrograph_id], int(row.uri.removesuffix(".tif")))
            for row in ledger.itertuples()
        ]
    )


def test_windows_find_both_halves_and_one_setting_does_not(archive, tuned, triaged, tmp_path):
    table = pd.read_csv(tuned / "tuned.tune" / "all" / "windows.csv")
    assert table[["y0", "x0", "y1", "x1"]].values.tolist() == [[0, 0, 180, 180], [0, 180, 180, 360]]
    assert not table["is_fallback"].any()
    assert table["min_sigma"][0] < table["min_sigma"][1]
    settings = load_settings(tuned / "tuned.toml")
    one = replace(settings, {"cohorts": [dict(settings.cohorts[0].changes)]})
    assert run(str(archive), str(tmp_path / "one"), one, steps=("ingest", "detect"), say=quiet) == 0
    assert score_images(triaged).shape == (2, 2, 2)
    assert score_images(triaged).min() >= 0.95
    assert score_images(str(tmp_path / "one")).min(axis=(1, 2)).max() < 0.7


def test_a_search_by_window_gives_the_same_map_again(tuned, tmp_path):
    assert main(make_command(tuned / "ws", tmp_path / "tuned.toml", "--reference", str(tuned / "labels.json"))) == 0
    again, first = (folder / "tuned.tune" / "all" / "windows.csv" for folder in (tmp_path, tuned))
    assert again.read_text() == first.read_text()


def test_workspaces_keep_the_map_without_its_file(tuned, triaged, tmp_path):
    root = str(tmp_path / "ws")
    shutil.copytree(triaged, root)
    settings = stored_settings.read_settings(root)
    assert settings.cohorts == load_settings(tuned / "tuned.toml").cohorts
    assert len(settings.cohorts[0].windows) == 2
    assert main(["detect", root]) == 0
    folders = list_run_folders(settings)
    assert [name for name in os.listdir(root) if name.startswith("detections-")] == [folders["detections"]]
    assert len(parts.list_parts(root, folders["detections"])) == 2


def test_equal_windows_give_the_detections_of_a_run_without(archive, atomic_settings, tmp_path):
    values = [getattr(atomic_settings.detect, name) for name in COLUMNS[4:]]
    windows = [[0, 0, HALF_PX, 100, *values], [0, 100, HALF_PX, 2 * HALF_PX, *values]]
    mapped = replace(atomic_settings, {"cohorts": [{"windows": windows}]})
    tables = []
    for name, settings in (("plain", atomic_settings), ("mapped", mapped)):
        assert run(str(archive), str(tmp_path / name), settings, steps=("ingest", "detect"), say=quiet) == 0
        tables.append(read_detections(str(tmp_path / name)))
    assert len(tables[0]) > 100
    pd.testing.assert_frame_equal(*tables)


@pytest.fixture(scope="module")
def atomic_settings(in_process):
    return replace(load_settings(template="atomic-stem"), {"run": {"scheduler": in_process.run.scheduler}})


def test_an_image_of_another_size_fails_alone_with_both_sizes(archive, tuned, tmp_path):
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    tifffile.imwrite(folder / "other.tif", draw_halves(9)[:100])
    command = ["triage", str(folder), "--settings", str(tuned / "tuned.toml"), "--workspace", str(tmp_path / "ws")]
    assert main([*command, "--set", "featurise.order=false", "--scheduler", "in-process"]) == 2
    failures = parts.load_table(Workspace(str(tmp_path / "ws")).failures, FAILURES)
    assert failures["uri"].tolist() == ["other.tif"]
    assert "cover images of 180 x 360 px, and this image has 100 x 360 px" in failures["error"][0]
    assert read_detections(str(tmp_path / "ws"))["micrograph_id"].nunique() == 2


def test_images_of_several_sizes_are_refused_before_a_search(archive, tmp_path, capsys):
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    tifffile.imwrite(folder / "other.tif", draw_halves(9)[:100])
    options = ("--reward", "doubtful_count", "--workspace", str(tmp_path / "ws"))
    assert main(make_command(folder, tmp_path / "s.toml", *options)) == 1
    error = capsys.readouterr().err
    assert "100 x 360 px" in error
    assert "180 x 360 px" in error
    assert "--cohort" in error
    assert not (tmp_path / "s.toml").exists()


def test_windows_with_few_objects_keep_the_common_settings(tuned, tmp_path):
    options = ("--reference", str(tuned / "labels.json"), "--windows", "40", "--evaluations", "4")
    assert main(make_command(tuned / "ws", tmp_path / "s.toml", *options)) == 0
    table = pd.read_csv(tmp_path / "s.tune" / "all" / "windows.csv")
    (cohort,) = load_settings(tmp_path / "s.toml").cohorts
    kept = [window for window, is_kept in zip(cohort.windows, table["is_fallback"], strict=True) if is_kept]
    assert len(table) == 4 * 9
    assert (table["is_fallback"] == (table["n_objects"] < 20)).all()
    assert table["is_fallback"].mean() > 0.4
    assert {window.threshold for window in kept} == {dict(cohort.changes)["threshold"]}
