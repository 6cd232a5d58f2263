"""Data of an image's page: boxes, tiles, entropy cells and effects, by hand."""

import base64

import numpy as np
import pandas as pd
import pytest

from emqa_dask.report import micrograph_data


def make_detections(n: int, mask=None) -> pd.DataFrame:
    score = np.linspace(0.1, 0.9, n)
    boxes = {"y0": 10.0, "x0": 20.0, "y1": 30.0, "x1": 60.0}
    return pd.DataFrame({**boxes, "score": score, "mask_rle": pd.Series([mask] * n, dtype=object)})


def test_boxes_are_fractions_of_the_image_strongest_first():
    data = micrograph_data.describe_detections(make_detections(3), (100, 200), 0.5)
    assert (data["n"], data["n_stored"], data["n_drawn"], data["masks"]) == (2, 3, 3, None)
    values = np.frombuffer(base64.b64decode(data["boxes"]), "<u2").reshape(3, 5) / 65535
    np.testing.assert_allclose(values[:, :4], [[0.1, 0.1, 0.3, 0.3]] * 3, atol=1e-5)
    np.testing.assert_allclose(values[:, 4], [0.9, 0.5, 0.1], atol=1e-5)


def test_only_the_strongest_detections_are_drawn():
    data = micrograph_data.describe_detections(make_detections(micrograph_data.MAX_DRAWN + 5, "0a"), (100, 200), 0.0)
    assert (data["n_stored"], data["n_drawn"]) == (micrograph_data.MAX_DRAWN + 5, micrograph_data.MAX_DRAWN)
    assert data["masks"] == ["0a"] * micrograph_data.MAX_DRAWN
    assert micrograph_data.describe_detections(make_detections(0), (100, 200), 0.0)["boxes"] == ""


def test_tiles_have_edges_and_values_of_each_detector():
    places = {"y_px": [0, 0, 5, 5], "x_px": [0, 8, 0, 8], "height_px": [5, 5, 6, 6], "width_px": [8, 7, 8, 7]}
    numbers = {"n_detections": [1, 0, 2, 3], "density_per_um2": [np.nan] * 4, "agreement": [1.0, 0.5, 0, 1 / 3]}
    numbers |= {"sharpness": [0.1] * 4, "noise": [0.02] * 4}
    tiles = pd.concat([pd.DataFrame({**places, **numbers, "detector": name}) for name in ("log", "net")])
    data = micrograph_data.describe_tiles(tiles)
    assert (data["y"], data["x"]) == ([0, 5, 11], [0, 8, 15])
    assert list(data["detectors"]) == ["log", "net"]
    assert data["detectors"]["net"]["agreement"] == [1.0, 0.5, 0.0, 0.3333]
    assert data["detectors"]["net"]["density_per_um2"] == [None] * 4
    assert micrograph_data.describe_tiles(tiles.iloc[:0]) == {"y": [], "x": [], "detectors": {}}


def test_entropy_cells_end_half_way_between_windows():
    region = {"y0": [0.0], "x0": [0.0, 40.0], "height_px": 100.0, "width_px": 60.0}
    region["predictive_entropy_nats"] = np.array([0.25, 1.5], np.float32)
    # Windows are columns 0 to 60 and 40 to 100, centred at 30 and 70.
    expected = {"y": [0, 100], "x": [0, 50, 100], "values": [0.25, 1.5]}
    assert micrograph_data.describe_entropy(region, (100, 100)) == expected


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ("the mean score is 0.40 (usually 0.70): lowers the predicted F1 by 0.12", -0.12),
        ("the mean score is 0.90 (usually 0.70): raises the predicted F1 by 0.05", 0.05),
        ("something else", None),
    ],
)
def test_reasons_have_the_effect_that_their_text_states(text, effect):
    (reason,) = micrograph_data.list_effects(np.array([text], object))
    assert reason == {"text": text.partition(":")[0], "effect": effect}
    assert micrograph_data.list_effects(None) == []


def test_long_headers_are_shortened():
    assert micrograph_data.shorten_header(None) == ""
    assert micrograph_data.shorten_header('{"a": 1}') == '{"a": 1}'
    assert len(micrograph_data.shorten_header("x" * 10**6)) < micrograph_data.MAX_HEADER_CHARACTERS + 10
