"""Laws of writing: a file is whole or not there, on a local disk and on an fsspec file system."""

import subprocess
import sys
import textwrap
import time
import uuid

import fsspec
import pytest

from emqa_dask.store import files


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "a b" / "ü")
    return f"memory://{uuid.uuid4().hex}/a b"


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
def test_what_is_written_is_read(folder, data):
    uri = files.join(folder, "deep", "f.bin")
    assert not files.exists(uri)
    files.write_bytes(uri, data)
    assert files.exists(uri)
    assert files.read_bytes(uri) == data
    files.write_bytes(uri, b"other")
    assert files.read_bytes(uri) == b"other"
    assert files.list_names(files.join(folder, "deep")) == ["f.bin"]
    files.remove_file(uri)
    files.remove_file(uri)
    assert not files.exists(uri)


def write_half(uri, stop):
    with files.write_whole(uri) as stream:
        stream.write(b"half")
        raise stop


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_changes_nothing(folder, before, stop):
    uri = files.join(folder, "f.bin")
    if before is not None:
        files.write_bytes(uri, before)
    with pytest.raises(stop):
        write_half(uri, stop)
    assert files.exists(uri) == (before is not None)
    assert before is None or files.read_bytes(uri) == before
    fs, path = files.locate(folder)
    left = fs.ls(path, detail=False) if fs.exists(path) else []
    assert [p.rpartition("/")[2] for p in left] == ([] if before is None else ["f.bin"])


def test_names_are_sorted_without_hidden_ones(tmp_path):
    for name in ("b", "a", ".b.1234.partial"):
        (tmp_path / name).write_bytes(b"")
    assert files.list_names(str(tmp_path)) == ["a", "b"]
    assert files.list_names(str(tmp_path / "none")) == []
    assert files.list_names(str(tmp_path / "a")) in ([], ["a"])


def test_a_file_in_the_way_names_the_path(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(OSError, match=r"could not write: .*f/g"):
        files.write_bytes(str(tmp_path / "f" / "g"), b"x")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    # A limit on the size of files is what a full disk looks like to a write, and needs no rights.
    program = """
        import resource, signal, sys
        from emqa_dask.store import files
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        files.write_bytes(sys.argv[1] + "/small", b"x" * 900)
        try:
            files.write_bytes(sys.argv[1] + "/part.parquet", b"x" * 5000)
        except OSError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"[Errno 27] could not write: File too large: '{tmp_path}/part.parquet'\n"
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_a_bucket_gets_one_upload_that_appears_at_the_end():
    folder = f"memory://{uuid.uuid4().hex}"
    with files.write_whole(f"{folder}/f") as stream:
        stream.write(b"abc")
        assert not fsspec.filesystem("memory").exists(f"{folder}/f")
    assert files.read_bytes(f"{folder}/f") == b"abc"


def test_create_writes_once(folder):
    uri = files.join(folder, "deep", "lock")
    assert files.create_exclusively(uri, b"1")
    assert not files.create_exclusively(uri, b"2")
    assert files.read_bytes(uri) == b"1"
    assert abs(files.read_modified_s(uri) - time.time()) < 3600
    assert files.list_names(files.join(folder, "deep")) == ["lock"]
    fs, path = files.locate(files.join(folder, "deep"))
    assert [p.rpartition("/")[2] for p in fs.ls(path, detail=False)] == ["lock"]
    with files.open_read(uri) as stream:
        assert stream.read() == b"1"
    with pytest.raises(FileNotFoundError):
        files.open_read(uri + "2")


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    kept = {"a.parquet", ".hidden", "b.partial"}
    for name in {*kept, ".a.parquet.0123456789ab.partial"}:
        (tmp_path / name).write_text("x")
    files.remove_partial_files(str(tmp_path))
    files.remove_partial_files(str(tmp_path / "not there"))
    assert {path.name for path in tmp_path.iterdir()} == kept
