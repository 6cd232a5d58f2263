"""What signals of RosettaSciIO are: images, whatever their titles; spectra, patterns and maps by evidence."""

from importlib import import_module

import numpy as np
import pytest
from bad_files import image
from rsciio.hspy import file_writer

from emqa_dask import read_micrograph
from emqa_dask.archive.formats.rosetta import make_source
from emqa_dask.archive.formats.signal_kinds import classify_signal
from emqa_dask.archive.readers import open_source


def make_signal(shape=(40, 60), *, units=("nm", "nm"), names=None, navigate=None, scales=None, title="x", kind="",
                dtype="uint16", **metadata) -> dict:  # fmt: skip
    """A signal as RosettaSciIO's plug-ins give it."""
    names = names or [*("zts"[: len(shape) - 2]), "y", "x"]
    navigate = navigate or [k < len(shape) - 2 for k in range(len(shape))]
    scales = scales or [0.5] * len(shape)
    axes = [
        {"name": n, "units": u, "scale": s, "offset": 0.0, "size": size, "navigate": nav, "index_in_array": k,
         "_type": "UniformDataAxis", "is_binned": False}
        for k, (n, u, s, size, nav) in enumerate(zip(names, units, scales, shape, navigate, strict=True))
    ]  # fmt: skip
    return {
        "data": np.zeros(shape, dtype),
        "axes": axes,
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": kind}, **metadata},
        "original_metadata": {},
        "package_info": {},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
        "attributes": {"_lazy": False, "ragged": False},
    }


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "micrograph"),
        ({"title": "C"}, "micrograph"),
        ({"title": "Au"}, "micrograph"),
        ({"title": "Si Ka"}, "micrograph"),
        ({"title": "X-ray line intensity of EDS: Fe_Ka at 6.40 keV"}, "signal"),
        ({"shape": (5, 40, 60), "units": ("s", "nm", "nm")}, "stack"),
        ({"shape": (5, 40, 60), "units": ("", "nm", "nm"), "names": ("", "", "")}, "stack"),
        ({"shape": (5, 40, 60), "units": ("", "", ""), "names": ("x", "dy", "dx")}, "stack"),
        ({"shape": (40, 60, 100), "units": ("nm", "nm", "keV"), "navigate": (True, True, False)}, "spectrum"),
        ({"shape": (40, 60, 100), "units": ("nm", "nm", ""), "navigate": (True, True, False)}, "spectrum"),
        ({"shape": (40, 100), "units": ("nm", ""), "navigate": (True, False)}, "spectrum"),
        ({"shape": (40, 100), "units": ("nm", "eV"), "kind": "EELS"}, "spectrum"),
        ({"shape": (40, 100), "units": ("µm", "nm"), "names": ("y", "Wavelength"), "kind": "CL_SEM"}, "spectrum"),
        ({"shape": (40, 100), "kind": "CL"}, "micrograph"),
        ({"shape": (40, 100), "kind": "CL", "scales": (20.0, 0.5)}, "spectrum"),
        ({"shape": (40, 60, 100), "units": ("nm", "nm", "nm"), "kind": "CL"}, "spectrum"),
        ({"kind": "EDS_TEM"}, "signal"),
        ({"shape": (1, 60)}, "spectrum"),
        ({"shape": (3, 1, 60), "units": ("", "nm", "nm")}, "spectrum"),
        ({"shape": (1, 40, 60), "units": ("", "nm", "nm")}, "micrograph"),
        ({"kind": "EELS"}, "micrograph"),
        ({"units": ("1/nm", "1/nm")}, "diffraction"),
        ({"units": ("mrad", "mrad")}, "diffraction"),
        ({"shape": (4, 5, 40, 60), "units": ("nm", "nm", "", ""), "names": ("y", "x", "", "")}, "diffraction"),
        ({"dtype": "complex64"}, "signal"),
        ({"shape": (4, 4, 3), "units": ("", "", ""), "names": ("", "", ""), "navigate": (False,) * 3}, "signal"),
    ],
)
def test_kinds_of_signals(options, kind):
    assert classify_signal(make_signal(**options)).kind == kind


@pytest.mark.parametrize(
    "metadata",
    [
        {"Sample": {"elements": ["C"]}},
        {"Acquisition_instrument": {"SEM": {"Detector": {"EDS": {"live_time": 3.0}}}}},
    ],
)
def test_element_maps_by_evidence(metadata):
    source = make_source([make_signal(title="C", **metadata)], "HSPY")
    assert (source.kind, source.frames) == ("signal", ())
    assert source.reason == "an element map (C), not a micrograph"


def test_element_maps_beside_their_image_or_spectra():
    spectra = make_signal((40, 60, 100), units=("nm", "nm", "keV"), navigate=(True, True, False), kind="EDS_TEM")
    source = make_source([make_signal(title="HAADF"), make_signal(title="Au"), spectra], "HSPY")
    assert len(source.frames) == 1
    assert source.reason.startswith("2 other signals left out: an element map (Au)")
    assert len(make_source([make_signal(title=t) for t in ("BF", "C", "O")], "HSPY").frames) == 1


def test_the_last_axis_is_x_whatever_its_name(tmp_path):
    signal = make_signal(names=("x", "y"), dtype="float32", scales=(0.5, 0.25))
    signal["data"] = image(1, (40, 60)).astype(np.float32)
    import_module("rsciio.semper").file_writer(str(tmp_path / "x.unf"), signal)
    pixels, _ = read_micrograph(tmp_path / "x.unf")
    np.testing.assert_array_equal(pixels, signal["data"])
    np.testing.assert_array_equal(pixels, import_module("rsciio.semper").file_reader(tmp_path / "x.unf")[0]["data"])


def test_layers_of_semper_are_frames(tmp_path):
    signal = make_signal((3, 40, 60), names=("x", "y", "z"), scales=(1.0, 0.5, 0.25), units=("nm", "nm", "nm"))
    signal["data"] = np.stack([image(k, (40, 60)).astype(np.float32) for k in range(3)])
    import_module("rsciio.semper").file_writer(str(tmp_path / "x.unf"), signal)
    frames = open_source(tmp_path / "x.unf").frames
    for frame, pixels in zip(frames, signal["data"], strict=True):
        np.testing.assert_array_equal(frame.read(), pixels)
        assert (frame.header.nm_per_pixel, frame.header.nm_per_pixel_y) == (0.25, 0.5)


@pytest.mark.parametrize(("suffix", "plugin"), [("rpl", "ripple"), ("sur", "digitalsurf")])
@pytest.mark.parametrize("shape", [(40, 60), (3, 40, 60)])
def test_images_that_rosettasciio_wrote(tmp_path, suffix, plugin, shape):
    n = len(shape) - 2
    signal = make_signal(shape, units=("s",) * n + ("µm", "µm"), scales=(1.0,) * n + (0.004, 0.002), dtype="int32")
    signal["data"] = np.stack([image(k, shape[-2:], "int32") for k in range(shape[0] if n else 1)]).reshape(shape)
    import_module(f"rsciio.{plugin}").file_writer(str(tmp_path / f"x.{suffix}"), signal)
    if suffix == "rpl":
        assert "pixels of x.rpl" in open_source(tmp_path / "x.raw").reason
    frames = open_source(tmp_path / f"x.{suffix}").frames
    assert len(frames) == (shape[0] if n else 1)
    for frame, pixels in zip(frames, signal["data"].reshape(-1, *shape[-2:])):
        np.testing.assert_array_equal(frame.read(), pixels)
        assert (frame.header.nm_per_pixel, frame.header.nm_per_pixel_y) == pytest.approx((2.0, 4.0))


def test_headers_of_signals(tmp_path):
    instrument = {
        "beam_energy": 200.0, "beam_current": 0.1, "dwell_time": 2e-6, "magnification": 50000.0, "microscope": "Titan",
        "Stage": {"x": 1.5, "y": -0.25, "z": 0.01, "tilt_alpha": 12.0},
    }  # fmt: skip
    signal = make_signal(
        units=("µm", "µm"), scales=(0.004, 0.002), title="C", Acquisition_instrument={"TEM": instrument}
    )
    signal["metadata"]["General"] |= {"date": "2019-12-05", "time": "10:11:12"}
    signal["data"] = image(1, (40, 60))
    file_writer(str(tmp_path / "C.hspy"), signal)
    pixels, header = read_micrograph(tmp_path / "C.hspy")
    np.testing.assert_array_equal(pixels, image(1, (40, 60)))
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2.0, 4.0))
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((1500.0, -250.0, 10.0))
    assert (header.tilt_deg, header.voltage_kv, header.acquired) == (12.0, 200.0, "2019-12-05T10:11:12")
    assert header.dose_e_per_nm2 == pytest.approx(1e-10 * 2e-6 / 1.602176634e-19 / 8.0)
    assert header.exposure_s == pytest.approx(2e-6 * 40 * 60)


def test_colour_along_the_last_axis():
    signal = make_signal((40, 60, 3), units=("", "", ""), names=("", "", ""), navigate=(False,) * 3, dtype="uint8")
    (frame,) = make_source([signal], "HSPY").frames
    assert (frame.height_px, frame.width_px, frame.is_colour) == (40, 60, True)


def test_spectra_of_jeol_are_named_and_not_decoded(tmp_path):
    for name in ("View000_0000002.pts", "View000_0000003.eds", "project.asw"):
        (tmp_path / name).write_bytes(bytes(5000))
    kinds = {path.suffix: open_source(path).kind for path in tmp_path.iterdir()}
    assert kinds == {".pts": "spectrum", ".eds": "spectrum", ".asw": "metadata"}


def test_parts_of_tvips_belong_to_the_first_file(tmp_path):
    stack = make_signal((3, 40, 60), units=("s", "nm", "nm"), scales=(2.0,) * 3)
    stack["data"] = np.stack([image(k, (40, 60)) for k in range(3)])
    import_module("rsciio.tvips").file_writer(str(tmp_path / "x_000.tvips"), stack)
    (tmp_path / "x_001.tvips").write_bytes(bytes(5000))
    assert open_source(tmp_path / "x_001.tvips").kind == "metadata"
    (tmp_path / "x_001.tvips").unlink()
    frames = open_source(tmp_path / "x_000.tvips").frames
    assert [frame.header.nm_per_pixel for frame in frames] == pytest.approx([2.0] * 3)
    assert frames[0].header.acquired is None  # the plug-in writes the time 0
    for frame, pixels in zip(frames, stack["data"], strict=True):
        np.testing.assert_array_equal(frame.read(), pixels)


def test_component_that_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "x.sur").write_bytes(b"DIGITAL SURF" + bytes(500))
    monkeypatch.setitem(__import__("sys").modules, "rsciio.digitalsurf", None)
    with pytest.raises(ValueError, match=r"SUR is not read: it needs rsciio.digitalsurf, which is not installed"):
        open_source(tmp_path / "x.sur")
