"""TIFF pages by tifffile: every compression, sample layout and kind of page gives tifffile's pixels, in any window."""

import struct

import numpy as np
import pytest
import tifffile
from bad_files import image
from PIL import Image

from emqa_dask.archive.readers import open_source
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.source import ReadError
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

LAYOUTS = {"strips": {"rowsperstrip": 16}, "tiles": {"tile": (32, 48)}}
SIZE = (70, 90)


def picture(dtype: str, seed: int = 1) -> np.ndarray:
    return image(seed, SIZE, dtype)


def check_frames(path, expected: list[np.ndarray]) -> None:
    """The frames of the file are `expected`, whole and by windows."""
    frames = open_source(path).frames
    assert len(frames) == len(expected)
    for frame, pixels in zip(frames, expected, strict=True):
        assert frame.dtype == pixels.dtype.name
        np.testing.assert_array_equal(frame.read(), pixels)
        for y0, y1 in ((0, 1), (15, 33), (len(pixels) - 1, len(pixels))):
            np.testing.assert_array_equal(frame.read(y0, y1), pixels[y0:y1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("compression", "dtypes"),
    [
        ("none", ["uint8", "uint16", "int16", "float32"]),
        ("lzw", ["uint8", "uint16", "int32"]),
        ("zlib", ["uint8", "uint16", "float64"]),
        ("deflate", ["uint8"]),
        ("packbits", ["uint8", "uint16"]),
        ("lzma", ["uint8", "uint16"]),
        ("zstd", ["uint8", "float32"]),
        ("lerc", ["uint8", "uint16", "float32"]),
        ("jpeg", ["uint8"]),
        ("jpeg2000", ["uint8", "uint16"]),
        ("jpegxl", ["uint8", "uint16"]),
        ("jpegxr", ["uint8", "uint16"]),
        ("png", ["uint8", "uint16"]),
        ("webp", ["uint8"]),
    ],
)
def test_grey_of_every_compression_equals_tifffile(tmp_path, compression, dtypes, layout):
    options = LAYOUTS[layout]
    for dtype in dtypes:
        pixels = picture(dtype)
        if compression == "webp":
            pixels = np.stack([pixels] * 3, axis=-1)
        try:
            tifffile.imwrite(tmp_path / "x.tif", pixels, compression=compression, **options)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            pytest.skip(f"tifffile does not write it: {error}")
        expected = tifffile.imread(tmp_path / "x.tif")
        check_frames(tmp_path / "x.tif", [expected if expected.ndim == 2 else expected[..., 0]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", ["none", "lzw", "zlib", "jpeg", "jpeg2000", "jpegxl", "jpegxr", "png", "webp"])
def test_colours_of_every_compression_equal_tifffile(tmp_path, compression, layout):
    rgb = np.stack([picture("uint8")] * 3, axis=-1)
    tifffile.imwrite(tmp_path / "x.tif", rgb, photometric="rgb", compression=compression, **LAYOUTS[layout])
    decoded = tifffile.imread(tmp_path / "x.tif")
    (frame,) = open_source(tmp_path / "x.tif").frames
    np.testing.assert_array_equal(frame.read_rows(0, SIZE[0]), decoded)
    np.testing.assert_array_equal(frame.read_rows(20, 40), decoded[20:40])
    assert np.abs(frame.read().astype(int) - rgb[..., 0]).mean() < 8


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize(("dtype", "predictor"), [("uint8", 2), ("uint16", 2), ("int32", 2), ("float32", 3)])
def test_predictors(tmp_path, dtype, predictor, compression):
    compression = compression or "zstd"
    for byteorder in "<>":
        tifffile.imwrite(
            tmp_path / "x.tif", picture(dtype), predictor=predictor, compression=compression, byteorder=byteorder
        )
        check_frames(tmp_path / "x.tif", [picture(dtype)])


@pytest.mark.parametrize("bits", [1, 4, 6, 10, 12, 14])
def test_packed_samples_equal_tifffile(tmp_path, bits):
    pixels = picture("uint16") >> (16 - bits)
    pixels = pixels.astype(bool if bits == 1 else np.uint8 if bits <= 8 else np.uint16)
    for compression in (None, "zlib"):
        if bits == 1 or bits > 8:
            options = {} if bits == 1 else {"bitspersample": bits}
            try:
                tifffile.imwrite(tmp_path / "x.tif", pixels, compression=compression, **options)
            except (ValueError, NotImplementedError):
                continue
        else:
            write_packed(tmp_path / "x.tif", pixels, bits)
        check_frames(tmp_path / "x.tif", [tifffile.imread(tmp_path / "x.tif")])
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), pixels)


def write_packed(path, pixels: np.ndarray, bits: int, fill_order: int = 1, tags: dict[int, int] | None = None) -> None:
    """A TIFF of one strip with so many bits per sample, rows padded to bytes, by its bytes."""
    rows = np.unpackbits(pixels.astype(">u2").view(np.uint8).reshape(*pixels.shape, 2), axis=-1)[..., 16 - bits :]
    data = np.packbits(rows.reshape(len(pixels), -1), axis=1, bitorder="big" if fill_order == 1 else "little").tobytes()
    height, width = pixels.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 266: fill_order, 273: 8, 277: 1, 278: height}
    entries |= {279: len(data), **(tags or {})}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    offset = 8 + len(data) + len(data) % 2
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, offset)
        + data
        + b"\0" * (len(data) % 2)
        + struct.pack("<H", len(entries))
        + directory
        + bytes(4)
    )


@pytest.mark.parametrize("bits", [8, 1, 4])
def test_reversed_bits_in_each_byte(tmp_path, bits):
    pixels = picture("uint16") >> (16 - bits)
    write_packed(tmp_path / "x.tif", pixels, bits, fill_order=2)
    expected = tifffile.imread(tmp_path / "x.tif")
    np.testing.assert_array_equal(expected, pixels)
    check_frames(tmp_path / "x.tif", [expected])


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_compressions(tmp_path, compression):
    bits = picture("uint8") > 100
    Image.fromarray(bits).save(tmp_path / "x.tif", compression=compression)
    check_frames(tmp_path / "x.tif", [tifffile.imread(tmp_path / "x.tif")])


def test_lossless_jpeg_of_16_bits(tmp_path):
    import imagecodecs

    pixels = picture("uint16")
    data = imagecodecs.ljpeg_encode(pixels)
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        tif.write(
            iter([data]), shape=SIZE, dtype="uint16", compression=7, rowsperstrip=SIZE[0], photometric="minisblack"
        )
    check_frames(tmp_path / "x.tif", [pixels])


def test_jpeg_of_12_bits(tmp_path):
    pixels = picture("uint16") >> 4
    tifffile.imwrite(
        tmp_path / "x.tif", pixels, compression="jpeg", compressionargs={"bitspersample": 12}, bitspersample=12
    )
    check_frames(tmp_path / "x.tif", [tifffile.imread(tmp_path / "x.tif")])


@pytest.mark.parametrize("n_samples", [2, 3, 4, 5])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (32, 32)}, {"compression": "lzw"}], ids=str)
def test_detectors_in_one_page_are_frames(tmp_path, n_samples, planarconfig, options):
    planes = [picture("uint16", k) for k in range(n_samples)]
    stacked = np.stack(planes, axis=-1 if planarconfig == "contig" else 0)
    tifffile.imwrite(tmp_path / "x.tif", stacked, photometric="minisblack", planarconfig=planarconfig, **options)
    assert open_source(tmp_path / "x.tif").kind == "stack"
    check_frames(tmp_path / "x.tif", planes)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_dropped(tmp_path, kind):
    grey = picture("uint8")
    tifffile.imwrite(
        tmp_path / "x.tif", np.stack([grey, 255 - grey], -1), photometric="minisblack", planarconfig="contig",
        extrasamples=[kind],
    )  # fmt: skip
    check_frames(tmp_path / "x.tif", [grey])
    tifffile.imwrite(
        tmp_path / "x.tif", np.stack([grey, grey, grey, 255 - grey], -1), photometric="rgb", extrasamples=[kind]
    )
    check_frames(tmp_path / "x.tif", [grey])


def test_volume_is_a_frame_for_each_depth(tmp_path):
    volume = np.stack([picture("uint16", k) for k in range(32)])
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 32, 32), "compression": "zlib"}):
        tifffile.imwrite(tmp_path / "x.tif", volume, volumetric=True, photometric="minisblack", **options)
        check_frames(tmp_path / "x.tif", list(volume))


def test_series_behind_one_page(tmp_path):
    stack = np.stack([picture("uint16", k) for k in range(4)])
    tifffile.imwrite(tmp_path / "x.tif", stack, truncate=True, photometric="minisblack")
    check_frames(tmp_path / "x.tif", list(stack))


def test_pyramids_give_their_full_image(tmp_path):
    pixels = image(1, (512, 512))
    for is_listed in (False, True):
        with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
            options = {"tile": (64, 64), "compression": "zlib", "metadata": None}
            tif.write(pixels, subifds=0 if is_listed else 2, **options)
            for step in (2, 4):
                tif.write(pixels[::step, ::step], **({} if is_listed else {"subfiletype": 1}), **options)
        source = open_source(tmp_path / "x.tif")
        assert ("pyramid level" in source.reason) == is_listed
        check_frames(tmp_path / "x.tif", [pixels])


def test_thumbnail_before_its_image(tmp_path):
    pixels = picture("u2")
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        tif.write((pixels[::8, ::8] >> 8).astype(np.uint8))
        tif.write(pixels)
    check_frames(tmp_path / "x.tif", [pixels])


def test_image_below_its_preview(tmp_path):
    pixels = picture("u2")
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:  # as DNG
        tif.write(np.zeros((12, 16, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1)
        tif.write(pixels)
    check_frames(tmp_path / "x.tif", [pixels])


def test_previews_and_masks_are_named_in_the_reason(tmp_path):
    pixels = image(1, (512, 640))
    rendered = np.stack([(pixels[::2, ::2] >> 8).astype(np.uint8)] * 3, axis=-1)
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        tif.write(pixels, metadata=None)
        tif.write(rendered, photometric="rgb", metadata=None)
        tif.write(pixels[::8, ::8], metadata=None)
        tif.write(pixels > 20000, subfiletype=4, metadata=None)
    check_frames(tmp_path / "x.tif", [pixels])
    reason = open_source(tmp_path / "x.tif").reason
    assert reason == "left out: page 2 is a preview, page 3 is a thumbnail, page 4 is a mask"
    (row, _) = survey_file(next(iter(scan_archive(tmp_path / "x.tif"))), Archive())
    assert (row["status"], row["n_frames_lost"]) == ("ok", 0)


def test_inks_and_lightness_give_grey(tmp_path):
    grey = picture("uint8")
    inks = np.zeros((*SIZE, 4), np.uint8)
    inks[..., 3] = 255 - grey
    lab = np.stack([grey, np.zeros_like(grey), np.zeros_like(grey)], axis=-1)
    for pixels, photometric in ((inks, "separated"), (lab, "cielab")):
        for options in ({}, {"compression": "lzw"}):
            tifffile.imwrite(tmp_path / "x.tif", pixels, photometric=photometric, **options)
            check_frames(tmp_path / "x.tif", [grey])


def test_lightness_in_jpeg_is_refused(tmp_path):
    lab = Image.fromarray(np.stack([picture("uint8")] * 3, axis=-1)).convert("LAB")
    lab.save(tmp_path / "x.tif", compression="jpeg")
    with pytest.raises(ReadError, match="CIELab in JPEG"):
        open_source(tmp_path / "x.tif")


def test_movie_of_electrons_is_skipped_with_a_reason(tmp_path):
    write_packed(tmp_path / "x.tif", picture("uint8"), 8, tags={259: 65000})
    (row, micrographs) = survey_file(next(iter(scan_archive(tmp_path / "x.tif"))), Archive())
    assert (row["status"], row["kind"], micrographs) == ("skipped", "signal", [])
    assert "a movie of 1 frames of single electrons" in row["reason"]


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values_are_skipped_with_a_reason(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "x.tif", np.fft.fft2(picture("uint8")).astype(dtype))
    (row, micrographs) = survey_file(next(iter(scan_archive(tmp_path / "x.tif"))), Archive())
    assert (row["status"], row["kind"], micrographs) == ("skipped", "signal", [])
    assert "complex values" in row["reason"]


def test_damaged_pages_give_a_row(tmp_path):
    planes = np.stack([picture("uint16", k) for k in range(4)], -1)
    tifffile.imwrite(tmp_path / "x.tif", planes, photometric="minisblack", planarconfig="contig", compression="zlib")
    data = (tmp_path / "x.tif").read_bytes()
    rng = np.random.default_rng(0)
    for k in range(60):
        broken = bytearray(data[: int(rng.integers(20, len(data)))] if k % 3 == 0 else data)
        for position in rng.integers(4, len(broken), 3):
            broken[position] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "x.tif").write_bytes(broken)
        try:
            for frame in open_source(tmp_path / "x.tif").frames:
                if frame.height_px * frame.width_px < 2**24:
                    frame.read()
        except ReadError:
            continue
