"""Laws of tuning and of order maps on a workspace: cohorts, settings that triage takes, nothing done twice."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.cli import main
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.commands.tune_log import tune_log
from emqa_dask.pipeline.commands.tune_log_options import TuneOptions
from emqa_dask.pipeline.commands.tune_order import map_order
from emqa_dask.pipeline.workspace import acquisition_groups, micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.pipeline.workspace.tuning_references import find_references
from emqa_dask.settings import Cohort, Settings, load_settings, replace
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic import lattices
from emqa_dask.tables import DETECTIONS

NM = 0.03
LATTICE = "a_nm = 0.3905\nb_nm = 0.3905\ngamma_deg = 90\ncolumns = [[0, 0], [0.5, 0.5]]\n"


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def atomic(in_process):
    return replace(load_settings(template="atomic-stem"), {"run": {"scheduler": in_process.run.scheduler}})


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two sessions of SrTiO3 [001], a perfect image and one with disorder each; one file without pixel size."""
    folder = tmp_path_factory.mktemp("lattices") / "archive"
    for session in ("day 1", "day [2]"):
        (folder / session).mkdir(parents=True)
        for k, disorder in enumerate((False, True)):
            choices = {"nm_per_pixel": NM, "vacancies": 0.0, "jitter_px": 0.0, "background": 0.1, "disorder": disorder}
            sample = lattices.draw_lattice(
                np.random.default_rng([len(session), k]), (320, 320), cell="SrTiO3 [001]", **choices
            )
            image = sample.image.astype(float)
            image = ((image - image.min()) / np.ptp(image) * 60000).astype(np.uint16)
            per_um = (1000 / NM, 1000 / NM)
            path = folder / session / f"{'disordered' if disorder else 'perfect'}.tif"
            tifffile.imwrite(path, image, imagej=True, resolution=per_um, metadata={"unit": "um"})
    tifffile.imwrite(folder / "unscaled.tif", image)
    return folder


@pytest.fixture(scope="module")
def workspace(archive, atomic, tmp_path_factory):
    root = tmp_path_factory.mktemp("lattices") / "ws"
    assert run(str(archive), str(root), atomic, steps=("ingest",), say=quiet) == 0
    return str(root)


@pytest.fixture
def lattice(tmp_path):
    (tmp_path / "srtio3.toml").write_text(LATTICE)
    return str(tmp_path / "srtio3.toml")


def test_every_sampled_micrograph_is_in_its_acquisition_group(workspace, atomic):
    found = acquisition_groups.sample_groups(Workspace(workspace), n_images=1)
    assert sorted(c.n_micrographs for c in found) == [1, 2, 2]
    assert {len(c.rows) for c in found} == {1}
    numbered = [dataclasses.replace(c.cohort, changes=(("threshold", 0.1 + k / 100),)) for k, c in enumerate(found)]
    settings = dataclasses.replace(atomic, cohorts=tuple(numbered))
    for k, cohort in enumerate(found):
        for row in cohort.rows.itertuples():
            how = settings.resolve_detect_settings(row.uri, row.instrument, row.magnification)
            assert how.threshold == 0.1 + k / 100
    pd.testing.assert_frame_equal(
        found[0].rows, acquisition_groups.sample_groups(Workspace(workspace), n_images=1)[0].rows
    )


def test_patterns_make_cohorts_in_their_order(workspace):
    found = acquisition_groups.sample_groups(Workspace(workspace), 9, ("*perfect*", "day*"))
    assert [(c.cohort.uri, c.n_micrographs) for c in found] == [("*perfect*", 2), ("day*", 2)]
    with pytest.raises(ValueError, match="--cohort nothing/"):
        acquisition_groups.sample_groups(Workspace(workspace), 9, ("nothing/*",))


def test_tuning_writes_settings_that_find_the_columns(workspace, atomic, lattice, tmp_path):
    wanted = TuneOptions(lattice=lattice, evaluations=20, cohorts=("day*",), images=2, baselines=True, windows=160)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tuned,) = tune_log(workspace, str(tmp_path / name / "s.toml"), atomic, wanted, say=quiet)
    assert (tmp_path / "one" / "s.toml").read_text() == (tmp_path / "two" / "s.toml").read_text()
    maps = [pd.read_csv(next((tmp_path / name).rglob("windows.csv"))) for name in ("one", "two")]
    pd.testing.assert_frame_equal(*maps)
    assert tuned.chosen_row["count_error"] < 0.03
    settings = load_settings(tmp_path / "one" / "s.toml")
    (cohort,) = settings.cohorts
    assert dict(cohort.changes)["min_sigma"] == tuned.chosen_row["min_sigma"]
    assert settings.detect == atomic.detect
    made = {path.name for path in (tmp_path / "one" / "s.tune").rglob("*.*")}
    expected = {"pareto.png", "hypervolume.png", "windows.csv", "windows.png"}
    assert made >= expected | {f"trace-{method}.csv" for method in ("bayes", "random", "evolution")}
    traces = [pd.read_csv(path) for path in (tmp_path / "one" / "s.tune").rglob("trace-*.csv")]
    assert [len(trace) for trace in traces] == [20, 20, 20]
    assert len(tuned.windows) == 4
    assert tuned.windows[["y1", "x1"]].max().tolist() == [320, 320]
    assert tuned.windows["count_error"].max() < 0.05


def size_of(points, scene) -> float:
    """A reward of one's own."""
    return abs(len(points) - 100) / 100


@pytest.mark.real
def test_workers_tune_custom_rewards_as_one_process_does(workspace, atomic, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ".")
    wanted = TuneOptions(rewards=("tests.pipeline.test_tuning:size_of",), evaluations=10, cohorts=("*perfect*",))
    tune_log(workspace, str(tmp_path / "here.toml"), atomic, wanted, say=quiet)
    local = replace(atomic, {"run": {"scheduler": "local", "workers": 2}})
    tune_log(workspace, str(tmp_path / "local.toml"), local, wanted, say=quiet)
    here, there = (load_settings(tmp_path / f"{name}.toml").cohorts for name in ("here", "local"))
    assert here == there


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (TuneOptions(rewards=("roundness",)), "unknown reward 'roundness'.*count_error"),
        (TuneOptions(rewards=("no.such:thing",)), "no.such:thing"),
        (TuneOptions(lattice="no.toml"), "no.toml"),
        (TuneOptions(count_per_um2=-1.0), "count_per_um2 is -1"),
    ],
)
def test_what_cannot_be_tuned_for_is_named(workspace, atomic, tmp_path, wanted, said):
    with pytest.raises((ValueError, OSError), match=said):
        tune_log(workspace, str(tmp_path / "s.toml"), atomic, wanted, say=quiet)
    assert not (tmp_path / "s.toml").exists()


@pytest.fixture(scope="module")
def particles(atomic, tmp_path_factory):
    """Workspace of two images of bright discs, detected once, and their true centres by URI."""
    folder = tmp_path_factory.mktemp("particles") / "archive"
    folder.mkdir()
    rng = np.random.default_rng(3)
    centres = {}
    rows, columns = np.mgrid[:200, :200]
    for name in ("a.tif", "b.tif"):
        grid = np.array([(y, x) for y in range(25, 200, 50) for x in range(25, 200, 50)], float)
        centres[name] = grid + rng.uniform(-8, 8, grid.shape)
        image = rng.normal(100, 4, (200, 200))
        for y, x in centres[name]:
            image += 80 / (1 + np.exp(np.hypot(rows - y, columns - x) - 6))
        tifffile.imwrite(folder / name, image.astype(np.uint16))
    settings = replace(atomic, {"detect": {"threshold": 0.6, "min_sigma": 3.0, "max_sigma": 6.0}})
    root = folder.parent / "ws"
    assert run(str(folder), str(root), settings, steps=("ingest", "detect"), say=quiet) == 0
    return str(root), settings, centres


def test_a_file_of_points_is_a_reference_for_tuning(particles, tmp_path):
    root, settings, centres = particles
    points = tmp_path / "points.csv"
    rows = [f"a.tif,{y + 0.5},{x + 0.5}\n" for y, x in centres["a.tif"]]
    points.write_text("uri,y,x\n" + "".join(rows))
    options = TuneOptions(reference=str(points), evaluations=24)
    (tuned,) = tune_log(root, str(tmp_path / "s.toml"), settings, options, say=quiet)
    assert (tuned.group.n_micrographs, list(tuned.group.rows["uri"])) == (2, ["a.tif"])
    assert tuned.initial_row["disagreement"] > tuned.chosen_row["disagreement"]
    assert tuned.chosen_row["disagreement"] < 0.1


def test_a_detector_of_the_workspace_agrees_with_its_own_settings(particles, tmp_path):
    root, settings, _ = particles
    options = TuneOptions(reference="log", evaluations=4, windows=100)
    (tuned,) = tune_log(root, str(tmp_path / "s.toml"), settings, options, say=quiet)
    assert tuned.initial_row["disagreement"] == 0
    assert tuned.windows["disagreement"].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": ("disagreement",)}, "--reward disagreement: give --reference"),
        ({"reference": "nothing.csv"}, "no such file, and the detectors of the workspace are log"),
        ({"reference": "counts.csv"}, "a reference needs boxes"),
        ({"reference": "other.csv"}, "not in the workspace"),
    ],
)
def test_faulty_references_are_named(particles, tmp_path, monkeypatch, options, message):
    root, settings, _ = particles
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counts.csv").write_text("uri,n_objects\na.tif,16\n")
    (tmp_path / "other.csv").write_text("uri,y,x\nz.tif,3,4\n")
    with pytest.raises(ValueError, match=message):
        tune_log(root, str(tmp_path / "s.toml"), settings, TuneOptions(**options), say=quiet)


def test_labels_for_a_workspace_without_micrographs_are_refused(tmp_path):
    labels = tmp_path / "points.csv"
    labels.write_text("uri,y,x\na.tif,1,1\n")
    with pytest.raises(ValueError, match=r"--reference .*points.csv: .* has no micrograph to label; see .*emqa status"):
        find_references(str(labels), Workspace(str(tmp_path / "ws")), Settings())


def test_a_reference_of_images_that_were_not_searched_is_refused(workspace, atomic, tmp_path):
    with pytest.raises(ValueError, match=r"--reference log: detection is not done in .*emqa detect"):
        tune_log(workspace, str(tmp_path / "s.toml"), atomic, TuneOptions(reference="log"), say=quiet)


def test_a_lattice_without_pixel_size_is_an_error(workspace, lattice, tmp_path, capsys):
    command = ["tune", "log", workspace, "--lattice", lattice, "--cohort", "unscaled.tif", "--out", str(tmp_path / "s")]
    assert main([*command, "--scheduler", "in-process"]) == 1
    assert "--nm-per-pixel" in capsys.readouterr().err
    assert main([*command, "--scheduler", "in-process", "--nm-per-pixel", str(NM), "--evaluations", "4"]) == 0


def test_images_without_pixel_size_are_left_out_of_lattice_searches(workspace, lattice, tmp_path, capsys):
    out = tmp_path / "s.toml"
    command = ["tune", "log", workspace, "--lattice", lattice, "--cohort", "*", "--images", "5", "--evaluations", "5"]
    assert main([*command, "--workers", "1", "--scheduler", "in-process", "--out", str(out)]) == 0
    text = capsys.readouterr()
    text = text.out + text.err
    assert "left out, because a lattice or density needs the pixel size, which is unknown: unscaled.tif" in text
    assert "4 of 5 micrographs" in text
    assert out.exists()


def test_a_run_searches_each_cohort_with_its_own_settings(archive, atomic, tmp_path):
    changes = {"day 1/*": {"threshold": 0.2}, "*": {"min_sigma": 2.5, "max_sigma": 4.0}}
    mixed = dataclasses.replace(
        atomic, cohorts=tuple(Cohort(uri=u, changes=tuple(c.items())) for u, c in changes.items())
    )

    def detections(name, settings) -> pd.DataFrame:
        root = str(tmp_path / name)
        assert run(str(archive), root, settings, steps=("ingest", "detect"), say=quiet) == 0
        uris = pd.concat(micrograph_ledger.iter_current(Workspace(root), ["micrograph_id", "uri"])).set_index(
            "micrograph_id"
        )["uri"]
        rows = parts.read_table(root, list_run_folders(settings)["detections"], DETECTIONS)
        return rows.assign(uri=rows["micrograph_id"].map(uris)).sort_values(["uri"], kind="stable")

    found = detections("mixed", mixed)
    for k, (pattern, change) in enumerate(changes.items()):
        alone = detections(str(k), replace(atomic, {"detect": change}))
        is_of = [frame["uri"].str.startswith("day 1/").eq(pattern != "*") for frame in (found, alone)]
        assert is_of[0].any()
        pd.testing.assert_frame_equal(found[is_of[0]].reset_index(drop=True), alone[is_of[1]].reset_index(drop=True))


def test_order_is_mapped_once_and_told_in_tables_and_overlays(workspace, atomic, tmp_path):
    out = str(tmp_path / "order")
    said = []
    assert map_order(workspace, out, atomic, ("day*",), say=said.append) == 0
    rows = pd.read_parquet(tmp_path / "order" / "order.parquet").set_index("uri")
    shares = rows["disordered_fraction"]
    assert sorted(shares.index[shares > 0.02]) == ["day 1/disordered.tif", "day [2]/disordered.tif"]
    assert (shares[[uri for uri in rows.index if "perfect" in uri]] == 0).all()
    points = pd.read_parquet(tmp_path / "order" / "points.parquet")
    assert points.groupby("micrograph_id").size().to_dict() == rows.set_index("micrograph_id")["n_points"].to_dict()
    overlays = sorted((tmp_path / "order" / "overlays").glob("*.png"))
    assert len(overlays) == 4
    stamps = [path.stat().st_mtime_ns for path in overlays]
    assert map_order(workspace, out, atomic, ("day*",), say=said.append) == 0
    assert stamps == [path.stat().st_mtime_ns for path in overlays]
    with pytest.raises(ValueError, match="no micrograph whose URI matches"):
        map_order(workspace, out, atomic, ("none/*",), say=said.append)


@pytest.mark.parametrize("order", [True, False])
def test_triage_has_the_disordered_fraction_where_it_is_asked_for(archive, atomic, tmp_path, order):
    settings = replace(atomic, {"featurise": {"order": order}})
    assert run(str(archive), str(tmp_path / "ws"), settings, say=quiet) == 0
    rows = pd.read_parquet(Workspace(str(tmp_path / "ws")).triage).set_index("uri")["disordered_fraction"]
    if order:
        assert rows["day 1/perfect.tif"] == 0
        assert rows["day 1/disordered.tif"] > 0.02
    else:
        assert rows.isna().all()
    assert math.isnan(rows.sum()) is False
