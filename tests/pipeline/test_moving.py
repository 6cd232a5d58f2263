"""A workspace whose archive was moved goes on; one whose settings or marker are damaged does, by the remedy."""

import os
import shutil

import pandas as pd
import pytest

from emqa_dask.archive import name_escapes, scan
from emqa_dask.cli import main
from emqa_dask.pipeline.workspace.moving import take_over_workspace
from emqa_dask.settings import Settings, dump
from emqa_dask.store import lock, marker, stored_settings

HERE = ("--scheduler", "in-process", "--detector", "log")


def ledger(root) -> pd.DataFrame:
    return pd.read_parquet(root / "micrographs.parquet")


def stages(root) -> list[str]:
    return sorted(pd.read_parquet(root / "events.parquet")["stage"])


def triage(source, root, *options) -> int:
    return main(["triage", str(source), "--workspace", str(root), *HERE, *map(str, options)])


@pytest.fixture
def moved(small_archive, tmp_path):
    """(old place, new place, workspace): an archive that was triaged and then renamed; odd names are in it."""
    old = tmp_path / "old one"
    root = tmp_path / "ws"
    shutil.copytree(small_archive, old)
    first = next(p for p in sorted(old.rglob("*.tif")))
    shutil.copy2(first, old / "back\\slash.tif")
    shutil.copy2(first, os.fsencode(old) + b"/caf\xe9.tif")
    assert triage(old, root) == 0
    new = tmp_path / "mnt" / "new"
    new.parent.mkdir()
    old.rename(new)
    return old, new, root


def test_a_moved_archive_names_the_option(moved, capsys):
    old, new, root = moved
    assert triage(new, root) == 1
    assert f"--moved-from '{old}'" in capsys.readouterr().err


def test_results_stay_and_nothing_is_detected_anew(moved, capsys):
    old, new, root = moved
    rows = ledger(root)
    tables = pd.read_parquet(root / "triage.parquet")
    events = stages(root)
    assert triage(new, root, "--moved-from", old) == 0
    assert triage(new, root, "--moved-from", old) == 0  # the same command again
    assert triage(new, root) == 0
    assert "belongs to" not in capsys.readouterr().err
    assert stages(root) == events
    pd.testing.assert_frame_equal(pd.read_parquet(root / "triage.parquet"), tables)
    after = ledger(root)
    pd.testing.assert_frame_equal(after.drop(columns="path"), rows.drop(columns="path"))
    expected = {entry.uri: name_escapes.escape_name(entry.path) for entry in scan.scan_archive(str(new))}
    assert dict(zip(after["uri"], after["path"])) == {uri: expected[uri] for uri in after["uri"]}


def test_a_lost_shard_is_read_from_the_new_place(moved):
    old, new, root = moved
    before = pd.read_parquet(root / "triage.parquet")
    assert triage(new, root, "--moved-from", old) == 0
    for shards in list((root / "micrographs.zarr").rglob("c")):
        shutil.rmtree(shards)
    for folder in root.iterdir():
        if folder.name.split("-")[0] in ("thumbnails", "detections", "evidence", "features", "predictions"):
            shutil.rmtree(folder)
    assert triage(new, root) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(root / "triage.parquet"), before)


def test_dates_that_changed_with_the_copy_detect_nothing_anew(moved):
    old, new, root = moved
    n_detected = stages(root).count("detect")
    for file in new.rglob("*"):
        os.utime(file, (1e9, 1e9))
    assert triage(new, root, "--moved-from", old) == 0
    assert stages(root).count("detect") == n_detected


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_list_of_files_may_move(small_archive, tmp_path, in_process, is_absolute):
    old = tmp_path / "old"
    new = tmp_path / "new"
    root = tmp_path / "ws"
    shutil.copytree(small_archive, old)
    names = [p.relative_to(old) for p in sorted(old.rglob("*.tif"))[:3]]
    (old / "list.txt").write_text("\n".join(map(str, names)))
    assert main(["ingest", str(old / "list.txt"), "--workspace", str(root), *HERE]) == 0
    old.rename(new)
    if is_absolute:
        (new / "list.txt").write_text("\n".join(str(new / name) for name in names))
    command = ["ingest", str(new / "list.txt"), "--workspace", str(root), *HERE, "--moved-from", str(old / "list.txt")]
    assert main(command) == 0
    assert set(ledger(root)["path"]) == {name_escapes.escape_name(str(new / name)) for name in names}


def test_a_single_file_may_move(small_archive, tmp_path):
    old = tmp_path / "old" / "a.tif"
    new = tmp_path / "a.tif"
    root = tmp_path / "ws"
    old.parent.mkdir()
    shutil.copy2(next(small_archive.rglob("*.tif")), old)
    assert main(["ingest", str(old), "--workspace", str(root), *HERE]) == 0
    old.rename(new)
    take_over_workspace(str(root), str(old), str(new))
    assert set(ledger(root)["path"]) == {str(new)}


def test_another_archive_is_no_new_place(moved, tmp_path):
    old, new, root = moved
    before = (root / "micrographs.parquet").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.tif").write_bytes(b"x")
    with pytest.raises(ValueError, match="is not the archive of"):
        take_over_workspace(str(root), str(old), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=f"belongs to {old}, not to .*: give --moved-from"):
        take_over_workspace(str(root), str(tmp_path / "third"), str(new))
    with pytest.raises(FileNotFoundError):
        take_over_workspace(str(root), str(old), str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="is not an emqa workspace"):
        take_over_workspace(str(tmp_path / "none"), str(old), str(new))
    assert (root / "micrographs.parquet").read_bytes() == before
    assert marker.read_source(str(root)) == str(old)


def test_killed_before_the_marker_it_can_be_done_again(moved, monkeypatch):
    old, new, root = moved

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(marker, "write_marker", die)
        with pytest.raises(KeyboardInterrupt):
            take_over_workspace(str(root), str(old), str(new))
    assert marker.read_source(str(root)) == str(old)
    assert not lock.describe_holder(str(root))
    assert triage(new, root, "--moved-from", old) == 0
    assert ledger(root)["path"].str.startswith(str(new)).all()


def test_edited_settings_go_in_by_the_remedy(moved, capsys, tmp_path):
    _, new, root = moved
    new.rename(moved[0])
    file = root / "settings.toml"
    file.write_text(file.read_text().replace("trust_f1 = 0.5", "trust_f1 = 0.7"))
    assert main(["status", str(root)]) == 1
    assert "was changed since emqa wrote it" in capsys.readouterr().err
    assert triage(moved[0], root, "--settings", file) == 0  # as the error says
    assert stored_settings.read_settings(str(root)).triage.trust_f1 == 0.7
    assert main(["status", str(root)]) == 0


@pytest.mark.parametrize("data", [b"\xff", b"[detect\n", b"[no_section]\n", b"[run]\nworkers = 5000\n", None])
def test_damaged_settings_have_remedies_that_work(moved, capsys, data):
    _, new, root = moved
    new.rename(moved[0])
    file = root / "settings.toml"
    whole = file.read_bytes()
    for remedy in ("template", "settings", "lost"):
        file.write_bytes(whole[:999] if data is None else data)
        if remedy == "lost":
            file.unlink()
        assert main(["report", str(root)]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert str(file) in lines[0]
        options = ["--template", "generic"]
        if remedy == "settings":
            (root.parent / "mine.toml").write_text(dump(Settings()))
            options = ["--settings", root.parent / "mine.toml"]
        assert triage(moved[0], root, *options) == 0
        assert main(["report", str(root)]) == 0


@pytest.mark.parametrize("data", [b"{", b"", b"\xff", b'{"format": 5, "source": "/x", "sha256": ""}', None])
def test_a_damaged_or_lost_marker_is_restored_by_triage(moved, capsys, data):
    _, new, root = moved
    new.rename(moved[0])
    marker = root / "workspace.json"
    whole = marker.read_bytes()
    marker.unlink()
    if data is not None:
        marker.write_bytes(data)
    capsys.readouterr()
    for verb in ("status", "report", "rescore", "detect", "predict"):
        assert main([verb, str(root)]) == 1
        error = capsys.readouterr().err
        assert f"{marker} is " in error
        assert f"run `emqa triage SRC --workspace {root}`" in error
        assert len(error.splitlines()) == 1
    other = root.parent / "other"
    other.mkdir(exist_ok=True)
    (other / "x.tif").write_bytes(b"x")
    assert triage(other, root) == 1  # not with another archive
    assert "give the archive that it is in" in capsys.readouterr().err
    assert triage(moved[0], root) == 0
    assert marker.read_bytes() == whole
