"""Drawn scale bars: their length is what their text states."""

import math

import numpy as np
import pytest

from emqa_dask.synthetic import overlays
from emqa_dask.synthetic.faults import apply_fault


@pytest.mark.parametrize(
    ("longest_px", "nm_per_pixel", "bar"),
    [
        (100, 0.5, (100, "50 nm")), (99, 0.5, (40, "20 nm")), (130, 8.0, (125, "1 um")), (200, 0.013, (154, "2 nm")),
        (60, 0.01, (50, "0.5 nm")), (150, 1e4, (100, "1 mm")), (80, math.nan, (80, overlays.UNSCALED)),
        (40, 0.5, (40, "20 nm")), (30, 0.5, (30, overlays.UNSCALED)), (90, 0.0, (90, overlays.UNSCALED)),
    ],
)  # fmt: skip
def test_bars_are_as_long_as_their_text(longest_px, nm_per_pixel, bar):
    assert overlays.choose_bar(longest_px, nm_per_pixel) == bar


def measure_bar(image: np.ndarray) -> int:
    """Pixels of the longest row of the ink: of the values 0 and 255 the rarer one, the other is a plate."""
    counts = {value: int((image == value).sum()) for value in (0, 255) if (image == value).any()}
    is_ink = np.pad(image == min(counts, key=counts.__getitem__), ((0, 0), (1, 1)))
    edges = np.diff(is_ink.astype(np.int8), axis=1)
    return max(int((np.flatnonzero(row < 0) - np.flatnonzero(row > 0)).max(initial=0)) for row in edges)


@pytest.mark.parametrize("seed", range(8))
def test_a_burnt_in_bar_has_a_usual_length(seed):
    image = np.full((400, 600), 90, np.uint8)
    burnt = apply_fault("scale_bar", image, np.random.default_rng([3, seed]), nm_per_pixel=0.73)
    assert measure_bar(burnt) in (27, 68, 137)  # 20, 50 and 100 nm
    unscaled = apply_fault("scale_bar", image, np.random.default_rng([3, seed]))
    assert measure_bar(unscaled) >= 0.12 * 600 - 1
