"""A run opened in Python: its tables are those of pandas, its pixels those of the files, its errors name the remedy."""

import shutil

import dask
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import emqa_dask
from emqa_dask.pipeline.commands.triage import run as run_steps
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import replace
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

dask.config.set(scheduler="synchronous")


@pytest.fixture(scope="module")
def workspace(small_archive, in_process, tmp_path_factory):
    """A finished run with several partitions."""
    root = str(tmp_path_factory.mktemp("results") / "ws")
    settings = replace(in_process, {"store": {"shard_length": 2}})
    run_steps(str(small_archive), root, settings, say=lambda text: None)
    return root


@pytest.fixture
def run(workspace):
    return emqa_dask.open_run(workspace)


@pytest.fixture
def copied(workspace, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(workspace, tmp_path / "ws")


@pytest.fixture
def opened_files(monkeypatch):
    """URIs of the files that are read."""
    uris = []
    locate = files.locate
    monkeypatch.setattr(files, "locate", lambda uri: uris.append(str(uri)) or locate(uri))
    return uris


def read_with_pandas(workspace, name, folder=None) -> pd.DataFrame:
    """A table as pyarrow alone reads it, with missing values as None or NaN."""
    path = f"{workspace}/{folder or name + '.parquet'}"
    return pq.read_table(path, partitioning=None).to_pandas()


def assert_same_rows(rows: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(rows.columns) == list(expected.columns)
    assert len(rows) == len(expected)
    for name in expected.columns:
        values = [None if value is pd.NA else value for value in rows[name].tolist()]
        for value, other in zip(values, expected[name].tolist(), strict=True):
            if isinstance(other, np.ndarray):
                assert list(value) == list(other)
            else:
                assert value == other or (pd.isna(value) and pd.isna(other))


@pytest.mark.parametrize("name", ["triage", "catalog", "micrographs", "flags", "samples", "failures"])
def test_single_tables_equal_those_of_pandas(run, workspace, name):
    assert_same_rows(getattr(run, name).compute(), read_with_pandas(workspace, name))


def test_tables_of_parts_equal_those_of_pandas(run, workspace):
    for name, folder in run.folders.items():
        rows = getattr(run, name).compute()
        assert len(rows) or name == "custom_checks", name
        assert_same_rows(rows, read_with_pandas(workspace, name, folder))
    assert_same_rows(run.events.compute(), read_with_pandas(workspace, "events"))


def test_types_do_not_depend_on_the_rows(run):
    for name in ("triage", "detections", "samples", "thumbnails"):
        frame = run.read_table(name)
        assert frame.compute().dtypes.to_dict() == frame.dtypes.to_dict(), name


def test_filters_and_columns_equal_those_of_pandas(run, workspace):
    triage = read_with_pandas(workspace, "triage")
    rows = run.read_table("triage", ["uri", "frame"], filters=[("verdict", "in", ["review", "junk"])]).compute()
    assert 0 < len(rows) < len(triage)
    assert_same_rows(rows, triage.loc[triage["verdict"].isin(["review", "junk"]), ["uri", "frame"]])
    detections = read_with_pandas(workspace, "detections", run.folders["detections"])
    limit = detections["score"].median()
    rows = run.read_table("detections", ["y_px"], filters=[[("score", ">", limit)], [("y_px", "<", 10)]]).compute()
    assert_same_rows(rows, detections.loc[(detections["score"] > limit) | (detections["y_px"] < 10), ["y_px"]])


def test_columns_of_dask_are_the_only_ones_read(run, monkeypatch):
    read_columns = []
    detections = run.detections
    load = parts.load_arrow_table
    monkeypatch.setattr(parts, "load_arrow_table", lambda *args: read_columns.append(args[2]) or load(*args))
    detections["diameter_nm"].mean().compute()
    assert set(map(tuple, read_columns)) == {("diameter_nm",)}


def test_detections_of_images_open_only_their_parts(run, workspace, opened_files):
    micrographs = read_with_pandas(workspace, "micrographs")
    row = micrographs.iloc[3]
    frame = run.read_table("detections", images=row["uri"])
    folder = f"/{run.folders['detections']}/"
    opened_files.clear()
    rows = frame.compute()
    is_file = micrographs["uri"] == row["uri"]
    assert [uri.rpartition("/")[2] for uri in opened_files if folder in uri] == [
        f"{name}.parquet" for name in sorted(micrographs.loc[is_file, "partition"].unique())
    ]
    detections = read_with_pandas(workspace, "detections", run.folders["detections"])
    ids = micrographs.loc[is_file, "micrograph_id"]
    assert_same_rows(rows, detections[detections["micrograph_id"].isin(ids)])


def test_images_may_be_rows_of_a_table(run, workspace):
    chosen_rows = run.read_table("triage", filters=[("n_detections", ">", 5)])
    rows = run.read_table("features", ["micrograph_id"], images=chosen_rows).compute()
    ids = chosen_rows.compute()["micrograph_id"].tolist()
    assert ids
    assert sorted(rows["micrograph_id"]) == sorted(ids)
    triage = run.read_table("triage", ["micrograph_id"], images=chosen_rows.compute()).compute()
    assert triage["micrograph_id"].tolist() == ids


def test_stacks_have_the_pixels_of_the_files(run, small_archive, workspace):
    micrographs = read_with_pandas(workspace, "micrographs").sort_values("index")
    for stack in run.stacks:
        rows = micrographs[micrographs["stack"] == stack]
        images = run.images(stack)
        assert images.shape[0] == len(rows)
        pixels = images.compute()
        for row, image in zip(rows.itertuples(), pixels, strict=True):
            assert image.dtype == np.dtype(row.dtype)
            np.testing.assert_array_equal(image, run.image(row.uri, row.frame))
            if row.uri.endswith((".tif", ".png")) and row.colour_fraction == 0:
                expected, _ = emqa_dask.read_micrograph(small_archive / row.uri, row.frame)
                np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(images[-1, 5:1:-2, ::3].compute(), pixels[-1, 5:1:-2, ::3])
        np.testing.assert_array_equal(images[:, 7].max(axis=0).compute(), pixels[:, 7].max(axis=0))


def test_one_image_of_a_stack_opens_one_shard(run, opened_files):
    stack = max(run.stacks, key=lambda name: run.images(name).shape[0])
    images = run.images(stack)
    assert images.numblocks[0] > 1
    opened_files.clear()
    images[-1].compute()
    assert len([uri for uri in opened_files if "/c/" in uri]) == 1


def test_damaged_and_missing_pixels_raise(copied):
    run = emqa_dask.open_run(copied)
    row = read_with_pandas(copied, "micrographs").iloc[0]
    shard = next((copied / "micrographs.zarr" / row["stack"] / "0" / "c").rglob("0/0/0"), None)
    shard = shard or next(p for p in (copied / "micrographs.zarr" / row["stack"] / "0" / "c").rglob("*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(OSError, match="damaged"):
        run.images(row["stack"]).compute()
    shard.unlink()
    with pytest.raises(OSError, match="missing"):
        run.images(row["stack"]).compute()


def test_damaged_tables_raise(copied):
    run = emqa_dask.open_run(copied)
    for path in (next((copied / run.folders["detections"]).iterdir()), copied / "triage.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(parts.DamagedTable):
        run.detections.compute()
    with pytest.raises((parts.DamagedTable, OSError)):
        run.triage.compute()


def test_rewritten_table_is_refused(copied):
    run = emqa_dask.open_run(copied)
    triage = run.triage
    data = (copied / "triage.parquet").read_bytes()
    (copied / "triage.parquet").unlink()
    (copied / "triage.parquet").write_bytes(data)
    with pytest.raises(RuntimeError, match="open the run again"):
        triage.compute()
    assert len(emqa_dask.open_run(copied).triage) > 0


def test_figure_shows_the_detections_that_count(run, workspace):
    triage = read_with_pandas(workspace, "triage")
    row = triage.loc[triage["n_detections"].fillna(0).idxmax()]
    figure = run.show(row["uri"], int(row["frame"]))
    (axes,) = figure.axes
    assert len(axes.collections[0].get_paths()) == row["n_detections"]
    assert row["verdict"] in axes.get_title()
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no result of detector 'cavity-tem'; it has results of log"):
        run.show(row["uri"], int(row["frame"]), detector="cavity-tem")


def test_representation_has_the_counts(run, workspace):
    triage = read_with_pandas(workspace, "triage")
    for verdict, n in triage["verdict"].value_counts().items():
        assert f"  {verdict:<14} {n:>9,}" in repr(run)
        assert f"<th style='text-align:left'>{verdict}</th><td>{n:,}</td>" in run._repr_html_()
    assert run.folders["detections"] in repr(run)
    assert "detectors  log" in repr(run)


def test_names_in_html_are_escaped(small_archive, in_process, tmp_path):
    root = str(tmp_path / "<b>ws")
    run_steps(str(small_archive), root, in_process, steps=("ingest",), say=lambda text: None)
    page = emqa_dask.open_run(root)._repr_html_()
    assert "&lt;b&gt;ws" in page
    assert "<b>ws" not in page
    assert "none yet: run `emqa report`" in page


def test_base_name_is_enough_unless_ambiguous(run, workspace):
    uris = pd.Series(read_with_pandas(workspace, "micrographs")["uri"].unique())
    names = uris.str.rpartition("/")[2]
    name = names[~names.duplicated(keep=False)].iloc[0]
    np.testing.assert_array_equal(run.image(name), run.image(uris[names == name].iloc[0]))


def test_ambiguous_base_name_is_refused(small_archive, in_process, tmp_path):
    source = next(path for path in sorted(small_archive.rglob("*.tif")))
    for folder in ("a", "b"):
        (tmp_path / "archive" / folder).mkdir(parents=True)
        shutil.copy(source, tmp_path / "archive" / folder / "x.tif")
    root = str(tmp_path / "ws")
    run_steps(str(tmp_path / "archive"), root, in_process, steps=("ingest",), say=lambda text: None)
    run = emqa_dask.open_run(root)
    with pytest.raises(ValueError, match=r"'x.tif' is the name of 2 files \('a/x.tif', 'b/x.tif'\): give the whole"):
        run.image("x.tif")
    assert run.image("b/x.tif").ndim == 2


def test_missing_things_are_named_with_the_remedy(run, workspace, tmp_path):
    uri = read_with_pandas(workspace, "micrographs")["uri"].iloc[0]
    with pytest.raises(ValueError, match="is not an emqa workspace"):
        emqa_dask.open_run(tmp_path)
    with pytest.raises(ValueError, match=r"has no image 'nothing.tif'; run.triage lists the URIs"):
        run.image("nothing.tif")
    with pytest.raises(ValueError, match=r"has no frame 99; it has 0"):
        run.image(uri, 99)
    with pytest.raises(ValueError, match=r"has no estimates yet: run `emqa estimate .* LABELS`"):
        run.estimates  # noqa: B018
    with pytest.raises(ValueError, match="needs a classifier"):
        run.classifications  # noqa: B018
    with pytest.raises(ValueError, match="there is no table 'sums'; a run has triage"):
        run.read_table("sums")
    with pytest.raises(ValueError, match="detections has no column colour; it has micrograph_id"):
        run.read_table("detections", filters=[("colour", "==", 1)])
    with pytest.raises(ValueError, match="has no stack 'x'; it has"):
        run.images("x")
    with pytest.raises(AttributeError):
        run.sums  # noqa: B018


def test_estimates_are_a_table_of_the_run(copied):
    micrographs = read_with_pandas(copied, "micrographs")
    labels = micrographs.loc[micrographs["frame"] == 0, ["uri"]].head(6).assign(n_objects=[3, 5, 8, 2, 4, 6])
    labels.to_csv(copied / "labels.csv", index=False)
    run = emqa_dask.estimate_specimen(str(copied), str(copied / "labels.csv"))
    assert_same_rows(run.estimates.compute(), read_with_pandas(copied, "estimates"))
    assert len(run.estimates) > 0


def test_files_without_image_are_explained(run, workspace):
    catalog = read_with_pandas(workspace, "catalog")
    row = catalog[catalog["n_frames"] == 0].iloc[0]
    with pytest.raises(ValueError, match=f"the file is {row['status']}"):
        run.image(row["uri"])


def test_tables_of_later_steps_name_the_command(small_archive, in_process, tmp_path):
    root = str(tmp_path / "ws")
    run_steps(str(small_archive), root, in_process, steps=("ingest",), say=lambda text: None)
    run = emqa_dask.open_run(root)
    with pytest.raises(ValueError, match="has no measurements yet: run `emqa measure "):
        run.measurements  # noqa: B018
    with pytest.raises(ValueError, match="has no triage yet: run `emqa report "):
        run.triage  # noqa: B018
    assert len(run.micrographs) > 0


def test_missing_parts_are_a_warning(copied):
    run = emqa_dask.open_run(copied)
    n_parts = len(parts.list_parts(str(copied), run.folders["detections"]))
    next((copied / run.folders["detections"]).iterdir()).unlink()
    with pytest.warns(UserWarning, match=f"detections lacks 1 of {n_parts} parts: `emqa retry"):
        run.detections  # noqa: B018


def test_folders_are_those_of_the_settings(run, workspace):
    assert run.folders == list_run_folders(run.settings)
    assert "measurements" in dir(run)
    assert files.exists(Workspace(workspace).triage)
