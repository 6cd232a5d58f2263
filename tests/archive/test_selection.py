"""archive.exclude and archive.include: files by their names, folders and paths, in folders, lists and buckets."""

import os

import fsspec
import pytest

from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.selection import FileSelection, describe_left_out
from emqa_dask.settings import Settings, SettingsError, replace

FILES = (
    "a.tif", "b.TXT", "raw/c.tif", "raw/old/d.tif", "Raw2/e.dm3", "deep/Thumbs/f.tif", "deep/thumbs2/g.tif",
    "deep/er/thumbs/h.tif", "thumbs", "x.zarr/zarr.json",
)  # fmt: skip
URIS = ("Raw2/e.dm3", "a.tif", "b.TXT", "deep/Thumbs/f.tif", "deep/er/thumbs/h.tif", "deep/thumbs2/g.tif", "raw/c.tif",
        "raw/old/d.tif", "thumbs", "x.zarr")  # fmt: skip

# patterns, the files that they match
PATTERNS = [
    ((), ()),
    (("*.txt",), ("b.TXT",)),
    (("thumbs",), ("deep/Thumbs/f.tif", "deep/er/thumbs/h.tif", "thumbs")),
    (("THUMBS/",), ("deep/Thumbs/f.tif", "deep/er/thumbs/h.tif")),
    (("**/thumbs/",), ("deep/Thumbs/f.tif", "deep/er/thumbs/h.tif")),
    (("thumbs*",), ("deep/Thumbs/f.tif", "deep/er/thumbs/h.tif", "deep/thumbs2/g.tif", "thumbs")),
    (("deep/thumbs",), ("deep/Thumbs/f.tif",)),
    (("deep/**/thumbs",), ("deep/Thumbs/f.tif", "deep/er/thumbs/h.tif")),
    (("*/thumbs/*.tif",), ("deep/Thumbs/f.tif", "deep/er/thumbs/h.tif")),
    (("/thumbs",), ("thumbs",)),
    (("./raw/",), ("raw/c.tif", "raw/old/d.tif")),
    (("raw/*",), ("raw/c.tif", "raw/old/d.tif")),
    (("raw",), ("raw/c.tif", "raw/old/d.tif")),
    (("raw/old",), ("raw/old/d.tif",)),
    (("old/d.tif",), ()),
    (("?.tif", "*.dm[34]"), ("a.tif", "raw/c.tif", "raw/old/d.tif", "Raw2/e.dm3", "deep/Thumbs/f.tif",
                             "deep/er/thumbs/h.tif", "deep/thumbs2/g.tif")),
    (("*.zarr",), ("x.zarr",)),
    (("x.zarr/",), ("x.zarr",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    return folder


@pytest.fixture(scope="module")
def bucket():
    fs = fsspec.filesystem("memory")
    for name in FILES:
        fs.pipe(f"/selection/{name}", b"1")
    yield "memory://selection"
    fs.rm("/selection", recursive=True)


def list_uris(source, selection) -> set[str]:
    return {entry.uri for entry in scan_archive(source, selection)}


@pytest.mark.parametrize(("patterns", "uris"), PATTERNS)
def test_patterns_in_a_folder_a_list_and_a_bucket(folder, bucket, patterns, uris):
    (folder.parent / "list.txt").write_text("".join(f"{folder.name}/{uri}\n" for uri in URIS))
    remaining = set(URIS) - set(uris)
    assert list_uris(folder, FileSelection(patterns)) == remaining
    assert list_uris(bucket, FileSelection(patterns)) == remaining
    assert list_uris(folder, FileSelection(include=patterns)) == set(uris or URIS) if uris or not patterns else True
    names = [pattern for pattern in patterns if "/" not in pattern.rstrip("/").removeprefix("**/")]
    if names == list(patterns):
        listed = {uri.partition("/")[2] for uri in list_uris(folder.parent / "list.txt", FileSelection(patterns))}
        assert listed == remaining


def test_exclude_goes_before_include(folder):
    selection = FileSelection(exclude=("old",), include=("raw/", "a.*"))
    assert list_uris(folder, selection) == {"a.tif", "raw/c.tif"}
    assert describe_left_out(selection.n_files, selection.n_folders).endswith(": 7 files and 1 folder")


def test_excluded_folders_are_not_listed(tmp_path, monkeypatch):
    for name in ("kept/a.tif", "thumbs/deep/b.tif"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"1")
    listed = []
    scandir = os.scandir

    def scan(folder):
        listed.append(os.path.basename(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    selection = FileSelection(("Thumbs/",))
    assert list_uris(tmp_path, selection) == {"kept/a.tif"}
    assert listed == [tmp_path.name, "kept"]
    assert (selection.n_files, selection.n_folders) == (0, 1)


def test_patterns_that_leave_nothing_say_so(folder):
    with pytest.raises(ValueError, match=r"archive\.exclude and archive\.include leave out every file"):
        scan_archive(folder, FileSelection(("*",)))
    with pytest.raises(ValueError, match=r"archive\.exclude and archive\.include leave out every file"):
        scan_archive(folder, FileSelection(include=("*.ser",)))


def test_accents_and_case_are_the_same(tmp_path):
    for name in ("U\u0308bersicht/a.tif", "\u00c4.tif", "b.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert list_uris(tmp_path, FileSelection(("\u00fcbersicht", "\u00e4.*"))) == {"b.tif"}


def test_paths_match_with_the_prefix_of_a_source(folder):
    for pattern in ("day1/raw", "raw/*", "/day1/raw/"):
        assert "raw/c.tif" not in list_uris(folder, FileSelection((pattern,), prefix="Day1/"))
    assert list_uris(folder, FileSelection(("day1",), prefix="Day1/")) == set(URIS)


@pytest.mark.parametrize("pattern", ["", "raw\\old", "!a.tif", "s3://bucket/a", "../a", "/", "./", "a//b", "a/./b"])
@pytest.mark.parametrize("key", ["exclude", "include"])
def test_patterns_that_match_nothing_are_refused(key, pattern):
    with pytest.raises(SettingsError, match=rf"archive\.{key}"):
        replace(Settings(), {"archive": {key: [pattern]}}, "test")
