"""survey(): one row for every file, with a status and a reason; and hashes, colour and limits."""

import hashlib
import struct
import tracemalloc
import zlib

import fsspec
import h5py
import numpy as np
import pytest
import tifffile
from bad_files import image, make_bad_archive, write_mrc
from PIL import Image

from emqa_dask import tables
from emqa_dask.archive.entries import Entry
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.selection import FileSelection
from emqa_dask.archive.survey import compute_micrograph_id, hash_content, survey_file
from emqa_dask.settings import Archive


def one(path, **settings):
    """Catalog row and micrograph rows of the one file at `path`."""
    (entry,) = scan_archive(path)
    return survey_file(entry, Archive(**settings))


@pytest.fixture(scope="module")
def rows(bad_archive):
    folder, expected = bad_archive
    return expected, [survey_file(entry, Archive()) for entry in scan_archive(folder)]


def test_every_bad_file_has_the_expected_status(rows):
    expected, surveyed = rows
    assert {row["uri"]: row["status"] for row, _ in surveyed} == expected
    assert len(surveyed) == len(expected)


def test_reasons_and_tables(rows):
    _, surveyed = rows
    catalog = tables.conform([row for row, _ in surveyed], tables.CATALOG)
    micrographs = tables.conform([m for _, found in surveyed for m in found], tables.MICROGRAPHS)
    assert catalog.num_rows == len(surveyed)
    assert len(set(micrographs["micrograph_id"].to_pylist())) == micrographs.num_rows
    for row, found in surveyed:
        assert row["n_frames"] == len(found)
        assert (row["status"] == "ok") == bool(found)
        assert row["status"] == "ok" or row["reason"]
        assert "\n" not in row["reason"]
        assert "Traceback" not in row["reason"]


REASONS = {
    "truncated.tif": "truncated TIFF: page 1 ends after 2,944 of 6,144 bytes",
    "zero.tif": "empty file (0 bytes)",
    "text.tif": "text, not an image (named .tif)",
    "noise.tif": "not TIFF nor any other known format (named .tif)",
    "sparse_40000.tif": "1,600 megapixels are over the limit of 256; raise archive.max_megapixels",
    "broken.jpg": "JPEG data are broken: ",
    "broken.png": "PNG ",
    "truncated.mrc": "truncated MRC: 1,976 of 6,144 bytes, 0 of 1 sections",
    "lost_section.mrcs": "truncated MRC: 15,360 of 18,432 bytes, 2 of 3 sections",
    "png_named.tif": "PNG data, though named .tif",
    "tiff_named.jpg": "TIFF data, though named .jpg",
    "mrc_named.dm3": "MRC data, though named .dm3",
    "links/loop": "symbolic link loop",
    "links/itself.tif": "symbolic link loop",
    "links/dangling.tif": "dangling symbolic link, or the file is gone",
    "links/pipe.tif": "a named pipe, not a file",
    "__MACOSX/._whole.tif": "macOS resource fork of another file, no image",
}


def test_reasons_are_plain(rows):
    found = {row["uri"]: row["reason"] for row, _ in rows[1]}
    for uri, reason in REASONS.items():
        assert found[uri].startswith(reason), uri


def test_same_file_twice_has_one_content_and_two_identities(rows):
    found = {row["uri"]: (row, m) for row, m in rows[1]}
    (first, (a,)), (second, (b,)), (other, (c,)) = (found[f"{n}.tif"] for n in ("b/image", "b/copy", "a/image"))
    assert first["content_sha256"] == second["content_sha256"] != other["content_sha256"]
    assert a["pixel_sha256"] == b["pixel_sha256"] != c["pixel_sha256"]
    assert len({a["micrograph_id"], b["micrograph_id"], c["micrograph_id"]}) == 3


def test_hashes_are_what_they_say(tmp_path):
    pixels = image(1, dtype="float32")
    tifffile.imwrite(tmp_path / "x.tif", pixels, byteorder=">", compression="zlib")
    row, (micrograph,) = one(tmp_path / "x.tif")
    content = hashlib.sha256((tmp_path / "x.tif").read_bytes()).hexdigest()
    assert row["content_sha256"] == micrograph["content_sha256"] == content
    assert micrograph["pixel_sha256"] == hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()
    assert micrograph["micrograph_id"] == compute_micrograph_id(content, "x.tif", 0)
    assert len(micrograph["micrograph_id"]) == 32


def test_pixels_hash_alike_in_every_lossless_format(tmp_path):
    pixels = image(2)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    tifffile.imwrite(tmp_path / "b.tif", pixels, tile=(16, 16), compression="lzw")
    Image.fromarray(pixels).save(tmp_path / "c.png")
    write_mrc(tmp_path / "d.mrc", pixels[None])
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["data"] = pixels
    digests = {survey_file(e, Archive())[1][0]["pixel_sha256"] for e in scan_archive(tmp_path)}
    assert digests == {hashlib.sha256(pixels.tobytes()).hexdigest()}


def test_users_pixel_size_fills_in_and_never_overrides(tmp_path):
    tifffile.imwrite(tmp_path / "none.tif", image(3))
    write_mrc(tmp_path / "known.mrc", image(3)[None], angstrom=4.0)
    for name, nm, source in (("none.tif", 0.7, "user"), ("known.mrc", 0.4, "header")):
        _, (micrograph,) = one(tmp_path / name, nm_per_pixel=0.7)
        assert micrograph["nm_per_pixel"] == pytest.approx(nm)
        assert micrograph["nm_per_pixel_source"] == source
    assert one(tmp_path / "none.tif")[1][0]["nm_per_pixel_source"] == "none"


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.jpg", "x.mrc", "x.h5"])
def test_limit_on_pixels_holds_for_every_format(tmp_path, name):
    pixels = image(4, dtype="uint8" if name in ("x.png", "x.jpg") else "uint16")
    if name == "x.tif":
        tifffile.imwrite(tmp_path / name, pixels)
    elif name == "x.mrc":
        write_mrc(tmp_path / name, pixels[None])
    elif name == "x.h5":
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = pixels
    else:
        Image.fromarray(pixels).save(tmp_path / name)
    assert one(tmp_path / name, max_megapixels=48 * 64 / 1e6)[0]["status"] == "ok"
    row, found = one(tmp_path / name, max_megapixels=47 * 64 / 1e6)
    assert (row["status"], found) == ("failed", [])
    assert "raise archive.max_megapixels" in row["reason"]


def test_lost_frames_are_counted_and_the_rest_kept(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        for k in range(3):
            tif.write(image(k), compression="zlib", rowsperstrip=48, contiguous=False)
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        offset = tif.pages[1].dataoffsets[0]
    data = bytearray((tmp_path / "x.tif").read_bytes())
    data[offset : offset + 40] = bytes(40)
    (tmp_path / "x.tif").write_bytes(data)
    row, found = one(tmp_path / "x.tif")
    assert (row["status"], row["n_frames"]) == ("ok", 2)
    assert [m["frame"] for m in found] == [0, 2]
    assert row["reason"].startswith("1 of 3 frames lost, the first is frame 1: TIFF data are broken: page 2")
    assert row["error"]


def test_truncated_stack_keeps_its_whole_pages(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.stack([image(k) for k in range(4)]), photometric="minisblack")
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: len(data) // 2])
    row, found = one(tmp_path / "x.tif")
    assert row["status"] in ("ok", "failed")
    assert row["reason"]
    for micrograph in found:
        pixels = image(micrograph["frame"])
        assert micrograph["pixel_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_huge_tiff_is_read_by_windows(tmp_path):
    empty = ((b"", 0) for _ in range(400))
    with tifffile.TiffWriter(tmp_path / "x.tif", bigtiff=True) as tif:
        tif.write(empty, shape=(10_240, 10_240), dtype="uint16", tile=(512, 512), compression="zlib")
    (frame,) = open_source(tmp_path / "x.tif").frames
    windows = list(frame.row_ranges())
    assert len(windows) >= 3
    assert all((b - a) * 10_240 * 2 <= 64 * 2**20 for a, b in windows)
    assert not frame.read(*windows[1]).any()


def test_rows_of_a_bucket_equal_those_of_a_folder(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", image(5))
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path), "/archive-survey", recursive=True)
    try:
        near = [survey_file(e, Archive()) for e in scan_archive(tmp_path)]
        far = [survey_file(e, Archive()) for e in scan_archive("memory://archive-survey")]
    finally:
        fs.rm("/archive-survey", recursive=True)
    for (a, found_a), (b, found_b) in zip(near, far, strict=True):
        assert {**a, "modified_ns": 0} == {**b, "modified_ns": 0}
        assert [m["micrograph_id"] for m in found_a] == [m["micrograph_id"] for m in found_b]


def test_a_file_that_vanished_is_a_row(tmp_path):
    row, found = survey_file(Entry("gone.tif", str(tmp_path / "gone.tif"), 10), Archive())
    assert (row["status"], found) == ("failed", [])
    assert row["reason"] == "the file disappeared after it was listed"


def test_what_is_no_micrograph_says_what_it_is(tmp_path):
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file["data"] = np.zeros((2, 3, 4, 5))
    write_mrc(tmp_path / "fft.mrc", image(1, dtype="int16")[None])
    data = bytearray((tmp_path / "fft.mrc").read_bytes())
    data[12] = 4  # mode: complex
    (tmp_path / "fft.mrc").write_bytes(data)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    found = {e.uri: survey_file(e, Archive())[0] for e in scan_archive(tmp_path)}
    assert {row["status"] for row in found.values()} == {"skipped"}
    assert {uri: row["kind"] for uri, row in found.items()} == {
        "cube.h5": "diffraction", "fft.mrc": "signal", "table.csv": "text"
    }  # fmt: skip
    assert "complex" in found["fft.mrc"]["reason"]


def test_animations_are_no_micrographs_and_one_picture_is(tmp_path):
    pictures = [Image.fromarray(image(k, dtype="uint8")) for k in range(3)]
    pictures[0].save(tmp_path / "film.gif", save_all=True, append_images=pictures[1:])
    row, found = one(tmp_path / "film.gif")
    assert (row["status"], row["reason"], found) == ("skipped", "an animation of 3 pictures, not a micrograph", [])


def test_compressed_bombs_stay_small(tmp_path):
    bomb = zlib.compress(bytes(200_000_000), 9)
    tifffile.imwrite(tmp_path / "x.tif", image(1), compression="zlib", rowsperstrip=48)
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        counts = tif.pages[0].tags[279].valueoffset
        offsets = tif.pages[0].tags[273].valueoffset
    data = bytearray((tmp_path / "x.tif").read_bytes())
    data[offsets : offsets + 4] = struct.pack("<I", len(data))
    data[counts : counts + 4] = struct.pack("<I", len(bomb))
    (tmp_path / "x.tif").write_bytes(data + bomb)
    tracemalloc.start()
    row, _ = one(tmp_path / "x.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row["status"] in ("ok", "failed")
    assert peak < 50_000_000


def test_content_hash_of_a_folder_sees_names_and_bytes(tmp_path):
    for folder, name, data in (("a", "0/1", b"x"), ("b", "0/1", b"x"), ("c", "0/2", b"x"), ("d", "0/1", b"y")):
        (tmp_path / folder / "0").mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(data)
    digests = [hash_content(tmp_path / n)[0] for n in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


# Formats that are not read, and how their rows say so. Once one is read, its row is not failed, and may leave the list.
NOT_READ = {
    "formats_more/jeol/View000_0000001.map": "not MRC nor any other known format (named .map)",
}


def test_all_real_data_give_one_row_each(real):
    surveyed = [
        survey_file(entry, Archive())
        for entry in scan_archive(real, FileSelection(("*.md", "bounding_boxes/", "labels_yolo/")))
    ]
    files = [p for p in real.rglob("*") if p.is_file() and p.suffix != ".md"]
    files = [p for p in files if p.parent.name not in ("bounding_boxes", "labels_yolo")]
    assert sorted(row["uri"] for row, _ in surveyed) == sorted(p.relative_to(real).as_posix() for p in files)
    failed = {row["uri"]: row["reason"] for row, _ in surveyed if row["status"] == "failed"}
    assert {uri: reason for uri, reason in failed.items() if not reason.startswith(NOT_READ.get(uri, "none"))} == {}
    images = [p for p in files if p.suffix in (".png", ".jpg", ".tif")]
    assert sum(row["format"] in ("PNG", "JPEG") or "TIFF" in (row["format"] or "") for row, _ in surveyed) == len(
        images
    )
    tables.conform([m for _, found in surveyed for m in found], tables.MICROGRAPHS)
    assert [(m["uri"], m["damage"]) for _, found in surveyed for m in found if m["damage"]] == []


def test_bad_archive_can_be_made_again(tmp_path, bad_archive):
    assert make_bad_archive(tmp_path / "again") == bad_archive[1]
