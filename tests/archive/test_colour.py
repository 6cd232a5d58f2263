"""Intensities of palettes and colour maps, annotations replaced, luma of the rest; the same for every window."""

import io

import numpy as np
import pytest
import tifffile
from bad_files import image
from PIL import Image

from emqa_dask.archive.colour.fill import fill_annotations
from emqa_dask.archive.colour.grey_image import convert_colours
from emqa_dask.archive.colour.luma import convert_to_luma
from emqa_dask.archive.colour.maps import load_colour_maps
from emqa_dask.archive.colour.palettes import interpret_palette
from emqa_dask.archive.colour.spaces import convert_cmyk, convert_lab
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

RAMP = np.tile(np.linspace(0, 255, 256).astype(np.uint8), (64, 1))


def grey_image(seed: int = 1, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    """Discs on noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    picture = np.full(shape, 0.35)
    for _ in range(20):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(6, 11)
        picture[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 0.75
    return np.rint(np.clip(picture + rng.normal(0, 0.04, shape), 0.01, 0.99) * 255).astype(np.uint8)


def compress(rgb: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


@pytest.mark.parametrize("name", sorted(set(load_colour_maps()) - {"16 colours"}))
def test_every_colour_map_is_inverted(name):
    table = load_colour_maps()[name]
    pixels = np.concatenate([RAMP, grey_image(1, (64, 256))])
    if name == "spectrum":  # its first and last colour are the same
        pixels = np.minimum(pixels, 254)
    grey = convert_colours(table[pixels])
    assert grey.colour == f"colour map: {name}"
    np.testing.assert_array_equal(table[grey.pixels], table[pixels])


def test_a_colour_map_of_16_bits_is_inverted():
    table = load_colour_maps()["magma"].astype(np.uint16) * 257
    grey = convert_colours(table[grey_image()])
    assert grey.colour == "colour map: magma"
    np.testing.assert_array_equal(grey.pixels, grey_image().astype(np.uint16) * 257)


@pytest.mark.parametrize("name", ["fire", "viridis", "inferno", "magma", "plasma", "jet", "turbo", "hot", "green"])
def test_a_colour_map_in_a_jpeg_is_inverted(name):
    for quality in (95, 75):
        grey = convert_colours(compress(load_colour_maps()[name][RAMP], quality))
        assert grey.colour.startswith(f"colour map: {name}")
        assert np.abs(grey.pixels.astype(int) - RAMP).mean() < 1.5


@pytest.mark.parametrize("name", ["hot", "gist_heat", "autumn", "twilight", "jet", "spectrum", "RdBu", "brg"])
def test_no_map_in_a_jpeg_gets_another_order(name):
    """Part of one map looks like part of another one, and compression hides the difference."""
    grey = convert_colours(compress(load_colour_maps()[name][grey_image()], 90))
    if grey.colour not in ("colour", "colour map: unnamed"):
        assert np.corrcoef(grey.pixels.ravel(), grey_image().ravel())[0, 1] > 0.6


def test_shades_of_one_colour_are_its_strongest_channel():
    rgb = np.stack([grey_image(), grey_image() // 2, np.zeros((256, 256), np.uint8)], axis=-1)
    grey = convert_colours(rgb)
    assert grey.colour.startswith("colour map: shades of #ff7")
    np.testing.assert_array_equal(grey.pixels, grey_image())


def test_colours_that_follow_from_brightness_are_a_map():
    sepia = np.stack([np.arange(256) ** p * 255 / 255**p for p in (0.7, 1.0, 1.5)], axis=-1).astype(np.uint8)
    grey = convert_colours(sepia[grey_image()])
    assert (grey.colour, grey.n_coloured) == ("colour map: unnamed", 0)
    np.testing.assert_array_equal(grey.pixels, convert_to_luma(sepia[grey_image()]))


@pytest.mark.parametrize("quality", [None, 90])
def test_coloured_annotations_are_replaced_and_counted(quality):
    pixels = grey_image(3, (512, 512))
    rgb = np.stack([pixels] * 3, axis=-1)
    rgb[440:500, 300:500] = (255, 255, 0)  # a box
    rgb[450:480, 320:325] = (0, 0, 0)  # a letter in it
    rgb[100:102, 50:450] = (255, 0, 0)  # a line
    marked = np.any(rgb != pixels[..., None], axis=-1)
    rgb = rgb if quality is None else compress(rgb, quality)
    grey = convert_colours(rgb)
    assert (grey.colour, grey.n_coloured) == ("annotations", 0)
    assert marked.sum() <= grey.n_annotated <= 1.6 * marked.sum()
    changed = np.abs(grey.pixels.astype(int) - pixels) > (0 if quality is None else 40)
    assert changed.sum() <= grey.n_annotated
    filled = grey.pixels[marked].astype(float)
    ground = pixels[pixels < 150].astype(float)
    assert abs(np.median(filled) - np.median(ground)) < 15
    assert 0.5 < filled.std() / ground.std() < 3
    assert filled.max() < 220


def test_annotations_on_a_painted_image_are_replaced():
    rgb = load_colour_maps()["viridis"][grey_image()]
    rgb[200:230, 20:100] = 255
    grey = convert_colours(rgb)
    assert grey.colour == "colour map: viridis; annotations"
    assert grey.n_annotated == 30 * 80
    assert grey.pixels[200:230, 20:100].max() < 220


def test_marks_of_one_colour_are_no_map():
    rgb = np.zeros((256, 256, 3), np.uint8)
    rgb[:, :] = (grey_image() // 16)[..., None]  # dark field
    rgb[20:40, 20:200] = (255, 255, 0)
    assert convert_colours(rgb).colour == "annotations"


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "retina.jpg", "rocket.jpg"])
def test_photographs_are_in_colour(name):
    from skimage import data

    rgb = np.array(Image.open(f"{data.__path__[0]}/{name}").convert("RGB"))
    grey = convert_colours(rgb)
    assert grey.colour == "colour"
    assert grey.n_coloured > 0.3 * grey.pixels.size
    np.testing.assert_array_equal(grey.pixels, convert_to_luma(rgb))


def test_an_image_covered_by_marks_stays():
    pixels = grey_image()
    np.testing.assert_array_equal(fill_annotations(pixels, np.ones(pixels.shape, bool)), pixels)


def test_marks_are_filled_as_if_alone():
    pixels = grey_image(2, (256, 256))
    first, second = (np.zeros(pixels.shape, bool) for _ in range(2))
    first[20:60, 20:90] = True
    second[50:200, 130:200] = True  # beyond the reach of the first one
    both = fill_annotations(pixels, first | second)
    np.testing.assert_array_equal(both[first], fill_annotations(pixels, first)[first])
    np.testing.assert_array_equal(both[second], fill_annotations(pixels, second)[second])
    np.testing.assert_array_equal(both[~(first | second)], pixels[~(first | second)])


def test_many_marks_have_the_brightness_around_them():
    pixels = np.full((600, 600), 90, np.uint8)
    mask = np.zeros(pixels.shape, bool)
    mask[5::30, 5::30] = True  # 400 groups
    pixels[mask] = 255
    np.testing.assert_array_equal(fill_annotations(pixels, mask), 90)


def test_palettes_are_tables_ramps_or_colours():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    np.testing.assert_array_equal(interpret_palette(ramp).values, np.arange(256))
    np.testing.assert_array_equal(interpret_palette(ramp[::-1]).values, np.arange(255, -1, -1))
    for name, table in load_colour_maps().items():
        assert interpret_palette(table) == (None, name)
    assert interpret_palette(load_colour_maps()["viridis"][::-1]) == (None, "unnamed")
    cubes = np.array([[k >> 5 << 5, k >> 2 << 5 & 255, k << 6 & 255] for k in range(256)], np.uint8)
    assert interpret_palette(cubes).values is cubes
    photograph = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    assert interpret_palette(photograph).values is photograph
    few = np.zeros((256, 3), np.uint8)
    few[:8] = photograph[:8]
    assert interpret_palette(few).values is few


@pytest.mark.parametrize("suffix", [".tif", ".png", ".gif", ".bmp"])
def test_indexed_files_give_the_indices_of_a_table(tmp_path, suffix):
    pixels = grey_image()
    fire = load_colour_maps()["fire"]
    path = tmp_path / f"x{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="palette", colormap=fire.T.astype(np.uint16) * 257)
    else:
        indexed = Image.fromarray(pixels, "P")
        indexed.putpalette(fire.ravel().tolist())
        indexed.save(path)  # a GIF gets only the colours that occur
    (row, (micrograph,)) = survey_file(next(iter(scan_archive(path))), Archive())
    assert (row["status"], micrograph["colour"], micrograph["colour_fraction"]) == ("ok", "colour map: fire", 0)
    np.testing.assert_array_equal(open_source(path).frames[0].read(), pixels)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp"])
def test_indexed_files_of_an_inverted_ramp_give_its_grey(tmp_path, suffix):
    indexed = Image.fromarray(grey_image(), "P")
    indexed.putpalette(np.repeat(np.arange(255, -1, -1), 3).tolist())
    indexed.save(tmp_path / f"x{suffix}")
    (frame,) = open_source(tmp_path / f"x{suffix}").frames
    np.testing.assert_array_equal(frame.read(), 255 - grey_image())


def test_indexed_files_of_a_photograph_are_in_colour(tmp_path):
    from skimage import data

    Image.fromarray(data.chelsea()).quantize(256).save(tmp_path / "x.png")
    (frame,) = open_source(tmp_path / "x.png").frames
    reading = frame.read_with_colour()
    assert reading.colour == "colour"
    assert np.corrcoef(reading.pixels.ravel(), convert_to_luma(data.chelsea()).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_windows_of_coloured_files_are_parts_of_the_whole(tmp_path, suffix):
    rgb = np.stack([grey_image()] * 3, axis=-1)
    rgb[30:50, 40:90] = (255, 0, 0)
    for pixels in (
        rgb,
        load_colour_maps()["jet"][grey_image()],
        np.stack([image(k, dtype="uint8") for k in range(3)], -1),
    ):
        if suffix == ".tif":
            tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", compression="zlib", rowsperstrip=16)
        else:
            Image.fromarray(pixels).save(tmp_path / "x.png")
        (frame,) = open_source(tmp_path / f"x{suffix}").frames
        assert list(frame.row_ranges()) == [(0, len(pixels))]
        whole = frame.read()
        np.testing.assert_array_equal(np.concatenate([frame.read(y, y + 1) for y in range(len(pixels))]), whole)
        np.testing.assert_array_equal(convert_colours(pixels).pixels, whole)


def test_images_over_the_limit_are_luma_by_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("emqa_dask.archive.source.MAX_PIXELS", 1000)
    rgb = load_colour_maps()["jet"][grey_image()]
    tifffile.imwrite(tmp_path / "x.tif", rgb, photometric="rgb", compression="zlib", rowsperstrip=16)
    (frame,) = open_source(tmp_path / "x.tif").frames
    reading = frame.read_with_colour(10, 100)
    assert reading.colour == "colour"
    np.testing.assert_array_equal(reading.pixels, convert_to_luma(rgb)[10:100])


def test_black_ink_and_lightness_are_exact():
    pixels = grey_image()
    inks = np.zeros((256, 256, 4), np.uint8)
    inks[..., 3] = 255 - pixels
    lab = np.stack([pixels, np.zeros_like(pixels), np.zeros_like(pixels)], axis=-1)
    assert (convert_cmyk(inks) == pixels[..., None]).all()
    assert (convert_lab(lab, is_signed=True) == pixels[..., None]).all()
    lab[..., 1:] = 128
    assert (convert_lab(lab, is_signed=False) == pixels[..., None]).all()
    lab[..., 1:] = 30
    coloured = convert_lab(lab, is_signed=True)
    assert np.abs(convert_to_luma(coloured).astype(int) - pixels)[pixels < 150].max() <= 1
