"""A frame whose pixels are damaged or absent says so in `damage`, in every format that can tell; others are null."""

import io
import os
import struct
import tempfile
import zlib

import cv2
import h5py
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from bad_files import image, write_mrc
from PIL import Image

from emqa_dask.archive.checks.jpeg import find_jpeg_damage
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

SIDE = 96


def damages(path) -> list[str | None]:
    """The damage of each frame of the one file at `path`, which has to be readable."""
    (entry,) = scan_archive(path)
    row, found = survey_file(entry, Archive())
    assert row["status"] == "ok", row["reason"]
    return [frame["damage"] for frame in found]


def picture(**options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image(1, (203, 251), "uint8")).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def libjpeg_words(data: bytes) -> str:
    """What libjpeg prints while OpenCV decodes `data`."""
    with tempfile.TemporaryFile() as words:
        kept = os.dup(2)
        os.dup2(words.fileno(), 2)
        try:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        words.seek(0)
        return words.read().decode()


def fuzzed(data: bytes, rng: np.random.Generator, k: int) -> bytes:
    """`data` behind its header with a bit flipped, ten, a stretch zeroed, or a stretch gone."""
    out = bytearray(data)
    at = int(rng.integers(700, len(out) - 200))
    if k % 4 < 2:
        for place in rng.integers(700, len(out), (1, 10)[k % 4]):
            out[place] ^= 1 << int(rng.integers(8))
    elif k % 4 == 2:
        out[at : at + 200] = bytes(200)
    else:
        del out[at : at + 100]
    return bytes(out)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_jpegs_that_libjpeg_calls_corrupt_are_found(options):
    good = picture(**options)
    rng = np.random.default_rng(1)
    n_warned = 0
    assert find_jpeg_damage(good) == libjpeg_words(good) == ""
    for k in range(60):
        data = fuzzed(good, rng, k)
        if "Corrupt JPEG data" in libjpeg_words(data):
            n_warned += 1
            assert find_jpeg_damage(data), libjpeg_words(data)
    assert n_warned > 30


@pytest.mark.parametrize("quality", [1, 30, 95, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("is_progressive", [False, True])
def test_whole_jpegs_of_all_kinds_are_whole(quality, subsampling, is_progressive):
    for shape in ((1, 1), (8, 17), (75, 50)):
        colour = np.stack([image(k, (80, 80), "uint8")[: shape[0], : shape[1]] for k in range(3)], -1)
        for mode, pixels in (("L", colour[..., 0]), ("RGB", colour), ("CMYK", np.dstack([colour, colour[..., :1]]))):
            for restart in (0, 1, 3):
                options = {"restart_marker_blocks": restart, "progressive": is_progressive, "quality": quality}
                stream = io.BytesIO()
                Image.fromarray(pixels, mode).save(stream, "JPEG", subsampling=subsampling, **options)
                assert find_jpeg_damage(stream.getvalue()) == ""


def test_real_jpegs_are_whole(real):
    paths = sorted(real.rglob("*.jpg"))
    assert len(paths) > 500
    assert [p.name for p in paths[::5] if find_jpeg_damage(p.read_bytes())] == []


def test_jpeg_frame_keeps_its_pixels_and_says_damage(tmp_path):
    data = bytearray(picture())
    data[-900:-700] = bytes(200)
    (tmp_path / "x.jpg").write_bytes(data)
    (damage,) = damages(tmp_path / "x.jpg")
    assert damage.startswith("JPEG: bits that are no Huffman code, at block 8")
    (frame,) = open_source(tmp_path / "x.jpg").frames
    np.testing.assert_array_equal(frame.read(), np.asarray(Image.open(tmp_path / "x.jpg")))
    assert frame.read_with_colour()[2] == [damage]


def test_jpegs_in_tiffs_are_read_and_checked(tmp_path):
    for options in ({}, {"rowsperstrip": 16}, {"tile": (32, 32)}):
        tifffile.imwrite(tmp_path / "x.tif", image(1, (SIDE, SIDE), "uint8"), compression="jpeg", **options)
        (frame,) = open_source(tmp_path / "x.tif").frames
        np.testing.assert_array_equal(frame.read(), tifffile.imread(tmp_path / "x.tif"))
        assert damages(tmp_path / "x.tif") == [None]
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        offset = tif.pages[0].dataoffsets[4]
        n_bytes = tif.pages[0].databytecounts[4]
    data = bytearray((tmp_path / "x.tif").read_bytes())
    data[offset + n_bytes - 60 : offset + n_bytes - 2] = bytes(data[offset + n_bytes - 60 : offset + n_bytes - 58]) * 29
    assert "Corrupt JPEG data" in libjpeg_words(bytes(data[offset : offset + n_bytes]))
    (tmp_path / "x.tif").write_bytes(data)
    (damage,) = damages(tmp_path / "x.tif")
    assert damage.startswith("page 1, strip or tile 5: ")


def png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """(name, where the body starts, its length) of each chunk."""
    found = []
    at = 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        found.append((name, at + 8, length))
        at += 12 + length
    return found


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_checksum_of_pixels_is_verified(tmp_path, dtype):
    path = tmp_path / "x.png"
    Image.fromarray(image(1, (SIDE, SIDE), dtype)).save(path)
    good = path.read_bytes()
    assert damages(path) == [None]
    _, start, length = next(chunk for chunk in png_chunks(good) if chunk[0] == b"IDAT")
    for place in (start + length, start + length - 1):  # the chunk's own checksum, then that of the stream in it
        data = bytearray(good)
        data[place] ^= 4
        path.write_bytes(data)
        (entry,) = scan_archive(path)
        row, found = survey_file(entry, Archive())
        assert row["status"] == "failed" or "checksum of a chunk IDAT does not fit" in found[0]["damage"]
    path.write_bytes(good[:-12])
    assert damages(path) == ["PNG: its end is missing"]


def test_libpng_refuses_damaged_streams_of_16_bits(tmp_path):
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image(1, (SIDE, SIDE), "uint16")))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 0, 0, 0, 0)
    for stream in (packed[:-4] + b"\0\0\0\0", packed[:-4], packed[: len(packed) // 2]):
        chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
        data = [
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        ]
        path = tmp_path / "x.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))
        (entry,) = scan_archive(path)
        assert survey_file(entry, Archive())[0]["status"] == "failed"


def test_png_of_several_parts_lacks_one(tmp_path):
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image(1, (SIDE, SIDE), "uint8")))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0))
    parts = [packed[k : k + 2000] for k in range(0, len(packed), 2000)]
    path = tmp_path / "x.png"
    path.write_bytes(head + b"".join(chunk(b"IDAT", part) for part in parts) + chunk(b"IEND", b""))
    assert damages(path) == [None]
    path.write_bytes(head + b"".join(chunk(b"IDAT", part) for part in parts[:-1]) + chunk(b"IEND", b""))
    (entry,) = scan_archive(path)
    row, found = survey_file(entry, Archive())
    assert row["status"] == "failed" or "end early" in found[0]["damage"]


def test_strips_that_a_tiff_does_not_hold_are_damage(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, image(1, (SIDE, SIDE)), compression="zlib", rowsperstrip=16)
    with tifffile.TiffFile(path) as tif:
        counts = tif.pages[0].tags[279]
    data = bytearray(path.read_bytes())
    size = counts.dtype_name and counts.valuebytecount // counts.count if hasattr(counts, "valuebytecount") else None
    size = size or {3: 2, 4: 4, 16: 8}[int(counts.dtype)]
    data[counts.valueoffset + 2 * size : counts.valueoffset + 3 * size] = bytes(size)
    path.write_bytes(data)
    assert damages(path) == ["page 1, strip or tile 3 of 6 is absent from the file"]


def test_lzw_strip_of_another_length_is_damage(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, image(1, (SIDE, SIDE), "uint8"), compression="lzw", rowsperstrip=32)
    assert damages(path) == [None]
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[1]
        n_bytes = tif.pages[0].databytecounts[1]
    good = path.read_bytes()
    n_wrong = 0
    n_said = 0
    pixels = open_source(path).frames[0].read()
    rng = np.random.default_rng(2)
    for _ in range(40):
        data = bytearray(good)
        data[offset + int(rng.integers(20, n_bytes - 20))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        (entry,) = scan_archive(path)
        row, found = survey_file(entry, Archive())
        is_wrong = row["status"] == "failed" or np.mean(open_source(path).frames[0].read() != pixels) > 0.05
        n_wrong += is_wrong
        n_said += is_wrong and (row["status"] == "failed" or found[0]["damage"] is not None)
    assert n_said > 0.9 * n_wrong > 9


def test_broken_list_of_pages_is_damage(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        for k in range(3):
            tif.write(image(k), contiguous=False)
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        last = tif.pages[2].offset
    data = (tmp_path / "x.tif").read_bytes().replace(struct.pack("<I", last), struct.pack("<I", 2**31))
    (tmp_path / "x.tif").write_bytes(data)
    assert all("the list of pages is broken after page 2" in damage for damage in damages(tmp_path / "x.tif"))


def test_gif_and_webp_that_end_early(tmp_path):
    for name in ("x.gif", "x.webp"):
        Image.fromarray(image(1, (SIDE, SIDE), "uint8")).save(tmp_path / name)
        assert damages(tmp_path / name) == [None]
    data = (tmp_path / "x.gif").read_bytes()
    (tmp_path / "x.gif").write_bytes(data[:-1])
    assert damages(tmp_path / "x.gif") == ["GIF: DGifSlurp returned 'Failed to read from given file'"]
    data = bytearray((tmp_path / "x.webp").read_bytes())
    data[4:8] = struct.pack("<I", len(data) + 100)
    (tmp_path / "x.webp").write_bytes(data)
    (entry,) = scan_archive(tmp_path / "x.webp")
    row, found = survey_file(entry, Archive())
    assert row["status"] == "failed" or "WebP: it ends after" in found[0]["damage"]


def test_mrc_with_more_bytes_than_its_header_says(tmp_path):
    write_mrc(tmp_path / "x.mrc", image(1, dtype="int16")[None])
    assert damages(tmp_path / "x.mrc") == [None]
    data = bytearray((tmp_path / "x.mrc").read_bytes())
    data[:4] = struct.pack("<i", 32)  # columns: 64 were written
    (tmp_path / "x.mrc").write_bytes(data)
    assert damages(tmp_path / "x.mrc") == ["the MRC file has 3,072 bytes more than its header says"]


def test_hdf5_chunks_that_were_never_written(tmp_path):
    pixels = image(1, (64, 64))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stack = file.create_dataset("scan", (3, 64, 64), "u2", chunks=(1, 16, 16))
        stack[0] = pixels
        stack[1, :40] = pixels[:40]
    said = ["4 of 16 chunks of /scan are absent: they read as fill", "16 of 16 chunks of /scan are absent"]
    first, second, third = damages(tmp_path / "x.h5")
    assert (first, second) == (None, said[0])
    assert third.startswith(said[1])
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("scan", (64, 64), "u2")
    assert damages(tmp_path / "y.h5") == ["the values of /scan were never written"]


def test_hdf5_sources_that_are_gone_or_short(tmp_path):
    pixels = image(1, (64, 64))
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["d"] = pixels
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(pixels.shape, pixels.dtype)
        layout[:] = h5py.VirtualSource("source.h5", "d", pixels.shape)
        file.create_virtual_dataset("d", layout)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("d", pixels.shape, "u2", external=[(str(tmp_path / "raw.bin"), 0, 8192)])[:] = pixels
    assert damages(tmp_path / "virtual.h5") == damages(tmp_path / "external.h5") == [None]
    (tmp_path / "source.h5").unlink()
    os.truncate(tmp_path / "raw.bin", 3000)
    assert damages(tmp_path / "virtual.h5") == ["1 of 1 files that hold /d are absent, first source.h5"]
    assert damages(tmp_path / "external.h5") == ["the file raw.bin holds 3,000 of 8,192 bytes of /d"]


def test_emd_chunks_that_were_never_written(tmp_path):
    with h5py.File(tmp_path / "x.emd", "w") as file:
        file.attrs["version_major"] = 0
        file.attrs["version_minor"] = 2
        group = file.create_group("signals/image")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", (96, 64), "u2", chunks=(16, 16))[:48] = image(1, (48, 64))
        for name, n in (("dim1", 96), ("dim2", 64)):
            dim = group.create_dataset(name, data=np.arange(n, dtype=float))
            dim.attrs["name"] = name
            dim.attrs["units"] = "[n_m]"
    assert damages(tmp_path / "x.emd") == ["12 of 24 chunks of /signals/image/data are absent: they read as fill"]


ZARRS = {
    "v2": ({"zarr_format": 2}, None),
    "v3": ({}, None),
    "v3 in shards": ({"shards": (1, 32, 32)}, None),
    "OME-Zarr 0.4": ({"zarr_format": 2}, "0"),
    "OME-Zarr 0.5": ({}, "0"),
    "OME-Zarr 0.5 in shards": ({"shards": (1, 32, 32)}, "0"),
}


def write_zarr(path, options: dict, level: str | None, stack: np.ndarray):
    options = {"shape": stack.shape, "chunks": (1, 16, 16), "dtype": stack.dtype, **options}
    if level is None:
        array = zarr.create_array(str(path), **options)
    else:
        version = options.pop("zarr_format", 3)
        group = zarr.open_group(str(path), mode="w", zarr_format=version)
        images = [{"axes": [{"name": n} for n in "zyx"], "datasets": [{"path": level}]}]
        group.attrs.update({"multiscales": images} if version == 2 else {"ome": {"multiscales": images}})
        array = group.create_array(level, **options)
    array[:] = stack
    return array


@pytest.mark.parametrize("kind", ZARRS)
def test_zarr_chunks_that_are_absent(tmp_path, kind):
    stack = np.stack([image(k, (64, 64)) for k in range(2)])
    array = write_zarr(tmp_path / "x.zarr", *ZARRS[kind], stack)
    assert damages(tmp_path / "x.zarr") == [None, None]
    key = array.metadata.encode_chunk_key((1, 1, 0))
    (tmp_path / "x.zarr" / array.path / key).unlink()
    n = 4 if "shards" in kind else 1
    assert damages(tmp_path / "x.zarr") == [
        None, f"{n} of 16 chunks of rows 0 to 64 are absent: they read as fill"
    ]  # fmt: skip


def test_chunks_that_a_shard_does_not_hold(tmp_path):
    stack = np.stack([image(k, (64, 64)) for k in range(2)])
    array = write_zarr(tmp_path / "x.zarr", {"shards": (2, 64, 64)}, None, stack)
    array[0, 16:32, :48] = 0  # zarr-python writes no chunk that equals the fill value
    assert damages(tmp_path / "x.zarr") == ["3 of 16 chunks of rows 0 to 64 are absent: they read as fill", None]


def test_hyperspy_zarr_with_absent_chunks(tmp_path):
    group = zarr.open_group(str(tmp_path / "x.zspy"), mode="w", zarr_format=2)
    group.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    image_group = group.create_group("Experiments/image")
    image_group.create_array("data", shape=(64, 64), chunks=(32, 32), dtype="uint16")[:] = image(1, (64, 64))
    image_group.create_group("metadata"), image_group.create_group("original_metadata")
    image_group.attrs.update({"package": "hyperspy", "package_version": "2.3.0"})
    fixed = {"offset": 0.0, "scale": 1.0, "units": "nm", "navigate": False, "size": 64, "_type": "UniformDataAxis"}
    for k, name in enumerate("yx"):
        image_group.create_group(f"axis-{k}").attrs.update({"name": name, "is_binned": False, **fixed})
    assert damages(tmp_path / "x.zspy") == [None]
    (tmp_path / "x.zspy/Experiments/image/data/0.1").unlink()
    said = "1 of 4 chunks of Experiments/image/data are absent: they read as fill"
    assert damages(tmp_path / "x.zspy") == [said]


def test_blosc_chunk_that_was_cut_costs_its_frame(tmp_path):
    stack = np.stack([image(k, (64, 64)) for k in range(2)])
    compressor = numcodecs.Blosc(cname="lz4", clevel=5)
    write_zarr(tmp_path / "x.zarr", {"zarr_format": 2, "compressors": compressor}, None, stack)
    assert damages(tmp_path / "x.zarr") == [None, None]
    chunk = tmp_path / "x.zarr" / "1.2.3"
    chunk.write_bytes(chunk.read_bytes()[:56])
    (entry,) = scan_archive(tmp_path / "x.zarr")
    row, found = survey_file(entry, Archive())
    assert [frame["frame"] for frame in found] == [0]
    assert "1.2.3 ends after 56 of " in row["reason"]


def test_lzf_chunk_of_another_size_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("d", data=image(1, (64, 64)) // 2000, chunks=(32, 32), compression="lzf")
    assert damages(tmp_path / "x.h5") == [None]
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        _, data = file["d"].id.read_direct_chunk((32, 0))
        file["d"].id.write_direct_chunk((32, 0), data[:3] + bytes(len(data) - 3))  # literals: fewer bytes than a chunk
    (entry,) = scan_archive(tmp_path / "x.h5")
    assert survey_file(entry, Archive())[0]["reason"].startswith(
        "HDF5 data are broken: a chunk of /d decodes to other than"
    )
