"""NumPy, JPEG 2000, Netpbm and Nion Swift: the pixels that numpy, imagecodecs and Pillow read."""

import json
import struct
import zipfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from bad_files import image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from test_damage import damaged

from emqa_dask.archive.entries import Entry
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive


def survey(path: Path) -> tuple[dict, list[dict]]:
    return survey_file(Entry(path.name, str(path), path.stat().st_size), Archive())


def read(path: Path) -> list[np.ndarray]:
    return [frame.read() for frame in open_source(path).frames]


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">f4", "f8", "?", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_type_and_order(tmp_path, dtype, order):
    pixels = np.asarray(image(1), dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", pixels)
    (frame,) = open_source(tmp_path / "x.npy").frames
    np.testing.assert_array_equal(frame.read(), np.load(tmp_path / "x.npy"))
    np.testing.assert_array_equal(frame.read(7, 20), pixels[7:20])


def test_npy_stacks_colour_and_other_arrays(tmp_path):
    stack = np.stack([image(k) for k in range(3)])
    np.save(tmp_path / "stack.npy", stack)
    np.testing.assert_array_equal(read(tmp_path / "stack.npy"), stack)
    colour = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    np.save(tmp_path / "colour.npy", colour)
    (frame,) = open_source(tmp_path / "colour.npy").frames
    np.testing.assert_array_equal(frame.read_rows(0, 48), colour)
    for name, array in {"wave": image(1) * 1j, "scan": np.zeros((4, 4, 32, 32)), "line": np.zeros(9)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        row, _ = survey(tmp_path / f"{name}.npy")
        assert (row["status"], row["format"], bool(row["reason"])) == ("skipped", "NumPy", True)


@settings(max_examples=30, deadline=None)
@given(
    arrays(
        st.sampled_from([np.uint8, np.int16, np.float32]),
        array_shapes(min_dims=2, max_dims=2, min_side=16, max_side=40),
    )
)
def test_npy_of_any_shape(tmp_path_factory, pixels):
    path = tmp_path_factory.mktemp("npy") / "x.npy"
    np.save(path, pixels)
    np.testing.assert_array_equal(read(path)[0], pixels)


@pytest.mark.parametrize("shape", [(6397, 4), (154, 6), (2578, 1), (2000, 20)])
def test_tables_of_numbers_are_no_images(tmp_path, shape):
    np.save(tmp_path / "log.npy", np.zeros(shape))
    row, images = survey(tmp_path / "log.npy")
    assert (row["status"], row["kind"], images) == ("skipped", "signal", [])
    assert row["reason"] == f"a table of {shape[0]} x {shape[1]} numbers"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_reads_images_and_names_the_others(tmp_path, save):
    stack = np.stack([image(k) for k in range(2)])
    save(tmp_path / "x.npz", bf=image(5), series=stack, mask=image(1) > 9000, wave=image(1) * 1j, nm_per_pixel=0.25)
    row, found = survey(tmp_path / "x.npz")
    assert (row["status"], len(found), {f["nm_per_pixel"] for f in found}) == ("ok", 3, {0.25})
    assert "mask is a mask of true and false" in row["reason"]
    assert "wave is complex" in row["reason"]
    for frame, pixels in zip(read(tmp_path / "x.npz"), [image(5), *stack]):
        np.testing.assert_array_equal(frame, pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("codec", ["jp2", "j2k"])
def test_jpeg_2000(tmp_path, dtype, codec):
    pixels = (image(1) // 4).astype(dtype)
    (tmp_path / "x.bin").write_bytes(imagecodecs.jpeg2k_encode(pixels, codecformat=codec, level=0))
    (frame,) = open_source(tmp_path / "x.bin").frames
    assert frame.dtype == dtype
    np.testing.assert_array_equal(frame.read(3, 40), pixels[3:40])


def test_high_throughput_jpeg_2000(tmp_path):
    (tmp_path / "x.jph").write_bytes(imagecodecs.htj2k_encode(image(1)))
    np.testing.assert_array_equal(read(tmp_path / "x.jph")[0], image(1))


def test_jpeg_2000_of_several_samples(tmp_path):
    samples = np.random.default_rng(1).integers(0, 255, (48, 64, 5), np.uint8)
    for n, n_frames in ((2, 1), (3, 1), (4, 1), (5, 5)):
        data = imagecodecs.jpeg2k_encode(samples[..., :n], codecformat="j2k", level=0, mct=False)
        (tmp_path / f"{n}.j2k").write_bytes(data)
        source = open_source(tmp_path / f"{n}.j2k")
        assert len(source.frames) == n_frames
        expected = samples[..., :3] if n in (3, 4) else samples[..., n_frames - 1]
        np.testing.assert_array_equal(source.frames[-1].read_rows(0, 48), expected)


def test_jpeg_2000_resolution_at_capture(tmp_path):
    data = imagecodecs.jpeg2k_encode(image(1), codecformat="jp2", level=0)
    resolution = struct.pack(">4H2b", 25, 1, 5, 1, 7, 8)  # 2.5e8 rows and 5e8 columns per metre
    box = struct.pack(">I4s", 18, b"resc") + resolution
    box = struct.pack(">I4s", 26, b"res ") + box
    start = data.index(b"jp2c") - 4
    size = struct.unpack_from(">I", data, data.index(b"jp2h") - 4)[0] + len(box)
    position = data.index(b"jp2h") - 4
    (tmp_path / "x.jp2").write_bytes(
        data[:position] + struct.pack(">I", size) + data[position + 4 : start] + box + data[start:]
    )
    header = open_source(tmp_path / "x.jp2").frames[0].header
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2.0, 4.0))


def test_jpeg_2000_with_a_palette_gives_the_indices(tmp_path):
    indices = image(1, dtype="uint8")
    data = imagecodecs.jpeg2k_encode(indices, codecformat="jp2", level=0)
    palette = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)], 1).astype(np.uint8).tobytes()
    boxes = struct.pack(">I4sHB3B", 8 + 6 + len(palette), b"pclr", 256, 3, 7, 7, 7) + palette
    boxes += struct.pack(">I4s", 20, b"cmap") + b"".join(struct.pack(">HBB", 0, 1, k) for k in range(3))
    start = data.index(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", data, start)
    head = data[:start] + struct.pack(">I", size + len(boxes)) + data[start + 4 : start + size]
    (tmp_path / "x.jp2").write_bytes(head + boxes + data[start + size :])
    assert imagecodecs.jpeg2k_decode((tmp_path / "x.jp2").read_bytes()).shape == (48, 64, 3)
    np.testing.assert_array_equal(read(tmp_path / "x.jp2")[0], indices)


GREY8 = image(1, dtype="uint8")
GREY16 = image(2)
RGB = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
NETPBM = {
    "binary.pgm": (b"P5\n64 48\n255\n" + GREY8.tobytes(), GREY8),
    "comments.pgm": (b"P5 # made by hand\n#another\n64 # wide\n48\n255\n" + GREY8.tobytes(), GREY8),
    "deep.pgm": (b"P5 64 48 65535\n" + GREY16.astype(">u2").tobytes(), GREY16),
    "twelve.pgm": (b"P5 64 48 4095\n" + (GREY16 >> 4).astype(">u2").tobytes(), GREY16 >> 4),
    "space_first.pgm": (b"P5 64 48 255\n" + b"\n" + GREY8.tobytes()[1:], None),
    "text.pgm": (b"P2\n64 48\n65535\n" + b" ".join(b"%d" % v for v in GREY16.ravel()), GREY16),
    "binary.ppm": (b"P6 64 48 255\n" + RGB.tobytes(), RGB),
    "text.ppm": (b"P3 64 48 255 " + b"\n".join(b"%d" % v for v in RGB.ravel()), RGB),
    "binary.pbm": (b"P4 64 48\n" + np.packbits(GREY8 < 128, axis=1).tobytes(), GREY8 >= 128),
    "odd.pbm": (b"P4 61 48\n" + np.packbits(GREY8[:, :61] < 128, axis=1).tobytes(), GREY8[:, :61] >= 128),
    "text.pbm": (b"P1 64 48\n" + b"".join(b"%d" % v for v in (GREY8 < 128).ravel()), GREY8 >= 128),
    "grey.pam": (b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 1\nMAXVAL 65535\nTUPLTYPE GRAYSCALE\nENDHDR\n"
                 + GREY16.astype(">u2").tobytes(), GREY16),
    "colour.pam": (b"P7\n# a comment\nWIDTH 64\nHEIGHT 48\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n"
                   + RGB.tobytes(), RGB),
    "little.pfm": (b"Pf\n64 48\n-1.0\n" + GREY16[::-1].astype("<f4").tobytes(), GREY16.astype("f4")),
    "big.pfm": (b"Pf\n64 48\n1.0\n" + GREY16[::-1].astype(">f4").tobytes(), GREY16.astype("f4")),
}  # fmt: skip


@pytest.mark.parametrize("name", NETPBM)
def test_netpbm_by_hand(tmp_path, name):
    data, expected = NETPBM[name]
    (tmp_path / name).write_bytes(data)
    (frame,) = open_source(tmp_path / name).frames
    if expected is None:
        expected = np.frombuffer(data[-64 * 48 :], np.uint8).reshape(48, 64)
    np.testing.assert_array_equal(frame.read_rows(5, 30), expected[5:30])
    assert survey(tmp_path / name)[0]["status"] == "ok"


@pytest.mark.parametrize("name", ["x.pgm", "x.ppm", "x.pbm"])
def test_netpbm_as_pillow_writes_it(tmp_path, name):
    pixels = {"x.pgm": GREY8, "x.ppm": RGB, "x.pbm": GREY8 > 99}[name]
    Image.fromarray(pixels).save(tmp_path / name)
    (frame,) = open_source(tmp_path / name).frames
    np.testing.assert_array_equal(frame.read_rows(0, 48), np.asarray(Image.open(tmp_path / name)))


def test_netpbm_of_several_images(tmp_path):
    (tmp_path / "x.pgm").write_bytes(NETPBM["binary.pgm"][0] + NETPBM["deep.pgm"][0])
    first, second = read(tmp_path / "x.pgm")
    np.testing.assert_array_equal(first, GREY8)
    np.testing.assert_array_equal(second, GREY16)


@pytest.mark.parametrize("data", [b"P5 64 48 255\n" + bytes(99), b"P5 99999 99999 65535\n", b"P2 9 9 99\n1 2 x",
                                  b"P5 0 9 255\n", b"P6 64 48 99999\n" + bytes(99), b"P7\nWIDTH 4\nENDHDR\n"]
)  # fmt: skip
def test_broken_netpbm_fails(tmp_path, data):
    (tmp_path / "x.pgm").write_bytes(data)
    row, _ = survey(tmp_path / "x.pgm")
    assert row["status"] == "failed"
    assert row["reason"]


def test_text_that_begins_as_netpbm_is_text(tmp_path):
    (tmp_path / "x.txt").write_text("P5 is the name of a sample, P6 that of another one\n")
    assert survey(tmp_path / "x.txt")[0]["kind"] == "text"


def write_ndata(path: Path, pixels: np.ndarray, properties: dict) -> None:
    with zipfile.ZipFile(path, "w") as file:
        with file.open("data.npy", "w") as member:
            np.save(member, pixels)
        file.writestr("metadata.json", json.dumps(properties))


CALIBRATIONS = [{"offset": 0, "scale": 0.003, "units": "um"}, {"offset": 0, "scale": 2.0, "units": "nm"}]


@pytest.mark.parametrize(
    "properties",
    [
        {"data_source": {"dimensional_calibrations": CALIBRATIONS, "created": "2020-06-06T11:04:36",
                         "metadata": {"instrument": {"high_tension": 100000.0},
                                      "hardware_source": {"channel_name": "HAADF", "exposure": 0.5}}}},
        {"data_sources": [{"dimensional_calibrations": CALIBRATIONS, "created": "2020-06-06T11:04:36",
                           "metadata": {"hardware_source": {"channel_name": "HAADF", "exposure": 0.5,
                                                            "autostem": {"high_tension_v": 100000}}}}]},
        {"spatial_calibrations": CALIBRATIONS, "datetime_original": "2020-06-06T11:04:36",
         "metadata": {"hardware_source": {"hardware_source_name": "HAADF", "exposure": 0.5, "EHT": 100000}}},
    ],
)  # fmt: skip
def test_ndata_of_nion_swift(tmp_path, properties):
    write_ndata(tmp_path / "x.ndata", image(1), properties)
    (frame,) = open_source(tmp_path / "x.ndata").frames
    np.testing.assert_array_equal(frame.read(), image(1))
    header = frame.header
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2.0, 3.0))
    assert (header.voltage_kv, header.detector, header.exposure_s) == (100.0, "HAADF", 0.5)
    assert header.acquired.startswith("2020-06-06T11:04:36")


def test_ndata_spectra_and_sequences(tmp_path):
    source = {"collection_dimension_count": 0, "datum_dimension_count": 2, "is_sequence": True}
    stack = np.stack([image(k) for k in range(3)])
    write_ndata(tmp_path / "x.ndata", stack, {"data_source": source})
    np.testing.assert_array_equal(read(tmp_path / "x.ndata"), stack)
    source = {"collection_dimension_count": 2, "datum_dimension_count": 1, "is_sequence": False}
    write_ndata(tmp_path / "y.ndata", stack, {"data_source": source})
    assert open_source(tmp_path / "y.ndata").kind == "spectrum"


def write_valid(path: Path) -> bytes:
    """The bytes of a valid file of the format that `path` is named after."""
    if path.suffix == ".npy":
        np.save(path, image(1))
    elif path.suffix == ".npz":
        np.savez_compressed(path, a=image(1), b=image(2))
    elif path.suffix == ".jp2":
        path.write_bytes(imagecodecs.jpeg2k_encode(image(1), codecformat="jp2", level=0))
    elif path.suffix == ".pgm":
        path.write_bytes(NETPBM["deep.pgm"][0])
    elif path.suffix == ".pam":
        path.write_bytes(NETPBM["grey.pam"][0])
    else:
        write_ndata(path, image(1), {"data_source": {"dimensional_calibrations": CALIBRATIONS}})
    return path.read_bytes()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.jp2", "x.pgm", "x.pam", "x.ndata"])
def test_damage_of_simple_formats_is_a_row(tmp_path, name):
    path = tmp_path / name
    data = write_valid(path)
    assert survey(path)[0]["status"] == "ok"
    for version in damaged(data, np.random.default_rng(len(data))):
        path.write_bytes(version)
        row, found = survey(path)
        assert (row["status"] == "ok") == bool(found)
        assert row["status"] == "ok" or row["reason"]
