"""Velox EMD: every image is read, whatever else is in the file, with the conditions of its metadata."""

import importlib
import warnings

import h5py
import numpy as np
import pytest
from bad_files import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ncempy.io.emdVelox import fileEMDVelox
from velox_files import make_metadata, write_velox

from emqa_dask.archive.readers import open_source

SHAPE = (48, 64)


def make_stack(n: int, dtype: str = "uint16") -> np.ndarray:
    return np.stack([image(k, SHAPE, dtype) for k in range(n)], -1)


@pytest.mark.parametrize("version", [8, 11])
def test_image_and_conditions_of_a_scan(tmp_path, version):
    write_velox(tmp_path / "x.emd", {"a1": (make_stack(1), make_metadata())}, version=version, labels={"a1": "HAADF"})
    (frame,) = open_source(tmp_path / "x.emd").frames
    header = frame.header
    np.testing.assert_array_equal(frame.read(), image(0, SHAPE))
    assert header.nm_per_pixel == header.nm_per_pixel_y == pytest.approx(0.5)
    assert (header.voltage_kv, header.magnification, header.instrument) == (300.0, 225000.0, "Themis")
    assert (header.detector, header.acquired, header.exposure_s) == ("HAADF", "2019-12-05T10:03:44+00:00", 4.5)
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((12.5, -2.0, 3.0))
    assert header.tilt_deg == pytest.approx(10.0)
    assert header.dose_e_per_nm2 == pytest.approx(1e9 * 1e-6 / 0.25)  # 1e9 electrons a second for 1 us on 0.25 nm^2


def test_stack_of_a_camera_has_exposure_and_no_dose(tmp_path):
    write_velox(tmp_path / "x.emd", {"a": (make_stack(4, "int16"), make_metadata("BM-Ceta", 0))})
    source = open_source(tmp_path / "x.emd")
    np.testing.assert_array_equal([f.read() for f in source.frames], np.moveaxis(make_stack(4, "int16"), 2, 0))
    assert (source.kind, source.frames[0].header.exposure_s) == ("stack", 0.8)
    assert np.isnan(source.frames[0].header.dose_e_per_nm2)


def test_several_detectors_equal_ncempy_and_rosettasciio(tmp_path):
    images = {f"{k}{k}": (make_stack(1 + k % 2) + k, make_metadata("HAADF", 1, nm=0.1 * (k + 1))) for k in range(3)}
    write_velox(tmp_path / "x.emd", images, labels={"00": "HAADF", "11": "BF", "22": "DF4"})
    source = open_source(tmp_path / "x.emd")
    frames = iter(source.frames)
    with fileEMDVelox(tmp_path / "x.emd") as file:
        for number in range(3):
            pixels, metadata = file.get_dataset(number)
            for plane in np.moveaxis(pixels.reshape(*SHAPE, -1), 2, 0):
                frame = next(frames)
                np.testing.assert_array_equal(frame.read(), plane)
                assert frame.header.nm_per_pixel == pytest.approx(metadata["pixelSize"][0])
    assert next(frames, None) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signals = importlib.import_module("rsciio.emd").file_reader(str(tmp_path / "x.emd"), select_type="images")
    n_planes = sum(len(signal["data"].reshape(-1, *SHAPE)) for signal in signals)
    assert n_planes == len(source.frames)


def test_element_maps_need_evidence_of_xrays(tmp_path):
    images = {
        "a": (make_stack(1), make_metadata("HAADF", 1)),
        "b": (make_stack(1, "float32"), make_metadata("SuperXG2", None)),
        "c": (make_stack(1, "float32"), make_metadata("", None)),
        "d": (make_stack(1), make_metadata("HAADF", 1)),
    }
    write_velox(tmp_path / "x.emd", images, labels={"a": "HAADF", "b": "Ca", "c": "O-K", "d": "C"})
    source = open_source(tmp_path / "x.emd")
    assert len(source.frames) == 2
    assert source.reason == "2 other arrays left out: Ca is an element map, O-K is an element map"


def test_fourier_transforms_dpc_and_patterns_are_named(tmp_path):
    for names in (("realFloatHalfEven", "imagFloatHalfEven"), ("realFloat", "imagFloat")):
        values = np.zeros((*SHAPE, 1), [(name, "<f4") for name in names])
        write_velox(tmp_path / "x.emd", {"a": (values, make_metadata()), "b": (make_stack(1), make_metadata())})
        source = open_source(tmp_path / "x.emd")
        assert len(source.frames) == 1
        assert "complex values" in source.reason
    write_velox(tmp_path / "y.emd", {"a": (make_stack(1), make_metadata("BM-Ceta", 0, unit="1/m"))})
    assert open_source(tmp_path / "y.emd").kind == "diffraction"


@pytest.mark.parametrize("damage", ["metadata", "stream", "displays", "version", "one image"])
def test_broken_parts_do_not_cost_the_image(tmp_path, damage):
    images = {"a": (make_stack(1), make_metadata()), "b": (make_stack(1) + 1, make_metadata())}
    write_velox(tmp_path / "x.emd", images, labels={"a": "HAADF", "b": "BF"})
    with h5py.File(tmp_path / "x.emd", "r+") as file:
        file["Data/SpectrumStream/s/Data"] = np.zeros((10, 1), "u2")
        file["Data/SpectrumImage/s/Data"] = np.zeros((10, 1), "u1")
        if damage == "metadata":
            file["Data/Image/a/Metadata"][:100] = 7
        elif damage == "displays":
            del file["SharedProperties"]
        elif damage == "version":
            file["Version"][0] = "{"
        elif damage == "one image":
            del file["Data/Image/b/Data"]
    source = open_source(tmp_path / "x.emd")
    np.testing.assert_array_equal(source.frames[0].read(), image(0, SHAPE))
    assert len(source.frames) == (1 if damage == "one image" else 2)
    assert source.n_frames_lost == (1 if damage == "one image" else 0)


def test_absent_libraries_do_not_cost_the_image(tmp_path, monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "rsciio.emd", None)
    monkeypatch.setitem(importlib.import_module("sys").modules, "sparse", None)
    write_velox(tmp_path / "x.emd", {"a": (make_stack(1), make_metadata())})
    assert len(open_source(tmp_path / "x.emd").frames) == 1


def test_file_of_spectra_alone(tmp_path):
    write_velox(tmp_path / "x.emd", {})
    with h5py.File(tmp_path / "x.emd", "r+") as file:
        file["Data/Spectrum/s/Data"] = np.zeros((4096, 1), "u4")
    assert open_source(tmp_path / "x.emd").kind == "spectrum"


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.002, 1000), st.floats(0.5, 2), st.integers(60, 300), st.floats(-500, 500), st.floats(-60, 60))
def test_random_metadata_are_recovered(tmp_path, nm, ratio, kv, x_um, tilt_deg):
    metadata = make_metadata(nm=nm)
    metadata["BinaryResult"]["PixelSize"]["height"] = repr(nm * ratio * 1e-9)
    metadata["Optics"] = {"AccelerationVoltage": str(kv * 1000)}
    metadata["Stage"] = {"Position": {"x": repr(x_um * 1e-6)}, "AlphaTilt": str(np.radians(tilt_deg))}
    write_velox(tmp_path / "x.emd", {"a": (make_stack(1), metadata)})
    header = open_source(tmp_path / "x.emd").frames[0].header
    expected = (nm, nm * ratio, kv, x_um, tilt_deg)
    found = (header.nm_per_pixel, header.nm_per_pixel_y, header.voltage_kv, header.stage_x_um, header.tilt_deg)
    assert found == pytest.approx(expected, abs=1e-9)


def test_real_file_with_eds_stream(real):
    path = real / "formats_more" / "velox_eds.emd"
    if not path.is_file():
        pytest.skip("formats_more is not on this machine")
    source = open_source(path)
    with h5py.File(path) as file:
        expected = file["Data/Image/f03a0d4a7c05495f95856e6708f94863/Data"][:]
    np.testing.assert_array_equal([frame.read() for frame in source.frames], np.moveaxis(expected, 2, 0))
    assert source.frames[0].header.nm_per_pixel == pytest.approx(3.5992492559614689)
    assert source.reason.startswith("4 other arrays left out: C is an element map")
