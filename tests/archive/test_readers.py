"""Each format gives exactly the pixels that were written, or that RosettaSciIO reads, and their pixel size."""

import json
import os
import zipfile
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from bad_files import image, write_mrc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from emqa_dask import read_micrograph
from emqa_dask.archive.colour.luma import convert_to_luma
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError, capture_warnings

PLUGINS = {".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".mrc": "mrc", ".elid": "phenom",
           ".ser": "tia", ".emi": "tia", ".tif": "tiff"}  # fmt: skip


def rosetta_images(path: Path) -> list[tuple[np.ndarray, float]]:
    """(pixels, nm per pixel) of each image that RosettaSciIO finds in a file, stacks taken apart."""
    with capture_warnings():
        signals = import_module(f"rsciio.{PLUGINS[path.suffix]}").file_reader(str(path))
    found = []
    for signal in signals:
        data = np.asarray(signal["data"])
        axis = signal["axes"][-1]
        if data.ndim < 2 or axis["units"] == "keV" or (data.dtype.names and path.suffix == ".tif"):
            continue  # spectra; and the preview beside an Olympus acquisition
        if data.dtype.names:
            data = convert_to_luma(np.stack([data[channel] for channel in "RGB"], axis=-1))
        found += [(plane, length_to_nm(axis["scale"], axis["units"])) for plane in data.reshape(-1, *data.shape[-2:])]
    return found


def check_as_rosetta(path: Path) -> int:
    frames = open_source(path).frames
    expected = rosetta_images(path)
    assert len(frames) == len(expected) > 0
    for number, (frame, (pixels, nm)) in enumerate(zip(frames, expected)):
        read, header = read_micrograph(path, number)
        assert read.dtype == pixels.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read, pixels)
        np.testing.assert_allclose(header.nm_per_pixel, nm, rtol=1e-5)  # the FEI reader swaps height and width
        assert header.nm_per_pixel_source == ("none" if np.isnan(nm) else "header")
        assert (frame.height_px, frame.width_px) == pixels.shape
    return len(frames)


def test_real_files_give_what_rosettasciio_gives(real):
    files = [p for p in sorted((real / "formats_rsciio").rglob("*")) if p.suffix in PLUGINS]
    assert len(files) == 10
    assert sum(map(check_as_rosetta, files)) == 13


def test_zipped_fei_files_give_what_rosettasciio_gives(real, tmp_path):
    with zipfile.ZipFile(real / "formats_rsciio" / "tiff" / "tiff_FEI_Helios.zip") as archive:
        archive.extractall(tmp_path)
    files = sorted(tmp_path.rglob("*.tif"))
    assert len(files) == 5
    assert all(check_as_rosetta(path) == 1 for path in files)
    header = read_micrograph(tmp_path / "FEI-Helios-Ebeam-16bits.tif")[1]
    assert header.nm_per_pixel == pytest.approx(3372.4)
    assert (header.voltage_kv, header.instrument) == (5.0, 'Helios NanoLab" 660')
    assert header.acquired == "2016-06-13T17:06:40"


def test_what_real_headers_say(real):
    folder = real / "formats_rsciio"
    ser = read_micrograph(folder / "tia/new/128x128-TEM_search_1.ser")[1]
    assert (ser.voltage_kv, ser.magnification) == (200.0, 22500.0)
    assert ser.instrument.startswith("TalosF200X")
    sis = read_micrograph(folder / "tiff/olympus_SIS.tif")[1]
    assert sis.magnification == 600000
    assert sis.nm_per_pixel == pytest.approx(0.023928)
    dm3 = read_micrograph(folder / "digitalmicrograph/2D/test_STEM_image.dm3")[1]
    assert (dm3.voltage_kv, dm3.magnification, dm3.instrument) == (200.0, 225000.0, "FEI Titan")
    velox = read_micrograph(folder / "emd/fei_example_tem_stack.emd")[1]
    assert velox.voltage_kv == 300.0
    assert velox.acquired.startswith("2019-12-05")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "rowsperstrip": 7},
        {"compression": "zstd", "tile": (16, 32)},
        {"tile": (32, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib", "rowsperstrip": 5},
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64", "float16"])
def test_tiff_rows_equal_the_image(tmp_path, options, dtype):
    expected = image(1, (50, 70), dtype)
    tifffile.imwrite(tmp_path / "x.tif", expected, **options)
    (frame,) = open_source(tmp_path / "x.tif").frames
    assert frame.dtype == dtype
    for y0, y1 in ((0, 50), (0, 1), (49, 50), (13, 37)):
        rows = frame.read(y0, y1)
        assert rows.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(rows, expected[y0:y1])


def test_tiff_stack_has_a_frame_a_page_and_no_thumbnail(tmp_path):
    stack = np.stack([image(k) for k in range(4)])
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        for plane in stack:
            tif.write(plane, contiguous=False)
        tif.write(stack[0][::8, ::8], subfiletype=1)
    source = open_source(tmp_path / "x.tif")
    assert (source.kind, len(source.frames)) == ("stack", 4)
    for frame, plane in zip(source.frames, stack):
        np.testing.assert_array_equal(frame.read(), plane)


def test_imagej_hyperstack_behind_one_page(tmp_path):
    stack = np.stack([image(k) for k in range(5)])
    tifffile.imwrite(
        tmp_path / "x.tif", stack, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "nm", "axes": "ZYX"}
    )
    whole = (tmp_path / "x.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:  # cut the list of pages after the first, as ImageJ does
        first = tif.pages[0]
        at = first.offset + 2 + 12 * len(first.tags)
    (tmp_path / "x.tif").write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])
    source = open_source(tmp_path / "x.tif")
    assert len(source.frames) == 5
    assert source.frames[4].header.nm_per_pixel == 0.5
    for frame, plane in zip(source.frames, stack):
        np.testing.assert_array_equal(frame.read(3, 20), plane[3:20])


def test_sparse_tiles_are_zero_and_cost_nothing(tmp_path):
    empty = ((b"", 0) for _ in range(100))  # bytes and byte count of each tile: none is stored
    with tifffile.TiffWriter(tmp_path / "x.tif", bigtiff=True) as tif:
        tif.write(empty, shape=(1600, 1600), dtype="uint16", tile=(160, 160), compression="zlib")
    assert (tmp_path / "x.tif").stat().st_size < 10_000
    (frame,) = open_source(tmp_path / "x.tif").frames
    assert not frame.read(700, 710).any()


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.gif", "x.webp"])
def test_lossless_8_bit_rasters(tmp_path, name):
    expected = image(3, dtype="uint8")
    Image.fromarray(expected).save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    read, header = read_micrograph(tmp_path / name)
    assert np.isnan(header.nm_per_pixel)
    np.testing.assert_array_equal(read, expected)


def test_png_16_bit_grey_and_colour(tmp_path):
    import imagecodecs

    expected = image(4)
    Image.fromarray(expected).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "grey.png")[0], expected)
    (tmp_path / "rgb.png").write_bytes(imagecodecs.png_encode(np.stack([expected] * 3, axis=-1)))
    read = read_micrograph(tmp_path / "rgb.png")[0]
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, expected)


def test_bilevel_and_palette(tmp_path):
    bits = image(5, dtype="uint8") > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    read = read_micrograph(tmp_path / "bits.png")[0]
    assert read.dtype == bool
    np.testing.assert_array_equal(read, bits)
    grey = image(6, dtype="uint8")
    ramp = np.repeat((np.arange(256, dtype=np.uint16) * 257)[None], 3, axis=0)
    tifffile.imwrite(tmp_path / "palette.tif", grey, photometric="palette", colormap=ramp)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "palette.tif")[0], grey)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_luma_is_within_the_channels_and_exact_where_they_agree(rgb):
    grey = convert_to_luma(rgb)
    assert grey.dtype == rgb.dtype
    assert (grey >= rgb.min(axis=-1)).all()
    assert (grey <= rgb.max(axis=-1)).all()
    np.testing.assert_array_equal(convert_to_luma(np.repeat(rgb[..., :1], 3, axis=-1)), rgb[..., 0])


def test_colour_is_luma_and_counted(tmp_path):
    rgb = np.repeat(image(7, (40, 40), "uint8")[..., None], 3, axis=-1)
    rgb[:20, :, 0] = 255
    rgb[:20, :, 2] = 0
    for name, write in (("x.tif", tifffile.imwrite), ("x.png", lambda p, a, **_: Image.fromarray(a).save(p))):
        write(tmp_path / name, rgb, **({"photometric": "rgb"} if name == "x.tif" else {}))
        (frame,) = open_source(tmp_path / name).frames
        grey, n_coloured, damage = frame.read_with_colour()[:3]
        assert (n_coloured, damage) == (800, [])
        np.testing.assert_array_equal(grey[20:], rgb[20:, :, 0])
        expected = np.rint(0.299 * 255 + 0.587 * rgb[:20, :, 1].astype(float))
        np.testing.assert_array_equal(grey[:20], expected)


def test_planar_rgb_tiff(tmp_path):
    planes = np.stack([image(k, dtype="uint8") for k in range(3)])
    for options in ({}, {"compression": "zlib", "rowsperstrip": 9}):
        tifffile.imwrite(tmp_path / "x.tif", planes, photometric="rgb", planarconfig="separate", **options)
        (frame,) = open_source(tmp_path / "x.tif").frames
        np.testing.assert_array_equal(frame.read(5, 40), convert_to_luma(np.moveaxis(planes, 0, -1))[5:40])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
def test_mrc_stack_and_angstrom(tmp_path, dtype):
    stack = np.stack([image(k, (20, 30)) // 600 for k in range(3)]).astype(dtype)
    write_mrc(tmp_path / "x.mrcs", stack, angstrom=3.5)
    for k, plane in enumerate(stack):
        read, header = read_micrograph(tmp_path / "x.mrcs", k)
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read, plane)
        assert header.nm_per_pixel == pytest.approx(0.35)


def test_hdf5_with_one_array(tmp_path):
    stack = np.stack([image(k) for k in range(3)])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("scan/images", data=stack, chunks=(1, 8, 8), compression="gzip").attrs["nm_per_pixel"] = 2.5
    source = open_source(tmp_path / "x.h5")
    assert len(source.frames) == 3
    assert source.frames[0].header.nm_per_pixel == 2.5
    np.testing.assert_array_equal(source.frames[2].read(5, 9), stack[2, 5:9])


def test_hspy_written_by_rosettasciio(tmp_path, monkeypatch):
    stack = np.stack([image(k) for k in range(3)])
    fixed = {"offset": 0.0, "is_binned": False, "_type": "UniformDataAxis"}
    axes = [
        {"name": "t", "size": 3, "scale": 1.0, "units": "s", "navigate": True, "index_in_array": 0, **fixed},
        {"name": "y", "size": 48, "scale": 0.2, "units": "Å", "navigate": False, "index_in_array": 1, **fixed},
        {"name": "x", "size": 64, "scale": 0.2, "units": "Å", "navigate": False, "index_in_array": 2, **fixed},
    ]
    microscope = {"TEM": {"beam_energy": 80.0, "magnification": 5e4}}
    metadata = {"General": {"title": "t"}, "Signal": {"signal_type": ""}, "Acquisition_instrument": microscope}
    names = ("original_metadata", "learning_results", "models", "tmp_parameters", "package_info")
    signal = {"data": stack, "axes": axes, "metadata": metadata, "attributes": {"_lazy": False}}
    signal |= {name: {} for name in names}
    with capture_warnings():
        import_module("rsciio.hspy").file_writer(str(tmp_path / "x.hspy"), signal)
    for limit in (2**30, 0):  # loaded by RosettaSciIO, and left in the file
        monkeypatch.setattr("emqa_dask.archive.formats.rosetta.EAGER_BYTES", limit)
        assert len(open_source(tmp_path / "x.hspy").frames) == 3
        read, header = read_micrograph(tmp_path / "x.hspy", 1)
        np.testing.assert_array_equal(read, stack[1])
        assert header.nm_per_pixel == pytest.approx(0.02)
        assert (header.voltage_kv, header.magnification) == (80.0, 5e4)


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_level_0(tmp_path, version):
    stack = np.stack([image(k) for k in range(2)])
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=version)
    for level, step in (("0", 1), ("1", 2)):
        array = group.create_array(level, shape=stack[:, ::step, ::step].shape, chunks=(1, 16, 16), dtype="uint16")
        array[:] = stack[:, ::step, ::step]
    scale = [{"type": "scale", "scale": [1.0, 0.4, 0.4]}]
    axes = [{"name": "z", "type": "space"}] + [{"name": n, "type": "space", "unit": "nanometer"} for n in "yx"]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}, {"path": "1"}]}]
    group.attrs.update({"multiscales": multiscales} if version == 2 else {"ome": {"multiscales": multiscales}})
    source = open_source(tmp_path / "x.zarr")
    assert (source.format, source.kind, len(source.frames)) == ("OME-Zarr", "stack", 2)
    assert source.frames[1].header.nm_per_pixel == 0.4
    np.testing.assert_array_equal(source.frames[1].read(3, 30), stack[1, 3:30])


def test_windows_cover_the_frame_once(tmp_path, monkeypatch):
    monkeypatch.setattr("emqa_dask.archive.formats.tiff.WINDOW_BYTES", 5000)
    expected = image(8, (60, 70))
    for options in ({}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 11, "compression": "lzw"}):
        tifffile.imwrite(tmp_path / "x.tif", expected, **options)
        (frame,) = open_source(tmp_path / "x.tif").frames
        windows = list(frame.row_ranges())
        assert len(windows) > 1
        np.testing.assert_array_equal(np.concatenate([frame.read(a, b) for a, b in windows]), expected)


def test_sidecar_of_jeol_gives_the_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image(9))
    words = "$CM_FORMAT \n$CM_MAG 50000\n$CM_ACCEL_VOLT 15.0\n$CM_INSTRUMENT JSM-7800F\n$$SM_MICRON_BAR 80\n"
    (tmp_path / "a.txt").write_text(words + "$$SM_MICRON_MARKER 100nm\n")
    header = read_micrograph(tmp_path / "a.tif")[1]
    assert (header.nm_per_pixel, header.nm_per_pixel_source) == (1.25, "sidecar")
    assert (header.voltage_kv, header.magnification, header.instrument) == (15.0, 5e4, "JSM-7800F")
    assert open_source(tmp_path / "a.txt").kind == "metadata"


def test_errors_name_the_file_and_the_trouble(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(ReadError, match=r"a\.tif: .*empty file"):
        read_micrograph(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", image(1))
    with pytest.raises(ReadError, match=r"b\.tif: frame is 1: the file has 1"):
        read_micrograph(tmp_path / "b.tif", 1)
    with pytest.raises(FileNotFoundError):
        read_micrograph(tmp_path / "nothing.tif")
    empty = ((b"", 0) for _ in range(2**14))  # an image of 8 PiB, none of which is stored
    with tifffile.TiffWriter(tmp_path / "c.tif", bigtiff=True) as tif:
        tif.write(empty, shape=(2**25, 2**25), dtype="float64", tile=(2**18, 2**18), compression="zlib")
    with pytest.raises(ReadError, match=r"c\.tif: .*is too large"):
        read_micrograph(tmp_path / "c.tif")


def test_nothing_stays_open(tmp_path):
    stack = np.stack([image(k) for k in range(5)])
    tifffile.imwrite(tmp_path / "x.tif", stack, compression="zlib", photometric="minisblack")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    frames = open_source(tmp_path / "x.tif").frames
    for frame in frames:
        frame.read(2, 9)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), tile=st.sampled_from([None, (16, 16)]), data=st.data())
def test_any_window_of_a_tiff_is_that_part_of_it(tmp_path, shape, tile, data):
    expected = image(2, shape)
    tifffile.imwrite(tmp_path / "x.tif", expected, tile=tile, compression="zlib", rowsperstrip=None if tile else 4)
    (frame,) = open_source(tmp_path / "x.tif").frames
    y0 = data.draw(st.integers(0, shape[0] - 1))
    y1 = data.draw(st.integers(y0 + 1, shape[0]))
    np.testing.assert_array_equal(frame.read(y0, y1), expected[y0:y1])


def test_header_of_an_ome_tiff_is_in_its_own_unit(tmp_path):
    for unit, nm in (("µm", 1000.0), ("nm", 1.0), ("Å", 0.1), ("pm", 0.001)):
        metadata = {"axes": "YX", "PhysicalSizeX": 2.0, "PhysicalSizeXUnit": unit}
        tifffile.imwrite(tmp_path / "x.ome.tif", image(1), metadata=metadata)
        header = read_micrograph(tmp_path / "x.ome.tif")[1]
        assert header.nm_per_pixel == pytest.approx(2 * nm)
        assert json.dumps(dict(header.foreign), default=str)


@pytest.mark.parametrize("name", ["emd/fei_example_tem_stack.emd", "digitalmicrograph/2D/test_STEM_image.dm3",
                                  "tia/new/128x128-TEM_search_1.ser"])  # fmt: skip
def test_containers_too_large_to_load_give_the_same(real, monkeypatch, name):
    path = real / "formats_rsciio" / name
    eager = open_source(path)
    monkeypatch.setattr("emqa_dask.archive.formats.rosetta.EAGER_BYTES", 0)
    lazy = open_source(path)
    assert len(lazy.frames) == len(eager.frames)
    for a, b in zip(eager.frames, lazy.frames):
        assert (a.dtype, a.header.nm_per_pixel) == (b.dtype, b.header.nm_per_pixel)
        np.testing.assert_array_equal(a.read(1, a.height_px), b.read(1, b.height_px))


def test_broken_zarr_chunks_are_named(tmp_path):
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=(32, 32), chunks=(16, 16), dtype="uint16")
    array[:] = image(1, (32, 32))
    (frame,) = open_source(tmp_path / "x.zarr").frames
    np.testing.assert_array_equal(frame.read(), image(1, (32, 32)))
    chunk = next(p for p in sorted((tmp_path / "x.zarr").rglob("*")) if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    (frame,) = open_source(tmp_path / "x.zarr").frames
    with pytest.raises(ReadError, match="Zarr chunks are broken"):
        frame.read()
