"""EMD of Berkeley as ncempy, HyperSpy, py4DSTEM and microscopes write it: names, units and lengths of dims decide."""

import importlib
import warnings

import h5py
import numpy as np
import pytest
from bad_files import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ncempy.io import emd

from emqa_dask.archive.readers import open_source
from emqa_dask.synthetic import writers

SHAPE = (48, 64)


def write_emd(path, data, dims, group="data/image", *, emd_group_type=1, first=1, version=(0, 2)):
    """dims: (values, name, units), one per axis of `data`."""
    with h5py.File(path, "a") as file:
        file.attrs["version_major"] = version[0]
        file.attrs["version_minor"] = version[1]
        node = file.create_group(group)
        node.attrs["emd_group_type"] = emd_group_type
        node["data"] = data
        for k, (values, name, units) in enumerate(dims, first):
            node[f"dim{k}"] = values
            node[f"dim{k}"].attrs["name"] = np.bytes_(name)
            node[f"dim{k}"].attrs["units"] = np.bytes_(units)
    return open_source(path)


def make_dims(shape, names, steps, units):
    return [(np.arange(n) * step, name, unit) for n, name, step, unit in zip(shape, names, steps, units)]


@pytest.mark.parametrize(("unit", "nm"), [("n_m", 1.0), ("[n_m]", 1.0), ("u_m", 1e3), ("[u_m]", 1e3), ("nm", 1.0),
                                          ("[µ_m]", 1e3), ("A", 0.1), ("Å", 0.1), ("pixel", np.nan)])  # fmt: skip
def test_units_of_dims(tmp_path, unit, nm):
    dims = [(np.arange(n) * step, name, unit.encode()) for n, step, name in ((48, 0.5, "Y"), (64, 0.25, "X"))]
    (frame,) = write_emd(tmp_path / "x.emd", image(1, SHAPE), dims).frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    header = frame.header
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((0.25 * nm, 0.5 * nm), nan_ok=True)


def test_files_of_ncempy_equal_ncempy(tmp_path):
    pixels = image(1, SHAPE)
    emd.emdWriter(tmp_path / "x.emd", pixels, pixel_size=(0.5, 0.25), pixel_unit=("n_m", "n_m"))
    content = emd.emdReader(tmp_path / "x.emd")
    (frame,) = open_source(tmp_path / "x.emd").frames
    np.testing.assert_array_equal(frame.read(), content["data"])
    assert [frame.header.nm_per_pixel_y, frame.header.nm_per_pixel] == content["pixelSize"]
    with emd.fileEMD(tmp_path / "s.emd", readonly=False) as file:
        stack = np.stack([image(k, (12, 9)) for k in range(4)])
        names = ("time", "y", "x")
        file.put_emdgroup("series", stack, make_dims(stack.shape, names, (1, 0.5, 0.5), ("[]", "[n_m]", "[n_m]")))
        file.put_emdgroup("other", pixels, make_dims(SHAPE, "yx", (2.0, 2.0), ("[n_m]", "[n_m]")))
    frames = open_source(tmp_path / "s.emd").frames
    np.testing.assert_array_equal(frames[0].read(), pixels)
    np.testing.assert_array_equal([frame.read() for frame in frames[1:]], stack)
    assert [frame.header.nm_per_pixel for frame in frames] == [2.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("shape", [(48, 64), (64, 64), (3, 48, 64)])
@pytest.mark.parametrize("has_names", [False, True])
def test_files_of_hyperspy_are_transposed_back(tmp_path, shape, has_names):
    data = np.random.default_rng(1).integers(0, 9999, shape).astype("u2")
    names = [("t", "y", "x")[k] for k in range(3 - len(shape), 3)] if has_names else [None] * len(shape)
    axes = [
        {"name": name, "size": n, "scale": 0.5, "offset": 0.0, "units": "nm" if n > 3 else "s", "navigate": n == 3}
        for name, n in zip(names, shape)
    ]
    signal = {"data": data, "axes": axes, "original_metadata": {}, "metadata": {"General": {"title": "s"}}}
    signal["metadata"]["Signal"] = {"signal_type": ""}
    importlib.import_module("rsciio.emd").file_writer(str(tmp_path / "x.emd"), signal)
    frames = open_source(tmp_path / "x.emd").frames
    np.testing.assert_array_equal(np.squeeze([frame.read() for frame in frames]), data)
    assert frames[0].header.nm_per_pixel == 0.5


def test_lengths_decide_where_dims_are_reversed(tmp_path):
    dims = make_dims(SHAPE[::-1], "xy", (0.25, 0.5), ("[n_m]", "[n_m]"))
    (frame,) = write_emd(tmp_path / "x.emd", image(1, SHAPE), dims).frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert (frame.header.nm_per_pixel, frame.header.nm_per_pixel_y) == (0.25, 0.5)


def test_names_decide_in_square_arrays(tmp_path):
    pixels = image(1, (64, 64))
    for names, expected in (("yx", pixels), ("XY", pixels.T)):
        path = tmp_path / f"{names}.emd"
        (frame,) = write_emd(path, pixels, make_dims((64, 64), names, (1, 1), ("[n_m]", "[n_m]"))).frames
        np.testing.assert_array_equal(frame.read(), expected)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(["time", "y", "x"]), st.floats(0.02, 100), st.floats(0.02, 100),
    st.sampled_from([("[n_m]", 1.0), ("u_m", 1e3), ("[Å]", 0.1)]),
)  # fmt: skip
def test_any_order_of_named_dims_gives_the_images(tmp_path, names, y_step, x_step, unit):
    path = tmp_path / "x.emd"
    path.unlink(missing_ok=True)
    stack = np.stack([image(k, (20, 30)) for k in range(3)])
    order = [("time", "y", "x").index(name) for name in names]
    data = np.transpose(stack, order)
    steps = {"time": 1.0, "y": y_step, "x": x_step}
    units = {"time": b"s", "y": unit[0].encode(), "x": unit[0].encode()}
    dims = make_dims(data.shape, names, [steps[n] for n in names], [units[n] for n in names])
    frames = write_emd(path, data, dims).frames
    np.testing.assert_array_equal([frame.read() for frame in frames], stack)
    header = frames[0].header
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((x_step * unit[1], y_step * unit[1]), rel=1e-6)


def test_complex_eels_diffraction_and_4d_are_named(tmp_path):
    cases = {
        "fft": (np.zeros(SHAPE, "c8"), "yx", "n_m", "signal"),
        "eels": (np.zeros((20, 20, 50), "f4"), ["y", "x", "energy loss"], "n_m", "spectrum"),
        "dp": (image(1, SHAPE), ["ky", "kx"], "n_m", "diffraction"),
        "dp2": (image(1, SHAPE), "yx", "[1_/_n_m]", "diffraction"),
        "4d": (np.zeros((3, 4, 16, 16), "u2"), "abcd", "n_m", "diffraction"),
    }
    for name, (data, names, unit, kind) in cases.items():
        dims = make_dims(data.shape, names, (1,) * data.ndim, (unit,) * data.ndim)
        source = write_emd(tmp_path / f"{name}.emd", data, dims)
        assert (source.kind, source.frames) == (kind, ()), name
    parts = np.zeros((2, *SHAPE), "f4")
    dims = [(np.array([b"real", b"imag"]), "complex", ""), *make_dims(SHAPE, "yx", (1, 1), ("[n_m]", "[n_m]"))]
    assert "complex" in write_emd(tmp_path / "parts.emd", parts, dims).reason


def test_emd_1_of_py4dstem(tmp_path):
    path = tmp_path / "x.h5"
    common = {"first": 0, "version": (1, 0)}
    cube = np.zeros((4, 5, 16, 16), "u2")
    write_emd(path, cube, make_dims(cube.shape, ["Rx", "Ry", "Qx", "Qy"], (1,) * 4, ["A"] * 4), "root/cube", **common)
    write_emd(path, image(1, SHAPE), make_dims(SHAPE, ["Rx", "Ry"], (5, 5), ["A", "A"]), "root/adf", **common)
    write_emd(path, image(2, SHAPE), make_dims(SHAPE, ["Qx", "Qy"], (1, 1), ["A^-1"] * 2), "root/dp_mean", **common)
    with h5py.File(path, "a") as file:
        file["root/adf"].attrs["python_class"] = "VirtualImage"
    source = open_source(path)
    (frame,) = source.frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert frame.header.nm_per_pixel == pytest.approx(0.5)
    assert "/root/cube/data is 4D-STEM data" in source.reason


def test_microscope_conditions_of_emd(tmp_path):
    dims = make_dims(SHAPE, "yx", (0.5, 0.5), ["[n_m]"] * 2)
    write_emd(tmp_path / "x.emd", image(1, SHAPE), dims)
    with h5py.File(tmp_path / "x.emd", "a") as file:
        group = file.create_group("microscope")
        group.attrs.update({"name": "TEAM 0.5", "voltage": 300000.0, "magnification": 1e6})
    header = open_source(tmp_path / "x.emd").frames[0].header
    assert (header.instrument, header.voltage_kv, header.magnification) == ("TEAM 0.5", 300.0, 1e6)


def test_synthetic_emd_equals_ncempy(tmp_path):
    frames = np.arange(600, dtype=np.uint16).reshape(1, 20, 30)
    writers.write_frames(tmp_path / "x.emd", "emd", frames, 0.25)
    content = emd.emdReader(tmp_path / "x.emd")
    (frame,) = open_source(tmp_path / "x.emd").frames
    np.testing.assert_array_equal(content["data"], frame.read())
    assert content["pixelSize"] == [0.25, 0.25]
    assert frame.header.nm_per_pixel == 0.25


@pytest.mark.parametrize("name", ["ncempy_image.emd", "ncempy_timeseries.emd"])
def test_real_files_equal_ncempy(real, name):
    path = real / "formats_more" / "emd" / name
    if not path.is_file():
        pytest.skip("formats_more/emd is not on this machine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = emd.emdReader(path)
    frames = open_source(path).frames
    np.testing.assert_array_equal(np.squeeze([frame.read() for frame in frames]), content["data"])
    assert frames[0].header.nm_per_pixel == pytest.approx(content["pixelSize"][-1])
