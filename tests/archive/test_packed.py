"""Images packed by gzip, bzip2, xz, zstd and ZIP, and Zarr in ZIP archives."""

import bz2
import gc
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from bad_files import dm3, image, write_mrc
from test_damage import damaged
from test_zarr import axis, multiscale, scale, write_group

from emqa_dask.archive.entries import Entry
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": imagecodecs.zstd_encode,
}


def survey(path: Path) -> tuple[dict, list[dict]]:
    return survey_file(Entry(path.name, str(path), path.stat().st_size), Archive())


def content(name: str, folder: Path) -> bytes:
    """The bytes of a valid file called `name`."""
    path = folder / f"content_of_{name}"
    if name.endswith(".tif"):
        tifffile.imwrite(path, image(1))
    elif name.endswith(".mrc"):
        write_mrc(path, np.stack([image(k, dtype="int16") for k in (1, 2)]))
    else:
        path.write_bytes(dm3(image(1, dtype="int16")))
    data = path.read_bytes()
    path.unlink()
    return data


def list_copies() -> set[str]:
    gc.collect()
    return {path.name for path in Path(tempfile.gettempdir()).glob("emqa-*")}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["x.tif", "x.mrc", "x.dm3"])
def test_packed_image_reads_as_its_content(tmp_path, name, packer, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    data = content(name, tmp_path)
    (tmp_path / name).write_bytes(data)
    (tmp_path / f"{name}{packer}").write_bytes(PACKERS[packer](data))
    row, found = survey(tmp_path / f"{name}{packer}")
    plain_row, plain_found = survey(tmp_path / name)
    packed_by = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}[packer]
    assert (row["status"], row["format"]) == ("ok", f"{plain_row['format']} in {packed_by}")
    columns = ("pixel_sha256", "nm_per_pixel", "dtype", "height_px", "frame")
    assert [[f[c] for c in columns] for f in found] == [[f[c] for c in columns] for f in plain_found]
    assert list_copies() == set()


def test_copy_lives_as_long_as_its_frames(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "x.mrc.gz").write_bytes(gzip.compress(content("x.mrc", tmp_path)))
    frames = open_source(tmp_path / "x.mrc.gz").frames
    assert len(list_copies()) == 1
    np.testing.assert_array_equal(frames[1].read(3, 20), image(2, dtype="int16")[3:20])
    frame = frames[0]
    del frames
    np.testing.assert_array_equal(frame.read(), image(1, dtype="int16"))
    del frame
    assert list_copies() == set()


def test_streams_that_follow_one_another_are_joined(tmp_path):
    data = content("x.mrc", tmp_path)
    (tmp_path / "x.mrc.gz").write_bytes(gzip.compress(data[:999]) + gzip.compress(data[999:]))
    (tmp_path / "x.mrc.bz2").write_bytes(bz2.compress(data[:999]) + bz2.compress(data[999:]))
    for name in ("x.mrc.gz", "x.mrc.bz2"):
        np.testing.assert_array_equal(open_source(tmp_path / name).frames[1].read(), image(2, dtype="int16"))


def test_packed_files_of_other_kinds_stay_archives(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.tif"), io.BytesIO())
    (tmp_path / "notes.txt.gz").write_bytes(gzip.compress(b"notes"))
    for name in ("x.tar.gz", "notes.txt.gz"):
        row, _ = survey(tmp_path / name)
        assert (row["status"], row["kind"]) == ("skipped", "archive")
        assert "unpack it" in row["reason"]


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_data_that_end_early_fail(tmp_path, packer):
    data = PACKERS[packer](content("x.mrc", tmp_path))
    for n in (len(data) - 5, len(data) // 2):
        (tmp_path / f"x.mrc{packer}").write_bytes(data[:n])
        row, _ = survey(tmp_path / f"x.mrc{packer}")
        assert row["status"] == "failed"
        assert row["reason"]


@pytest.mark.parametrize("packer", PACKERS)
def test_damage_of_packed_data_is_a_row(tmp_path, packer):
    path = tmp_path / f"x.mrc{packer}"
    for version in damaged(PACKERS[packer](content("x.mrc", tmp_path)), np.random.default_rng(7)):
        path.write_bytes(version)
        row, found = survey(path)
        assert (row["status"] == "ok") == bool(found)
        assert row["status"] == "ok" or row["reason"]


def test_zip_of_one_image_as_imagej_writes_it(tmp_path):
    data = io.BytesIO()
    tifffile.imwrite(data, image(1), imagej=True, resolution=(0.5, 0.5), metadata={"unit": "nm"})
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.tif", data.getvalue())
        file.writestr("__MACOSX/._x.tif", b"resource")
    row, found = survey(tmp_path / "x.zip")
    assert (row["format"], found[0]["nm_per_pixel"]) == ("ImageJ TIFF in ZIP", pytest.approx(2.0))
    np.testing.assert_array_equal(open_source(tmp_path / "x.zip").frames[0].read(), image(1))


def test_zip_of_several_files_stays_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("a.tif", content("a.tif", tmp_path))
        file.writestr("b.tif", content("b.tif", tmp_path))
    row, _ = survey(tmp_path / "x.zip")
    assert (row["status"], row["kind"]) == ("skipped", "archive")
    assert "zip://" in row["reason"]


def zip_folder(folder: Path, path: Path, prefix: str = "", method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, prefix + str(member.relative_to(folder)))


@pytest.mark.parametrize("prefix", ["", "x.zarr/", "data/2024/x.zarr/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_in_zip_reads_as_its_folder(tmp_path, prefix, method, version):
    pixels = np.stack([image(k) for k in range(3)])
    attributes = {"multiscales": [multiscale([axis(n) for n in "zyx"], scale(1, 2, 2))]}
    options = {"shards": (3, 48, 64), "chunks": (1, 16, 16)} if version == 3 else {}
    attributes = attributes if version == 2 else {"ome": attributes}
    write_group(tmp_path / "x.zarr", attributes, {"0": pixels}, version, **options)
    zip_folder(tmp_path / "x.zarr", tmp_path / "x.ome.zarr.zip", prefix, method)
    row, found = survey(tmp_path / "x.ome.zarr.zip")
    assert (row["status"], row["format"], row["reason"]) == ("ok", "OME-Zarr in ZIP", "")
    assert [(f["nm_per_pixel"], f["damage"]) for f in found] == [(2.0, None)] * 3
    for frame, plane in zip(open_source(tmp_path / "x.ome.zarr.zip").frames, pixels):
        np.testing.assert_array_equal(frame.read(5, 33), plane[5:33])


def test_zip_that_zarr_python_wrote(tmp_path):
    with zarr.storage.ZipStore(tmp_path / "x.ozx", mode="w") as store:
        zarr.create_array(store=store, data=image(1), chunks=(16, 16))
    np.testing.assert_array_equal(open_source(tmp_path / "x.ozx").frames[0].read(), image(1))


@pytest.mark.parametrize("is_packed", [False, True])
def test_hyperspy_zarr_as_folder_and_in_zip(tmp_path, is_packed):
    group = zarr.open_group(str(tmp_path / "x.zspy"), mode="w", zarr_format=2)
    group.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    image_group = group.create_group("Experiments/image")
    image_group.create_array("data", shape=(48, 64), chunks=(16, 32), dtype="uint16")[:] = image(1)
    image_group.create_group("metadata"), image_group.create_group("original_metadata")
    image_group.attrs.update({"package": "hyperspy", "package_version": "2.3.0"})
    for k, (name, size) in enumerate((("y", 48), ("x", 64))):
        image_group.create_group(f"axis-{k}").attrs.update(
            {"name": name, "size": size, "offset": 0.0, "scale": 0.5, "units": "nm", "navigate": False,
             "is_binned": False, "_type": "UniformDataAxis"}
        )  # fmt: skip
    path = tmp_path / "x.zspy"
    if is_packed:
        zip_folder(path, tmp_path / "y.zspy")
        path = tmp_path / "y.zspy"
    row, (frame,) = survey(path)
    assert (row["format"], row["reason"]) == ("ZSPY in ZIP" if is_packed else "ZSPY", "")
    assert (frame["nm_per_pixel"], frame["damage"]) == (0.5, None)
    np.testing.assert_array_equal(open_source(path).frames[0].read(5, 30), image(1)[5:30])


def test_absent_chunks_in_a_zip_are_damage(tmp_path):
    zarr.create_array(str(tmp_path / "x.zarr"), data=image(1), chunks=(16, 64))
    next((tmp_path / "x.zarr").glob("c/1/*")).unlink()
    zip_folder(tmp_path / "x.zarr", tmp_path / "x.zarr.zip")
    (frame,) = survey(tmp_path / "x.zarr.zip")[1]
    assert frame["damage"] == "1 of 3 chunks of rows 0 to 48 are absent: they read as fill"


def test_damage_of_zip_archives_is_a_row(tmp_path):
    zarr.create_array(str(tmp_path / "x.zarr"), data=image(1), chunks=(16, 64))
    zip_folder(tmp_path / "x.zarr", tmp_path / "x.zarr.zip", "", zipfile.ZIP_DEFLATED)
    path = tmp_path / "y.zarr.zip"
    for version in damaged((tmp_path / "x.zarr.zip").read_bytes(), np.random.default_rng(5)):
        path.write_bytes(version)
        row, found = survey(path)
        assert (row["status"] == "ok") == bool(found)
        assert row["status"] == "ok" or row["reason"]


def test_names_in_a_zip_lead_nowhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("../../evil/..\\x.tif", content("x.tif", tmp_path))
    np.testing.assert_array_equal(open_source(tmp_path / "x.zip").frames[0].read(), image(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]
