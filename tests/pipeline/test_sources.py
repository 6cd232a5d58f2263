"""Several sources are one archive: every file once, with a URI that does not depend on the order of the sources."""

import shutil

import fsspec
import numpy as np
import pandas as pd
import pytest
import tifffile

import emqa_dask
from emqa_dask.cli import main
from emqa_dask.cli.options import name_default_workspace
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles, _name_places, list_sources, name_sources
from emqa_dask.settings import Settings, replace
from emqa_dask.store import marker

HERE = ("--scheduler", "in-process", "--detector", "log")


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(0, 999, (64, 64), np.uint16), photometric="minisblack")


@pytest.fixture
def sessions(tmp_path):
    """Two folders of one name, one with another name, and a list of a file in one and a file elsewhere."""
    for seed, name in enumerate(["mon/session/a.tif", "tue/session/a.tif", "tue/session/sub/b.tif", "wed/c.tif"]):
        write_image(tmp_path / name, seed)
    write_image(tmp_path / "elsewhere.tif", 9)
    (tmp_path / "list.txt").write_text("wed/c.tif\nelsewhere.tif\n")
    return tmp_path


def list_files(sources, **archive) -> dict[str, str]:
    settings = replace(Settings(), {"archive": archive}).archive
    entries = list(ArchiveFiles(name_sources(list_sources(sources)), settings))
    assert len({entry.uri for entry in entries}) == len(entries)
    return {entry.uri: entry.path for entry in entries}


def triage(root, *arguments) -> int:
    return main(["triage", *map(str, arguments), "--workspace", str(root), *HERE])


def read_statuses(root) -> dict[str, str]:
    return dict(pd.read_parquet(root / "triage.parquet", columns=["uri", "status"]).to_numpy())


def test_files_of_sources_have_the_names_of_their_folders(sessions):
    sources = [sessions / "mon/session", sessions / "tue/session", sessions / "wed", sessions / "list.txt"]
    files = list_files(sources)
    assert set(files) == {
        "mon-session/a.tif", "tue-session/a.tif", "tue-session/sub/b.tif", "wed/c.tif", "list/elsewhere.tif",
    }  # fmt: skip
    assert list_files(sources[::-1]) == files
    assert list_files([f"{sessions}/mon/session/", f"{sessions}/./wed"]).keys() == {"session/a.tif", "wed/c.tif"}


def test_one_source_keeps_its_uris(sessions):
    assert set(list_files(sessions / "tue")) == {"session/a.tif", "session/sub/b.tif"}
    assert set(list_files([sessions / "tue", f"{sessions}/tue/"])) == {"session/a.tif", "session/sub/b.tif"}


def test_nested_linked_and_repeated_sources_give_every_file_once(sessions):
    link = sessions / "link"
    link.symlink_to(sessions / "tue")
    (sessions / "more.txt").write_text(f"{link}/session/a.tif\nelsewhere.tif\n")
    sources = [sessions / "tue", sessions / "tue/session", link, sessions / "tue/session/a.tif", sessions / "wed/c.tif"]
    files = list_files([*sources, sessions / "list.txt", sessions / "more.txt", f"file://{sessions}/tue"])
    names = sorted(path.rpartition("/")[2] for path in files.values())
    assert names == ["a.tif", "b.tif", "c.tif", "elsewhere.tif"]


def test_files_of_one_folder_share_its_name(sessions):
    write_image(sessions / "wed" / "d.tif")
    assert set(list_files([sessions / "wed/c.tif", sessions / "wed/d.tif"])) == {"wed/c.tif", "wed/d.tif"}


def test_a_bucket_and_a_folder_are_one_archive(sessions):
    fs = fsspec.filesystem("memory")
    for name in ("a.tif", "sub/b.tif"):
        fs.pipe(f"/sources/session/{name}", b"1")
    try:
        sources = ["memory://sources/session", str(sessions / "wed"), "memory://sources/session/sub"]
        assert set(list_files(sources)) == {"session/a.tif", "session/sub/b.tif", "wed/c.tif"}
        assert set(list_files([*sources, sessions / "mon/session"])) == {
            "sources-session/a.tif", "sources-session/sub/b.tif", "wed/c.tif", "mon-session/a.tif",
        }  # fmt: skip
    finally:
        fs.rm("/sources", recursive=True)


@pytest.mark.parametrize(
    "places",
    [["/a", "/b/a", "/c/b/a"], ["/x/a", "/x/A"], ["/a-b", "/a/b", "/c/b"], ["/", "/root"], ["/a", "s3://a"]],
)
def test_names_are_unique_whatever_the_paths(places):
    names = _name_places(places)
    assert _name_places(places[::-1]) == names
    assert len({name.lower() for name in names.values()}) == len(places)
    assert all(name and "/" not in name for name in names.values())


def test_patterns_hold_in_every_source(sessions):
    sources = [sessions / "mon/session", sessions / "tue/session", sessions / "wed"]
    assert set(list_files(sources, exclude=("sub/", "/a.tif"))) == {"wed/c.tif"}
    assert set(list_files(sources, exclude=("tue-session/*",))) == {"mon-session/a.tif", "wed/c.tif"}
    assert set(list_files(sources, include=("c.*",))) == {"wed/c.tif"}
    with pytest.raises(ValueError, match="leave out every file"):
        ArchiveFiles(
            name_sources(list_sources(sources)), replace(Settings(), {"archive": {"include": ["*.ser"]}}).archive
        ).check_sources()


def test_runs_in_any_order_and_verbs_of_the_workspace(sessions, tmp_path, capsys):
    root = tmp_path / "ws"
    sources = [sessions / "wed", sessions / "mon/session", sessions / "tue/session"]
    assert triage(root, *sources) == 0
    uris = ["mon-session/a.tif", "tue-session/a.tif", "tue-session/sub/b.tif", "wed/c.tif"]
    assert read_statuses(root) == dict.fromkeys(uris, "ok")
    names = marker.read_sources(str(root))
    assert list(names.values()) == ["mon-session", "tue-session", "wed"]
    before = (root / "micrographs.parquet").read_bytes()
    assert triage(root, *sources[::-1]) == 0
    write_image(sessions / "wed" / "new.tif", 5)
    assert main(["status", str(root)]) == 0
    assert f"of archive {sessions}/mon/session, " in capsys.readouterr().out
    assert main(["retry", str(root), "--failed", *HERE]) == 0
    assert read_statuses(root) == dict.fromkeys([*uris, "wed/new.tif"], "ok")
    assert main(["report", str(root)]) == 0
    assert before != (root / "micrographs.parquet").read_bytes()
    capsys.readouterr()
    assert triage(root, *sources[1:]) == 1
    assert "give all sources of before" in capsys.readouterr().err
    assert triage(root, sources[0]) == 1


def test_python_takes_several_sources(sessions, tmp_path):
    settings = replace(Settings(), {"run": {"scheduler": "in-process"}})
    sources = [sessions / "wed", str(sessions / "mon/session")]
    rows = emqa_dask.triage_archive(sources, str(tmp_path / "ws"), settings, say=lambda text: None)
    assert rows["uri"].tolist() == ["session/a.tif", "wed/c.tif"]


@pytest.mark.parametrize("leftover", [None, "empty", "text"])
def test_a_source_that_is_not_mounted_stops_the_run(sessions, tmp_path, capsys, leftover):
    root = tmp_path / "ws"
    sources = [sessions / "wed", sessions / "tue/session"]
    assert triage(root, *sources) == 0
    statuses = read_statuses(root)
    (sessions / "tue/session").rename(sessions / "unmounted")
    write_image(sessions / "wed" / "new.tif", 5)
    if leftover:
        (sessions / "tue/session").mkdir()
    if leftover == "text":
        (sessions / "tue/session" / "readme.txt").write_text("mount the share here")
    assert triage(root, *sources) == 1
    error = capsys.readouterr().err
    assert f"{sessions}/tue/session" in error
    assert f"{sessions}/wed" not in error
    catalog = pd.read_parquet(root / "catalog.parquet")
    assert catalog["is_present"].all()
    assert read_statuses(root) == statuses
    shutil.rmtree(sessions / "tue/session", ignore_errors=True)
    (sessions / "unmounted").rename(sessions / "tue/session")
    assert triage(root, *sources) == 0
    assert read_statuses(root) == statuses | {"wed/new.tif": "ok"}


def test_a_source_that_was_moved_goes_on(sessions, tmp_path, capsys):
    root = tmp_path / "ws"
    assert triage(root, sessions / "wed", sessions / "tue/session") == 0
    before = pd.read_parquet(root / "micrographs.parquet").sort_values("uri", ignore_index=True)
    (sessions / "tue/session").rename(sessions / "friday")
    assert triage(root, sessions / "wed", sessions / "friday") == 1
    option = f"--moved-from {sessions}/tue/session"
    assert option in capsys.readouterr().err
    assert triage(root, sessions / "wed", sessions / "friday", *option.split()) == 0
    after = pd.read_parquet(root / "micrographs.parquet").sort_values("uri", ignore_index=True)
    pd.testing.assert_frame_equal(after.drop(columns="path"), before.drop(columns="path"))
    assert set(after["path"]) == {f"{sessions}/friday/a.tif", f"{sessions}/friday/sub/b.tif", f"{sessions}/wed/c.tif"}
    assert triage(root, sessions / "wed", sessions / "friday") == 0


def test_triage_here_leaves_its_own_workspace_out(sessions, monkeypatch, capsys):
    monkeypatch.chdir(sessions / "tue/session")
    for _ in range(2):
        assert main(["triage", ".", *HERE]) == 0
        assert list(read_statuses(sessions / "tue/session/session.emqa")) == ["a.tif", "sub/b.tif"]
    capsys.readouterr()
    assert main(["triage", ".", "--dry-run", *HERE]) == 0
    assert "\n2 files, " in capsys.readouterr().out
    assert main(["triage", ".", "--dry-run", "--exclude", "sub", *HERE]) == 0
    assert "left out by archive.exclude and archive.include: 1 folder\n" in capsys.readouterr().out


@pytest.mark.parametrize("source", [".", "./", "..", "../session/", "sub/..", "./sub/."])
def test_default_workspace_has_the_name_of_the_folder(sessions, monkeypatch, source):
    monkeypatch.chdir(sessions / "tue/session")
    expected = {"..": "tue", "./sub/.": "sub"}.get(source, "session")
    assert name_default_workspace([source]) == f"./{expected}.emqa"


def test_default_workspace_of_sources_in_any_order(sessions, monkeypatch):
    monkeypatch.chdir(sessions)
    for sources in (["wed", "mon/session", "s3://bucket/x"], ["s3://bucket/x", "wed/", "./mon/session"]):
        assert name_default_workspace(sources) == "./session-and-2-more.emqa"
