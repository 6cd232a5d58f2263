"""The report of tables on disk, made in batches, is that of the same tables in memory, row for row, byte for byte."""

import shutil

import numpy as np
import pandas as pd
import pytest

from benchmarks.copies_in_memory import flag_duplicates
from emqa_dask import tables
from emqa_dask.archive.metadata.pixel_size_outliers import find_pixel_size_outliers
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.pipeline.commands import report_key, report_verdicts
from emqa_dask.pipeline.commands.report import RunFacts, report
from emqa_dask.pipeline.tasks import report_rows
from emqa_dask.pipeline.workspace import micrograph_ledger, provenance
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.report.spreadsheet import format_triage_csv
from emqa_dask.run.execute import execute
from emqa_dask.settings import Settings, replace
from emqa_dask.store import parts, plan, spill
from emqa_dask.store.layout import Workspace
from emqa_dask.triage import custom_checks, duplicates
from emqa_dask.triage.flags import flag_images, join_image_columns
from emqa_dask.triage.rules import RULES
from tests.archive_tables import decide_archive

SETTINGS = replace(Settings(), {"detect": {"detectors": ["log"]}, "report": {"max_rows": 20}})
NAMES = ("z/last.tif", "=cmd.tif", "a, b.tif", "new\nline.tif", "\u6d4b\u8bd5.dm4", "a/Copy of x.tif", "a/x (2).tif")


def make_workspace(root: str, n_files: int = 90, seed: int = 0) -> pd.DataFrame:
    """Tables as a run leaves them: stacks, unread files, flags, copies, cohorts, lost parts; gives the failures."""
    rng = np.random.default_rng(seed)
    uris = [NAMES[k] if k < len(NAMES) else f"session {k % 4}/{k:04d}.tif" for k in range(n_files)]
    status = rng.choice(["ok"] * 6 + ["failed", "skipped"], n_files)
    n_frames = np.where(status == "ok", rng.choice([1, 1, 1, 5], n_files), 0)
    # more than a batch
    n_frames[10] = 40
    status[10] = "ok"
    content = [f"{k:064x}" for k in np.where(rng.random(n_files) < 0.1, 3, np.arange(n_files))]
    formats = rng.choice(["TIFF", "DM3"], n_files)
    has_lost = rng.random(n_files) < 0.1
    catalog = pd.DataFrame(
        {
            "uri": uris,
            "content_sha256": content,
            "size_bytes": 1000,
            "format": formats,
            "status": status,
            "reason": np.where(has_lost, "1 of 3 frames could not be read", ""),
            "n_frames_lost": has_lost.astype("int32"),
            "error": pd.Series(np.where(status == "failed", "ValueError: it ends early", None), dtype=object),
        }
    ).sample(frac=1, random_state=seed)
    parts.write_table(Workspace(root).catalog, catalog, tables.CATALOG)

    index = np.repeat(np.arange(n_files), n_frames)
    n = len(index)
    size = rng.choice([256, 512], n)
    ledger = pd.DataFrame(
        {
            "micrograph_id": [f"{k:032x}" for k in rng.permutation(n)],
            "uri": np.array(uris, object)[index],
            "frame": np.concatenate([np.arange(k) for k in n_frames]),
            "content_sha256": np.array(content, object)[index],
            "pixel_sha256": [f"{k:064x}" for k in np.where(rng.random(n) < 0.1, n // 2, np.arange(n))],
            "height_px": size,
            "width_px": size,
            "dtype": "uint8",
            "nm_per_pixel": rng.choice([0.31, 0.31, 0.31, 3.1, np.nan], n),
            "nm_per_pixel_source": "header",
            "instrument": pd.Series(rng.choice(np.array(["A", "B", None], object), n), dtype=object),
            "magnification": rng.choice([1e4, np.nan], n),
            "acquired": [f"2021-03-{k % 28 + 1:02d}T10:00" if k % 5 else None for k in range(n)],
            "voltage_kv": 200.0,
            "stack": [f"{s}x{s}-uint8-nopx" for s in size],
        }
    )
    gone = ledger.iloc[:3].assign(content_sha256="f" * 64, micrograph_id=[f"gone {k}" for k in range(3)])
    ledger = pd.concat([ledger, gone]).sort_values(["stack", "uri", "frame"], ignore_index=True)
    ledger["index"] = ledger.groupby("stack").cumcount()
    ledger["partition"] = [f"{s}-{k // 6 * 6:08d}" for s, k in zip(ledger["stack"], ledger["index"])]
    parts.write_table(Workspace(root).micrographs, ledger, tables.MICROGRAPHS)

    n = len(ledger)
    features = pd.DataFrame({name: rng.uniform(0, 1, n) for name in tables.IMAGE_STATISTICS})
    features = features.where(rng.random(features.shape) > 0.1) * rng.choice([1, 100], features.shape, p=[0.9, 0.1])
    tones = rng.normal(0, 30, (n, 256))
    tones[1::4] = tones[0 : n - 1 : 4] + rng.normal(0, 4, tones[1::4].shape)
    grain = rng.integers(0, 256, (n, 512), dtype=np.uint8)
    grain[1::4] = grain[0 : n - 1 : 4]
    tones = np.clip(tones, -127, 127).astype(np.int8)
    features["signature"] = [None if k % 11 == 0 else tones[k].tobytes() + grain[k].tobytes() for k in range(n)]
    landmarks = rng.integers(0, 256, (n, LANDMARKS_BYTES), dtype=np.uint8)
    landmarks[3::16] = landmarks[2 : n - 1 : 16]
    features["landmarks"] = [None if k % 13 == 0 else landmarks[k].tobytes() for k in range(n)]
    features["micrograph_id"] = ledger["micrograph_id"]
    evidence = pd.DataFrame({"micrograph_id": ledger["micrograph_id"], "detector": "log"})
    evidence["n_detections"] = rng.integers(0, 4, n).astype(float)
    evidence["is_capped"] = rng.random(n) < 0.05
    mean = rng.beta(6, 2, n)
    predictions = pd.DataFrame(
        {
            "micrograph_id": ledger["micrograph_id"],
            "detector": "log",
            "predicted_f1": np.where(evidence["n_detections"] > 0, mean, np.nan),
            "predicted_f1_low": np.maximum(mean - 0.2, 0),
            "predicted_f1_high": np.minimum(mean + 0.1, 1),
            **{name: np.clip(mean + 0.3 * (q - 0.67), 0, 1) for name, q in zip(tables.F1_QUANTILES, tables.F1_LEVELS)},
            "predicted_recall": 0.9 * mean,
            "predicted_recall_low": 0.8 * mean,
            "predicted_recall_high": mean,
            "because": [["contrast is 0.1", "noise floor is 0.2"][: k % 3] for k in range(n)],
            "ood_distance": rng.lognormal(-0.8, 0.6, n),
            "evidence": np.where(evidence["n_detections"] > 0, "detections", "no_detections"),
        }
    )
    thumbnails = pd.DataFrame({"micrograph_id": ledger["micrograph_id"], "jpeg": b"jpeg"})
    boxes = {"y0": 1.0, "x0": 2.0, "y1": 9.0, "x1": 8.0, "score": 0.5}
    made = {"evidence": evidence, "features": features, "predictions": predictions, "thumbnails": thumbnails}
    made["detections"] = pd.DataFrame({"micrograph_id": ledger["micrograph_id"], **boxes})
    measurements = {"micrograph_id": ledger["micrograph_id"], "detector": "log", "n_objects": 3, "n_corrected": 3.5}
    made["measurements"] = pd.DataFrame(measurements)
    made["sizes"] = pd.DataFrame(measurements | {"unit": "nm", "low": 1.0})
    kept = {table: rng.random(n) < 0.95 for table in made}  # quarantined ones are not in a table
    kept["evidence"] = kept["features"]
    for table, folder in list_run_folders(SETTINGS).items():
        if table not in made:  # the report does not read it
            continue
        for k, (name, of) in enumerate(ledger.groupby("partition")):
            rows = made[table].loc[of.index[kept[table][of.index]]]
            if k % 9 != 4 or table == "thumbnails":  # unfinished
                parts.write_part(root, folder, name, rows, SCHEMAS[table])
    failed = ledger.loc[::7, ["uri", "micrograph_id"]].assign(stage="detect", kind="crash", error="it died", attempts=2)
    return tables.conform(failed, tables.FAILURES).to_pandas()


def name_session(row: dict) -> str:
    """Uppermost folder, instrument and magnification of a micrograph, as far as they are known."""
    folder = row["uri"].split("/")[0] if "/" in row["uri"] else None
    magnification = "10000x" if row["magnification"] == 1e4 else None
    return ", ".join(text for text in (folder, row["instrument"], magnification) if isinstance(text, str)) or "all"


def decide_in_memory(root: str, failures: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(triage, flags) of all tables at once, in the order of (uri, frame)."""
    catalog = parts.load_table(Workspace(root).catalog, tables.CATALOG)
    micrographs = pd.concat(micrograph_ledger.iter_current(Workspace(root)), ignore_index=True)
    micrographs = micrographs.assign(
        is_nm_per_pixel_suspect=find_pixel_size_outliers(
            micrographs["nm_per_pixel"], report_rows.label_acquisition_groups(micrographs)
        ),
        session=[name_session(row) for row in micrographs.to_dict("records")],
    )
    made = {
        t: parts.read_table(root, list_run_folders(SETTINGS)[t], SCHEMAS[t])
        for t in ("evidence", "features", "predictions")
    }
    made = {t: rows[rows["micrograph_id"].isin(micrographs["micrograph_id"])] for t, rows in made.items()}
    image_columns = join_image_columns(made["features"], micrographs)
    flags = [flag_images(image_columns), flag_duplicates(micrographs, made["features"])]
    evidence = made.pop("evidence")
    made["features"] = evidence.merge(made["features"], on="micrograph_id")
    made["predictions"] = made["predictions"][made["predictions"]["micrograph_id"].isin(evidence["micrograph_id"])]
    flags = pd.concat(flags, ignore_index=True)
    triage = decide_archive(SETTINGS.triage, flags, catalog=catalog, micrographs=micrographs, **made, failures=failures)
    of = triage.dropna(subset="micrograph_id")
    row = pd.Series(of.index, index=of["micrograph_id"])
    order = flags["micrograph_id"].map(row).sort_values(kind="stable").index
    return triage, flags.loc[order].reset_index(drop=True)


def facts(failures: pd.DataFrame) -> RunFacts:
    return RunFacts(1.79e9, {"detect": 3.0}, failures)


@pytest.mark.parametrize("small", [2000, 0], ids=["all pairs", "buckets"])
@pytest.mark.parametrize("seed", range(3))
def test_batches_of_any_size_give_the_rows_of_the_whole(tmp_path, monkeypatch, seed, small):
    root = str(tmp_path)
    failures = make_workspace(root, seed=seed)
    monkeypatch.setattr(duplicates, "MAX_EXHAUSTIVE", small)
    triage, flags = decide_in_memory(root, failures)
    seen = set(triage["reasons"].explode())
    assert seen >= {"duplicate", "near_duplicate", "pixel_size_suspect", "quarantined", "not_judged", "frames_lost"}
    for module, name, size in (
        (report_verdicts, "BATCH_ROWS", 7),
        (spill, "ROWS_PER_RUN", 30),
        (plan, "MICROGRAPHS_PER_BATCH", 10),
    ):
        monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(duplicates, "BLOCK", 40)
    before = set(tmp_path.iterdir())
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    assert provenance.read(Workspace(root))["verdicts"] == triage["verdict"].value_counts().to_dict()
    pd.testing.assert_frame_equal(
        parts.load_table(Workspace(root).triage, tables.TRIAGE), tables.conform(triage, tables.TRIAGE).to_pandas()
    )
    pd.testing.assert_frame_equal(parts.load_table(Workspace(root).flags, tables.FLAGS), flags)
    assert (tmp_path / "triage.csv").read_bytes() == format_triage_csv(triage).encode("utf-8-sig")
    shown = pd.read_csv(tmp_path / "triage.csv", keep_default_na=False, na_values={"predicted_f1": ""})
    assert list(shown.columns) == tables.TRIAGE.names
    assert shown["uri"].str.removeprefix("'").tolist() == triage["uri"].tolist()
    np.testing.assert_array_equal(shown["predicted_f1"], triage["predicted_f1"].to_numpy(float))
    added = {path.name for path in set(tmp_path.iterdir()) - before}
    tables_added = {"triage.parquet", "flags.parquet", "samples.parquet", "duplicate_groups.parquet"}
    assert added == tables_added | {
        "triage.csv",
        "report",
        "provenance.json",
        "report-images.json",
        "ro-crate-metadata.json",
    }
    groups = parts.load_table(Workspace(root).duplicate_groups, tables.DUPLICATE_GROUPS)
    copies = groups[groups["kind"].isin(["identical", "near"])]
    is_copy = triage["reasons"].map(lambda reasons: bool({"duplicate", "near_duplicate"} & set(reasons)))
    assert set(copies["micrograph_id"]) == set(triage["micrograph_id"][is_copy])
    assert (groups["kind"] == "shifted").any()
    assert groups.groupby("group")["kind"].apply(lambda kinds: kinds.isna().sum()).eq(1).all()


def test_workers_make_the_report_that_this_process_makes(tmp_path, monkeypatch):
    root = str(tmp_path)
    failures = make_workspace(root)
    monkeypatch.setattr(report_verdicts, "BATCH_ROWS", 20)
    monkeypatch.setattr(plan, "MICROGRAPHS_PER_BATCH", 30)
    names = ("triage.parquet", "triage.csv", "flags.parquet")
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures), unreachable)
    expected = {name: (tmp_path / name).read_bytes() for name in names}
    provenance_file = tmp_path / "provenance.json"
    counts = provenance.read(Workspace(root))["first_reasons"]
    provenance_file.unlink()
    monkeypatch.setattr("emqa_dask.pipeline.commands.report.MIN_MICROGRAPHS_OF_WORKERS", 0)
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures), run_some_tasks)
    assert {name: (tmp_path / name).read_bytes() for name in names} == expected
    assert provenance.read(Workspace(root))["first_reasons"] == counts
    assert not (tmp_path / "report-rows").exists()


def unreachable(*args, **named):
    raise AssertionError("a small archive needs no workers")


def run_some_tasks(function, tasks, stage, total=None):
    """Results in reverse order; every third task fails."""
    results = []
    for k, task in enumerate(tasks):
        results += execute(fail if k % 3 == 0 else function, [task], stage=stage)
    assert {result.outcome for result in results} == {"done", "failed"}
    return reversed(results)


def fail(*args, call):
    raise RuntimeError("the worker has no memory left")


def test_what_has_not_changed_is_known_without_reading_a_table(tmp_path, monkeypatch):
    root = str(tmp_path)
    failures = make_workspace(root, 30)
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    with monkeypatch.context() as patch:
        for name in ("load_table", "iterate_table", "read_part", "read_table"):
            patch.setattr(parts, name, None)
        assert not report(Workspace(root), "/archive", SETTINGS, facts(failures))
    page = tmp_path / "report" / "index.html"
    assert "emqa retry" in page.read_text()
    later = facts(failures[1:])
    assert report(Workspace(root), "/archive", SETTINGS, later)
    other = replace(SETTINGS, {"triage": {"trust_f1": 0.9}})
    assert report(Workspace(root), "/archive", other, later)
    assert not report(Workspace(root), "/archive", other, later)
    victim = sorted((tmp_path / list_run_folders(SETTINGS)["features"]).iterdir())[0]
    victim.unlink()
    assert report(Workspace(root), "/archive", other, later)
    catalog = parts.load_table(Workspace(root).catalog, tables.CATALOG)
    parts.write_table(Workspace(root).catalog, catalog, tables.CATALOG)
    assert report(Workspace(root), "/archive", other, later)


def test_a_changed_rule_makes_a_new_report(tmp_path, monkeypatch):
    root = str(tmp_path)
    failures = make_workspace(root, 30)
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    rules = tuple(rule._replace(verdict="review") if rule.code == "banner" else rule for rule in RULES)
    with monkeypatch.context() as patch:
        patch.setattr(custom_checks, "RULES", rules)
        assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
        assert not report(Workspace(root), "/archive", SETTINGS, facts(failures))
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))


@pytest.mark.parametrize("change", [{"flags": {"blur": False}}, {"flags": {"drift_contrast": 0.5}},
                                    {"triage": {"max_ood_distance": 2.0}}, {"report": {"max_rows": 7}}])  # fmt: skip
def test_a_changed_limit_makes_a_new_report(tmp_path, change):
    root = str(tmp_path)
    failures = make_workspace(root, 30)
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    changed = replace(SETTINGS, change)
    assert report(Workspace(root), "/archive", changed, facts(failures))
    assert not report(Workspace(root), "/archive", changed, facts(failures))


@pytest.mark.parametrize(
    "source",
    ["report/page.html.j2", "report/page.css", "report/table.js", "report/page.py", "triage/rules.py",
     "triage/flag_list.py", "tables/verdicts.py", "pipeline/commands/report_rows.py"],
)  # fmt: skip
def test_changed_templates_and_code_make_a_new_report(tmp_path, monkeypatch, source):
    package = tmp_path / "package"
    ignore = shutil.ignore_patterns("bundled", "__pycache__")
    shutil.copytree(report_key.PACKAGE, package, ignore=ignore)
    assert report_key.digest_code(package) == report_key.digest_code(report_key.PACKAGE)
    root = str(tmp_path / "workspace")
    failures = make_workspace(root, 12)
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    monkeypatch.setattr(report_key, "PACKAGE", package)
    assert not report(Workspace(root), "/archive", SETTINGS, facts(failures))
    file = package / source
    file.write_bytes(file.read_bytes() + b" ")
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    assert not report(Workspace(root), "/archive", SETTINGS, facts(failures))


def test_switched_off_copies_are_not_flagged(tmp_path):
    root = str(tmp_path)
    failures = make_workspace(root)
    codes = {"duplicate", "near_duplicate", "astigmatism"}
    report(Workspace(root), "/archive", SETTINGS, facts(failures))
    whole = parts.load_table(Workspace(root).flags, tables.FLAGS)
    assert set(whole["flag"]) >= codes
    report(Workspace(root), "/archive", replace(SETTINGS, {"flags": dict.fromkeys(codes, False)}), facts(failures))
    rest = whole[~whole["flag"].isin(codes)].reset_index(drop=True)
    pd.testing.assert_frame_equal(parts.load_table(Workspace(root).flags, tables.FLAGS), rest)
    triage = parts.load_table(Workspace(root).triage, tables.TRIAGE)
    assert not codes & set(triage["reasons"].explode())


def test_a_report_that_ends_early_leaves_the_last_one(tmp_path, monkeypatch):
    root = str(tmp_path)
    run_facts = facts(make_workspace(root, 30))
    report(Workspace(root), "/archive", SETTINGS, run_facts)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = replace(SETTINGS, {"triage": {"trust_f1": 0.9}})
    monkeypatch.setattr(report_verdicts, "BATCH_ROWS", 7)

    def failing(triage, header=True):
        if not header:
            raise OSError(28, "No space left on device")
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("emqa_dask.report.spreadsheet.format_triage_csv", failing)
        with pytest.raises(OSError, match="No space"):
            report(Workspace(root), "/archive", other, run_facts)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert report(Workspace(root), "/archive", other, run_facts)


def test_no_secret_gets_into_the_report(tmp_path, monkeypatch):
    root = str(tmp_path)
    run_facts = facts(make_workspace(root, 20))
    source = "s3://key:SECRET@bucket/archive?token=SECRET"
    monkeypatch.setattr("sys.argv", ["emqa", "triage", source])
    report(Workspace(root), source, SETTINGS, run_facts)
    for path in ("provenance.json", "report/index.html"):
        text = (tmp_path / path).read_text()
        assert "SECRET" not in text
        assert "bucket/archive" in text


def test_an_archive_without_a_micrograph_has_its_report(tmp_path):
    root = str(tmp_path)
    row = {"uri": "notes.txt", "status": "skipped", "reason": "text", "size_bytes": 3}
    parts.write_table(Workspace(root).catalog, [row], tables.CATALOG)
    assert report(Workspace(root), "/archive", SETTINGS, facts(tables.empty(tables.FAILURES)))
    assert provenance.read(Workspace(root))["verdicts"] == {"unknown": 1}
    assert parts.load_table(Workspace(root).triage, tables.TRIAGE)["reasons"][0].tolist() == ["not_a_micrograph"]


@pytest.mark.parametrize("table", ["catalog", "micrographs", "features"])
def test_what_is_there_twice_is_refused(tmp_path, table):
    root = str(tmp_path)
    failures = make_workspace(root, 30)
    if table == "features":
        uri = sorted((tmp_path / list_run_folders(SETTINGS)[table]).iterdir())[0].as_posix()
        schema = tables.FEATURES
    else:
        uri = getattr(Workspace(root), table)
        schema = SCHEMAS.get(table, getattr(tables, table.upper()))
    rows = parts.load_table(uri, schema)
    parts.write_table(uri, pd.concat([rows, rows[10:11] if len(rows) > 10 else rows]), schema)
    with pytest.raises(ValueError, match="twice"):
        report(Workspace(root), "/archive", SETTINGS, facts(failures))
