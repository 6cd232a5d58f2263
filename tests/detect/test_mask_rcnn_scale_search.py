"""Laws of the search for the scale at which a network sees an image."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask import load_detector, models
from emqa_dask.detect.mask_rcnn.image_result import ImageResult
from emqa_dask.detect.mask_rcnn.scale_search import SMALL_PX, list_steps, search_scales
from tests.detect.conftest import SMALL, write_model

SCALES = (0.25, 0.5, 1.0, 2.0)


def make_result(side: float, mean_score: float, scale: float = 1.0, n: int = 3) -> ImageResult:
    detections = pd.DataFrame({"y0": 0.0, "x0": 0.0, "y1": side, "x1": side}, index=range(n))
    return ImageResult(detections, np.zeros(0, np.float32), mean_score, n, mean_score, scale)


def search(score_tables: list[dict[float, float]], sides: list[float]) -> tuple[list[float], list[tuple]]:
    """Scale of every image, whose mean score at each scale is known, and the calls that found it."""
    calls = []

    def examine(numbers, scale):
        calls.append((tuple(numbers), scale))
        return [make_result(sides[k], score_tables[k][scale], scale) for k in numbers]

    return [result.scale for result in search_scales(examine, len(sides), SCALES)], calls


def test_small_doubtful_objects_are_enlarged_and_others_reduced():
    assert list_steps(make_result(SMALL_PX - 1, 0.5), SCALES) == [2.0]
    assert list_steps(make_result(SMALL_PX - 1, 0.95), SCALES) == []
    assert list_steps(make_result(SMALL_PX, 0.95), SCALES) == [0.5, 0.25]
    assert list_steps(make_result(9.0, 0.0, n=0), SCALES) == [0.5, 0.25]  # nothing found: it may be too large
    assert list_steps(make_result(SMALL_PX, 0.1), (1.0,)) == []


def test_each_image_gets_the_scale_of_its_highest_mean_score():
    tables = [
        {1.0: 0.5, 0.5: 0.6, 0.25: 0.7},  # ever surer downwards
        {1.0: 0.5, 0.5: 0.4, 0.25: 0.9},  # the first step down is its last
        {1.0: 0.5, 2.0: 0.8},
        {1.0: 0.5, 2.0: 0.5},  # no better: the image as it is
        {1.0: 0.95},
    ]
    scales, calls = search(tables, [100.0, 100.0, 10.0, 10.0, 10.0])
    assert scales == [0.25, 1.0, 2.0, 1.0, 1.0]
    assert calls == [((0, 1, 2, 3, 4), 1.0), ((0, 1), 0.5), ((0,), 0.25), ((2, 3), 2.0)]


def test_no_images_give_no_results():
    assert search([], []) == ([], [((), 1.0)])


def test_a_detector_gives_the_rows_of_the_best_scale(tmp_path, scenes):
    write_model(tmp_path / "many", SMALL, input={"scales": [0.5, 1.0]})
    detector = load_detector(tmp_path / "many")
    for image, result in zip(scenes[:3], detector.examine(scenes[:3])):
        (same,) = detector.examine([image], scale=result.scale)
        pd.testing.assert_frame_equal(result.detections, same.detections, atol=1e-4)
        (first,) = detector.examine([image], scale=1.0)
        scores = [detector.examine([image], scale=scale)[0].mean_score for scale in list_steps(first, [0.5])]
        assert result.mean_score == pytest.approx(max([first.mean_score, *scores]), abs=1e-5)


@pytest.mark.parametrize("scales", [[0.5], [], [1.0, 0.0], [1.0, 100.0]])
def test_a_card_with_absurd_scales_is_refused(tmp_path, scales):
    write_model(tmp_path / "m", SMALL, input={"scales": scales})
    with pytest.raises(models.ModelError, match=r"scales are .*: 1.0 has to be among them"):
        load_detector(tmp_path / "m")
