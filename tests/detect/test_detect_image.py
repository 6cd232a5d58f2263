"""One micrograph to its rows of the detections table, whole or in strips; the intensity scale."""

import dataclasses
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.detect import normalise as norm
from emqa_dask.detect import tiles
from emqa_dask.detect.candidates import find_candidates_in_strips, select_detections
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.normalise import compute_intensity_limits, normalise
from emqa_dask.settings import Detect

SETTINGS = Detect(polarity="both", min_sigma=2, max_sigma=12, num_sigma=5, threshold=0.05, overlap=0.4)
COLUMNS = [name for name in tables.DETECTIONS.names if name != "micrograph_id"]
DTYPES = [bool, np.uint8, np.int8, np.uint16, np.int32, np.uint64, np.float16, np.float32, np.float64]


def scene(seed=0, shape=(220, 180)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = 100 + 2 * rng.standard_normal(shape)
    for _ in range(40):
        r = rng.uniform(3, 9)
        cy = rng.uniform(0, shape[0])
        cx = rng.uniform(0, shape[1])
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] += rng.choice([-20, 20])
    return image


def same(a, b, rtol=0):
    """Equal rows; with `rtol` up to the rounding of the pixels, which moves flat tops by a few times as much."""
    if rtol == 0 or len(a) != len(b):
        return a.equals(b)
    fitted = [np.allclose(a[key], b[key], rtol=0, atol=1e3 * rtol) for key in ("y_px", "x_px", "sigma_px")]
    return all(fitted) and np.allclose(a["response"], b["response"], rtol=rtol, atol=rtol)


def test_rows_fit_the_table_and_boxes_the_disks():
    image = scene()
    rows = detect_image(image, SETTINGS)
    assert len(rows) > 20
    assert rows.attrs["is_capped"] is False
    assert list(rows.columns) == COLUMNS
    assert tables.conform(rows.assign(micrograph_id="0" * 32), tables.DETECTIONS).num_rows == len(rows)
    assert set(rows["polarity"]) == {1, -1}
    assert rows["response"].is_monotonic_decreasing
    assert rows["score"].between(SETTINGS.threshold, 1).all()
    radius = math.sqrt(2) * rows["sigma_px"]
    np.testing.assert_allclose(rows["area_px"], math.pi * radius**2)
    np.testing.assert_allclose(rows["diameter_px"], 2 * radius)
    assert set(rows["detector"]) == {"log"}
    assert rows[["mask_rle", "circularity", "diameter_nm"]].isna().all(axis=None)
    inner = rows[(rows["y0"] > 0) & (rows["x0"] > 0) & (rows["y1"] < 220) & (rows["x1"] < 180)]
    assert 5 < len(inner) < len(rows)
    np.testing.assert_allclose((inner["y0"] + inner["y1"]) / 2, inner["y_px"] + 0.5)
    np.testing.assert_allclose(inner["x1"] - inner["x0"], 2 * radius[inner.index])
    assert (rows[["y0", "x0"]] >= 0).all(axis=None)
    assert (rows[["y_px", "x_px"]] % 1 != 0).all(axis=1).mean() > 0.8  # those at edges keep their row or column
    assert ((rows["y1"] <= 220) & (rows["x1"] <= 180)).all()


def test_the_box_of_a_square_is_centred_on_it():
    image = np.zeros((60, 60))
    image[20:29, 30:39] = 1
    row = detect_image(image, dataclasses.replace(SETTINGS, polarity="bright")).iloc[0]
    assert ((row["y0"] + row["y1"]) / 2, (row["x0"] + row["x1"]) / 2) == pytest.approx((24.5, 34.5), abs=1e-4)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 300), (300, 1), (3, 3), (40, 30)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_shape_and_dtype_gives_a_table(shape, dtype):
    image = np.random.default_rng(0).uniform(0, 120, shape)
    for pixels in (image.astype(dtype), np.zeros(shape, dtype), np.ones(shape, dtype)):
        rows = detect_image(pixels, SETTINGS)
        assert list(rows.columns) == COLUMNS
        if len(np.unique(pixels)) < 2:
            assert len(rows) == 0


def test_an_empty_table_has_the_dtypes_of_a_full_one():
    full = detect_image(scene(), SETTINGS)
    empty = detect_image(np.zeros((30, 30)), SETTINGS)
    numeric = [c for c in COLUMNS if c not in ("label", "detector", "mask_rle")]
    assert (full.dtypes[numeric] == empty.dtypes[numeric]).all()
    assert tables.conform(empty, tables.DETECTIONS).num_rows == 0


def test_only_two_dimensional_real_images():
    for image in (np.zeros((4, 4, 3)), np.zeros(4), np.zeros((4, 4), complex)):
        with pytest.raises(ValueError, match="two-dimensional real"):
            detect_image(image, SETTINGS)


@pytest.mark.parametrize(("gain", "offset"), [(7.0, 0.0), (0.01, -3.0), (250.0, 1e4)])
def test_gain_and_offset_change_nothing(gain, offset):
    image = scene(1)
    assert same(detect_image(image, SETTINGS), detect_image(gain * image + offset, SETTINGS), rtol=1e-5)


def test_dark_blobs_are_bright_ones_of_the_negative():
    image = (10 * scene(2)).astype(np.uint16)
    dark = detect_image(image, dataclasses.replace(SETTINGS, polarity="dark"))
    bright = detect_image(4000 - image, dataclasses.replace(SETTINGS, polarity="bright"))
    assert len(dark) > 5
    assert same(dark.assign(polarity=bright["polarity"]), bright, rtol=1e-5)


def test_the_strongest_stay_at_the_cap_with_a_warning():
    every = detect_image(scene(), SETTINGS)
    few = detect_image(scene(), dataclasses.replace(SETTINGS, max_detections=7))
    assert few.attrs["is_capped"] is True
    assert same(few, every.head(7))


def test_no_blob_near_the_border_where_it_is_excluded():
    rows = detect_image(scene(), dataclasses.replace(SETTINGS, exclude_border=25))
    assert len(rows) > 5
    assert rows["y_px"].round().between(25, 220 - 26).all()
    assert rows["x_px"].round().between(25, 180 - 26).all()


def test_nan_pixels_contain_no_blob_and_hide_none():
    image = scene(3)
    holes = image.copy()
    holes[100:130, 80:110] = np.nan
    holes[0, :5] = np.inf
    holes[5, 0] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = detect_image(holes, SETTINGS)
    assert np.isfinite(holes[rows["y_px"].round().astype(int), rows["x_px"].round().astype(int)]).all()
    limits = compute_intensity_limits(image, 1, 99)
    unpruned = dataclasses.replace(SETTINGS, overlap=1.0)
    far = [r[r["y_px"] > 190][["y_px", "x_px"]] for r in (detect_image(i, unpruned, limits) for i in (image, holes))]
    assert len(far[0]) > 2
    assert far[0].reset_index(drop=True).equals(far[1].reset_index(drop=True))
    assert len(detect_image(np.full((40, 40), np.nan), SETTINGS)) == 0


@pytest.mark.parametrize("shape", [(640, 90), (601, 93)])
@pytest.mark.parametrize("strip_px", [1, 10_000, 30_000])
@pytest.mark.parametrize("overlap", [1.0, 0.3])
def test_any_strips_give_the_rows_of_the_whole(shape, strip_px, overlap):
    image = scene(4, shape)
    image[150:160, 20:30] = np.nan
    settings = dataclasses.replace(SETTINGS, overlap=overlap, max_sigma=23.0, num_sigma=7, threshold=0.02)
    n_read = []

    def read(y0, y1):
        n_read.append(y1 - y0)
        return image[y0:y1]

    limits = compute_intensity_limits(image, 1, 99)
    whole = detect_image(image, settings, limits)
    parts = select_detections(find_candidates_in_strips(read, shape, settings, limits, strip_px), settings)
    assert len(whole) > 40
    assert parts.equals(whole)
    assert len(n_read) > 1
    if strip_px == 1:
        assert max(n_read) < shape[0]


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 50), st.integers(0, 90), st.integers(0, 4), st.integers(1, 10_000))
def test_strips_own_every_row_once_and_read_what_they_need(height, width, halo, log_unit, strip_px):
    unit = 2**log_unit
    cut = list(tiles.plan_strips((height, width), halo, unit, strip_px))
    assert [y for s in cut for y in range(s.start, s.stop)] == list(range(height))
    for strip in cut:
        assert strip.first % unit == strip.start % unit == 0
        assert 0 <= strip.first <= max(0, strip.start - halo)
        assert min(height, strip.stop + halo) <= strip.last <= height


def test_limits_of_huge_images_come_from_some_rows(monkeypatch):
    image = np.random.default_rng(5).normal(50, 9, (2000, 100))
    exact = tiles.sample_intensity_limits(lambda y0, y1: image[y0:y1], image.shape, (1.0, 99.0))
    assert exact == pytest.approx(np.percentile(image, [1, 99, 50]))
    monkeypatch.setattr(tiles, "WHOLE_PX", 1000)
    sampled = tiles.sample_intensity_limits(lambda y0, y1: image[y0:y1], image.shape, (1.0, 99.0), n_rows=500)
    assert sampled == pytest.approx(exact, abs=0.5)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]), st.integers(1, 60))
def test_limits_are_numpys_percentiles(seed, dtype, n):
    image = np.random.default_rng(seed).integers(0, 200, (n, 7)).astype(dtype)
    image[0, 0] = 201  # not constant
    low, high = np.percentile(image.astype(np.float64), [5, 97.5])
    if low < high:
        assert compute_intensity_limits(image, 5, 97.5) == pytest.approx((low, high, np.median(image)))
        out = normalise(image, 5, 97.5)
        assert out.dtype == np.float32
        expected = (image.astype(np.float64) - low) / (high - low)
        np.testing.assert_allclose(out, np.clip(expected, norm.FLOOR, norm.CEILING), atol=1e-5)


def test_sparse_images_scale_by_extremes_and_hot_pixels_are_clipped():
    sparse = np.zeros((100, 100), np.uint8)
    sparse[50, 50] = 200
    assert normalise(sparse, 1, 99).max() == 1
    hot = scene(6)
    hot[10, 10] = 1e9
    assert normalise(hot, 1, 99).max() == norm.CEILING


@pytest.mark.parametrize("dtype", [np.uint64, np.int32, np.float64])
def test_a_large_offset_costs_no_digits(dtype):
    image = (2_000_000_000 + np.arange(400).reshape(20, 20)).astype(dtype)
    np.testing.assert_allclose(normalise(image, 0, 100), np.arange(400).reshape(20, 20) / 399, atol=1e-6)


def test_auto_polarity_is_that_of_the_stronger_blobs():
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:160, :160]
    image = rng.normal(0, 0.5, (160, 160))
    for cy, cx, contrast in [(40, 40, 60), (110, 40, 60), (40, 110, 60), (110, 110, -20)]:
        image += contrast * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 6**2))
    auto, both = (dataclasses.replace(SETTINGS, polarity=p, threshold=0.05) for p in ("auto", "both"))
    assert set(detect_image(image, both)["polarity"]) == {1, -1}
    assert set(detect_image(image, auto)["polarity"]) == {1}
    assert set(detect_image(-image, auto)["polarity"]) == {-1}
    bright = detect_image(image, dataclasses.replace(auto, polarity="bright"))
    pd.testing.assert_frame_equal(detect_image(image, auto), bright)
    candidates = find_candidates_in_strips(lambda a, b: image[a:b], image.shape, auto, strip_px=32)
    parts = select_detections(candidates, auto)
    pd.testing.assert_frame_equal(parts, detect_image(image, auto))
