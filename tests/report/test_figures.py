"""Laws of the classifier's figures: every value is counted once, ticks lie on the axis, stretches do not overlap."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.report import figures, trends
from emqa_dask.report.formatting import format_number
from emqa_dask.tables import VERDICTS

FLOATS = st.floats(-1e9, 1e9, allow_nan=False)


@given(
    values=st.lists(FLOATS | st.sampled_from([np.nan, np.inf, 0.0, 1e-300, 1e-9]), max_size=40),
    axis=st.sampled_from([figures._zero_based_axis, figures._signed_axis]),
)
def test_a_histogram_counts_every_known_value_once(values, axis):
    values, verdicts = np.array(values, float), np.arange(len(values)) % len(VERDICTS)
    svg = figures.draw_histogram(values, verdicts, axis, 1.0, "a <label>")
    titles = re.findall(r"<title>[^<]*: ([\d,]+) \((.*?)\)</title>", svg)
    assert sum(int(n.replace(",", "")) for n, _ in titles) == np.isfinite(values).sum()
    assert all(float(h) >= 0 for h in re.findall(r'height="([-\d.]+)"', svg))
    assert "<label>" not in svg


@given(
    values=st.lists(FLOATS, min_size=1, max_size=20),
    axis=st.sampled_from([figures._zero_based_axis, figures._signed_axis]),
)
def test_ticks_lie_on_the_axis_and_zero_is_one(values, axis):
    values = np.array(values)
    x = axis(values)
    places = np.array([float(x.place(v)) for v, _ in x.ticks])
    assert (np.diff(places) > 0).all()
    assert x.edges[0] - 1e-9 <= places.min()
    assert places.max() <= x.edges[-1] + 1e-9
    assert 0.0 in [v for v, _ in x.ticks]
    assert len(x.edges) <= 24
    assert np.abs(x.edges).min() < 1e-9
    if axis is figures._zero_based_axis:
        assert x.edges[0] == 0
        assert x.edges[-1] >= values.max()
    else:
        assert x.edges[0] <= np.arcsinh(values.min()) + 1e-9
        assert x.edges[-1] >= np.arcsinh(values.max()) - 1e-9


def times(n: int, is_dated: bool, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.integers(1, 100_000, n + 1))
    edges = edges.astype("datetime64[s]") if is_dated else edges
    low, middle, high = np.sort(rng.normal(size=(3, n)), axis=0)
    return pd.DataFrame(
        {"start": edges[:-1], "end": edges[1:], "n": rng.integers(1, 9999, n), "median": middle, "low": low,
         "high": high}
    )  # fmt: skip


@given(n=st.integers(1, 14), is_dated=st.booleans(), seed=st.integers(0, 99), reference=FLOATS | st.just(np.nan))
def test_a_plot_over_time_has_every_stretch_in_its_place(n, is_dated, seed, reference):
    table = times(n, is_dated, seed)
    svg = trends.draw_trend(table, "a <label>", reference)
    rects = re.findall(r'<rect class="reach" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', svg)
    x, y, width, height = np.array(rects, float).T
    assert len(x) == n
    assert (np.diff(x) >= 0).all()
    assert (x >= trends.LEFT).all()
    assert (x + width <= trends.WIDTH).all()
    assert (y >= trends.TOP - 0.1).all()
    assert (y + height <= trends.HEIGHT - trends.BOTTOM + 0.6).all()
    middle = np.array(re.findall(r'class="middle"[^>]* y1="([\d.]+)"', svg), float)
    assert ((middle >= y - 0.11) & (middle <= y + height + 0.11)).all()
    assert svg.count('class="limit"') == np.isfinite(reference)
    assert 1 <= svg.count('class="grid"') <= 6
    assert "<label>" not in svg


def test_dates_positions_and_instants_are_named():
    dated = times(3, True)
    for unit in ("s", "ns"):  # dates of any resolution, also of two
        mixed = dated.assign(end=dated["end"].astype(f"datetime64[{unit}]"))
        assert trends.draw_trend(mixed, "") == trends.draw_trend(dated, "")
    assert "1970-01-0" in trends.draw_trend(dated, "")
    ranks = pd.DataFrame({"start": [0, 1000], "end": [1000, 2000], "n": 1000, "median": 1.0, "low": 1.0, "high": 1.0})
    svg = trends.draw_trend(ranks, "")
    assert "image 1<" in svg
    assert "image 2,000<" in svg
    assert trends.draw_trend(ranks[:0], "") == ""
    assert trends.draw_trend(ranks.assign(median=np.nan), "") == ""
    assert trends.draw_trend(ranks.assign(high=np.inf), "") == ""


def test_a_small_histogram_has_the_shape_of_its_counts():
    edges = np.linspace(0, 4, 81)
    counts = np.zeros(80, int)
    counts[[2, 3, 42]] = [10, 10, 5]
    svg = trends.draw_sparkline(counts, edges, 4.0, "entropy <of>")
    heights = [float(h) for h in re.findall(r'<rect class="plain-bar"[^>]*height="([\d.]+)"', svg)]
    assert heights == [trends.SPARKLINE_HEIGHT, trends.SPARKLINE_HEIGHT / 4]
    assert "<of>" not in svg
    assert trends.draw_sparkline(counts * 0, edges, 4.0, "none") == ""


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (np.nan, 2, "–"), (np.inf, 2, "∞"), (0.0, 2, "0"), (812.5, 2, "810"), (12345.6, 3, "12,300"),
        (0.4567, 2, "0.46"),
        (3.1e-9, 2, "3.1e-09"), (-0.0123, 2, "-0.012"), (99.6, 2, "100"), (2.5e9, 2, "2.5e+09"),
    ],
)  # fmt: skip
def test_numbers_have_the_digits_that_are_asked_for(value, digits, text):
    assert format_number(value, digits) == text
