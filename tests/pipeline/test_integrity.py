"""What is damaged or lost in a workspace is noticed by the next run and made again, and nothing else is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from benchmarks.workspaces import list_differences
from emqa_dask import tables
from emqa_dask.cli import main
from emqa_dask.pipeline.commands.retry import retry
from emqa_dask.pipeline.commands.status import status
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.integrity import verify
from emqa_dask.settings import replace
from emqa_dask.store import micrographs, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.profiles import make_sample


def triage(archive, root, settings, **options) -> tuple[int, list[str]]:
    said: list[str] = []
    return run(str(archive), str(root), settings, say=said.append, **options), said


def flip(path: Path, seed: int = 0) -> None:
    """Flip one bit of the file, somewhere."""
    data = bytearray(path.read_bytes())
    bit = int(np.random.default_rng(seed).integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.fixture(scope="module")
def archive(small_archive, tmp_path_factory):
    """A copy of the small archive that tests may take files from and put back."""
    folder = tmp_path_factory.mktemp("integrity") / "archive"
    shutil.copytree(small_archive, folder)
    return folder


@pytest.fixture(scope="module")
def done(archive, in_process, tmp_path_factory):
    root = tmp_path_factory.mktemp("done") / "ws"
    assert triage(archive, root, in_process)[0] == 0
    return root


@pytest.fixture
def root(done, tmp_path):
    return shutil.copytree(done, tmp_path / "ws")


def one_of(root: Path, kind: str) -> Path:
    """A file of the workspace, the largest of its kind."""
    return max(root.glob(kind), key=lambda path: path.stat().st_size)


REMADE = (
    "catalog.parquet", "micrographs.parquet", "micrographs-copy.parquet", "thumbnails/*", "detections-*/*",
    "evidence-*/*", "features-*/*", "predictions-*/*", "micrographs.zarr/*/0/c/*/0/0", "micrographs.zarr/*/zarr.json",
    "micrographs.zarr/*/0/zarr.json", "triage.parquet", "triage.csv", "flags.parquet", "report/index.html",
    "provenance.json",
)  # fmt: skip


@pytest.mark.parametrize("kind", REMADE)
@pytest.mark.parametrize("blow", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_damaged_or_lost_file_is_made_again(root, done, archive, in_process, kind, blow):
    victim = one_of(root, kind)
    blow(victim)
    code, said = triage(archive, root, in_process)
    assert code == 0, said
    assert list_differences(root, done) == []
    if kind != "provenance.json":
        parts_or_bytes(victim, done / victim.relative_to(root))
    assert "nothing was new" in triage(archive, root, in_process)[1][-2]


def parts_or_bytes(path: Path, expected: Path) -> None:
    """Hold a file against what it was: tables by their rows, since a catalog made again has them in another order."""
    if path.suffix == ".parquet":
        by = [name for name in ("uri", "micrograph_id", "frame", "detector", "flag") if name in pd.read_parquet(path)]
        one, other = (pd.read_parquet(p).sort_values(by, kind="stable", ignore_index=True) for p in (path, expected))
        pd.testing.assert_frame_equal(one, other)
    elif path.name != "index.html":  # which tells of times
        assert path.read_bytes() == expected.read_bytes()
    else:
        assert path.stat().st_size > 10_000


def test_detections_made_again_do_not_make_features_again(root, archive, in_process):
    features = {path: path.stat().st_mtime_ns for path in root.glob("features-*/*")}
    flip(one_of(root, "detections-*/*"))
    _, said = triage(archive, root, in_process)
    assert any("damaged: " in line and "put aside as " in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in root.glob("features-*/*")} == features
    assert len(list((root / "damaged").iterdir())) == 1


def test_a_lost_ledger_without_its_copy_is_read_anew(root, done, archive, in_process):
    for name in ("micrographs.parquet", "micrographs-copy.parquet"):
        (root / name).unlink()
    code, said = triage(archive, root, in_process)
    assert code == 0, said
    assert list_differences(root, done) == []
    assert "not_stored" not in set(pd.read_parquet(root / "triage.parquet")["reasons"].explode())


def test_a_whole_stack_that_was_deleted_is_stored_again(root, done, archive, in_process):
    shutil.rmtree(one_of(root, "micrographs.zarr/*/0/c/*/0/0").parents[4])
    assert triage(archive, root, in_process)[0] == 0
    assert list_differences(root, done) == []


def test_only_images_whose_source_is_gone_are_lost(tmp_path, in_process):
    archive = tmp_path / "archive"
    root = tmp_path / "ws"
    archive.mkdir()
    for k in range(3):
        image = make_sample("nanoparticle-tem", np.random.default_rng(k), (96, 96), clear=True).image
        tifffile.imwrite(archive / f"{k}.tif", image)
    settings = replace(in_process, {"store": {"shard_length": 3}})
    assert triage(archive, root, settings)[0] == 0
    one_of(root, "micrographs.zarr/*/0/c/*/0/0").unlink()
    source = (archive / "1.tif").rename(tmp_path / "aside.tif")
    changed = replace(settings, {"detect": {"threshold": 0.2}})
    assert triage(archive, root, changed, steps=("detect",))[0] == 2
    ledger = pd.read_parquet(root / "micrographs.parquet").set_index("uri")
    failures = pd.read_parquet(root / "failures.parquet")
    assert failures["uri"].tolist() == ["1.tif"]
    assert failures["error"].str.contains("1.tif").all()
    (partition,) = micrograph_ledger.list_partitions(Workspace(str(root)))
    kept = micrographs.iterate_micrographs(str(root), partition, ledger.loc[["0.tif", "2.tif"], "index"])
    assert [micrographs.hash_pixels(image) for image in kept] == list(ledger.loc[["0.tif", "2.tif"], "pixel_sha256"])
    source.rename(archive / "1.tif")
    assert triage(archive, root, changed)[0] == 2  # what has failed is tried again by retry alone
    assert retry(str(root), changed, say=lambda text: None) == 0
    assert len(pd.read_parquet(root / "failures.parquet")) == 0


def test_report_without_a_catalog_keeps_what_is_there(root, capsys):
    before = (root / "triage.parquet").read_bytes()
    (root / "catalog.parquet").unlink()
    assert main(["report", str(root)]) == 1
    assert "catalog.parquet is missing or damaged: run `emqa triage " in capsys.readouterr().err
    assert (root / "triage.parquet").read_bytes() == before


def test_report_names_missing_parts_and_keeps_what_is_there(root, capsys):
    before = (root / "triage.parquet").read_bytes()
    victim = one_of(root, "predictions-*/*")
    victim.unlink()
    assert main(["report", str(root)]) == 1
    assert f"{victim.name} is missing: `emqa retry {root} --failed` makes them" in capsys.readouterr().err
    assert (root / "triage.parquet").read_bytes() == before
    assert main(["retry", str(root), "--failed", "--scheduler", "in-process"]) == 0
    assert main(["report", str(root)]) == 0


def test_removed_files_say_so_and_are_no_failures(root, archive, in_process):
    rows = pd.read_parquet(root / "triage.parquet")
    gone = archive / rows.loc[rows["status"] == "ok", "uri"].iloc[0]
    bad = archive / "bad.tif"
    bad.write_bytes(b"II*\0" + b"\xff" * 100)
    assert triage(archive, root, in_process)[0] == 2
    bad.unlink()
    aside = gone.rename(archive.parent / "aside")
    try:
        code, said = triage(archive, root, in_process)
    finally:
        aside.rename(gone)
    now = pd.read_parquet(root / "triage.parquet").set_index("uri")
    for path in (gone, bad):
        row = now.loc[path.relative_to(archive).as_posix()]
        assert (row["status"], row["verdict"], list(row["reasons"])) == ("removed", "unknown", ["removed"])
    assert pd.read_parquet(root / "catalog.parquet")["status"].eq("removed").sum() == 2
    lines: list[str] = []
    status(str(root), lines.append)
    assert any(line.startswith("  files ") and line.endswith(", 2 removed") for line in lines)
    assert (code, len(pd.read_parquet(root / "failures.parquet"))) == (0, 0), said
    assert triage(archive, root, in_process)[0] == 0
    again = pd.read_parquet(root / "triage.parquet")
    pd.testing.assert_frame_equal(again[again["uri"] != "bad.tif"].reset_index(drop=True), rows)


def test_not_stored_is_never_exit_code_0(root, in_process):
    ledger = parts.load_table(Workspace(str(root)).micrographs, tables.MICROGRAPHS)
    for uri in (Workspace(str(root)).micrographs, Workspace(str(root)).micrographs_copy):
        parts.write_table(uri, ledger[1:], tables.MICROGRAPHS)
    said: list[str] = []
    assert run(None, str(root), in_process, steps=("predict", "report"), is_rescoring=True, say=said.append) == 2


def test_a_flipped_number_of_provenance_is_not_believed(root, archive, in_process):
    path = root / "provenance.json"
    document = json.loads(path.read_text())
    document["verdicts"]["trust"] = 999
    path.write_text(json.dumps(document))
    assert not any("999" in line for line in triage(archive, root, in_process)[1])
    assert json.loads(path.read_text())["verdicts"].get("trust", 0) < 999


def test_a_value_outside_its_interval_is_refused_with_remedy(root, archive, in_process):
    victim = one_of(root, "predictions-*/*")
    rows = parts.load_table(str(victim), tables.PREDICTIONS)
    rows.loc[0, ["predicted_f1_low", "predicted_f1", "predicted_f1_high"]] = 0.68, 0.27, 0.66
    parts.write_table(str(victim), rows, tables.PREDICTIONS)
    changed = replace(in_process, {"report": {"max_rows": 7}})
    with pytest.raises(ValueError, match=f"{victim.parent.name}: micrograph .* 0.27 in an interval of 0.68 to 0.66"):
        triage(archive, root, changed)
    shutil.rmtree(victim.parent)  # the remedy that the message states
    assert triage(archive, root, changed)[0] == 0


def test_verify_reads_all_and_its_remedy_helps(root, done, archive, in_process, capsys):
    said: list[str] = []
    assert main(["verify", str(root)]) == 0
    assert capsys.readouterr().out == "every stored file is as it was written\n"
    victims = [one_of(root, kind) for kind in ("micrographs.zarr/*/0/c/*/0/0", "features-*/*", "triage.csv")]
    for victim in victims:
        flip(victim)
    assert verify(str(root), said.append) == 2
    assert sum("damaged" in line for line in said) == 4, said
    assert said[-1] == f"3 files are damaged: `emqa triage {archive} --workspace {root}` makes them again"
    assert triage(archive, root, replace(in_process, {"store": {"verify_gib": 0}}))[0] == 0
    assert list_differences(root, done) == []
    assert verify(str(root), said.append) == 0


def test_rescoring_reads_no_pixel(root, in_process, monkeypatch):
    asked = []
    monkeypatch.setattr(micrographs, "find_damaged_slots", lambda *of: asked.append(of))
    assert (
        run(None, str(root), in_process, steps=("featurise", "predict", "report"), is_rescoring=True, say=asked.append)
        == 0
    )
    assert not [of for of in asked if isinstance(of, tuple)]
