"""Every remedy that a message states is carried out as it is stated; what comes out is what was there before.

Remedies of damaged tables and models: tests/pipeline/test_integrity.py and tests/test_models.py; of outputs:
tests/test_outputs.py; of settings, markers and archives that were moved: tests/pipeline/test_moving.py.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from benchmarks.workspaces import list_differences
from emqa_dask.cli import main
from emqa_dask.store import lock, stored_settings
from emqa_dask.synthetic.profiles import make_sample
from tests.test_cli import fails_in_one_line

HERE = ("--scheduler", "in-process", "--detector", "log")
STORED = "micrographs.zarr/*/0/c/*/0/0"


def triage(source, root, *options) -> int:
    return main(["triage", str(source), "--workspace", str(root), *HERE, *map(str, options)])


def run_remedy(message: str, *options) -> int:
    """Run the first command that `message` has between backticks, word for word, with `options`; its exit code."""
    words = shlex.split(re.search("`emqa ([^`]+)`", message)[1])
    return main([*words, *HERE, *map(str, options)])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Six micrographs in a folder whose name a shell has to quote."""
    folder = tmp_path_factory.mktemp("remedies") / "an archive"
    folder.mkdir()
    for k in range(6):
        shape = (96, 96) if k < 5 else (96, 112)
        image = make_sample("nanoparticle-tem", np.random.default_rng(k), shape, clear=True).image
        tifffile.imwrite(folder / f"{k}.tif", image)
    return folder


@pytest.fixture(scope="module")
def done(archive, tmp_path_factory):
    root = tmp_path_factory.mktemp("done") / "a workspace"
    assert triage(archive, root, "--set", "store.shard_length=2") == 0
    return root


@pytest.fixture
def root(done, tmp_path):
    return shutil.copytree(done, tmp_path / "a workspace")


def one_of(root: Path, kind: str) -> Path:
    return sorted(root.glob(kind))[0]


@pytest.mark.parametrize("name", ["catalog.parquet", "micrographs.parquet"])
@pytest.mark.parametrize("verb", ["status", "report", "detect", "rescore"])
def test_tables_that_a_verb_needs_come_back(root, done, capsys, name, verb):
    (root / name).unlink()
    (root / "micrographs-copy.parquet").unlink()
    error = fails_in_one_line(capsys, verb, root, *(HERE if verb not in ("rescore", "status") else ()))
    assert str(root / name) in error
    assert run_remedy(error) == 0
    assert list_differences(root, done) == []
    assert main([verb, str(root), *(HERE if verb not in ("rescore", "status") else ())]) == 0


@pytest.mark.parametrize("name", ["catalog.parquet", "failures.parquet"])
def test_a_damaged_table_that_status_reads_comes_back(root, done, archive, capsys, name):
    (root / name).write_bytes((root / name).read_bytes()[:-20])
    error = fails_in_one_line(capsys, "status", root)
    assert f"{root / name} is damaged" in error
    assert "run `emqa triage` on its workspace" in error
    assert triage(archive, root) == 0
    assert main(["status", str(root)]) == 0
    assert list_differences(root, done) == []


@pytest.mark.parametrize("table", ["thumbnails", "detections", "evidence", "features", "predictions"])
@pytest.mark.parametrize("is_reported", [True, False])
def test_missing_parts_come_back_by_retry(root, done, capsys, table, is_reported):
    one_of(root, f"{table}*/*").unlink()
    if not is_reported:
        (root / "triage.parquet").unlink()
        if table == "predictions":  # nothing was made from them: a report says that they are not there yet
            assert main(["report", str(root)]) in (0, 2)
    error = fails_in_one_line(capsys, "report", root)
    assert run_remedy(error) == 0
    assert list_differences(root, done) == []


def test_rescoring_without_detections_names_what_makes_them(root, done, capsys):
    for path in root.glob("detections-*/*"):
        path.unlink()
    error = fails_in_one_line(capsys, "rescore", root)
    assert "lack detections" in error
    assert run_remedy(error) == 0
    assert main(["rescore", str(root)]) == 0
    assert list_differences(root, done) == []


def test_rescoring_that_needs_pixels_names_what_reads_them(root, capsys):
    changed = ("--set", "detect.threshold=0.3")
    error = fails_in_one_line(capsys, "rescore", root, *changed)
    assert run_remedy(error, *changed) == 0
    assert main(["rescore", str(root), *changed]) == 0


def test_a_damaged_provenance_comes_back_by_report(root, capsys):
    (root / "provenance.json").write_text("{")
    assert main(["status", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"{root / 'provenance.json'} is damaged" in said
    assert run_remedy(said) == 0
    assert main(["status", str(root)]) == 0
    assert "provenance.json is damaged" not in capsys.readouterr().out


def test_verify_names_what_makes_all_again(root, done, capsys):
    for kind in ("thumbnails/*", STORED, "flags.parquet", "micrographs.zarr/zarr.json"):
        path = one_of(root, kind)
        path.write_bytes(path.read_bytes()[:-5])
    assert main(["verify", str(root)]) == 2
    assert run_remedy(capsys.readouterr().out) == 0
    assert list_differences(root, done) == []
    assert main(["verify", str(root)]) == 0


@pytest.mark.parametrize(
    "kind", ["catalog.parquet", "micrographs*.parquet", "failures.parquet", "features-*/*", "triage.csv", STORED]
)
def test_verify_names_what_is_missing(root, done, capsys, kind):
    victim = one_of(root, kind) if kind != "micrographs*.parquet" else root / "micrographs.parquet"
    victim.unlink()
    if victim.name == "micrographs.parquet":
        (root / "micrographs-copy.parquet").unlink()
    assert main(["verify", str(root)]) == 2
    said = capsys.readouterr().out
    assert (victim.name if kind != STORED else " stored micrographs of ") in said
    assert "1 files are damaged" in said
    assert run_remedy(said) == 0
    assert main(["verify", str(root)]) == 0
    assert list_differences(root, done) == []


@pytest.mark.parametrize("kind", ["micrographs.zarr/**/zarr.json", "micrographs.zarr/zarr.json"])
def test_metadata_that_are_lost_cost_no_pixel(root, done, archive, kind, tmp_path):
    for path in root.glob(kind):
        path.unlink()
    mine = shutil.copytree(archive, tmp_path / "mine")
    last = pd.read_parquet(root / "micrographs.parquet").groupby("stack")["uri"].last()
    for uri in last:  # whose shards must not be taken for damaged: nothing else has these pixels
        lose_bytes(mine / uri)
    assert triage(mine, root, "--moved-from", archive) == 0
    assert list_differences(root, done) == ["micrographs.path"]


def test_settings_that_are_lost_are_asked_for(root, done, archive, capsys):
    given = root.parent / "mine.toml"
    shutil.copy(root / "settings.toml", given)
    (root / "settings.toml").unlink()
    for command in (["status", root], ["report", root], ["verify", root], ["triage", archive, "--workspace", root]):
        error = fails_in_one_line(capsys, *command)
        assert f"{root / 'settings.toml'} is missing" in error
    assert run_remedy(error, "--settings", given) == 0
    assert list_differences(root, done) == []
    assert stored_settings.read_settings(str(root)) == stored_settings.read_settings(str(done))


def test_an_archive_without_its_images_loses_nothing(root, done, archive, capsys):
    aside = archive.rename(archive.parent / "aside")
    try:
        archive.mkdir()
        assert "there is no file in it" in fails_in_one_line(capsys, "triage", archive, "--workspace", root)
        (archive / "lost+found.txt").write_text("nothing")
        error = fails_in_one_line(capsys, "triage", archive, "--workspace", root, *HERE)
        assert "none of the 6 images" in error
        assert "put them back, and run the same command again" in error
        assert set(pd.read_parquet(root / "triage.parquet")["status"]) == {"ok"}
    finally:
        shutil.rmtree(archive)
        aside.rename(archive)
    assert triage(archive, root) == 0
    assert list_differences(root, done) == []


def test_a_workspace_in_an_empty_archive_is_no_archive(done, archive, capsys):
    root = shutil.copytree(done, archive / "a.emqa")
    aside = archive.parent / "aside"
    aside.mkdir()
    try:
        for path in archive.glob("*.tif"):
            path.rename(aside / path.name)
        assert "none of the 6 images" in fails_in_one_line(capsys, "triage", archive, "--workspace", root, *HERE)
        for path in aside.iterdir():
            path.rename(archive / path.name)
        assert triage(archive, root) == 0
        assert list_differences(root, done) == []
    finally:
        for path in aside.iterdir():
            path.rename(archive / path.name)
        aside.rmdir()
        shutil.rmtree(root)


def test_a_moved_archive_continues_by_the_named_option(root, done, archive, capsys):
    new = shutil.copytree(archive, root.parent / "new place")
    error = fails_in_one_line(capsys, "triage", new, "--workspace", root, *HERE)
    option = shlex.split(re.search("--moved-from [^(]+", error)[0])
    assert triage(new, root, *option) == 0
    error = fails_in_one_line(capsys, "triage", archive, "--workspace", root, "--moved-from", root.parent, *HERE)
    option = shlex.split(re.search("give (--moved-from [^(]+)", error)[1])
    assert triage(archive, root, *option) == 0
    assert list_differences(root, done) == []


def test_the_remedy_removes_a_lock_of_a_dead_run(root, archive, capsys):
    with lock.hold_lock(str(root)):
        record = (root / "lock.json").read_text()
    (root / "lock.json").write_text(record.replace('"machine": "', '"machine": "another '))
    error = fails_in_one_line(capsys, "triage", archive, "--workspace", root, *HERE)
    assert "delete lock.json there" in error
    (root / "lock.json").unlink()
    assert triage(archive, root) == 0


MISPLACED = {
    "detections": "a file", "thumbnails": "a file", "events.parquet": "a file", "report": "a file",
    "micrographs.zarr": "a file", "damaged": "a file", "micrographs.zarr/zarr.json": "a folder",
    "catalog.parquet": "a folder", "micrographs.parquet": "a folder", "micrographs-copy.parquet": "a folder",
    "triage.csv": "a folder", "triage.parquet": "a folder", "flags.parquet": "a folder", "lock.json": "a folder",
    "failures.parquet": "a folder", "provenance.json": "a folder", "report/index.html": "a folder",
    "workspace.json": "a link", "micrographs.zarr/": "a link", "thumbnails/": "a link",
}  # fmt: skip


@pytest.mark.parametrize("lost", [(), ("micrographs.parquet",), ("micrographs.parquet", "micrographs-copy.parquet")])
def test_a_marker_that_is_damaged_with_the_ledger_comes_back(root, done, archive, capsys, lost):
    for name in ("workspace.json", *lost):
        (root / name).write_bytes((root / name).read_bytes()[:-3])
    error = fails_in_one_line(capsys, "status", root)
    assert f"{root / 'workspace.json'} is damaged" in error
    if len(lost) < 2:
        other = ["triage", done, "--workspace", root]
        assert "give the archive that it is in" in fails_in_one_line(capsys, *other)
    command = shlex.split(re.search("`emqa ([^`]+)`", error)[1])
    assert main([str(archive) if word == "SRC" else word for word in command] + list(HERE)) == 0
    assert list_differences(root, done) == []


@pytest.mark.parametrize("name", MISPLACED)
def test_what_is_in_the_wrong_place_is_moved_away(root, done, archive, capsys, name):
    path = one_of(root, "detections-*") if name == "detections" else root / name
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    if MISPLACED[name] == "a folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif MISPLACED[name] == "a link":
        path.symlink_to(path.name)
    else:
        path.write_text("mine")
    if name == "damaged":
        (root / "catalog.parquet").write_text("x")
    error = fails_in_one_line(capsys, "triage", archive, "--workspace", root, *HERE)
    assert str(path) in error
    assert "move it away, and run the same command again" in error
    mine = path.rename(root.parent / "mine")
    if MISPLACED[name] != "a link":
        assert (mine / "mine.txt" if mine.is_dir() else mine).read_text() == "mine"
    assert triage(archive, root) == 0
    assert list_differences(root, done) == []


def test_a_read_only_workspace_is_one_line(root, archive, done, capsys):
    ran = subprocess.run(["mount", "--bind", str(root), str(root)], capture_output=True)
    if ran.returncode or subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        for command in (["triage", archive, "--workspace", root, *HERE], ["report", root], ["verify", root]):
            error = fails_in_one_line(capsys, *command)
            assert str(root) in error
            assert "copy it to where you may read and write" in error
        assert main(["status", str(root)]) == 0
        writable = shutil.copytree(root, root.parent / "writable")
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
    assert triage(archive, writable) == 0
    assert list_differences(writable, done) == []


def lose_bytes(path: Path) -> bytes:
    """Write zeros into the file, which keeps its size and date: no survey looks at it again; gives what was there."""
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return data


@pytest.fixture(scope="module")
def lossy(archive, done, tmp_path_factory):
    """(archive, workspace) of which a shard was lost while a file of it had lost its bytes, which are back now."""
    folder = tmp_path_factory.mktemp("lossy")
    mine = shutil.copytree(archive, folder / "a")
    root = shutil.copytree(done, folder / "ws")
    assert triage(mine, root, "--moved-from", archive) == 0
    one_of(root, STORED).unlink()
    damaged = [mine / uri for uri in pd.read_parquet(root / "micrographs.parquet")["uri"]]
    before = {path: (path.stat(), lose_bytes(path)) for path in damaged}
    assert triage(mine, root) == 2
    assert len(list(root.glob("failures-thumbnails/*"))) == 1
    for path, (stat, data) in before.items():
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return mine, root


@pytest.mark.parametrize("kind", ["failures-thumbnails/*", "thumbnails/*"])
@pytest.mark.parametrize("blow", [Path.unlink, lambda path: path.write_bytes(b"x")], ids=["lost", "damaged"])
def test_lost_failures_are_no_images_without_results(lossy, done, tmp_path, kind, blow):
    archive = lossy[0]
    root = shutil.copytree(lossy[1], tmp_path / "ws")
    name = one_of(root, "failures-thumbnails/*").name
    blow(one_of(root, kind.replace("*", name)))
    assert triage(archive, root) == 0
    assert list_differences(root, done) == ["micrographs.path"]
    assert not list(root.glob("failures-*/*"))


def test_failed_images_come_back_by_what_status_names(lossy, done, tmp_path, capsys):
    root = shutil.copytree(lossy[1], tmp_path / "ws")
    assert main(["status", str(root)]) == 2
    assert run_remedy(capsys.readouterr().out) == 0
    assert main(["status", str(root)]) == 0
    assert list_differences(root, done) == ["micrographs.path"]


def test_images_without_results_are_never_exit_code_0(root):
    made_later = [path for table in ("features", "tiles", "predictions") for path in root.glob(f"{table}-*/*")]
    for path in (*made_later, root / "triage.parquet"):
        path.unlink()
    assert main(["report", str(root)]) == 2
    assert "failed" in set(pd.read_parquet(root / "triage.parquet")["status"])
