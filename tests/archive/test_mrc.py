"""MRC: pixels of every mode and byte order, pixel sizes, and what extended headers say; mrcfile reads the same."""

import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from bad_files import image, write_mrc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mrc_files import FEI_VALUES, make_fei_block, write_header

from emqa_dask import read_micrograph
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError


def read_header(path: Path):
    return read_micrograph(path)[1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])
def test_modes_as_mrcfile_reads_them(tmp_path, dtype, order):
    pixels = (image(1, (40, 60)) // 512).astype(dtype)
    if dtype == "int8":
        pixels -= 60
    with mrcfile.new(tmp_path / "x.mrc") as mrc:
        mrc.set_data(pixels)
        mrc.voxel_size = 3.0
    if order == ">":
        with mrcfile.open(tmp_path / "x.mrc") as mrc:
            header = mrc.header.astype(mrc.header.dtype.newbyteorder(">"))
        header["machst"] = (0x11, 0x11, 0, 0)
        (tmp_path / "x.mrc").write_bytes(header.tobytes() + pixels.astype(pixels.dtype.newbyteorder(">")).tobytes())
    expected = mrcfile.read(tmp_path / "x.mrc")
    read, header = read_micrograph(tmp_path / "x.mrc")
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(read, pixels)
    assert (read.dtype, header.nm_per_pixel) == (dtype, pytest.approx(0.3))


@pytest.mark.parametrize("n", [256, 64, 300])
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order_though_the_stamp_lies(tmp_path, order, n):
    pixels = image(1, (n, n), "uint8")
    write_header(tmp_path / "x.mrc", pixels.tobytes(), (1, n, n), 0, order=order, imod=0, stamp=b"DD\0\0")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "x.mrc")[0], pixels)


@pytest.mark.parametrize(
    ("imod", "stats", "dtype"),
    [
        (0, (0, 0, 0), "uint8"),
        (1, (0, 255, 100), "int8"),
        (None, (0, 255, 120), "uint8"),
        (None, (3, 140, 50), "uint8"),
        (None, (-128, 127, 0), "int8"),
        (None, (-128, 140, 0), "int8"),
        (None, (-5, 240, 100), "uint8"),
    ],
)
def test_bytes_are_signed_by_flag_and_extrema(tmp_path, imod, stats, dtype):
    pixels = image(1, (40, 60), "uint8")
    write_header(tmp_path / "x.mrc", pixels.tobytes(), (1, 40, 60), 0, imod=imod, stats=stats)
    read = read_micrograph(tmp_path / "x.mrc")[0]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels.view(dtype))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bytes_are_signed_by_their_values(tmp_path, dtype):
    around_the_change = np.clip(image(1, (40, 60), "uint8").astype(int), 60, 200) - (0 if dtype == "uint8" else 128)
    pixels = around_the_change.astype(dtype)
    write_header(tmp_path / "x.mrc", pixels.tobytes(), (1, 40, 60), 0)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "x.mrc")[0], pixels)


@pytest.mark.parametrize("width", [60, 61])
def test_four_bits_a_pixel(tmp_path, width):
    pixels = image(1, (40, width), "uint8") >> 4
    even = np.pad(pixels, ((0, 0), (0, width % 2)))
    write_header(tmp_path / "x.mrc", (even[:, 0::2] | even[:, 1::2] << 4).tobytes(), (1, 40, width), 101)
    (frame,) = open_source(tmp_path / "x.mrc").frames
    np.testing.assert_array_equal(frame.read(), pixels)
    np.testing.assert_array_equal(frame.read(3, 17), pixels[3:17])


def test_rgb_and_complex(tmp_path):
    pixels = image(1, (40, 60), "uint8")
    write_header(tmp_path / "x.mrc", np.stack([pixels] * 3, -1).tobytes(), (1, 40, 60), 16)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "x.mrc")[0], pixels)
    write_header(tmp_path / "fft.mrc", bytes(40 * 60 * 8), (1, 40, 60), 4)
    source = open_source(tmp_path / "fft.mrc")
    assert (source.kind, source.frames) == ("signal", ())


@pytest.mark.parametrize(
    ("cell", "m", "axes", "expected"),
    [
        ((300, 400, 1), None, (1, 2, 3), (0.5, 1.0)),
        ((600, 400, 1), (120, 40, 1), (1, 2, 3), (0.5, 1.0)),
        ((300, 400, 1), (0, 0, 0), (1, 2, 3), (0.5, 1.0)),
        ((400, 300, 1), (40, 60, 1), (2, 1, 3), (0.5, 1.0)),
        ((-300, -400, 1), None, (1, 2, 3), (np.nan, np.nan)),
        ((0, 0, 0), None, (1, 2, 3), (np.nan, np.nan)),
        ((np.nan, np.inf, 0), None, (1, 2, 3), (np.nan, np.nan)),
    ],
)
def test_pixel_size_from_the_cell(tmp_path, cell, m, axes, expected):
    write_header(tmp_path / "x.mrc", image(1, (40, 60)).tobytes(), (1, 40, 60), 6, cell=cell, m=m, axes=axes)
    header = read_header(tmp_path / "x.mrc")
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("size", [(40, 28), (7424, 3840)])
def test_two_pixels_in_a_byte_as_serialem_packs_them(tmp_path, size):
    has_flag = size == (40, 28)  # older ones have only a label, and the size of a super-resolution movie
    packed = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    labels = () if has_flag else ("SerialEMCCD: Dose frac. image, 4 bits packed  r/f 0",)
    cell = (2.5 * 2 * size[1], 2.5 * size[0], 2.5)
    write_header(
        tmp_path / "x.mrc", packed.tobytes(), (1, *size), 0,
        imod=16 if has_flag else None, labels=labels, cell=(cell[0] / 2, *cell[1:]),
    )  # fmt: skip
    (frame,) = open_source(tmp_path / "x.mrc").frames
    rows = frame.read(0, 8)
    np.testing.assert_array_equal(rows[:, 0::2], packed[:8] & 15)
    np.testing.assert_array_equal(rows[:, 1::2], packed[:8] >> 4)
    assert frame.header.nm_per_pixel == pytest.approx(0.25)
    assert frame.header.nm_per_pixel_y == pytest.approx(0.25)


def test_length_of_an_extended_header_that_is_not_there(tmp_path):
    stack = np.stack([image(k, (40, 60)) for k in range(3)])
    write_header(tmp_path / "x.mrc", stack.tobytes(), (3, 40, 60), 6, extended=bytes(2048), exttyp=b"AGAR")
    data = (tmp_path / "x.mrc").read_bytes()
    (tmp_path / "x.mrc").write_bytes(data[:1024] + data[1024 + 2048 :])  # as cryoCARE writes it
    source = open_source(tmp_path / "x.mrc")
    assert source.n_frames_lost == 0
    np.testing.assert_array_equal([frame.read() for frame in source.frames], stack)


def test_doubtful_and_impossible_pixel_sizes(tmp_path):
    write_mrc(tmp_path / "default.mrc", image(1)[None], angstrom=1.0)
    header = read_header(tmp_path / "default.mrc")
    assert header.nm_per_pixel == pytest.approx(0.1)
    assert "exactly 1 Angstrom" in header.pixel_size_problem
    write_mrc(tmp_path / "metres.mrc", image(1)[None], angstrom=5e-10)
    header = read_header(tmp_path / "metres.mrc")
    assert np.isnan(header.nm_per_pixel)
    assert "which no microscope has" in header.pixel_size_problem


@pytest.mark.parametrize("kind", [b"FEI1", b"FEI2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_extended_header_of_fei(tmp_path, kind, order):
    blocks = [make_fei_block(kind, order, FEI_VALUES | {"Alpha tilt": tilt}) for tilt in (-12.5, 0.0)]
    stack = np.stack([image(1, (40, 60)), image(2, (40, 60))]).astype(order + "u2")
    write_header(
        tmp_path / "x.mrc", stack.tobytes(), stack.shape, 6, order=order, exttyp=kind, cell=(1200, 800, 20),
        extended=b"".join(block.tobytes() for block in blocks),
    )  # fmt: skip
    frames = open_source(tmp_path / "x.mrc").frames
    np.testing.assert_array_equal(frames[1].read(), stack[1])
    first, second = (frame.header for frame in frames)
    assert (first.tilt_deg, second.tilt_deg) == (-12.5, 0.0)
    assert (first.nm_per_pixel, first.nm_per_pixel_y, first.pixel_size_problem) == (2.0, 2.0, None)
    assert (first.voltage_kv, first.magnification, first.exposure_s) == (300.0, 5000.0, 1.5)
    assert (first.instrument, first.detector) == ("TITAN", "BM-Falcon")
    assert (first.stage_x_um, first.stage_y_um, first.stage_z_um) == pytest.approx((10.0, -2.0, 0.3))
    assert (first.acquired, first.dose_e_per_nm2) == ("2022-12-05T12:13:07", pytest.approx(4000.0))


def test_diffraction_and_scans_by_the_header_of_fei(tmp_path):
    pixels = image(1, (40, 60))
    for name, values in (
        ("pattern", {"Projection mode": 1, "Pixel size X": 1e7, "Pixel size Y": 1e7}),
        ("scan", {"Instrument mode": 2, "Projection mode": 1, "STEM Detector name": b"HAADF", "Frame time": 2.7}),
    ):
        block = make_fei_block(b"FEI2", "<", FEI_VALUES | values).tobytes()
        write_header(tmp_path / f"{name}.mrc", pixels.tobytes(), (1, 40, 60), 6, extended=block, exttyp=b"FEI2")
    assert open_source(tmp_path / "pattern.mrc").kind == "diffraction"
    header = read_header(tmp_path / "scan.mrc")
    assert (header.detector, header.exposure_s) == ("HAADF", 2.7)
    assert "the extended header states 2 nm per pixel, the cell 0.5 nm" in header.pixel_size_problem


@pytest.mark.parametrize(
    ("counts", "exttyp", "n_blocks"), [((0, 0), b"", 1024), ((0, 32), b"AGAR", 2), ((3, 20), b"AGAR", 2)]
)
def test_extended_header_of_agard(tmp_path, counts, exttyp, n_blocks):
    numbers = [-60.0, 0, 1e-5, 2e-5, 3e-6, 0, 0, -1e-6, 0.5, 100, 84, 2e-9, 5000, 300000]
    n_reals = counts[1] or 32
    block = struct.pack(f"<{counts[0]}i{n_reals}f", *[7] * counts[0], *numbers, *[0.0] * (n_reals - len(numbers)))
    stack = np.stack([image(1, (40, 60)), image(2, (40, 60))])
    write_header(
        tmp_path / "x.mrc", stack.tobytes(), stack.shape, 6, exttyp=exttyp, counts=counts, extended=block * n_blocks,
        cell=(60, 40, 2),
    )  # fmt: skip
    header = open_source(tmp_path / "x.mrc").frames[1].header
    assert (header.nm_per_pixel, header.pixel_size_problem) == (pytest.approx(2.0), None)
    assert (header.tilt_deg, header.magnification, header.exposure_s) == (-60.0, 5000.0, 0.5)
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((10.0, 20.0, 3.0))
    assert header.voltage_kv == pytest.approx(300.0)


@pytest.mark.parametrize("exttyp", [b"SERI", b""])
def test_extended_header_of_serialem(tmp_path, exttyp):
    # Tilt -60 and 60 degrees, stage (100, -40) um, magnification 29000, dose 1.5 e/A2 (mantissa 384 x 256, 2^-16).
    blocks = b"".join(struct.pack("<h2hh2h", 100 * tilt, 2500, -1000, 290, 384, -16 * 256) for tilt in (-60, 60))
    stack = np.stack([image(1, (40, 60)), image(2, (40, 60))])
    labels = ("SerialEM: Acquired on Titan Krios D3593       10-May-18  14:23:11", "Tilt axis angle = 84.1")
    write_header(
        tmp_path / "x.st", stack.tobytes(), stack.shape, 6, exttyp=exttyp, counts=(12, 1 + 4 + 8 + 32), extended=blocks,
        labels=labels,
    )  # fmt: skip
    frames = open_source(tmp_path / "x.st").frames
    header = frames[1].header
    np.testing.assert_array_equal(frames[1].read(), stack[1])
    assert [f.header.tilt_deg for f in frames] == [-60.0, 60.0]
    assert (header.stage_x_um, header.stage_y_um, header.magnification) == (100.0, -40.0, 29000.0)
    assert (header.instrument, header.acquired) == ("Titan Krios D3593", "2018-05-10T14:23:11")
    assert header.dose_e_per_nm2 == pytest.approx(150.0)


def test_four_dimensional_data_give_one_row(tmp_path):
    for name, shape in (("scan.mrc", (256, 32, 32)), ("boxes.mrcs", (1100, 16, 20))):
        write_header(tmp_path / name, bytes(int(np.prod(shape)) * 2), shape, 6)
        source = open_source(tmp_path / name)
        assert (source.kind, source.frames) == ("diffraction", ())
        assert "4D-STEM data, boxed particles or a volume" in source.reason
    write_header(tmp_path / "label.mrc", bytes(9 * 800), (9, 20, 20), 6, labels=("4D-STEM scan 3 x 3",))
    assert open_source(tmp_path / "label.mrc").kind == "diffraction"
    write_header(tmp_path / "20251103_23389_movie.mrc", bytes(9 * 800), (9, 20, 20), 6)
    assert len(open_source(tmp_path / "20251103_23389_movie.mrc").frames) == 9
    (tmp_path / "20251103_23389_info.txt").write_text("Scan - Enable = Enable\nScan - Type = Raster\n")
    source = open_source(tmp_path / "20251103_23389_movie.mrc")
    assert source.reason == "4D-STEM data by 20251103_23389_info.txt: 9 images of 20 x 20 pixels"
    (tmp_path / "20251103_23389_info.txt").write_text("Instrument Project Camera Length (centimeters) = 46\n")
    assert open_source(tmp_path / "20251103_23389_movie.mrc").kind == "diffraction"
    (tmp_path / "20251103_23389_info.txt").write_text("Instrument Project Camera Length (centimeters) = -1\n")
    assert open_source(tmp_path / "20251103_23389_movie.mrc").kind == "stack"


def test_volumes_say_so(tmp_path):
    with mrcfile.new(tmp_path / "x.rec") as mrc:
        mrc.set_data(np.stack([image(k) for k in range(3)]))
        mrc.voxel_size = 4.0
        assert mrc.is_volume()
    source = open_source(tmp_path / "x.rec")
    assert (len(source.frames), source.n_frames_lost) == (3, 0)
    assert source.reason == "a volume by its header: its sections are read as images"


def test_maps_of_crystals_are_no_images(tmp_path):
    write_header(tmp_path / "x.map", bytes(25 * 40 * 60 * 4), (25, 40, 60), 2, ispg=4, axes=(3, 1, 2))
    source = open_source(tmp_path / "x.map")
    assert (source.kind, source.frames) == ("signal", ())
    assert source.reason == "a map of a crystal (space group 4) of 25 x 40 x 60 pixels"


def test_old_header_without_its_mark(tmp_path):
    write_header(tmp_path / "x.preali", image(1, (40, 60)).tobytes(), (1, 40, 60), 6, mark=bytes(4), stamp=bytes(4))
    np.testing.assert_array_equal(read_micrograph(tmp_path / "x.preali")[0], image(1, (40, 60)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(16, 40), st.integers(16, 40)),
    mode=st.sampled_from([0, 1, 2, 6, 12]),
    order=st.sampled_from("<>"),
    angstrom=st.tuples(*[st.floats(0.02, 9e5).filter(lambda a: abs(a - 1) > 1e-3)] * 2),
    n_extended=st.sampled_from([0, 80, 1024, 131072]),
)
def test_random_headers_are_recovered(tmp_path, shape, mode, order, angstrom, n_extended):
    dtype = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}[mode]
    data = np.stack([image(k, shape[1:], "uint8") // 2 for k in range(shape[0])]).astype(order + dtype)
    cell = (angstrom[0] * shape[2], angstrom[1] * shape[1], 1.0)
    write_header(
        tmp_path / "x.mrc", data.tobytes(), shape, mode, order=order, cell=cell, stats=(-1, 127, 60),
        extended=bytes(n_extended),
    )  # fmt: skip
    with mrcfile.open(tmp_path / "x.mrc", permissive=True) as mrc:
        expected = mrc.data.reshape(shape)
        voxel = mrc.voxel_size
    frames = open_source(tmp_path / "x.mrc").frames
    assert len(frames) == shape[0]
    for frame, section in zip(frames, expected):
        np.testing.assert_array_equal(frame.read(), section)
        sizes = (frame.header.nm_per_pixel * 10, frame.header.nm_per_pixel_y * 10)
        assert sizes == pytest.approx((float(voxel.x), float(voxel.y)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1023), st.integers(0, 255), st.sampled_from([b"FEI1", b"AGAR", b"SERI"]))
def test_damaged_headers_never_crash(tmp_path, position, byte, exttyp):
    extended = make_fei_block(b"FEI1", "<", FEI_VALUES).tobytes()
    write_header(tmp_path / "x.mrc", image(1, (16, 16)).tobytes(), (1, 16, 16), 6, exttyp=exttyp, extended=extended)
    data = bytearray((tmp_path / "x.mrc").read_bytes())
    data[position] = byte
    (tmp_path / "x.mrc").write_bytes(data)
    try:
        for frame in open_source(tmp_path / "x.mrc", sniffed="MRC").frames[:4]:
            frame.read()
    except ReadError:
        pass


def test_real_file_of_velox(real):
    header = read_micrograph(real / "formats_rsciio" / "mrc" / "HAADFscan.mrc")[1]
    assert (header.detector, header.voltage_kv, header.acquired) == ("HAADF", 300.0, "2022-12-05T12:13:07")
    assert header.nm_per_pixel == pytest.approx(5.67913129)
