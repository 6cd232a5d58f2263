"""Pixel sizes from drawn scale bars and lattices, and the bars that must not be used."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont

from emqa_dask.archive.lattice_scale import measure_spacing_px
from emqa_dask.archive.scale_bar.bars import find_bars
from emqa_dask.archive.scale_bar.reading import make_view, read_scale_bar
from emqa_dask.archive.scale_bar.text_reader import is_common_length, parse_length_nm
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.pipeline.tasks.survey import _name_stack
from emqa_dask.settings import Archive

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def make_ground(seed: int = 0, shape: tuple[int, int] = (480, 640)) -> np.ndarray:
    return np.random.default_rng(seed).normal(120, 14, shape).clip(40, 200).astype(np.uint8)


def draw_bar(
    image: np.ndarray, text: str, x0: int, length: int, *, y: int = 440, grey: int = 255, font: str = "DejaVuSans.ttf"
) -> np.ndarray:
    """`image` with a bar of 8 rows from row `y`, and `text` above its middle."""
    picture = Image.fromarray(image)
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((x0, y, x0 + length - 1, y + 7), fill=grey)
    drawing.text((x0 + length / 2, y - 8), text, fill=grey, font=ImageFont.truetype(str(FONTS / font), 26), anchor="ms")
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("text", "length", "nm"),
    [("200 nm", 160, 1.25), ("1 µm", 100, 10.0), ("0.5 µm", 125, 4.0), ("50 nm", 200, 0.25), ("2 µm", 128, 15.625)],
)
@pytest.mark.parametrize("grey", [0, 255])
def test_a_drawn_bar_gives_its_pixel_size(text, length, nm, grey):
    reading = read_scale_bar(draw_bar(make_ground(), text, 400, length, grey=grey))
    assert reading.nm_per_pixel == pytest.approx(nm, rel=0.01)
    assert reading.description.startswith(text)


@pytest.mark.parametrize("text", ["", "200", "nm", "sample A", "5.0 kV"])
def test_a_bar_without_a_length_is_described_not_used(text):
    reading = read_scale_bar(draw_bar(make_ground(1), text, 400, 160))
    assert np.isnan(reading.nm_per_pixel)
    assert reading.description == "a bar without a readable length"


def test_two_bars_that_contradict_each_other_are_not_used():
    image = draw_bar(draw_bar(make_ground(2), "200 nm", 400, 160), "500 nm", 60, 160)
    reading = read_scale_bar(image)
    assert np.isnan(reading.nm_per_pixel)
    assert reading.description.startswith("bars that contradict each other: 200 nm on 160")


def test_two_bars_that_agree_give_one_size():
    image = draw_bar(draw_bar(make_ground(3), "200 nm", 400, 160), "100 nm", 60, 80)
    assert read_scale_bar(image).nm_per_pixel == pytest.approx(1.25, rel=0.02)


@pytest.mark.parametrize("image", [make_ground(4), np.zeros((480, 640), np.uint8), np.full((20, 30), 7, np.uint16)])
def test_an_image_without_a_bar_says_nothing(image):
    reading = read_scale_bar(image)
    assert np.isnan(reading.nm_per_pixel)
    assert reading.description == ""


def test_ends_of_bars_are_exact():
    image = make_ground(5)
    image[440:448, 401:523] = 255  # filled
    image[300, 100:181] = 255  # a line with end marks
    image[295:306, [100, 180]] = 255
    image[200:206, 300:402:10] = 255  # eleven ticks
    bars = find_bars(make_view(image)[0])
    lengths = {bar.kind: bar.length_px for bar in bars}
    assert lengths == pytest.approx({"filled": 122.0, "marks": 80.0, "ticks": 100.0}, abs=0.4)


@pytest.mark.parametrize(
    ("text", "nm"),
    [("200nm", 200), ("0.5µm", 500), ("1.00µm", 1000), ("3Å", 0.3), ("1mm", 1e6), ("0nm", None), ("200", None),
     ("*1nm", None), ("1.nm", None), ("12345nm", None), ("5.0*", None), ("", None)],
)  # fmt: skip
def test_only_a_number_with_a_unit_is_a_length(text, nm):
    assert parse_length_nm(text) == pytest.approx(nm if nm else np.nan, nan_ok=True)


def test_common_lengths_have_few_digits():
    assert [is_common_length(text) for text in ("200nm", "0.5µm", "1.00µm", "237nm", "8.6mm", "200")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def survey(tmp_path, image, **settings):
    tifffile.imwrite(tmp_path / "a.tif", image, **settings.pop("tiff", {}))
    (entry,) = scan_archive(tmp_path)
    return survey_file(entry, Archive(**{"read_scale_bars": True} | settings))[1][0]


def test_the_survey_states_size_and_source(tmp_path):
    row = survey(tmp_path, draw_bar(make_ground(), "200 nm", 400, 160))
    assert (row["nm_per_pixel_source"], row["scale_bar"]) == ("scale_bar", "200 nm on 160.0 px")
    assert row["nm_per_pixel"] == row["nm_per_pixel_y"] == pytest.approx(1.25, rel=0.01)
    assert _name_stack(row).endswith("nopx")
    row = survey(tmp_path, draw_bar(make_ground(), "200 nm", 400, 160), read_scale_bars=False)
    assert (row["nm_per_pixel_source"], row["scale_bar"]) == ("none", None)


def test_a_bar_that_contradicts_the_header_is_a_problem(tmp_path):
    image = draw_bar(make_ground(), "200 nm", 400, 160)
    description = {"resolution": (1 / 1.9, 1 / 1.9), "metadata": {"unit": "nm"}, "imagej": True}
    row = survey(tmp_path, image, tiff=description)
    assert (row["nm_per_pixel"], row["nm_per_pixel_source"]) == (pytest.approx(1.9, rel=1e-3), "header")
    assert row["pixel_size_problem"] == (
        "the scale bar (200 nm on 160.0 px) states 1.25 nm per pixel, the header 1.9 nm"
    )
    row = survey(tmp_path, image, nm_per_pixel=1.22)
    assert (row["nm_per_pixel_source"], row["pixel_size_problem"]) == ("user", None)


def make_lattice(spacing_px: float, noise: float) -> np.ndarray:
    y, x = np.mgrid[:400, :500].astype(np.float32)
    rng = np.random.default_rng(6)
    waves = np.cos(2 * np.pi * x / spacing_px) + np.cos(2 * np.pi * (0.2 * x + 0.98 * y) / spacing_px)
    return waves + rng.normal(0, noise, x.shape)


def test_the_lattice_gives_the_pixel_size(tmp_path):
    row = survey(tmp_path, make_lattice(12.3, 2.0).astype(np.float32), lattice_spacing_nm=0.2)
    assert row["nm_per_pixel_source"] == "lattice"
    assert row["nm_per_pixel"] == pytest.approx(0.2 / 12.3, rel=0.01)


@pytest.mark.parametrize("image", [make_ground(7), make_lattice(12.3, 200.0), np.zeros((300, 300)), np.eye(40)])
def test_no_lattice_gives_no_spacing(image):
    assert np.isnan(measure_spacing_px(image))
