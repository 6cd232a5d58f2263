"""Digital Micrograph: images, previews, patterns, spectra and what their tags say; RosettaSciIO reads the same."""

import numpy as np
import pytest
from bad_files import image
from dm_files import make_image, write_dm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsciio.digitalmicrograph import file_reader

from emqa_dask import read_micrograph
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError

FILETIME = 131151435970000824  # 2016-08-08 09:26:37 UTC
TAGS = {
    "DataBar": {
        "Acquisition Date": "8/9/2016", "Acquisition Time": "4:26:37 PM", "Acquisition Time (OS)": float(FILETIME),
        "Device Name": "DigiScan", "Signal Name": "HAADF",
    },
    "DigiScan": {"Sample Time": 3.5},
    "Microscope Info": {
        "Illumination Mode": "STEM NANOPROBE", "Imaging Mode": "DIFFRACTION", "Indicated Magnification": 225000.0,
        "Voltage": 200000.0, "Name": "FEI Titan", "Probe Current (nA)": 0.1,
        "Stage Position": {"Stage Alpha": 24.95, "Stage X": -461.276, "Stage Y": 52.0, "Stage Z": 35.0},
    },
}  # fmt: skip


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_pixels_and_sizes(tmp_path, dtype, version):
    pixels = image(1, (40, 60), "uint8").astype(dtype)
    write_dm(tmp_path / "x.dm", make_image(pixels, scales=(0.5, 0.25)), version=version)
    read, header = read_micrograph(tmp_path / "x.dm")
    (expected,) = file_reader(str(tmp_path / "x.dm"))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, expected["data"])
    np.testing.assert_array_equal(read, pixels)
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("nm", 0.5), ("µm", 500.0), ("um", 500.0), ("Å", 0.05), ("pm", 0.0005), ("", np.nan), ("px", np.nan)],
)
def test_units(tmp_path, unit, nm):
    write_dm(tmp_path / "x.dm3", make_image(image(1, (40, 60)), units=(unit, unit)))
    header = read_micrograph(tmp_path / "x.dm3")[1]
    plausible = nm if not nm < 1e-3 else np.nan
    assert header.nm_per_pixel == pytest.approx(plausible, nan_ok=True)


def test_tags_of_a_scanned_image(tmp_path):
    write_dm(tmp_path / "x.dm3", make_image(image(1, (40, 60)), tags=TAGS))
    header = read_micrograph(tmp_path / "x.dm3")[1]
    assert (header.detector, header.instrument, header.voltage_kv) == ("HAADF", "FEI Titan", 200.0)
    assert (header.magnification, header.tilt_deg) == (225000.0, 24.95)
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((-461.276, 52.0, 35.0))
    assert header.exposure_s == pytest.approx(3.5e-6 * 40 * 60)
    assert header.dose_e_per_nm2 == pytest.approx(1e-10 * 3.5e-6 / 1.602176634e-19 / 0.25)
    assert header.acquired == "2016-09-08T16:26:37"  # neither reading is near the other clock: the day comes first


def test_dates_by_the_clock_of_windows(tmp_path):
    tags = {**TAGS, "DataBar": {**TAGS["DataBar"], "Acquisition Time (OS)": float(FILETIME + 864_000_000_000)}}
    write_dm(tmp_path / "x.dm3", make_image(image(1, (40, 60)), tags=tags))
    assert read_micrograph(tmp_path / "x.dm3")[1].acquired == "2016-08-09T16:26:37"


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("05.12.2018", "16:26:37", "2018-12-05T16:26:37"),
        ("5/12/2018", "4:26:37 PM", "2018-05-12T16:26:37"),
        ("2018-12-05", "16:26:37", "2018-12-05T16:26:37"),
    ],
)
def test_dates_in_the_language_of_the_computer(tmp_path, date, time, expected):
    tags = {"DataBar": {"Acquisition Date": date, "Acquisition Time": time}}
    write_dm(tmp_path / "x.dm3", make_image(image(1, (40, 60)), tags=tags))
    assert read_micrograph(tmp_path / "x.dm3")[1].acquired == expected


def test_preview_before_the_image(tmp_path):
    preview = np.zeros((10, 12, 4), np.uint8)
    pixels = image(1, (40, 60))
    images = (make_image(preview, units=("", "")), make_image(pixels))
    write_dm(tmp_path / "marked.dm3", *images, extra={"Thumbnails": {"\0" + "0": {"ImageIndex": 0}}})
    write_dm(tmp_path / "bare.dm3", *images)
    for name in ("marked", "bare"):
        source = open_source(tmp_path / f"{name}.dm3")
        assert (source.kind, source.reason, len(source.frames)) == ("micrograph", "", 1)
        np.testing.assert_array_equal(source.frames[0].read(), pixels)


def test_several_images_with_their_own_sizes(tmp_path):
    write_dm(
        tmp_path / "x.dm4",
        make_image(image(1, (40, 60))),
        make_image(image(2, (20, 30)), scales=(2.0, 2.0)),
        version=4,
    )
    frames = open_source(tmp_path / "x.dm4").frames
    assert [(f.height_px, f.header.nm_per_pixel) for f in frames] == [(40, 0.5), (20, 2.0)]
    np.testing.assert_array_equal(frames[1].read(), image(2, (20, 30)))


def test_image_of_an_unknown_type_costs_no_other(tmp_path):
    pixels = image(1, (40, 60))
    write_dm(tmp_path / "x.dm3", make_image(pixels, data_type=99), make_image(pixels))
    source = open_source(tmp_path / "x.dm3")
    assert (len(source.frames), source.n_frames_lost) == (1, 1)
    np.testing.assert_array_equal(source.frames[0].read(), pixels)
    write_dm(tmp_path / "y.dm3", make_image(pixels, data_type=99))
    with pytest.raises(ReadError, match="broken DM3"):
        open_source(tmp_path / "y.dm3")


def test_colour_image(tmp_path):
    grey = image(1, (40, 60), "uint8")
    write_dm(tmp_path / "x.dm3", make_image(np.stack([grey] * 4, axis=-1)))
    np.testing.assert_array_equal(read_micrograph(tmp_path / "x.dm3")[0], grey)


@pytest.mark.parametrize(
    ("shape", "units", "tags", "kind"),
    [
        ((40, 60), ("1/nm", "1/nm"), {}, "diffraction"),
        ((40, 60), ("", ""), {"Microscope Info": {"Illumination Mode": "TEM", "Imaging Mode": "DIFFRACTION"}},
         "diffraction"),
        ((40, 60), ("nm", "nm"), {"Microscope Info": {"Illumination Mode": "STEM", "Imaging Mode": "DIFFRACTION"}},
         "micrograph"),
        ((3, 40, 60), ("nm", "nm", "s"), {}, "stack"),
        ((3, 40, 60), ("nm", "nm", ""), {}, "stack"),
        ((50, 40, 60), ("nm", "nm", "eV"), {"Meta Data": {"Signal": "EELS", "Format": "Spectrum image"}}, "spectrum"),
        ((50, 40, 60), ("nm", "nm", "nm"), {"Meta Data": {"Signal": "CL", "Format": "Spectrum image"}}, "spectrum"),
        ((40, 60), ("nm", "nm"), {"Meta Data": {"Signal": "CL", "Format": "Image"}}, "micrograph"),
        ((40, 60), ("nm", "nm"), {"Acquisition": {"Monarc Spectrometer": {"Grating": "150"}}}, "micrograph"),
        ((40, 60), ("eV", "nm"), {"Meta Data": {"Signal": "EELS", "Format": "Spectrum image"}}, "spectrum"),
        ((60,), ("eV",), {"Meta Data": {"Signal": "EELS"}}, "spectrum"),
        ((40, 60), ("nm", "nm"), {"Meta Data": {"Signal": "X-ray", "Format": "Image"}}, "signal"),
        ((40, 60), ("nm", "nm"), {"Meta Data": {"Signal": "EELS", "Format": "Image"}}, "micrograph"),
        ((40, 60), ("", ""), {"Meta Data": {"Signal": "EELS", "Format": "Image"}}, "spectrum"),
        ((4, 5, 40, 60), ("1/nm", "1/nm", "nm", "nm"), {}, "diffraction"),
        ((4, 5, 40, 60), ("", "", "nm", "nm"), {}, "diffraction"),
    ],
)  # fmt: skip
def test_kinds_of_data(tmp_path, shape, units, tags, kind):
    pixels = np.zeros(shape, np.float32) + np.arange(shape[-1], dtype=np.float32)
    write_dm(tmp_path / "x.dm3", make_image(pixels, scales=[0.5] * len(shape), units=units, tags=tags))
    source = open_source(tmp_path / "x.dm3")
    assert source.kind == kind
    assert len(source.frames) == {"micrograph": 1, "stack": shape[0]}.get(kind, 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    scales=st.tuples(*[st.floats(0.01, 900)] * 2),
    kv=st.sampled_from([60.0, 80.0, 200.0, 300.0]),
    stage=st.floats(-900, 900),
    version=st.sampled_from([3, 4]),
)
def test_random_tags_are_recovered(tmp_path, shape, scales, kv, stage, version):
    tags = {"Microscope Info": {"Voltage": kv * 1e3, "Stage Position": {"Stage X": stage}}}
    write_dm(tmp_path / "x.dm4", make_image(image(1, shape), scales=scales, tags=tags), version=version)
    header = read_micrograph(tmp_path / "x.dm4")[1]
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx(scales)
    assert (header.voltage_kv, header.stage_x_um) == pytest.approx((kv, stage))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 700), st.integers(0, 255))
def test_damaged_files_never_crash(tmp_path, position, byte):
    write_dm(tmp_path / "x.dm3", make_image(image(1, (16, 16)), tags=TAGS))
    data = bytearray((tmp_path / "x.dm3").read_bytes())
    data[min(position, len(data) - 1)] = byte
    (tmp_path / "x.dm3").write_bytes(data)
    try:
        for frame in open_source(tmp_path / "x.dm3", sniffed="DM3").frames:
            frame.read()
    except ReadError:
        pass
