"""Pictures, neighbours and limits of the pages of images."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.cli import main
from emqa_dask.pipeline.commands.report_images import find_neighbours
from emqa_dask.pipeline.tasks.report_images import Neighbours
from emqa_dask.pipeline.tasks.report_pictures import TILE_PX, iterate_tiles, plan_levels, stretch_grey
from emqa_dask.synthetic.archive import synthesise


@pytest.mark.parametrize(("shape", "n_levels"), [((10, 10), 1), ((512, 512), 1), ((513, 20), 2), ((2048, 4096), 4)])
def test_levels_end_where_one_tile_holds_the_image(shape, n_levels):
    assert plan_levels(shape) == (TILE_PX, n_levels)


def test_tiles_cover_the_image_at_every_level():
    grey = np.tile(np.linspace(0, 255, 1201).astype(np.uint8), (701, 1))
    tiles = dict(iterate_tiles(grey))
    assert len(tiles) == 3 * 2 + 2 * 1 + 1
    assert list(tiles)[-1] == "2/0_0.jpg"  # the coarsest comes last
    for level, shape in enumerate([(701, 1201), (351, 601), (176, 301)]):
        names = {name for name in tiles if name.startswith(f"{level}/")}
        whole = np.zeros(shape, np.uint8)
        for name in names:
            y, x = (TILE_PX * int(k) for k in name.partition("/")[2].removesuffix(".jpg").split("_"))
            tile = cv2.imdecode(np.frombuffer(tiles[name], np.uint8), cv2.IMREAD_UNCHANGED)
            whole[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        expected = np.linspace(0, 255, shape[1])
        assert np.abs(whole.astype(float) - expected).max() < 6


def test_percentiles_become_black_and_white():
    image = np.arange(1000.0).reshape(20, 50)
    image[0, 0] = np.nan
    grey = stretch_grey(image)
    assert (grey[0, 0], grey[0, 1], grey[-1, -1]) == (0, 0, 255)
    # Of 1 to 999 the percentiles are 5.99 and 994.01: 500 is in the middle.
    assert grey[10, 0] == round((500 - 5.99) / (994.01 - 5.99) * 255)
    assert (stretch_grey(np.full((3, 3), 7, np.uint16)) == 128).all()


def test_neighbours_are_those_in_time_of_the_same_session():
    places = pd.DataFrame(
        [
            ("a", "p", "s1", "2026-01-02T10:00:00"),
            ("b", "q", "s1", "2026-01-01T10:00:00"),
            ("c", "p", "s2", "2026-01-01T11:00:00"),
            ("d", "p", "s1", None),
            ("e", "q", "s1", "2026-01-03T10:00:00"),
        ],
        columns=["micrograph_id", "partition", "session", "acquired"],
    )
    assert find_neighbours(places) == {
        "p": {"a": Neighbours("q/b", "q/e"), "c": Neighbours("", ""), "d": Neighbours("", "")},
        "q": {"b": Neighbours("", "p/a"), "e": Neighbours("p/a", "")},
    }
    assert find_neighbours(places.iloc[:0]) == {}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A workspace with a report of eight images in four partitions."""
    root = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    (root / "scans").mkdir()
    for k in range(8):
        tifffile.imwrite(root / f"scans/{k}.tif", rng.integers(0, 4000, (96, 96)).astype(np.uint16))
    assert main(["triage", str(root / "scans"), "--workspace", str(root / "ws"), *OPTIONS]) == 0
    return root


OPTIONS = ["--detector", "log", "--set", "run.scheduler=in-process", "--set", "store.shard_length=2"]


def read_pages(root):
    """Bytes and time of each file with data of images."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (root / "ws/report/micrographs").iterdir()
    }


def test_a_report_writes_only_pages_that_change(reported):
    before = read_pages(reported)
    assert len(before) == 4
    tifffile.imwrite(reported / "scans/8.tif", np.random.default_rng(9).integers(0, 4000, (96, 96)).astype(np.uint16))
    assert main(["triage", str(reported / "scans"), "--workspace", str(reported / "ws"), *OPTIONS]) == 0
    after = read_pages(reported)
    assert len(after) == 5
    assert {name: after[name] for name in before} == before
    assert main(["report", str(reported / "ws"), "--set", "report.pictures=none"]) == 0
    without_pictures = read_pages(reported)
    assert all(without_pictures[name][0] != after[name][0] for name in after)


def test_pages_equal_those_of_a_report_from_scratch(reported):
    written = {name: data for name, (data, _) in read_pages(reported).items()}
    shutil.rmtree(reported / "ws/report")
    assert main(["report", str(reported / "ws")]) == 0
    assert {name: data for name, (data, _) in read_pages(reported).items()} == written


def test_verify_finds_a_damaged_page(reported, capsys):
    name, (data, _) = next(iter(read_pages(reported).items()))
    path = reported / "ws/report/micrographs" / name
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert main(["verify", str(reported / "ws")]) == 2
    assert f"damaged or missing: {path}" in capsys.readouterr().out
    assert main(["report", str(reported / "ws")]) == 0
    assert path.read_bytes() == data
    assert main(["verify", str(reported / "ws")]) == 0


def read_images(root) -> dict:
    """micrograph_id -> what its page shows, with its own address."""
    images = {}
    for path in (root / "ws/report/micrographs").iterdir():
        page = json.loads(path.read_text().removeprefix("emqa.addImages(").removesuffix(");\n"))
        for micrograph_id, image in page["images"].items():
            images[micrograph_id] = image | {"address": f"{page['partition']}/{micrograph_id}"}
    return images


def test_pages_link_the_nearest_labelled_images(tmp_path):
    synthesise(tmp_path / "scans", "demo", n=20, seed=4, shape=(160, 192), faults=())
    root = str(tmp_path / "ws")
    assert main(["triage", str(tmp_path / "scans"), "--workspace", root, *OPTIONS]) == 0
    assert all(detector["nearest"] == [] for image in read_images(tmp_path).values() for detector in image["detectors"])
    rows = pd.read_parquet(tmp_path / "ws/triage.parquet").dropna(subset="micrograph_id")
    labelled = rows[rows["n_detections"].gt(0)].drop_duplicates("uri").head(10)
    counts = labelled["uri"].map(lambda uri: f"{uri},{len(uri) % 7 + 5}")
    (tmp_path / "counts.csv").write_text("uri,n_objects\n" + "\n".join(counts) + "\n")
    assert main(["calibrate", root, str(tmp_path / "counts.csv")]) == 0
    assert main(["rescore", root]) == 0
    images = read_images(tmp_path)
    addresses = {images[micrograph_id]["address"] for micrograph_id in labelled["micrograph_id"]}
    n_lists = 0
    for image in images.values():
        (detector,) = image["detectors"]
        distances = [entry["distance"] for entry in detector["nearest"]]
        assert distances == sorted(distances)
        assert {entry["address"] for entry in detector["nearest"]} <= addresses - {image["address"]}
        assert all(0 <= entry["f1"] <= 1 for entry in detector["nearest"])
        n_lists += len(distances) == 3
    assert n_lists >= len(labelled)
