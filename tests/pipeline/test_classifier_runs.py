"""Ensembles from labels to verdicts: emqa train ensemble, triage --classifier, laws of what they leave."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from safetensors.numpy import load_file

from emqa_dask import load_ensemble, models, mutual_information, predictive_entropy, tables
from emqa_dask.cli import main
from emqa_dask.pipeline.commands.make_tables import TASK_COLUMNS
from emqa_dask.pipeline.commands.rescore import rescore
from emqa_dask.pipeline.commands.train_domain import DomainOptions
from emqa_dask.pipeline.commands.train_ensemble import train_ensemble
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.tasks.classify import classify_partition
from emqa_dask.pipeline.tasks.partition_tables import make_tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.failures import write_failures
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_downstream_tables, list_run_folders, list_upstream_tables
from emqa_dask.run.supervise import CallFailed
from emqa_dask.settings import SettingsError, replace
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic import foreign
from emqa_dask.train.ensemble_plan import EnsembleOptions
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.uncertainty import shift_model
from emqa_dask.windows import WindowSettings

WINDOWS = WindowSettings(32, max_windows=6)
TINY = {"depth": 10, "widen": 1}


def quiet(*_) -> None:
    pass


def stripes(rng: np.random.Generator, kind: str, shape=(80, 96)) -> np.ndarray:
    """Noisy stripes, upright or level, uint16."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin(2 * np.pi * (x if kind == "bars" else y) / rng.uniform(6, 9) + rng.uniform(0, 6))
    return np.clip(20000 + 6000 * wave + rng.normal(0, 3000, shape), 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder of 140 striped images, and labels.csv beside them."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    rows = []
    for k in range(140):
        kind = ("bars", "rows")[k % 2]
        tifffile.imwrite(root / f"{k:03d}.tif", stripes(rng, kind))
        split = "train" if k < 60 else "validation" if k < 110 else "test"
        rows.append({"uri": f"{k:03d}.tif", "label": kind, "split": split})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root


@pytest.fixture(scope="module")
def model(labelled, in_process, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "stripes"
    schedule = MemberSchedule(epochs=4, batch=32, halve_every=3)
    options = EnsembleOptions(WINDOWS, n_members=2, architecture=TINY, schedule=schedule)
    domain_options = DomainOptions(examples=60)
    labels = str(labelled / "labels.csv")
    train_ensemble(labels, out, in_process, options, windows_per_image=6, domain_options=domain_options, say=quiet)
    return out


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Striped images, noise, a photograph, and one that is smaller than a window."""
    root = tmp_path_factory.mktemp("striped")
    rng = np.random.default_rng(1)
    for kind in ("bars", "rows"):
        for k in range(6):
            tifffile.imwrite(root / f"{kind}{k}.tif", stripes(rng, kind))
    photograph = foreign.draw_photograph(rng, (80, 96))
    grey = photograph if photograph.ndim == 2 else photograph.mean(axis=-1)
    tifffile.imwrite(root / "photograph.tif", (grey * 200).astype(np.uint16))
    tifffile.imwrite(root / "small.tif", stripes(rng, "bars", (24, 96)))
    return root


@pytest.fixture(scope="module")
def settings(in_process, model):
    return replace(in_process, {"classify": {"model": str(model)}, "run": {"batch_size": 5}})


@pytest.fixture(scope="module")
def done(archive, settings, tmp_path_factory):
    root = tmp_path_factory.mktemp("classified") / "ws"
    assert run(str(archive), str(root), settings, say=quiet) == 0
    return root


def table(root, name, settings):
    return parts.read_table(str(root), list_run_folders(settings)[name], SCHEMAS[name])


def test_the_card_tells_what_was_measured(model):
    card = models.load_model_card(model)
    assert card["measured"]["test"]["accuracy"] > 0.9
    assert card["measured"]["domain"]["n"] == 30
    assert 0 <= card["measured"]["domain"]["false_flags_on_test"] <= 0.3
    assert card["ensemble"]["temperature"] > 0
    files = {"shift.safetensors", "held_out.safetensors", "reference.safetensors", "validation.png", "test.png"}
    assert files <= set(card["files"])
    bars = card["measured"]["validation"]
    assert sum(bars["reliability_n"]) == bars["n"] == 300


def test_a_training_that_is_finished_is_not_done_again(labelled, model, in_process):
    before = (model / "card.toml").read_bytes()
    said = []
    options = EnsembleOptions(WINDOWS, n_members=2)
    card = train_ensemble(str(labelled / "labels.csv"), model, in_process, options, say=said.append)
    assert (model / "card.toml").read_bytes() == before
    assert card["name"] == "stripes"
    assert any("trained already" in line for line in said)


def test_every_image_has_a_class_or_a_reason(done, settings, archive):
    triage = parts.load_table(Workspace(str(done)).triage, tables.TRIAGE).set_index("uri")
    assert len(triage) == len(list(archive.iterdir()))
    for kind in ("bars", "rows"):
        own = triage[triage.index.str.startswith(kind)]
        assert (own["predicted_class"] == kind).mean() > 0.8
        assert own["class_probability"].between(0.5, 1).all()
        assert own["predictive_entropy_nats"].between(0, np.log(2)).all()
    found = table(done, "classifications", settings).set_index("micrograph_id")
    small = found.loc[triage.loc["small.tif", "micrograph_id"]]
    assert small["n_members"] == 0
    assert "smaller than the classifier's window" in small["refusal"]
    assert pd.isna(triage.loc["small.tif", "predicted_class"])
    assert triage.loc["photograph.tif", "shift"] != "none"
    assert triage.loc["photograph.tif", "shift_score"] > 1


def test_what_is_judged_follows_from_the_members_words(done, settings):
    said = table(done, "probabilities", settings)
    found = table(done, "classifications", settings)
    found = found[found["n_members"] > 0].set_index("micrograph_id")
    for key, rows in said.groupby("micrograph_id"):
        p = np.stack(list(rows.sort_values("member")["probabilities"]))[:, None]
        assert found.loc[key, "predictive_entropy_nats"] == pytest.approx(predictive_entropy(p)[0], abs=1e-9)
        assert found.loc[key, "mutual_information_nats"] == pytest.approx(mutual_information(p)[0], abs=1e-9)
        assert found.loc[key, "mutual_information_nats"] <= found.loc[key, "predictive_entropy_nats"] + 1e-12


def test_maps_cover_the_image_and_contain_its_largest_entropy(done, settings):
    maps = table(done, "regions", settings)
    found = table(done, "classifications", settings)
    found = found.set_index("micrograph_id")
    for row in maps.itertuples():
        n = len(row.y0) * len(row.x0)
        assert len(row.predictive_entropy_nats) == len(row.mutual_information_nats) == n <= WINDOWS.max_windows
        assert max(row.y0) + row.height_px <= 80
        assert max(row.x0) + row.width_px <= 96
        assert found.loc[row.micrograph_id, "largest_region_entropy_nats"] == max(row.predictive_entropy_nats)


def test_batches_change_nothing(done, settings, archive, tmp_path):
    one = replace(settings, {"run": {"batch_size": 1}})
    assert run(str(archive), str(tmp_path / "ws"), one, say=quiet) == 0
    a, b = (table(root, "classifications", settings).set_index("micrograph_id") for root in (done, tmp_path / "ws"))
    b = b.loc[a.index]
    assert (a["shift"].fillna("") == b["shift"].fillna("")).all()
    for name in ("class_probability", "predictive_entropy_nats", "shift_score", "nearest_score"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_a_classifier_added_later_repeats_no_detection(done, settings, in_process, archive, tmp_path):
    root = tmp_path / "ws"
    assert run(str(archive), str(root), in_process, say=quiet) == 0
    detections = {path: path.stat().st_mtime_ns for path in root.glob("detections-*/*.parquet")}
    triage = parts.load_table(Workspace(str(root)).triage, tables.TRIAGE)
    assert triage["predicted_class"].isna().all()
    assert triage["shift"].isna().all()
    assert run(str(archive), str(root), settings, say=quiet) == 0
    assert detections == {path: path.stat().st_mtime_ns for path in root.glob("detections-*/*.parquet")}
    pd.testing.assert_frame_equal(
        parts.load_table(Workspace(str(root)).triage, tables.TRIAGE),
        parts.load_table(Workspace(str(done)).triage, tables.TRIAGE),
    )


def test_rescore_replays_limits_and_runs_no_network(done, settings, in_process, tmp_path):
    root = shutil.copytree(done, tmp_path / "ws")
    every = replace(settings, {"triage": {"max_entropy_nats": 1e-9}})
    assert rescore(str(root), every, say=quiet) == 0
    triage = parts.load_table(Workspace(str(root)).triage, tables.TRIAGE)
    known = triage[
        triage["predictive_entropy_nats"].gt(1e-9) & triage["shift"].eq("none") & triage["verdict"].ne("junk")
    ]
    assert len(known)
    assert known["reasons"].map(lambda codes: "uncertain_class" in codes).all()
    with pytest.raises(SettingsError, match="probabilities"):
        rescore(str(root), replace(settings, {"classify": {"method": "softmax"}}), say=quiet)


def test_missing_members_are_reported_and_too_few_refused(done, settings, model, archive, tmp_path):
    broken = shutil.copytree(model, tmp_path / "model")
    (broken / "member_01.safetensors").unlink()
    changed = replace(settings, {"classify": {"model": str(broken)}})
    said = []
    root = tmp_path / "ws"
    assert run(str(archive), str(root), changed, say=said.append) == 0
    assert any("1 of 2 members are used (member_01.safetensors: it is not there)" in line for line in said)
    assert set(table(root, "classifications", changed)["n_members"]) == {0, 1}
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "shift.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"shift\.safetensors"):
        run(str(archive), str(tmp_path / "other"), replace(settings, {"classify": {"model": str(bare)}}), say=quiet)
    (broken / "member_00.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="0 of 2 members can be used"):
        run(str(archive), str(tmp_path / "other"), changed, say=quiet)
    assert not (tmp_path / "other").exists()


def test_sessions_are_held_against_the_classifiers_images(done):
    found = parts.load_table(Workspace(str(done)).drifts, tables.DRIFTS)
    assert set(found["cohort"]) == {"all"}
    assert set(found["reference"]) == {"held_out"}
    assert (found["n"] <= 14).all()
    assert found["n_reference"].max() == 50


def test_a_session_row_has_class_shares_and_entropy_shape(done, settings):
    (row,) = parts.load_table(Workspace(str(done)).sessions, tables.SESSIONS).to_dict("records")
    found = table(done, "classifications", settings)
    assert row["n_looked_at"] == len(found) == 14
    kinds = [row[f"{kind}_fraction"] for kind in tables.SHIFTS[1:]]
    assert sum(kinds) == pytest.approx(row["out_of_domain_fraction"])
    assert row["unrelated_fraction"] == pytest.approx(found["shift"].dropna().eq("unrelated").mean())
    assert len(row["entropy_shape"]) == 10 + len(tables.ENTROPY_SHAPE)
    assert sum(row["entropy_shape"][:10]) == pytest.approx(1)
    assert np.isnan(row["defocus_nm"])
    assert row["with_rings_fraction"] == 0
    assert row["shift"] == shift_model.classify_cohort_shift(found)


def test_what_is_in_an_image_is_kept_beside_its_maps(done, settings):
    maps = table(done, "regions", settings)
    assert maps["content"].map(len).eq(128).all()
    assert maps["content"].map(lambda values: np.isfinite(values).all()).all()
    assert np.isfinite(maps["foreign_log_odds"]).all()


@pytest.mark.real
def test_members_train_on_workers_and_resume_after_a_stop(labelled, in_process, tmp_path):
    out = tmp_path / "m"
    said = []
    schedule = MemberSchedule(epochs=1, batch=32)
    ensemble_options = EnsembleOptions(WINDOWS, n_members=3, architecture=TINY, schedule=schedule)
    options = {"options": ensemble_options, "domain_options": DomainOptions(examples=20)}
    options |= {"windows_per_image": 2, "say": said.append}
    local = replace(in_process, {"run": {"scheduler": "local", "workers": 2}})
    labels = str(labelled / "labels.csv")
    stop = tmp_path / "m.training" / "member_01"  # a folder in its place stops that member alone
    stopping = options | {"say": lambda line: stop.mkdir() if "finished members" in line else None}
    with pytest.raises(RuntimeError, match="2 members are trained, 3 are needed"):
        train_ensemble(labels, str(out), local, **stopping)
    assert not (out / "card.toml").exists()
    stop.rmdir()
    trained = out.with_name("m.training").glob("member_0[02]/weights.safetensors")
    before = {path: path.stat().st_mtime_ns for path in trained}
    assert len(before) == 2
    train_ensemble(labels, str(out), local, **options)
    assert load_ensemble(out).n_members == 3
    assert [line.split(":")[0] for line in said if line.startswith("member_")] == ["member_01"]
    train_ensemble(labels, str(tmp_path / "alone"), in_process, **options)
    there, alone = (load_file(folder / "shift.safetensors") for folder in (out, tmp_path / "alone"))
    assert there.keys() == alone.keys()
    for name, values in there.items():
        np.testing.assert_allclose(values, alone[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_images_without_possible_shifts_give_a_classifier_without_flags(in_process, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for k in range(60):
        tifffile.imwrite(tmp_path / f"{k}.tif", stripes(rng, ("bars", "rows")[k % 2], (40, 44)))
        rows.append({"uri": f"{k}.tif", "label": ("bars", "rows")[k % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    schedule = MemberSchedule(epochs=1, batch=32)
    options = EnsembleOptions(WINDOWS, n_members=1, architecture=TINY, schedule=schedule)
    card = train_ensemble(str(tmp_path / "labels.csv"), tmp_path / "m", in_process, options, say=quiet)
    assert "64 px at least are needed" in card["training"]["out_of_domain"]
    assert load_ensemble(tmp_path / "m").n_members == 1


def test_the_verbs(labelled, archive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = "--window 32 --windows-per-image 2 --depth 10 --widen 1 --epochs 1 --members 2 --scheduler in-process "
    shown += f"--examples 30 --shifted unrelated={labelled}"
    assert main(["train", "ensemble", str(labelled / "labels.csv"), "--out", "m", *shown.split()]) == 0
    assert load_ensemble("m").n_members == 2
    assert main(["triage", str(archive), "--workspace", "ws", "--classifier", "m", "--scheduler", "in-process"]) == 0
    assert parts.load_table("ws/triage.parquet", tables.TRIAGE)["predicted_class"].notna().sum() == 13
    assert main(["classify", "ws", "--scheduler", "in-process"]) == 0
    page = (tmp_path / "ws/report/index.html").read_text()
    assert "Results of the classifier" in page
    pictures = Path("ws/report/thumbnails/00000.js").read_text()
    assert re.search(r'"maps":\[(null,)*"', pictures)  # of images that were looked at
    assert main(["triage", str(archive), "--dry-run", "--classifier", "m", "--scheduler", "in-process"]) == 0
    assert main(["status", "ws"]) == 0
    assert "classifications" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        ("uri,label\nnone.tif,a\n000.tif,b\n", "no file 'none.tif'"),
        ("uri,label\n000.tif,a\n001.tif,a\n", "1 class"),
        ("file,label\n000.tif,a\n", "lacks the column uri"),
    ],
)
def test_labels_that_cannot_be_learnt_from_name_the_line(csv, said, labelled, in_process, tmp_path):
    (tmp_path / "bad.csv").write_text(csv)
    options = EnsembleOptions(WINDOWS)
    with pytest.raises(ValueError, match=said):
        train_ensemble(str(tmp_path / "bad.csv"), tmp_path / "m", in_process, options, images=str(labelled), say=quiet)
    assert not list(tmp_path.glob("m*"))


def test_classify_without_a_classifier_says_so(done, in_process):
    with pytest.raises(SettingsError, match="--classifier"):
        run(None, str(done), in_process, steps=("classify",), say=quiet)


def test_tables_are_made_from_what_is_upstream():
    for table_ in SCHEMAS:
        assert table_ in list_upstream_tables([table_], SCHEMAS)
        assert table_ in list_downstream_tables(table_, SCHEMAS)
        for other in list_downstream_tables(table_, SCHEMAS):
            assert table_ in list_upstream_tables([other], SCHEMAS)
    assert list_upstream_tables(["predictions"], SCHEMAS) == (
        "thumbnails",
        "detections",
        "embeddings",
        "evidence",
        "features",
        "predictions",
    )


def test_images_that_lack_only_their_regions_fail_visibly(done, settings, tmp_path):
    root = tmp_path / "ws"
    shutil.copytree(done, root)
    shutil.rmtree(root / list_run_folders(settings)["regions"])
    shutil.rmtree(root / list_run_folders(settings)["classifications"])
    ((partition, rows),) = (
        (partition, rows)
        for partition, rows in micrograph_ledger.iter_partitions(Workspace(str(root)), TASK_COLUMNS)
        if (rows["uri"] == "bars0.tif").any()
    )
    victim = rows["micrograph_id"][rows["uri"] == "bars0.tif"].item()

    def call(function, *arguments, label="", megapixels=0.0):
        if function is classify_partition and victim in arguments[0]:
            raise CallFailed("crash", "it crashed")
        return function(*arguments)

    record = make_tables(Workspace(str(root)), partition, rows, settings, ("regions", "classifications"), call)
    assert record["n_failed"] == 1
    failures = list(write_and_load_failures(root, settings).itertuples())
    assert [(row.micrograph_id, row.stage, row.error) for row in failures] == [(victim, "classify", "it crashed")]
    for name in ("regions", "classifications"):
        assert victim not in set(table(root, name, settings)["micrograph_id"])
    assert len(table(root, "classifications", settings)) == len(rows) - 1


def write_and_load_failures(root, settings) -> pd.DataFrame:
    write_failures(Workspace(str(root)), settings)
    return parts.load_table(Workspace(str(root)).failures, tables.FAILURES)
