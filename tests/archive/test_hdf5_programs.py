"""HDF5 as microscopes and other programs write it: images, pixel sizes and conditions of each layout."""

import json

import h5py
import numpy as np
import pytest
from bad_files import image

from emqa_dask.archive.readers import open_source

SHAPE = (48, 64)


def read_frames(path) -> list[np.ndarray]:
    return [frame.read() for frame in open_source(path).frames]


def write_dm5(path, images, *, units="nm", scale=0.5, tags=None, shown=None):
    """DigitalMicrograph's groups: Dimension [0] is x, tags are attributes."""
    with h5py.File(path, "w") as file:
        for number, pixels in enumerate(images):
            group = file.create_group(f"ImageList/[{number}]")
            group["ImageData/Data"] = pixels
            for k in range(pixels.ndim):
                attributes = group.create_group(f"ImageData/Calibrations/Dimension/[{k}]").attrs
                attributes["Origin"] = np.float32(0)
                attributes["Scale"] = np.float32(scale * (k + 1))
                attributes["Units"] = np.bytes_(units)
            for name, values in (tags or {}).items():
                group.require_group(f"ImageTags/{name}").attrs.update(values)
        if shown is not None:
            file.create_group("ImageSourceList/[0]").attrs["ImageRef"] = np.uint32(shown)


def test_dm5_has_its_image_tags_and_no_thumbnail(tmp_path):
    tags = {
        "Microscope Info": {"Voltage": 200000.0, "Indicated Magnification": 80000.0, "Microscope": np.bytes_("TITAN")},
        "Microscope Info/Stage Position": {"Stage X": 12.5, "Stage Alpha": 1.5},
        "DataBar": {"Acquisition Date": "3/4/2021", "Acquisition Time": "1:02:03 PM", "Exposure Time (s)": 0.25},
        "Acquisition/Device": {"Name": "OneView"},
    }
    write_dm5(tmp_path / "x.dm5", [np.zeros((24, 32), "i4"), image(1, SHAPE)], tags=tags, shown=1)
    source = open_source(tmp_path / "x.dm5")
    (frame,) = source.frames
    header = frame.header
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == (0.5, 1.0)
    assert (header.voltage_kv, header.magnification, header.instrument) == (200.0, 80000.0, "TITAN")
    assert (header.stage_x_um, header.tilt_deg, header.exposure_s) == (12.5, 1.5, 0.25)
    assert (header.acquired, header.detector) == ("2021-03-04T13:02:03", "OneView")
    assert source.reason.endswith("/ImageList/[0]/ImageData/Data is a thumbnail")


def test_dm5_stack_and_spectrum_image(tmp_path):
    stack = np.stack([image(k, SHAPE) for k in range(3)])
    write_dm5(tmp_path / "stack.dm5", [stack])
    frames = read_frames(tmp_path / "stack.dm5")
    np.testing.assert_array_equal(frames, stack)
    write_dm5(tmp_path / "eels.dm5", [stack], tags={"Meta Data": {"Format": "Spectrum image"}})
    assert open_source(tmp_path / "eels.dm5").kind == "spectrum"
    write_dm5(tmp_path / "fft.dm5", [stack[0]], units="1/nm")
    assert open_source(tmp_path / "fft.dm5").kind == "diffraction"


def write_bigdataviewer(path, levels, *, dtype="i2", xml=True):
    with h5py.File(path, "w") as file:
        for number, volume in enumerate(levels):
            file[f"t00000/s00/{number}/cells"] = volume.astype(dtype)
        file["s00/resolutions"] = np.array([[2.0**k] * 3 for k in range(len(levels))])
        file["s00/subdivisions"] = np.full((len(levels), 3), 16, "i4")
    if xml:
        path.with_suffix(".xml").write_text(
            "<SpimData><SequenceDescription><ViewSetups><ViewSetup><id>0</id><voxelSize><unit>micrometer</unit>"
            "<size>0.004 0.004 0.05</size></voxelSize></ViewSetup></ViewSetups></SequenceDescription></SpimData>"
        )


def test_bigdataviewer_reads_the_finest_level(tmp_path):
    volume = np.stack([image(k, SHAPE) for k in range(4)])
    write_bigdataviewer(tmp_path / "x.h5", [volume, volume[:, ::2, ::2]])
    source = open_source(tmp_path / "x.h5")
    np.testing.assert_array_equal(read_frames(tmp_path / "x.h5"), volume)  # stored as signed, meant as unsigned
    assert source.frames[0].dtype == "uint16"
    assert source.frames[0].header.nm_per_pixel == pytest.approx(4.0)
    write_bigdataviewer(tmp_path / "y.h5", [volume // 2], xml=False)
    assert np.isnan(open_source(tmp_path / "y.h5").frames[0].header.nm_per_pixel)


def write_imaris(path, volumes, size):
    """Imaris pads its arrays to whole chunks; texts are arrays of single characters."""

    def text(value):
        return np.array([c.encode() for c in str(value)], "S1")

    with h5py.File(path, "w") as file:
        for number, volume in enumerate(volumes):
            for level in range(2):
                group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint 0/Channel {number}")
                part = volume[:, :: 2**level, :: 2**level]
                padded = [-(-n // 32) * 32 for n in part.shape]
                group.create_dataset("Data", padded, volume.dtype, chunks=(32, 32, 32), compression="gzip")
                group["Data"][: part.shape[0], : part.shape[1], : part.shape[2]] = part
                for axis, n in zip("ZYX", part.shape):
                    group.attrs[f"ImageSize{axis}"] = text(n)
        attributes = file.create_group("DataSetInfo/Image").attrs
        values = {"X": size[2], "Y": size[1], "Z": size[0], "Unit": "um", "RecordingDate": "2020-05-06 07:08:09.000"}
        for k, n in enumerate(size[::-1]):
            values |= {f"ExtMin{k}": 1.0, f"ExtMax{k}": 1.0 + n * 0.004}
        for name, value in values.items():
            attributes[name] = text(value)
        file["Thumbnail/Data"] = np.zeros((256, 1024), "u1")


def test_imaris_without_padding_and_thumbnail(tmp_path):
    volumes = [np.stack([image(k + 9 * c, SHAPE) for k in range(3)]) for c in range(2)]
    write_imaris(tmp_path / "x.ims", volumes, (3, *SHAPE))
    frames = open_source(tmp_path / "x.ims").frames
    np.testing.assert_array_equal([frame.read() for frame in frames], np.concatenate(volumes))
    assert frames[0].header.nm_per_pixel == pytest.approx(4.0)
    assert frames[0].header.acquired == "2020-05-06T07:08:09"


def write_nion(path, data, calibrations, **properties):
    with h5py.File(path, "w") as file:
        scales = [{"offset": 0.0, "scale": scale, "units": units} for scale, units in calibrations]
        file["data"] = data
        file["data"].attrs["properties"] = json.dumps({"dimensional_calibrations": scales, **properties})


def test_nion_swift_image_sequence_and_spectra(tmp_path):
    metadata = {"instrument": {"high_tension": 60000}, "hardware_source": {"channel_name": "HAADF", "exposure": 0.5}}
    two = [(0.5, "nm"), (0.25, "nm")]
    counts = {"datum_dimension_count": 2, "collection_dimension_count": 0, "created": "2022-01-02T03:04:05"}
    write_nion(tmp_path / "x.h5", image(1, SHAPE), two, metadata=metadata, is_sequence=False, **counts)
    (frame,) = open_source(tmp_path / "x.h5").frames
    header = frame.header
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert (header.nm_per_pixel, header.nm_per_pixel_y, header.voltage_kv) == (0.25, 0.5, 60.0)
    assert (header.detector, header.acquired, header.exposure_s) == ("HAADF", "2022-01-02T03:04:05", 0.5)
    stack = np.stack([image(k, SHAPE) for k in range(3)])
    write_nion(tmp_path / "s.h5", stack, [(1, "s"), *two], is_sequence=True, **counts)
    np.testing.assert_array_equal(read_frames(tmp_path / "s.h5"), stack)
    spectra = {"datum_dimension_count": 1, "collection_dimension_count": 2}
    write_nion(tmp_path / "e.h5", np.zeros((20, 20, 100), "f4"), [*two, (1, "eV")], **spectra)
    assert open_source(tmp_path / "e.h5").kind == "spectrum"
    write_nion(tmp_path / "d.h5", image(1, SHAPE), [(1, "mrad")] * 2, **counts)
    assert open_source(tmp_path / "d.h5").kind == "diffraction"


def test_matlab_arrays_are_transposed_and_texts_left(tmp_path):
    def put(file, name, values, class_name, **attributes):
        file[name] = values
        file[name].attrs["MATLAB_class"] = np.bytes_(class_name)
        file[name].attrs.update(attributes)

    colour = np.stack([image(k, SHAPE, "uint8") for k in range(3)], -1)
    stack = np.stack([image(k, SHAPE) for k in range(5)], -1)
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        put(file, "img", image(1, SHAPE).T, "uint16")
        put(file, "colour", colour.T, "uint8")
        put(file, "stack", stack.T, "uint16")
        put(file, "mask_of_cells", (image(1, SHAPE) > 9).astype("u1").T, "logical", MATLAB_int_decode=1)
        put(file, "note", np.array([[110], [109]], "u2"), "char", MATLAB_int_decode=2)
        put(file, "pixel_size_nm", np.array([[0.5]]), "double")
    with open(tmp_path / "x.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    source = open_source(tmp_path / "x.mat")
    assert [frame.is_colour for frame in source.frames] == [True, False, *[False] * 5]
    np.testing.assert_array_equal(source.frames[0].read_rows(0, 48), colour)
    np.testing.assert_array_equal(source.frames[1].read(), image(1, SHAPE))
    np.testing.assert_array_equal([frame.read() for frame in source.frames[2:]], np.moveaxis(stack, 2, 0))
    assert source.frames[1].header.nm_per_pixel == 0.5
    assert "/mask_of_cells is a mask" in source.reason


def test_eman_images_are_frames_with_their_pixel_size(tmp_path):
    with h5py.File(tmp_path / "x.hdf", "w") as file:
        for number in (0, 1, 2, 10):
            group = file.create_group(f"MDF/images/{number}")
            group.attrs.update({"EMAN.apix_x": 1.5, "EMAN.apix_y": 1.5, "EMAN.apix_z": 1.5})
            group["image"] = image(number, SHAPE).astype("f4")
    frames = open_source(tmp_path / "x.hdf").frames
    assert [frame.header.nm_per_pixel for frame in frames] == pytest.approx([0.15] * 4)
    np.testing.assert_array_equal(frames[3].read(), image(10, SHAPE).astype("f4"))


def write_odemis(path, acquisitions):
    """acquisitions: (array CTZYX, title, pixel size in m, {name: value} of PhysicalData)."""
    with h5py.File(path, "w") as file:
        for number, (data, title, metres, conditions) in enumerate(acquisitions):
            group = file.create_group(f"Acquisition{number}")
            group["ImageData/Image"] = data
            for dimension, label in zip(group["ImageData/Image"].dims, "CTZYX"):
                dimension.label = label
            group["ImageData/DimensionScaleX"] = metres
            group["ImageData/DimensionScaleY"] = metres
            group["ImageData/TOffset"] = 1575540224.0
            group["SVIData/Company"] = "Delmic"
            for name, value in {"ChannelDescription": title, **conditions}.items():
                group[f"PhysicalData/{name}"] = value
                group[f"PhysicalData/{name}"].attrs["State"] = [113]


def test_odemis_images_and_spectra(tmp_path):
    survey = image(1, SHAPE)[None, None, None]
    spectra = np.zeros((100, 1, 1, 6, 8), "u2")
    pattern = (image(2, SHAPE)[None, None, None], "Angle-resolved", 1e-6, {"PolePosition": [3.0, 4.0]})
    acquisitions = [
        (survey, "Secondary electrons survey", 2e-9, {"AccelerationVoltage": 5000.0, "IntegrationTime": 0.5}),
        (spectra, "Spectrum", 1e-8, {}),
        pattern,
    ]
    write_odemis(tmp_path / "x.h5", acquisitions)
    source = open_source(tmp_path / "x.h5")
    (frame,) = source.frames
    header = frame.header
    np.testing.assert_array_equal(frame.read(), image(1, SHAPE))
    assert (header.nm_per_pixel, header.voltage_kv, header.exposure_s) == pytest.approx((2.0, 5.0, 0.5))
    assert (header.acquired, header.detector) == ("2019-12-05T10:03:44+00:00", "Secondary electrons survey")
    assert "Spectrum is spectra" in source.reason


def test_dectris_files_beside_their_master(tmp_path):
    with h5py.File(tmp_path / "scan_data_000001.h5", "w") as file:
        file["entry/data/data"] = np.zeros((64, 96, 96), "u2")
    with h5py.File(tmp_path / "scan_master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("scan_data_000001.h5", "/entry/data/data")
    assert open_source(tmp_path / "scan_data_000001.h5").kind == "diffraction"
    master = open_source(tmp_path / "scan_master.h5")
    assert master.reason == "its arrays are in other files, which have their own rows: scan_data_000001.h5"
