"""scan() gives every file once, in a fixed order, whatever it is called and wherever the links lead."""

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import fsspec
import pytest
from bad_files import NASTY
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.archive.name_escapes import escape_name, unescape_name
from emqa_dask.archive.scan import scan_archive


def uris(source) -> list[str]:
    return [entry.uri for entry in scan_archive(source)]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1) | st.binary(min_size=1).map(os.fsdecode)
)
def test_escape_is_valid_utf8_and_reversible(name):
    assert unescape_name(escape_name(name)) == name
    escape_name(name).encode("utf-8")


@given(st.lists(st.binary(min_size=1, max_size=6).map(os.fsdecode), unique=True))
def test_escape_keeps_names_apart(names):
    assert len({escape_name(n) for n in names}) == len(names)


def test_every_file_once_in_a_fixed_order(bad_archive):
    folder, expected = bad_archive
    found = uris(folder)
    assert sorted(found) == sorted(expected)
    assert found == uris(str(folder))


def test_entries_open_what_they_name(tmp_path):
    for k, name in enumerate([*map(os.fsencode, NASTY), b"bytes-\xff\xfe.tif"]):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"x" * (k + 1))
    entries = list(scan_archive(tmp_path))
    assert len(entries) == len(NASTY) + 1
    for entry in entries:
        assert os.stat(entry.path).st_size == entry.size_bytes
        assert entry.modified_ns > 0
        with open(entry.path, "rb") as file:
            assert len(file.read()) == entry.size_bytes


def test_links_are_followed_within_the_archive_and_loops_end(tmp_path):
    archive = tmp_path / "archive"
    (archive / "real").mkdir(parents=True)
    (archive / "real" / "a.tif").write_bytes(b"1")
    (archive / "deep").mkdir()
    (archive / "linked").symlink_to(archive / "real", target_is_directory=True)
    (archive / "deep" / "up").symlink_to(archive, target_is_directory=True)
    (tmp_path / "by another name").symlink_to(archive, target_is_directory=True)
    expected = {"deep/up": "symbolic link loop", "linked/a.tif": "", "real/a.tif": ""}
    assert {entry.uri: entry.problem for entry in scan_archive(archive)} == expected
    assert {entry.uri: entry.problem for entry in scan_archive(tmp_path / "by another name")} == expected


def test_links_that_may_not_be_read_are_rows(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "a.tif")

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "readlink", refuse)  # as in /proc
    assert uris(tmp_path) == ["a.tif", "link"]


def test_zarr_folders_are_one_entry(tmp_path):
    for name, marker in (("a.zarr", ".zattrs"), ("unnamed", "zarr.json")):
        (tmp_path / name / "0" / "c").mkdir(parents=True)
        (tmp_path / name / marker).write_text("{}")
        (tmp_path / name / "0" / "c" / "0").write_bytes(b"1")
    assert uris(tmp_path) == ["a.zarr", "unnamed"]


def test_list_file(tmp_path):
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("data/b.tif", "data/a.tif", "data/more/c.tif", "elsewhere.tif"):
        (tmp_path / name).write_bytes(b"1")
    listed = ["data/b.tif", "", "data/a.tif", "data/b.tif", str(tmp_path / "data" / "a.tif"), "data/more", "gone.tif"]
    (tmp_path / "files.txt").write_text("\n".join(listed) + "\r\n")
    entries = list(scan_archive(tmp_path / "files.txt"))
    assert [e.uri for e in entries] == ["data/b.tif", "data/a.tif", "data/more/c.tif", "gone.tif"]
    assert [bool(e.problem) for e in entries] == [False, False, False, True]
    (tmp_path / "data" / "files.txt").write_text("../elsewhere.tif\n")
    (outside,) = scan_archive(tmp_path / "data" / "files.txt")
    assert outside.uri == str(tmp_path / "elsewhere.tif").lstrip("/")


def test_one_file_is_an_archive(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"1")
    assert uris(tmp_path / "a.tif") == ["a.tif"]


@pytest.mark.parametrize("name", ["missing", "empty", "empty.txt"])
def test_missing_and_empty_sources_say_what_to_do(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises((FileNotFoundError, ValueError), match=rf"{name}.*: .*; give (the|a) ") as caught:
        scan_archive(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_paths_of_windows_say_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("D:\\data\\session 1", str(tmp_path / "D:\\data\\session 1")):
        with pytest.raises(
            FileNotFoundError, match=r"no such file or folder; .* \(in WSL it is /mnt/d/data/session 1\)"
        ):
            scan_archive(source)


def test_uri_of_another_filesystem():
    fs = fsspec.filesystem("memory")
    for name in ("b.tif", "a/x.tif", "a/y.tif", "a/s.zarr/.zattrs", "a/s.zarr/0/0.0"):
        fs.pipe(f"/archive-scan/{name}", b"12345")
    try:
        entries = list(scan_archive("memory://archive-scan"))
        assert [e.uri for e in entries] == ["a/s.zarr", "a/x.tif", "a/y.tif", "b.tif"]
        assert entries[1].size_bytes == 5
        with fsspec.open(entries[1].path) as file:
            assert file.read() == b"12345"
        with pytest.raises(FileNotFoundError):
            scan_archive("memory://nothing-here")
    finally:
        fs.rm("/archive-scan", recursive=True)


def test_a_folder_is_not_listed_before_it_is_reached(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.tif").write_bytes(b"1")
    entries = scan_archive(tmp_path)
    assert next(entries).uri == "a/1.tif"
    (tmp_path / "b" / "2.tif").write_bytes(b"1")
    assert [e.uri for e in entries] == ["b/1.tif", "b/2.tif"]


def test_folders_may_lie_deeper_than_python_recurses(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    depth = 1010
    for _ in range(depth):
        os.mkdir("d", dir_fd=handle)
        deeper = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = deeper
    os.close(os.open("a.tif", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    found = uris(tmp_path)
    (tmp_path / ("d/" * depth) / "a.tif").unlink()  # pytest could not clear this away: it recurses
    for k in range(depth, 0, -1):
        os.rmdir(tmp_path / ("d/" * k))
    assert found == ["d/" * depth + "a.tif"]


UNPRIVILEGED = """
    import os, sys
    import emqa_dask.archive.formats.tiff
    from emqa_dask.archive.scan import scan_archive
    from emqa_dask.archive.survey import survey_file
    from emqa_dask.settings import Archive
    if os.geteuid() == 0:  # root may read everything
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    for entry in scan_archive(sys.argv[1]):
        row, micrographs = survey_file(entry, Archive())
        print(row["uri"], row["status"], row["reason"], len(micrographs), sep="|")
"""


@pytest.fixture
def open_folder():
    """A folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_what_may_not_be_read_is_a_row(open_folder):
    folder = open_folder
    (folder / "file.tif").write_bytes(b"II*\0")
    (folder / "folder").mkdir()
    (folder / "folder" / "inside.tif").write_bytes(b"1")
    (folder / "notes.txt").write_text("open to all\n")
    os.chmod(folder / "file.tif", 0)
    os.chmod(folder / "folder", 0)
    try:
        command = [sys.executable, "-c", textwrap.dedent(UNPRIVILEGED), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.chmod(folder / "folder", 0o755)
    assert done.stdout.splitlines() == [
        "file.tif|failed|no permission to read|0",
        "folder|failed|folder: no permission to read|0",
        "notes.txt|skipped|text, not an image|0",
    ], done.stderr


def test_uri_of_a_zarr_folder_is_one_entry():
    fs = fsspec.filesystem("memory")
    for name in ("archive-zarr/x.zarr/.zarray", "archive-zarr/x.zarr/0.0", "archive-zarr/y.n5/attributes.json"):
        fs.pipe_file(f"/{name}", b"{}")
    try:
        assert [e.uri for e in scan_archive("memory://archive-zarr")] == ["x.zarr", "y.n5"]
        for uri in ("memory://archive-zarr/x.zarr", "memory://archive-zarr/x.zarr/"):
            (entry,) = scan_archive(uri)
            assert (entry.uri, entry.path) == ("x.zarr", "memory://archive-zarr/x.zarr")
    finally:
        fs.rm("/archive-zarr", recursive=True)
