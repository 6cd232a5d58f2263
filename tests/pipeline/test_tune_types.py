"""Laws of `emqa tune types` on a workspace: every column has its type, nothing is done twice, damage is noticed."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.spatial import cKDTree

from emqa_dask import open_run
from emqa_dask.cli import main
from emqa_dask.pipeline.tasks.tune_types import map_columns
from emqa_dask.pipeline.workspace.integrity import verify
from emqa_dask.synthetic import camera, lattices

SPACING_PX = 14.0
LABELS = {"SrTiO3 [001]": ["Sr", "Ti"], "four types [001]": ["A", "B", "C", "D"]}
NAMES = {"SrTiO3 [001]": "day 1/two.tif", "four types [001]": "day 2/four.tif"}
HERE = ["--scheduler", "in-process"]
SETTINGS = ["detect.min_sigma=2.0", "detect.max_sigma=4.0", "detect.num_sigma=3", "detect.threshold=0.04"]


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    """An archive of two crystals and an image of four columns; the true columns of each crystal."""
    folder = tmp_path_factory.mktemp("crystals") / "archive"
    truth = {}
    for seed, (cell, name) in enumerate(NAMES.items()):
        rng = np.random.default_rng(seed)
        spacing_nm = lattices._compute_nearest_spacing_nm(*lattices.get_cell(cell))
        choices = {"vacancies": 0.0, "jitter_px": 0.0, "background": 0.1, "disorder": False, "dtype": "uint16"}
        exposure = camera.draw_settings(rng, low_dose=690, high_dose=700) | {"mtf_sigma_px": 0.0, "seam": False}
        choices |= {"nm_per_pixel": spacing_nm / SPACING_PX, "column_sigma_px": 3.0, "exposure": exposure}
        sample = lattices.draw_lattice(rng, (256, 256), cell=cell, **choices)
        (folder / name).parent.mkdir(parents=True)
        tifffile.imwrite(folder / name, sample.image)
        types = [LABELS[cell].index(label) + 1 for label in sample.labels]
        truth[name] = (sample.meta["sites_yx"], np.array(types))
    y, x = np.mgrid[:256, :256]
    few = sum(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 18) for cy in (80, 160) for cx in (80, 160))
    tifffile.imwrite(folder / "few.tif", (100 + 5000 * few).astype(np.uint16))
    return folder, truth


@pytest.fixture(scope="module")
def stored(crystals, tmp_path_factory):
    """A workspace of the archive without detections."""
    root = str(tmp_path_factory.mktemp("types") / "ws")
    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    assert main(["ingest", str(crystals[0]), "--workspace", root, "--template", "atomic-stem", *changes, *HERE]) == 0
    return root


@pytest.fixture(scope="module")
def workspace(stored, tmp_path_factory):
    """The workspace with detections and types."""
    root = str(tmp_path_factory.mktemp("types") / "ws")
    shutil.copytree(stored, root)
    assert main(["detect", root, *HERE]) == 0
    assert main(["tune", "types", root, *HERE]) == 0
    return root


def read(root: str, table: str) -> pd.DataFrame:
    return pd.read_parquet(f"{root}/{table}")


def list_stamps(root) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(root.glob("atom_*/*"))}


def test_detected_columns_have_their_types(workspace, crystals):
    maps = read(workspace, "atom_maps").set_index("uri")
    columns = read(workspace, "atom_columns")
    for uri, (sites, types) in crystals[1].items():
        own = columns[columns["micrograph_id"].eq(maps["micrograph_id"][uri])]
        assert maps["n_types"][uri] == types.max()
        assert int(np.nanargmin(maps["bic"][uri])) + 1 == types.max()
        distance, nearest = cKDTree(own[["y_px", "x_px"]].to_numpy()).query(sites)
        is_right = (distance < SPACING_PX / 3) & (own["type"].to_numpy()[nearest] == types)
        assert is_right.mean() >= 0.95
        assert own["posterior"].between(0.3, 1).all()


def test_types_are_counted_and_the_brightest_is_first(workspace):
    columns = read(workspace, "atom_columns").dropna(subset="type")
    types = read(workspace, "atom_types").set_index(["micrograph_id", "type"])
    groups = columns.groupby(["micrograph_id", "type"])["intensity"]
    assert types["n_columns"].to_dict() == groups.size().to_dict()
    np.testing.assert_allclose(types["mean_intensity"], groups.mean()[types.index])
    assert all(own.is_monotonic_decreasing for _, own in types["mean_intensity"].groupby("micrograph_id"))


def test_an_image_with_few_columns_states_the_needed_number(workspace, capsys):
    maps = read(workspace, "atom_maps").set_index("uri")
    assert maps["verdict"]["few.tif"] == "unknown: 4 columns of at least 30"
    assert np.isnan(maps["n_types"]["few.tif"])
    main(["tune", "types", workspace, *HERE])
    out = capsys.readouterr().out
    assert "few.tif: unknown: 4 columns of at least 30" in out
    assert "3 micrographs: 1 with 2 types, 1 with 4 types, 1 unknown" in out


def test_every_image_has_an_overlay_and_nothing_is_done_twice(workspace, tmp_path):
    root = tmp_path / "ws"
    shutil.copytree(workspace, root)
    stamps = list_stamps(root)
    assert len(list(root.glob("atom_overlays/*.png"))) == 3
    assert main(["tune", "types", str(root), *HERE]) == 0
    assert list_stamps(root) == stamps


def test_tables_open_with_the_run(workspace, stored):
    run = open_run(workspace)
    for table in ("atom_maps", "atom_types", "atom_columns"):
        rows = getattr(run, table).compute()
        expected = read(workspace, table)
        assert list(rows.columns) == list(expected.columns)
        assert len(rows) == len(expected) > 0
        numbers = expected.select_dtypes("number").columns
        np.testing.assert_array_equal(rows[numbers].astype(float), expected[numbers].astype(float))
    columns = run.read_table("atom_columns", ["micrograph_id", "type"], images="two.tif").compute()
    (micrograph_id,) = columns["micrograph_id"].unique()
    assert len(columns) == read(workspace, "atom_columns")["micrograph_id"].eq(micrograph_id).sum()
    with pytest.raises(ValueError, match="has no atom_maps yet: run `emqa tune types "):
        open_run(stored).atom_maps  # noqa: B018


@pytest.mark.real
def test_workers_give_the_same_tables(workspace, tmp_path):
    root = tmp_path / "ws"
    shutil.copytree(workspace, root)
    for folder in root.glob("atom_*"):
        shutil.rmtree(folder)
    assert main(["tune", "types", str(root), "--scheduler", "local", "--workers", "2"]) == 0
    for table in ("atom_maps", "atom_types", "atom_columns"):
        pd.testing.assert_frame_equal(read(root, table), read(workspace, table))


def test_options_change_the_maps_of_their_cohort_only(workspace, tmp_path):
    root = str(tmp_path / "ws")
    shutil.copytree(workspace, root)
    before = read(root, "atom_maps").set_index("uri")
    assert main(["tune", "types", root, "--cohort", "day 2/*", "--max-types", "2", "--seed", "5", *HERE]) == 0
    after = read(root, "atom_maps").set_index("uri").loc[before.index]
    assert after["n_types"].dropna().to_dict() == {"day 1/two.tif": 2, "day 2/four.tif": 2}
    assert (before["digest"] != after["digest"]).to_dict() == {uri: uri == "day 2/four.tif" for uri in before.index}
    assert len(read(root, "atom_columns")) == len(read(workspace, "atom_columns"))
    assert main(["tune", "types", root, *HERE]) == 0
    pd.testing.assert_frame_equal(read(root, "atom_columns"), read(workspace, "atom_columns"))


def test_pixels_that_are_not_finite_become_the_median():
    y, x = np.mgrid[:90, :90]
    image = (np.cos(2 * np.pi * y / 9) * np.cos(2 * np.pi * x / 9) > 0.5).astype(np.float32)
    image[3, 4] = np.inf
    image[7, 60] = np.nan
    points = pd.DataFrame(
        [(i, j) for i in range(9, 90, 9) for j in range(9, 90, 9)], columns=["y_px", "x_px"], dtype=float
    )
    atoms, picture = map_columns(image, points, "scan.tif", 3, 0)
    assert len(atoms.types) == 1
    assert picture.startswith(b"\x89PNG")
    blank = map_columns(np.full((90, 90), np.nan, np.float32), points, "scan.tif", 3, 0)[0]
    assert blank.verdict == "unknown: no contrast"


@pytest.mark.parametrize("folder", ["atom_maps", "atom_types", "atom_columns", "atom_overlays"])
def test_a_flipped_bit_is_noticed_and_made_good(workspace, folder, tmp_path):
    root = tmp_path / "ws"
    shutil.copytree(workspace, root)
    assert verify(str(root), lambda _: None) == 0
    path = sorted((root / folder).iterdir())[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    lines = []
    assert verify(str(root), lines.append) == 2
    assert any(str(path) in line and "`emqa tune types` makes it again" in line for line in lines)
    assert not path.exists()
    assert verify(str(root), lines.append) == (2 if folder == "atom_overlays" else 0)
    assert main(["tune", "types", str(root), *HERE]) == 0
    assert verify(str(root), lines.append) == 0
    pd.testing.assert_frame_equal(read(root, "atom_columns"), read(workspace, "atom_columns"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-types", "0"], "--max-types is 0: it has to be a whole number from 1"),
        (["--seed", "-1"], "--seed is -1: it has to be a whole number from 0"),
        (["--cohort", "day 9/*"], "no micrograph whose URI matches day 9/*"),
        ([], "have no detections with these settings"),
    ],
)
def test_impossible_requests_name_the_remedy(stored, options, message, capsys):
    assert main(["tune", "types", stored, *options, *HERE]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_workspace_is_refused(tmp_path, capsys):
    assert main(["tune", "types", str(tmp_path), *HERE]) == 1
    assert str(tmp_path) in capsys.readouterr().err
