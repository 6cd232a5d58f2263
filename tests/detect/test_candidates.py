"""Settings that are tried on candidates give what a search of their own gives; caps keep the strongest, and say so."""

import dataclasses
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emqa_dask import find_blobs
from emqa_dask.detect import blobs, log_exact, log_fast, scales
from emqa_dask.detect.candidates import Candidates, find_candidates, find_candidates_in_strips, select_detections
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.normalise import IntensityLimits
from emqa_dask.detect.prune import count_affordable
from emqa_dask.settings import Detect
from emqa_dask.synthetic.profiles import make_sample

FLOOR = Detect(polarity="both", min_sigma=2, max_sigma=12, num_sigma=6, threshold=0.03, max_detections=400)


@pytest.fixture(scope="module")
def image():
    pixels = make_sample("cavity-tem", np.random.default_rng(5), shape=(200, 230)).image.astype(np.float32)
    pixels[40:60, 100:120] = np.nan
    return pixels


@pytest.fixture(scope="module")
def found(image):
    return find_candidates(image, FLOOR)


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    threshold=st.one_of(st.just(0.03), st.floats(0.03, 0.6)),
    overlap=st.floats(0, 1),
    polarity=st.sampled_from(["auto", "both", "bright", "dark"]),
    max_detections=st.sampled_from([1, 7, 400]),
)
def test_selected_candidates_equal_a_separate_search(image, found, threshold, overlap, polarity, max_detections):
    wanted = dataclasses.replace(
        FLOOR, threshold=threshold, overlap=overlap, polarity=polarity, max_detections=max_detections
    )
    chosen = select_detections(found, wanted)
    searched = detect_image(image, wanted)
    pd.testing.assert_frame_equal(chosen, searched)
    assert chosen.attrs == searched.attrs


def test_a_threshold_equal_to_a_response_selects_exactly(image, found):
    for response in found.maxima.response[[3, 50, 100]]:
        wanted = dataclasses.replace(FLOOR, threshold=float(response))
        pd.testing.assert_frame_equal(select_detections(found, wanted), detect_image(image, wanted))


def test_the_law_holds_where_the_cap_is_reached(image):
    floor = dataclasses.replace(FLOOR, max_detections=3, threshold=0.01)
    few = find_candidates(image, floor)
    assert (few.maxima.polarity == 1).sum() == (few.maxima.polarity == -1).sum() == 61
    flags = []
    for threshold in np.linspace(0.01, 1.3, 60):
        wanted = dataclasses.replace(floor, threshold=float(threshold))
        chosen = select_detections(few, wanted)
        searched = detect_image(image, wanted)
        pd.testing.assert_frame_equal(chosen, searched)
        assert chosen.attrs == searched.attrs
        flags.append((chosen.attrs["too_many_blobs"], chosen.attrs["is_capped"]))
    assert flags[0] == (True, True)
    assert flags[-1] == (False, False)
    assert (False, True) in flags


@pytest.mark.parametrize("max_detections", [2, 400])
@pytest.mark.parametrize("strip_px", [1, 9000])
def test_strips_give_the_candidates_of_the_whole_image(image, max_detections, strip_px):
    settings = dataclasses.replace(FLOOR, max_detections=max_detections, threshold=0.005, exclude_border=3)
    whole = find_candidates(image, settings)
    limits = IntensityLimits(*np.nanpercentile(image, [1, 99, 50]))
    whole = find_candidates(image, settings, limits)
    parts = find_candidates_in_strips(lambda y0, y1: image[y0:y1], image.shape, settings, limits, strip_px)
    assert all(np.array_equal(a, b) for a, b in zip(whole.maxima, parts.maxima))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"threshold": 0.02}, "threshold is 0.02: the candidates were searched above 0.03"),
        ({"max_detections": 401}, "max_detections is 401"),
        ({"max_sigma": 13.0}, "max_sigma is 13.0: the candidates were searched with 12"),
        ({"high_percentile": 98.0}, "high_percentile is 98.0"),
    ],
)
def test_settings_of_another_search_are_refused(found, change, text):
    with pytest.raises(ValueError, match=text):
        select_detections(found, dataclasses.replace(FLOOR, **change))


def test_a_polarity_that_was_not_searched_is_refused(image):
    dark = find_candidates(image, dataclasses.replace(FLOOR, polarity="dark"))
    assert set(dark.maxima.polarity) == {-1}
    with pytest.raises(ValueError, match=r"polarity is 'both'.*'dark' blobs only"):
        select_detections(dark, FLOOR)


@pytest.mark.parametrize("shape", [(0, 0), (0, 9), (1, 1), (40, 40)])
def test_nothing_to_find_gives_no_candidates_and_no_rows(shape):
    nothing = find_candidates(np.full(shape, np.nan), FLOOR)
    assert isinstance(nothing, Candidates)
    assert len(nothing.maxima.y) == len(select_detections(nothing, FLOOR)) == 0
    assert select_detections(nothing, FLOOR).attrs == {"is_capped": False, "too_many_blobs": False}


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (9, 8), (11, 60)])
def test_scales_larger_than_the_image_are_left_out(shape):
    pixels = np.random.default_rng(0).random(shape)
    used = find_candidates(pixels, FLOOR).sigmas
    assert used.max(initial=0) <= max(shape)
    small = dataclasses.replace(FLOOR, max_sigma=60.0, num_sigma=9)
    assert len(detect_image(pixels, small)) >= 0
    assert (detect_image(pixels, small)["sigma_px"] <= max(shape)).all()


def test_every_path_has_the_cap_of_a_full_search():
    pixels = np.random.default_rng(1).random((150, 140), np.float32)
    sigmas = scales.compute_sigmas(1.2, 5, 4, False, np.float32)
    for search in (log_fast.find_scale_maxima, log_exact.find_scale_maxima):
        every = search(pixels, sigmas, 0.0, "both")
        few = search(pixels, sigmas, 0.0, "both", max_per_polarity=50)
        assert len(every.y) > 1000
        assert all(np.array_equal(a, b) for a, b in zip(few, scales.cap_maxima(every, 50)))


def test_a_million_plateaus_stay_within_the_memory_of_the_cap(monkeypatch):
    """A chessboard of equal peaks: the first in order are kept, whatever else there is, also while they are met."""
    board = np.kron((np.indices((300, 300)).sum(axis=0) % 2).astype(np.float32), np.ones((4, 4), np.float32))
    settings = Detect(polarity="both", min_sigma=1.0, max_sigma=2.0, num_sigma=3, threshold=0.0, max_detections=50)
    detect_image(board[:64, :64], settings)
    tracemalloc.start()
    rows = detect_image(board, settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.attrs == {"is_capped": True, "too_many_blobs": True}
    assert len(rows) == 50
    assert peak < 12 * board.nbytes
    pd.testing.assert_frame_equal(rows, detect_image(board, settings))
    monkeypatch.setattr(blobs, "MAX_BLOBS", 300)
    rows = find_blobs(board, min_sigma=1, max_sigma=2, num_sigma=3, threshold=0.0, overlap=None)
    assert rows.attrs["too_many_blobs"]
    assert len(rows) == 300
    rows = find_blobs(board[:40, :40], min_sigma=1, max_sigma=2, num_sigma=3, threshold=0.0, overlap=None)
    assert not rows.attrs["too_many_blobs"]


def test_no_more_blobs_are_pruned_than_have_few_enough_neighbours():
    y, x = np.mgrid[:100, :100].reshape(2, -1).astype(float)
    sigma = np.full(10_000, 5.0)
    assert count_affordable(y, x, sigma) == 10_000
    n = count_affordable(y, x, sigma, limit=300_000)
    assert n in (5000, 2500, 1250)
    assert count_affordable(y[:n], x[:n], sigma[:n], limit=300_000) == n
    assert count_affordable(*np.zeros((3, 0))) == 0
