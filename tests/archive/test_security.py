"""An archive that somebody else filled runs no code, shows no file from outside it, and does not fill the memory."""

import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import fsspec
import h5py
import numcodecs.pickles
import numpy as np
import pytest
import skops.io
import tifffile
import torch
import zarr
from bad_files import image
from bombs import BOMBS, hspy, zarr_v2
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask import models
from emqa_dask.archive.name_escapes import escape_name, escape_uri, unescape_name
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.source import ReadError
from emqa_dask.archive.survey import survey_file
from emqa_dask.predict import forest
from emqa_dask.settings import Archive
from emqa_dask.uris import locate, redact


def status(path: Path) -> tuple[str, str]:
    entry = next(e for e in scan_archive(path.parent) if e.uri == path.name)
    row, _ = survey_file(entry, Archive())
    return row["status"], row["reason"]


class Marks:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def objects(marker: Path) -> np.ndarray:
    made = np.empty(1, object)
    made[0] = Marks(marker)
    return made


def pickled_zarr(path: Path, marker: Path, suffix: str = "", **changes) -> None:
    zarr_v2(path, pickle.dumps(Marks(marker)), **changes)


PICKLES = {
    "x.npy": lambda p, m: np.save(p, objects(m), allow_pickle=True),
    "x.npz": lambda p, m: np.savez(p, a=objects(m)),
    "x.tif": lambda p, m: p.write_bytes(pickle.dumps(Marks(m))),
    "x.pkl": lambda p, m: p.write_bytes(pickle.dumps(Marks(m))),
    "x.pt": lambda p, m: torch.save(Marks(m), p),
    "x.prz": lambda p, m: prz(p, m),
    "x.h5": lambda p, m: h5_pickle(p, m),
    "x.hspy": lambda p, m: h5_pickle(p, m),
    "filter.zarr": lambda p, m: pickled_zarr(p, m, filters=[{"id": "pickle"}]),
    "compressor.zarr": lambda p, m: pickled_zarr(p, m, compressor={"id": "pickle"}),
    "object.zarr": lambda p, m: pickled_zarr(p, m, dtype="|O", fill_value=None, filters=[{"id": "pickle"}]),
    "group.zspy": lambda p, m: zspy(p, m),
}


def prz(path: Path, marker: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, data=np.ones((9, 9)), meta_data=objects(marker))


def h5_pickle(path: Path, marker: Path) -> None:
    data = np.frombuffer(pickle.dumps(Marks(marker)), "u1")
    with h5py.File(path, "w") as file:
        hspy(file, lambda group: group.create_dataset("data", data=np.ones((9, 9))))
        file["Experiments/image/metadata"].attrs["_bs_x"] = np.void(data.tobytes())
        file["Experiments/image/metadata"].create_dataset("_class_x", data=data)
        file.create_dataset("opaque", data=np.void(data.tobytes()))


def zspy(path: Path, marker: Path) -> None:
    group = zarr.create_group(str(path), zarr_format=2)
    group.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    inner = group.create_group("Experiments/image")
    inner.create_group("metadata"), inner.create_group("original_metadata")
    for k in range(2):
        axis = inner.create_group(f"axis-{k}")
        axis.attrs.update({"scale": 1.0, "offset": 0.0, "size": 64, "units": "nm", "name": "x", "navigate": False})
    pickled_zarr(path / "Experiments" / "image" / "data", marker, filters=[{"id": "pickle"}])


@pytest.mark.parametrize("name", PICKLES)
def test_no_pickle_of_an_archive_is_ever_loaded(tmp_path, name, monkeypatch):
    # Older releases of numcodecs unpickle unless told otherwise: what they would do has to be held off by us.
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    marker = tmp_path / "marker"
    (tmp_path / "archive").mkdir()
    path = tmp_path / "archive" / name
    PICKLES[name](path, marker)
    found, reason = status(path)
    assert not marker.exists()
    assert found == "ok" or reason
    if name.endswith((".zarr", ".zspy")):
        assert "pickles" in reason
    with pytest.raises(ReadError) if found != "ok" else open(os.devnull):
        read_micrograph(path)
    assert not marker.exists()


def test_the_pickles_of_these_tests_do_run_code(tmp_path):
    pickle.loads(pickle.dumps(Marks(tmp_path / "marker"))).close()
    assert (tmp_path / "marker").exists()


def test_a_model_with_a_foreign_type_is_refused(tmp_path):
    class Foreign:
        def __setstate__(self, state):
            (tmp_path / "marker").touch()

    sys.modules[__name__].Foreign = Foreign
    Foreign.__qualname__ = "Foreign"
    skops.io.dump(Foreign(), tmp_path / forest.FOREST_FILE)
    models.write_model_card(tmp_path, {"forest": {"columns": ["a"]}})
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException):
        forest.read_forest(tmp_path)
    (tmp_path / forest.FOREST_FILE).write_bytes(pickle.dumps(Marks(tmp_path / "marker")))
    models.write_model_card(tmp_path, {"forest": {"columns": ["a"]}})
    with pytest.raises((zipfile.BadZipFile, ValueError)):
        forest.read_forest(tmp_path)
    assert not (tmp_path / "marker").exists()


@given(st.text(st.sampled_from("a./\\x2e\udcb5é")))
def test_archive_uris_lead_nowhere_else_and_keep_names_apart(name):
    uri = escape_uri(name)
    assert unescape_name(uri) == name
    assert not {"", ".", ".."} & set(uri.split("/")) or name == ""
    assert os.path.normpath(f"/a/b/{uri}").startswith("/a/b")
    if not {"", ".", ".."} & set(name.split("/")):
        assert uri == escape_name(name)


def test_links_out_of_the_archive_are_rows_that_say_so(tmp_path):
    archive = tmp_path / "archive"
    outside = tmp_path / "outside"
    archive.mkdir(), outside.mkdir()
    tifffile.imwrite(outside / "secret.tif", image(1))
    (archive / "file.tif").symlink_to(outside / "secret.tif")
    (archive / "folder").symlink_to(outside)
    (archive / "beside").symlink_to(f"{archive}/../outside")
    (tmp_path / "archive2").mkdir()
    (archive / "longer").symlink_to(tmp_path / "archive2")  # its name starts as the archive's
    rows = [survey_file(entry, Archive())[0] for entry in scan_archive(archive)]
    assert [row["uri"] for row in rows] == ["beside", "file.tif", "folder", "longer"]
    for row in rows:
        assert row["status"] == "failed"
        assert row["content_sha256"] is None
        assert "outside the archive: not followed; name it in a list file" in row["reason"]
    (tmp_path / "list.txt").write_text(f"{archive}/file.tif\n{outside}\n")
    assert [survey_file(entry, Archive())[0]["status"] for entry in scan_archive(tmp_path / "list.txt")] == ["ok", "ok"]


def test_a_list_may_name_files_anywhere_and_loses_none(tmp_path):
    here = tmp_path / "here"
    there = tmp_path / "there"
    here.mkdir(), there.mkdir()
    (there / "a.tif").write_bytes(b"1")
    double = here / str(there).lstrip("/") / "a.tif"  # the URI of the other one, relative to the list
    double.parent.mkdir(parents=True)
    double.write_bytes(b"22")
    names = [str(there / "a.tif"), "../there/a.tif", str(double.relative_to(here)), str(there / "a.tif")]
    (here / "list.txt").write_text("\n".join(names))
    entries = list(scan_archive(here / "list.txt"))
    assert sorted(e.size_bytes for e in entries) == [1, 2]
    assert len({e.uri for e in entries}) == 2
    for entry in entries:
        assert not {"", ".", ".."} & set(entry.uri.split("/"))


@pytest.mark.parametrize("how", ["external link", "external storage", "virtual"])
def test_hdf5_does_not_show_files_of_other_folders(tmp_path, how):
    archive = tmp_path / "archive"
    secret = tmp_path / "secret"
    archive.mkdir()
    secret.write_bytes(b"s" * 64)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.full((8, 8), 7, "u1")
    with h5py.File(archive / "a.h5", "w") as file:
        if how == "external link":
            file["x"] = h5py.ExternalLink("../other.h5", "x")
        elif how == "external storage":
            file.create_dataset("x", (8, 8), "u1", external=[(str(secret), 0, 64)])
        else:
            layout = h5py.VirtualLayout((8, 8), "u1")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (8, 8))
            file.create_virtual_dataset("x", layout)
    found, reason = status(archive / "a.h5")
    assert found == "failed"
    assert "another folder" in reason


def test_hdf5_may_lie_in_several_files_of_its_folder(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = image(1)
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        layout = h5py.VirtualLayout((48, 64), "u2")
        layout[:] = h5py.VirtualSource("part.h5", "x", (48, 64))
        file.create_virtual_dataset("x", layout)
    assert status(tmp_path / "whole.h5") == ("ok", "")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "whole.h5")[0], image(1))


def test_zarr_does_not_show_files_of_other_folders(tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 64 * 64)
    (tmp_path / "archive").mkdir()
    folder = tmp_path / "archive" / "a.zarr"
    zarr_v2(folder, b"\1" * 64 * 64)
    assert status(folder) == ("ok", "")
    (folder / "0.0").unlink()
    (folder / "0.0").symlink_to(tmp_path / "secret")
    found, reason = status(folder)
    assert found == "failed"
    assert "symbolic link to another folder" in reason


def test_members_of_a_zip_stay_inside_and_none_is_lost(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("../up.tif", "/abs.tif", "a/../../b.tif", "fine/c.tif", "x.zarr/../../d"):
            file.writestr(name, name)
    entries = list(scan_archive(f"zip://::{tmp_path}/a.zip"))
    assert {"fine/c.tif"} <= {e.uri for e in entries}
    assert len(entries) >= 4
    for entry in entries:
        assert not {"", ".", ".."} & set(entry.uri.split("/"))
        assert survey_file(entry, Archive())[0]["status"] in ("failed", "skipped")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_keys_of_a_bucket_stay_inside_the_temporary_folder():
    fs = fsspec.filesystem("memory")
    names = ["a/../b", "..", "x/..", "x.zarr/0/../../../evil", "x.zarr/.zgroup"]
    for name in names:
        fs.store[f"/security/{name}"] = fsspec.implementations.memory.MemoryFile(fs, f"/security/{name}", name.encode())
    try:
        entries = list(scan_archive("memory://security"))
        assert {unescape_name(e.uri) for e in entries} >= {"a/../b", "..", "x/..", "x.zarr"}
        for entry in entries:
            row, _ = survey_file(entry, Archive())
            assert row["status"] in ("failed", "skipped")
    finally:
        for name in names:
            del fs.store[f"/security/{name}"]


CHILD = """
    import os, resource, sys
    from emqa_dask.archive.entries import Entry
    from emqa_dask.archive.survey import survey_file
    from emqa_dask.settings import Archive
    import rsciio.emd, rsciio.hspy, zarr
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # the machine that runs this test goes on
    survey_file(Entry("small.tif", sys.argv[1] + "/small.tif"), Archive())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in sorted(os.listdir(sys.argv[1])):
        path = f"{sys.argv[1]}/{name}"
        row, _ = survey_file(Entry(name, path, os.path.getsize(path)), Archive())
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(name, row["status"], peak, row["reason"] or "-", sep="|")
"""
HARMLESS = {"data.png", "data16.png", "lzma.tif", "small.tif"}  # whose decoders stop at the image's end


def test_bombs_are_refused_before_they_fill_the_memory(tmp_path):
    tifffile.imwrite(tmp_path / "small.tif", image(1))
    for name, write in BOMBS.items():
        write(tmp_path / name)
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    assert set(rows) == set(BOMBS) | {"small.tif"}
    for name, (found, peak, reason) in rows.items():
        assert int(peak) < 250, (name, peak)  # MB, where each would take 320 and more
        assert found == ("ok" if name in HARMLESS else "failed"), (name, reason)


def test_noise_that_is_packed_well_is_no_bomb(tmp_path):
    """Large chunks of real pixels, whose packed size alone would allow a bomb, are read."""
    pixels = np.random.default_rng(1).integers(0, 4, (4096, 4096), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=pixels, chunks=pixels.shape, compression="gzip", compression_opts=1)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.h5")[0], pixels)
    zarr.create_array(str(tmp_path / "a.zarr"), data=pixels, chunks=pixels.shape, compressors=[zarr.codecs.GzipCodec()])
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.zarr")[0], pixels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/run", "s3://bucket/run"),
        ("/data/a@b:c/x?y=1&n_tokens=5", "/data/a@b:c/x?y=1&n_tokens=5"),
        ("sftp://me:hunter2@host/a", "sftp://***@host/a"),
        ("ftp://me:p@ss:w@host:21/a@b", "ftp://***@host:21/a@b"),
        ("s3://AKIAIOSFODNN7EXAMPLE:wJalr/XUtn+FEMI@bucket/a", "s3://***@bucket/a"),
        ("https://h/a?X-Amz-Credential=AKIA%2F2&X-Amz-Signature=0ab&part=1",
         "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***&part=1"),
        ("https://a.blob.core.windows.net/c?sv=2024&sig=Zm9v%3D&se=1", "https://a.blob.core.windows.net/c?sv=2024&sig=***&se=1"),
        ("AccountName=a;AccountKey=Zm9vYmFy==;x=1", "AccountName=a;AccountKey=***;x=1"),
        ("{'key': 'k', 'secret': 'abc', \"token\": \"def\"}", "{'key': 'k', 'secret': '***', \"token\": \"***\"}"),
        ("AWS_SECRET_ACCESS_KEY=abc/def emqa triage x", "AWS_SECRET_ACCESS_KEY=*** emqa triage x"),
        ("signed by ASIAIOSFODNN7EXAMPLE today", "signed by *** today"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("--password hunter2x", "--password hunter2x"),
    ],
)  # fmt: skip
def test_secrets_are_taken_out_and_nothing_else(text, expected):
    if not text.startswith("--"):
        assert redact(text) == expected
    assert redact(redact(text)) == redact(text)


@given(st.text(st.sampled_from("abc/._-é 0"), max_size=30))
def test_text_without_secrets_stays_as_it_is(text):
    assert redact(text) == text
    assert redact(f"s3://bucket/{text}") == f"s3://bucket/{text}"


def test_a_password_in_a_uri_is_refused_without_being_repeated():
    with pytest.raises(ValueError, match=r"sftp://\*\*\*@host/a: a password in a URI") as caught:
        locate("sftp://me:hunter2@host/a")
    assert "hunter2" not in str(caught.value)
