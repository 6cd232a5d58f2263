"""HDF5 of no known program: which arrays are images, their axes, pixel sizes and what is left out."""

import json

import h5py
import numpy as np
import pytest
from bad_files import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emqa_dask.archive.readers import open_source

SHAPE = (48, 64)


def write(path, arrays, attributes=None):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for name, values in (attributes or {}).items():
            file[name].attrs.update(values)
    return open_source(path)


def read_sizes(source) -> tuple[float, float]:
    header = source.frames[0].header
    return header.nm_per_pixel, header.nm_per_pixel_y


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        ("mask", image(1, SHAPE) > 30_000, "mask"),
        ("labels", image(1, SHAPE) // 10_000, "mask"),
        ("seg/particles", image(1, SHAPE) // 10_000, "mask"),
        ("labelImage", image(1, SHAPE), "mask"),
        ("probability_map", np.zeros(SHAPE, "f4"), "probability"),
        ("CellData/FeatureIds", image(1, SHAPE) // 10_000, "mask"),
        ("thumbnail", image(1, (12, 16)), "thumbnail"),
        ("table", np.zeros((500, 3)), "table"),
        ("coords", np.zeros((50, 20)), "table"),
        ("gain_reference", np.ones(SHAPE), "camera"),
        ("fft", np.zeros(SHAPE, "c8"), "Fourier"),
        ("wave", np.zeros(SHAPE, "c8"), "complex"),
        ("Scan 1/EBSD/Data/RawPatterns", np.zeros((90, 40, 40), "u1"), "diffraction"),
        ("probe/dp", image(1, SHAPE), "diffraction"),
        ("scan4d", np.zeros((5, 6, 32, 32), "u1"), "4D-STEM"),
    ],
)
def test_images_are_read_and_the_rest_is_named(tmp_path, name, values, word):
    source = write(tmp_path / "x.h5", {"image": image(2, SHAPE), name: values})
    (frame,) = source.frames
    np.testing.assert_array_equal(frame.read(), image(2, SHAPE))
    assert source.reason.startswith(f"1 other array left out: /{name} is ")
    assert word in source.reason
    alone = write(tmp_path / "y.h5", {name: values})
    assert not alone.frames
    assert word in alone.reason


def test_two_detectors_are_frames_in_order(tmp_path):
    source = write(tmp_path / "x.h5", {"HAADF": image(1, SHAPE), "BF": image(2, SHAPE)})
    assert [frame.header.detector for frame in source.frames] == ["BF", "HAADF"]
    np.testing.assert_array_equal(source.frames[0].read(), image(2, SHAPE))
    numbered = write(tmp_path / "y.h5", {f"scan_{k}": image(k, SHAPE) for k in range(12)})
    for k, frame in enumerate(numbered.frames):
        np.testing.assert_array_equal(frame.read(), image(k, SHAPE))


def test_levels_and_small_copies_are_left_out(tmp_path):
    large = image(1, (1024, 1280))
    source = write(tmp_path / "x.h5", {"s0": large, "s1": large[::2, ::2], "s2": large[::4, ::4]})
    assert len(source.frames) == 1
    assert "/s1 is a coarser level of /s0" in source.reason
    small = large.reshape(128, 8, 160, 8).mean((1, 3)).astype("u2")
    arrays = {"survey": large, "small": small, "zoom": image(3, (128, 160)), "scan_2": image(4, (512, 640))}
    source = write(tmp_path / "y.h5", arrays)
    assert [frame.height_px for frame in source.frames] == [512, 1024, 128]
    assert source.reason == "1 other array left out: /small is a small copy of /survey"


def test_channels_last_are_one_image(tmp_path):
    colour = np.stack([image(k, SHAPE, "uint8") for k in range(3)], -1)
    for values in (colour, np.dstack([colour, np.full(SHAPE, 255, "u1")])):
        (frame,) = write(tmp_path / "x.h5", {"image": values}).frames
        np.testing.assert_array_equal(frame.read_rows(0, 48), colour)
    detectors = np.stack([image(k, SHAPE) for k in range(4)], -1).astype("f4")
    source = write(tmp_path / "y.h5", {"image": detectors})
    np.testing.assert_array_equal([frame.read() for frame in source.frames], np.moveaxis(detectors, 2, 0))


@pytest.mark.parametrize(("mode", "order"), [("PIXEL", (0, 1, 2)), ("LINE", (0, 2, 1)), ("PLANE", (2, 0, 1))])
def test_images_of_the_hdf5_image_specification(tmp_path, mode, order):
    colour = np.stack([image(k, SHAPE, "uint8") for k in range(3)], -1)
    attributes = {"CLASS": np.bytes_("IMAGE"), "IMAGE_SUBCLASS": np.bytes_("IMAGE_TRUECOLOR")}
    attributes["INTERLACE_MODE"] = np.bytes_(f"INTERLACE_{mode}")
    (frame,) = write(tmp_path / "x.h5", {"i": np.transpose(colour, order)}, {"i": attributes}).frames
    np.testing.assert_array_equal(frame.read_rows(0, 48), colour)


def test_palettes_are_no_images(tmp_path):
    classes = {"i": {"CLASS": np.bytes_("IMAGE"), "IMAGE_SUBCLASS": np.bytes_("IMAGE_INDEXED")}}
    classes["palette"] = {"CLASS": np.bytes_("PALETTE")}
    source = write(tmp_path / "x.h5", {"i": image(1, SHAPE, "uint8"), "palette": np.zeros((256, 3), "u1")}, classes)
    (frame,) = source.frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE, "uint8"))


@pytest.mark.parametrize("has_tags", [False, True])
def test_ilastik_arrays_of_five_axes(tmp_path, has_tags):
    tags = {"axistags": json.dumps({"axes": [{"key": key, "resolution": 0} for key in "tzyxc"]})}
    values = image(1, SHAPE)[None, None, :, :, None]
    (frame,) = write(tmp_path / "x.h5", {"exported_data": values}, {"exported_data": tags if has_tags else {}}).frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    transposed = {"axistags": json.dumps({"axes": [{"key": key} for key in "xyc"]})}
    colour = np.stack([image(k, SHAPE, "uint8") for k in range(3)], -1)
    (frame,) = write(tmp_path / "y.h5", {"d": np.swapaxes(colour, 0, 1)}, {"d": transposed}).frames
    np.testing.assert_array_equal(frame.read_rows(0, 48), colour)


def test_ambiguous_axes_give_one_row_that_says_so(tmp_path):
    source = write(tmp_path / "x.h5", {"data": np.zeros((64, 64, 1024), "u2")})
    assert source.frames == ()
    assert "axes have no names" in source.reason


@pytest.mark.parametrize(
    ("attributes", "sizes"),
    [
        ({"nm_per_pixel": 2.5}, (2.5, 2.5)),
        ({"pixel_size_nm": 2.5}, (2.5, 2.5)),
        ({"Pixel Size (nm)": "2.5"}, (2.5, 2.5)),
        ({"pixel_size_um": [0.004, 0.002]}, (2.0, 4.0)),
        ({"pixel_size": 2.0, "units": "nm"}, (2.0, 2.0)),
        ({"pixel_size": 2e-9, "pixel_size_units": "m"}, (2.0, 2.0)),
        ({"pixel_size": "2.5 nm"}, (2.5, 2.5)),
        ({"element_size_um": [0.05, 0.004, 0.002]}, (2.0, 4.0)),
        ({"voxel_size": [4.0, 2.0], "voxel_size_units": "nm"}, (2.0, 4.0)),
        ({"resolution": [4.0, 4.0], "unit": "nm"}, (4.0, 4.0)),
        ({"pixel_size_x_nm": 2.0, "pixel_size_y_nm": 4.0}, (2.0, 4.0)),
        ({"PixelSizeX": 2.0, "units": "nm"}, (2.0, 2.0)),
        ({"pixelSize": 0.002, "pixelUnit": "µm"}, (2.0, 2.0)),
        ({"apix": 5.0}, (0.5, 0.5)),
        ({"nm/px": 2.0}, (2.0, 2.0)),
        ({"pixelWidth": 2.0, "pixelHeight": 4.0, "unit": "nm"}, (2.0, 4.0)),
        ({"fov_nm": 128.0}, (2.0, 2.0)),
        ({"hfw_um": 0.128}, (2.0, 2.0)),
        ({"metadata": json.dumps({"scan": {"pixel_size_nm": 0.5}})}, (0.5, 0.5)),
    ],
)
def test_pixel_sizes_under_usual_names(tmp_path, attributes, sizes):
    source = write(tmp_path / "x.h5", {"image": image(1, SHAPE)}, {"image": attributes})
    assert read_sizes(source) == pytest.approx(sizes)
    in_root = write(tmp_path / "y.h5", {"a/image": image(1, SHAPE)}, {"/": attributes})
    assert read_sizes(in_root) == pytest.approx(sizes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"resolution": [4.0, 4.0]},
        {"pixel_size": 2.0},
        {"scale": 2.0, "units": "counts"},
        {"resolution": 300.0, "resolution_unit": "dpi"},
        {"camera_pixel_size_um": 5.0},
        {"x_pixel_size": 5e-6, "units": "m"},
    ],
)
def test_numbers_without_a_unit_are_no_pixel_size(tmp_path, attributes):
    source = write(tmp_path / "x.h5", {"image": image(1, SHAPE)}, {"image": attributes})
    assert np.isnan(read_sizes(source)).all()


def test_pixel_size_in_a_dataset_beside_the_image(tmp_path):
    arrays = {"scan/image": image(1, SHAPE), "scan/pixel_size": 2.0, "info/voltage": 200.0}
    source = write(tmp_path / "x.h5", arrays, {"scan/pixel_size": {"units": "nm"}})
    assert read_sizes(source) == (2.0, 2.0)
    assert source.frames[0].header.voltage_kv == 200.0


def test_sizes_that_disagree_are_told(tmp_path):
    attributes = {"pixel_size_nm": 2.0, "element_size_um": [0.05, 0.009, 0.009]}
    source = write(tmp_path / "x.h5", {"image": image(1, SHAPE)}, {"image": attributes})
    assert read_sizes(source) == (9.0, 9.0)
    assert "pixel_size_nm 2 nm" in source.frames[0].header.pixel_size_problem


def test_dimension_scales_and_netcdf(tmp_path):
    with h5py.File(tmp_path / "x.nc", "w") as file:
        for name, n, step in (("time", 3, 1.0), ("y", 48, 4.0), ("x", 64, 2.0)):
            file[name] = np.arange(n) * step
            file[name].make_scale(name)
            file[name].attrs["units"] = "s" if name == "time" else "nm"
        file["image"] = np.stack([image(k, SHAPE) for k in range(3)])
        for k, name in enumerate(("time", "y", "x")):
            file["image"].dims[k].attach_scale(file[name])
    source = open_source(tmp_path / "x.nc")
    assert len(source.frames) == 3
    assert read_sizes(source) == (2.0, 4.0)
    np.testing.assert_array_equal(source.frames[1].read(), image(1, SHAPE))


@pytest.mark.parametrize("is_old", [False, True])
def test_nexus_signal_and_axes(tmp_path, is_old):
    with h5py.File(tmp_path / "x.nxs", "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        group = entry.create_group("data")
        group.attrs["NX_class"] = "NXdata"
        group["counts"] = image(1, SHAPE).T
        for name, n, step in (("x", 64, 0.002), ("y", 48, 0.004)):
            group[name] = np.arange(n) * step
            group[name].attrs["units"] = "um"
        if is_old:
            group["counts"].attrs.update({"signal": 1, "axes": "x:y"})
        else:
            group.attrs.update({"signal": "counts", "axes": ["x", "y"]})
        entry["instrument/detector/data"] = group["counts"]
    source = open_source(tmp_path / "x.nxs")
    (frame,) = source.frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert read_sizes(source) == pytest.approx((2.0, 4.0))


def test_nexus_axes_as_rosettasciio_writes_them(tmp_path):
    with h5py.File(tmp_path / "x.nxs", "w") as file:
        group = file.create_group("entry1/signal")
        group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": np.array([b"x", b"y"])})
        group["data"] = image(1, SHAPE).T
        for name, n, step in (("x", 64, 2.0), ("y", 48, 4.0)):
            group[name] = np.arange(n) * step
            group[name].attrs["units"] = "nm"
    source = open_source(tmp_path / "x.nxs")
    np.testing.assert_array_equal(source.frames[0].read(), image(1, SHAPE))
    assert read_sizes(source) == pytest.approx((2.0, 4.0))


def test_parts_of_a_virtual_dataset_are_read_once(tmp_path):
    stack = np.stack([image(k, SHAPE) for k in range(3)])
    layout = h5py.VirtualLayout(stack.shape, stack.dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for k, pixels in enumerate(stack):
            file[f"part_{k}"] = pixels
            layout[k] = h5py.VirtualSource(file[f"part_{k}"])
        file.create_virtual_dataset("whole", layout)
    source = open_source(tmp_path / "x.h5")
    np.testing.assert_array_equal([frame.read() for frame in source.frames], stack)


@pytest.mark.parametrize("n_bytes", [512, 4096, 8192])
def test_hdf5_behind_a_user_block(tmp_path, n_bytes):
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=n_bytes) as file:
        file["image"] = image(1, SHAPE)
    (frame,) = open_source(tmp_path / "x.h5").frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))


def test_imaging_conditions_under_usual_names(tmp_path):
    attributes = {"beam_energy_keV": 200, "magnification": 5e4, "microscope": "Titan", "detector": "HAADF",
                  "acquisition_date": "2021-03-04 05:06:07", "exposure_time_ms": 250.0, "stage_x_um": -3.0,
                  "tilt_deg": 12.0, "dose_e_per_A2": 3.0}  # fmt: skip
    header = write(tmp_path / "x.h5", {"d": image(1, SHAPE)}, {"/": attributes}).frames[0].header
    assert (header.voltage_kv, header.magnification, header.instrument) == (200.0, 5e4, "Titan")
    assert (header.detector, header.acquired, header.exposure_s) == ("HAADF", "2021-03-04T05:06:07", 0.25)
    assert (header.stage_x_um, header.tilt_deg, header.dose_e_per_nm2) == (-3.0, 12.0, 300.0)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(0.01, 1000), st.floats(0.5, 2), st.sampled_from(["nm", "um", "pm", "A", "m"]), st.booleans(),
    st.sampled_from(["{}_{}", "{} ({})", "{}_in_{}"]), st.sampled_from(["pixel_size", "PixelSize", "voxel_size"]),
)  # fmt: skip
def test_random_pixel_sizes_are_recovered(tmp_path, nm, ratio, unit, in_root, template, name):
    per_unit = {"nm": 1.0, "um": 1e3, "pm": 1e-3, "A": 0.1, "m": 1e9}[unit]
    attributes = {template.format(name, unit): [nm * ratio / per_unit, nm / per_unit]}
    source = write(tmp_path / "x.h5", {"g/image": image(1, SHAPE)}, {"/" if in_root else "g": attributes})
    assert read_sizes(source) == pytest.approx((nm, nm * ratio))


def test_names_of_groups_do_not_make_images_masks(tmp_path):
    names = ["particles/HAADF", "gold_spots/image", "errors_of_drift/bf", "unmasked", "probe"]
    source = write(tmp_path / "x.h5", {name: image(k, SHAPE) for k, name in enumerate(names)})
    assert len(source.frames) == len(names)


def test_settings_of_another_image_are_not_taken(tmp_path):
    arrays = {"overview/image": image(1, SHAPE), "detail/image": image(2, SHAPE)}
    source = write(tmp_path / "x.h5", arrays, {"overview": {"pixel_size_nm": 20.0}})
    sizes = [frame.header.nm_per_pixel for frame in source.frames]
    assert np.isnan(sizes[0])
    assert sizes[1] == 20.0


def test_usid_and_dectris_series_are_named(tmp_path):
    with h5py.File(tmp_path / "u.h5", "w") as file:
        file["Measurement_000/Channel_000/Raw_Data"] = np.zeros((256, 128), "f4")
        file["Measurement_000/Channel_000/Raw_Data"].attrs["Position_Indices"] = 1
    assert "USID" in open_source(tmp_path / "u.h5").reason
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["entry/instrument/detector/detectorSpecific/ntrigger"] = 64
        file["entry/data/data_000001"] = np.zeros((64, 96, 96), "u2")
    assert open_source(tmp_path / "d.h5").kind == "diffraction"


@pytest.mark.parametrize("names", ["yx", "xy"])
def test_coordinates_beside_the_image_are_its_axes(tmp_path, names):
    values = image(1, SHAPE) if names == "yx" else image(1, SHAPE).T
    arrays = {"g/image": values, "g/x": np.arange(64) * 2.0, "g/y": np.arange(48) * 4.0}
    source = write(tmp_path / "x.h5", arrays, {"g/x": {"units": "nm"}, "g/y": {"units": "nm"}})
    (frame,) = source.frames
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert read_sizes(source) == (2.0, 4.0)


def test_large_attributes_and_named_values_are_no_images(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file["image"] = image(1, SHAPE)
        file["image"].attrs["dump"] = np.zeros(3_000_000)
        phases = h5py.enum_dtype({"matrix": 0, "particle": 1}, "u1")
        file.create_dataset("phases", data=np.zeros(SHAPE, "u1"), dtype=phases)
    source = open_source(tmp_path / "x.h5")
    assert len(source.frames) == 1
    assert "/phases is a mask" in source.reason
