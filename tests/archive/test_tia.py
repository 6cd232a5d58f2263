"""TIA: images, patterns and spectra of .ser files, and what the .emi beside them says."""

import numpy as np
import pytest
from bad_files import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ncempy.io.ser import fileSER
from rsciio.tia import file_reader
from tia_files import MODE_STEM, make_object, write_emi, write_ser

from emqa_dask import read_micrograph
from emqa_dask.archive.metadata.dates import parse_date_near
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError

MODE_DIFFRACTION = " TEM uP SA Zoom Diffraction"
MODE_TEM = " TEM uP SA Zoom Image"


def check_as_ncempy(path) -> None:
    """Pixels and pixel sizes of all images are those of ncempy."""
    frames = open_source(path).frames
    with fileSER(path) as ser:
        assert len(frames) == ser.head["ValidNumberElements"]
        for number, frame in enumerate(frames):
            pixels, meta = ser.getDataset(number)
            np.testing.assert_array_equal(frame.read(), pixels)
            steps = [abs(c["CalibrationDelta"]) * 1e9 for c in meta["Calibration"]]
            assert [frame.header.nm_per_pixel, frame.header.nm_per_pixel_y] == pytest.approx(steps)


@pytest.mark.parametrize("version", [0x210, 0x220])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"])
def test_pixels_of_every_data_type(tmp_path, dtype, version):
    pixels = image(1, (40, 60), "uint8").astype(dtype)
    write_ser(tmp_path / "x_1.ser", [pixels], (1e-9, 3e-9), version=version)
    (frame,) = open_source(tmp_path / "x_1.ser").frames
    assert (frame.dtype, frame.header.nm_per_pixel_y) == (dtype, pytest.approx(3.0))
    np.testing.assert_array_equal(frame.read(7, 31), pixels[7:31])
    np.testing.assert_array_equal(file_reader(str(tmp_path / "x_1.ser"))[0]["data"], pixels)
    if np.dtype(dtype).itemsize > 1:  # ncempy cannot read bytes
        check_as_ncempy(tmp_path / "x_1.ser")


def test_scanned_image_is_no_diffraction_pattern(tmp_path):
    write_ser(tmp_path / "x_1.ser", [image(1)])
    write_ser(tmp_path / "x_2.ser", [image(2)])
    write_emi(tmp_path / "x.emi", make_object("x_1.ser"), make_object("x_2.ser", display="Search DF4"))
    first, second = (read_micrograph(tmp_path / f"x_{k}.ser")[1] for k in (1, 2))
    assert (first.detector, second.detector) == ("BF", "DF4")
    assert (first.nm_per_pixel, first.voltage_kv, first.magnification) == (pytest.approx(2.0), 200.0, 10000.0)
    assert (first.instrument, first.acquired) == ("Tecnai 200 kV D2267 SuperTwin", "2016-02-21T17:52:31")
    assert (first.stage_x_um, first.stage_y_um, first.stage_z_um) == pytest.approx((-0.158, 0.019, 0.021))
    assert (first.tilt_deg, first.exposure_s) == (12.5, 0.5)


@pytest.mark.parametrize(
    ("mode", "camera", "step", "kind"),
    [
        (MODE_STEM, None, 2e-9, "micrograph"),
        (MODE_STEM, "BM-Ceta", 2e-9, "diffraction"),
        (MODE_STEM, "BM-Ceta", 1e8, "diffraction"),
        (MODE_TEM, "BM-Ceta", 2e-9, "micrograph"),
        (MODE_TEM, "BM-Ceta", 1e8, "diffraction"),
        (MODE_DIFFRACTION, "BM-Ceta", 1e8, "diffraction"),
        (MODE_DIFFRACTION, "BM-Ceta", 2e-9, "diffraction"),
        ("", None, 2e-9, "micrograph"),
    ],
)
def test_cameras_record_patterns_in_diffraction_modes(tmp_path, mode, camera, step, kind):
    write_ser(tmp_path / "x_1.ser", [image(1)], (step, step))
    write_emi(tmp_path / "x.emi", make_object("x_1.ser", mode, camera=camera, display="Search CCD"))
    source = open_source(tmp_path / "x_1.ser")
    assert (source.kind, len(source.frames)) == (kind, int(kind == "micrograph"))
    if camera and source.frames:
        assert (source.frames[0].header.detector, source.frames[0].header.exposure_s) == (camera, 0.1)


def test_space_of_the_axes_by_the_emi(tmp_path):
    write_ser(tmp_path / "x_1.ser", [image(1)])
    write_emi(tmp_path / "x.emi", make_object("x_1.ser", MODE_TEM, camera="Ceta", space="Reciprocal"))
    assert open_source(tmp_path / "x_1.ser").kind == "diffraction"


def test_entries_belong_to_the_file_that_they_name(tmp_path):
    write_ser(tmp_path / "renamed_2.ser", [image(1)])
    write_emi(tmp_path / "renamed.emi", make_object("x_2.ser", display="Acquire HAADF"), make_object("x_1.ser"))
    assert read_micrograph(tmp_path / "renamed_2.ser")[1].detector == "HAADF"


def test_names_in_capitals_and_number_of_two_digits(tmp_path):
    write_ser(tmp_path / "X_10.SER", [image(1)])
    write_emi(tmp_path / "X.EMI", *(make_object(f"X_{k}.ser", display=f"Search D{k}") for k in range(1, 12)))
    assert read_micrograph(tmp_path / "X_10.SER")[1].detector == "D10"
    assert "X_10.SER" in open_source(tmp_path / "X.EMI").reason


def test_without_an_emi(tmp_path):
    write_ser(tmp_path / "x_1.ser", [image(1)], (-5e-10, -5e-10))
    header = read_micrograph(tmp_path / "x_1.ser")[1]
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((0.5, 0.5))
    assert (header.acquired, header.pixel_size_problem) == ("2016-02-21T16:52:31+00:00", None)
    write_ser(tmp_path / "y_1.ser", [image(1)], (2e8, 2e8))
    assert open_source(tmp_path / "y_1.ser").reason == (
        "a diffraction pattern of 48 x 64 pixels, calibrated in 1/m, not a micrograph"
    )


@pytest.mark.parametrize("step", [1.0, 0.0, float("nan"), float("inf")])
def test_images_that_are_not_calibrated(tmp_path, step):
    write_ser(tmp_path / "x_1.ser", [image(1)], (step, step))
    assert np.isnan(read_micrograph(tmp_path / "x_1.ser")[1].nm_per_pixel)


def test_series_of_images(tmp_path):
    stack = [image(k) for k in range(4)]
    write_ser(tmp_path / "x_1.ser", stack, n_total=6)
    write_emi(tmp_path / "x.emi", make_object("x_1.ser", MODE_TEM, camera="Ceta"))
    source = open_source(tmp_path / "x_1.ser")
    assert (source.kind, len(source.frames), source.n_frames_lost) == ("stack", 4, 0)
    assert source.reason == "the series was stopped after 4 of 6 images"
    for frame, pixels in zip(source.frames, stack):
        np.testing.assert_array_equal(frame.read(), pixels)


def test_patterns_at_positions_of_the_beam(tmp_path):
    write_ser(tmp_path / "x_1.ser", [image(k) for k in range(6)], (1e8, 1e8), grid=(2, 3))
    source = open_source(tmp_path / "x_1.ser")
    assert (source.kind, source.frames) == ("diffraction", ())
    assert "4D-STEM" in source.reason


def test_spectra_and_complex_images(tmp_path):
    write_ser(tmp_path / "s_1.ser", [np.arange(50, dtype=np.uint32)])
    write_ser(tmp_path / "map_1.ser", [np.arange(50, dtype=np.uint32)] * 6, grid=(2, 3))
    write_ser(tmp_path / "fft_1.ser", [np.fft.fft2(image(1)).astype(np.complex64)])
    assert [open_source(tmp_path / f"{n}_1.ser").kind for n in ("s", "map", "fft")] == ["spectrum"] * 2 + ["signal"]
    assert open_source(tmp_path / "map_1.ser").reason == "6 spectra (2 x 3 positions), not an image"


def test_truncated_series_keeps_its_whole_images(tmp_path):
    write_ser(tmp_path / "x_1.ser", [image(k) for k in range(3)])
    data = (tmp_path / "x_1.ser").read_bytes()
    (tmp_path / "x_1.ser").write_bytes(data[:-1000])
    source = open_source(tmp_path / "x_1.ser")
    assert (len(source.frames), source.n_frames_lost) == (2, 1)
    assert source.reason.startswith("1 of 3 images lost: truncated SER: ")
    (tmp_path / "x_1.ser").write_bytes(data[:1000])
    with pytest.raises(ReadError, match="truncated SER"):
        open_source(tmp_path / "x_1.ser")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun Feb 21 17:52:31 2016", "2016-02-21T17:52:31"),
        ("So Feb 21 17:52:31 2016", "2016-02-21T17:52:31"),
        ("21.02.2016 17:52:31", "2016-02-21T17:52:31"),
        ("2/21/2016 5:52:31 PM", "2016-02-21T17:52:31"),
        ("21/02/2016 17:52:31", "2016-02-21T17:52:31"),
        (None, "2016-02-21T16:52:31+00:00"),
    ],
)
def test_dates_in_the_notations_of_tia(text, expected):
    assert parse_date_near(text, None, 1456073551) == expected


def test_american_date_by_the_time_of_the_series():
    assert parse_date_near("5/12/2019 10:00:00 AM", None, 1557655200) == "2019-05-12T10:00:00"
    assert parse_date_near("5/12/2019 10:00:00 AM", None, 1575540000) == "2019-12-05T10:00:00"
    assert parse_date_near("5/12/2019 10:00:00 AM", None, 0) == "2019-12-05T10:00:00"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    n=st.integers(1, 4),
    steps=st.tuples(*[st.floats(1e-12, 1e-6)] * 2),
    version=st.sampled_from([0x210, 0x220]),
    kv=st.sampled_from([60, 80, 200, 300]),
    stage=st.floats(-900, 900).map(lambda v: round(v, 3)),
)
def test_random_series_are_recovered(tmp_path, shape, n, steps, version, kv, stage):
    write_ser(tmp_path / "x_1.ser", [image(k, shape, "uint16") for k in range(n)], steps, version=version)
    values = {"High tension": (str(kv), "kV"), "Stage X": (str(stage), "um")}
    write_emi(tmp_path / "x.emi", make_object("x_1.ser", values=values))
    header = open_source(tmp_path / "x_1.ser").frames[-1].header
    (tmp_path / "x.emi").unlink()  # ncempy fails where an entry that it expects is absent
    check_as_ncempy(tmp_path / "x_1.ser")
    assert (header.voltage_kv, header.stage_x_um) == (kv, pytest.approx(stage))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 260), st.integers(0, 255))
def test_damaged_headers_never_crash(tmp_path, position, byte):
    write_ser(tmp_path / "x_1.ser", [image(k, (16, 16)) for k in range(2)])
    data = bytearray((tmp_path / "x_1.ser").read_bytes())
    data[min(position, len(data) - 1)] = byte
    (tmp_path / "x_1.ser").write_bytes(data)
    try:
        for frame in open_source(tmp_path / "x_1.ser", sniffed="SER").frames:
            frame.read()
    except ReadError:
        pass


def test_real_files_of_tia(real):
    files = sorted((real / "formats_more" / "tia").glob("*.ser"))
    assert len(files) == 3
    for path in files:
        check_as_ncempy(path)
    headers = [read_micrograph(path)[1] for path in files]
    assert [h.nm_per_pixel for h in headers] == pytest.approx([0.010012704, 22.02628513, 22.02628513])
    assert [h.detector for h in headers] == ["HAADF", "BF", "DF4"]
    assert headers[0].acquired == "2011-10-18T18:18:46"
