"""Metrics of the evaluation on real images, against values calculated by hand."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import real_metrics
from emqa_dask.synthetic.coco import compute_run_lengths, encode_run_lengths

SQUARE = np.array([[0.0, 0, 10, 10]])


def make_boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def test_f1_of_an_image_at_three_overlaps():
    """IoU of the second pair is 50 / 150; the third detection is false."""
    true = make_boxes((0, 0, 10, 10), (20, 20, 30, 30))
    detected = make_boxes((0, 0, 10, 10), (20, 25, 30, 35), (50, 50, 60, 60))
    scores = real_metrics.compute_f1_by_iou(detected, true)
    assert scores == pytest.approx({"f1_iou_0.1": 0.8, "f1_iou_0.3": 0.8, "f1_iou_0.5": 0.4})


def test_curve_counts_detections_at_or_above_each_floor():
    true = make_boxes((0, 0, 10, 10), (20, 20, 30, 30))
    detected = make_boxes((0, 0, 10, 10), (50, 50, 60, 60))
    curve = real_metrics.compute_floor_curve(detected, np.array([0.6, 0.3]), true).set_index("score_floor")
    assert curve.loc[0.3, "f1_iou_0.5"] == pytest.approx(2 / 4)
    assert curve.loc[0.35, "f1_iou_0.5"] == pytest.approx(2 / 3)
    assert curve.loc[0.6, "f1_iou_0.5"] == pytest.approx(2 / 3)
    assert curve.loc[0.65, "f1_iou_0.5"] == 0


def test_curve_equals_matching_at_each_floor():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 100, (90, 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 30, (90, 2))])
    scores = rng.uniform(size=60)
    curve = real_metrics.compute_floor_curve(boxes[:60], scores, boxes[60:]).set_index("score_floor")
    for floor in (0.05, 0.4, 0.8):
        expected = real_metrics.compute_f1_by_iou(boxes[:60][scores >= floor], boxes[60:])
        assert curve.loc[floor].to_dict() == pytest.approx(expected)


def test_floor_of_a_fold_is_selected_on_other_folds():
    """Fold 0 alone would have 0.9. Each set counts the same, however many images it has."""
    rows = [("a", 0, 0.1, 0.0), ("a", 0, 0.9, 1.0), ("b", 1, 0.1, 0.8), ("b", 1, 0.9, 0.5)]
    rows += [("c", 2, 0.1, 0.6), ("c", 2, 0.9, 0.7), ("c", 2, 0.1, 0.6), ("c", 2, 0.9, 0.7)]
    curve = pd.DataFrame(rows, columns=["set", "fold", "score_floor", "f1_iou_0.5"])
    assert real_metrics.select_floors_by_fold(curve) == {0: 0.1, 1: 0.9, 2: 0.9}
    assert real_metrics.select_floors_by_fold(curve[curve["fold"] == 1]) == {}


@pytest.mark.parametrize(
    ("detected", "true", "kinds_of_detected", "kinds_of_true"),
    [
        ([(0, 0, 10, 10), (0, 1, 10, 11)], [(0, 0, 10, 10)], ["", "duplicate"], [""]),
        ([(0, 0, 10, 20)], [(0, 0, 10, 8), (0, 12, 10, 20)], ["merger"], ["merged", "merged"]),
        ([(0, 0, 10, 4), (0, 5, 10, 9)], [(0, 0, 10, 10)], ["fragment", "fragment"], ["split"]),
        ([(0, 6, 10, 16)], [(0, 0, 10, 10)], ["badly_placed_box"], ["badly_placed"]),
        ([(0, 9, 10, 19)], [(0, 0, 10, 10)], ["false"], ["missed"]),
        ([], [(0, 0, 10, 10)], [], ["missed"]),
        ([(0, 0, 10, 10)], [], ["false"], []),
    ],
)
def test_kinds_of_errors_of_an_image(detected, true, kinds_of_detected, kinds_of_true):
    kinds = real_metrics.classify_failures(make_boxes(*detected), make_boxes(*true))
    assert kinds.detected.tolist() == kinds_of_detected
    assert kinds.true.tolist() == kinds_of_true


def test_errors_are_counted_by_kind():
    detected = make_boxes((0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60))
    counts = real_metrics.count_failures(real_metrics.classify_failures(detected, np.vstack([SQUARE, SQUARE + 30])))
    assert {name: n for name, n in counts.items() if n} == {"missed": 1, "false": 1, "duplicate": 1}


def test_mask_precision_with_a_stronger_false_mask():
    """Precision is 1 / 2 up to the recall of 1 / 2: 51 of the 101 recalls of COCO."""
    shape = (40, 50)
    mask = np.ones((10, 10), bool)
    lengths = [encode_run_lengths(*compute_run_lengths([(y, x, mask)], shape))[0] for y, x in ((25, 30), (0, 0))]
    image = real_metrics.MaskedImage(shape, [(0, 0, mask), (15, 15, mask)], np.array([0.9, 0.8]), lengths)
    assert real_metrics.compute_set_mask_ap50([image]) == pytest.approx(0.5 * 51 / 101)


def test_errors_of_predicted_f1():
    rows = pd.DataFrame({"true_f1": [0.2, 0.6, 0.9, np.nan], "predicted_f1": [0.3, 0.5, 0.7, 0.5]})
    rows = rows.assign(predicted_f1_low=[0.1, 0.3, 0.6, 0.4], predicted_f1_high=[0.5, 0.7, 0.8, 0.6])
    result = real_metrics.evaluate_prediction(rows)
    assert result["n_predicted"] == 3
    assert result["mae"] == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert result["bias"] == pytest.approx((0.1 - 0.1 - 0.2) / 3)
    assert result["coverage"] == pytest.approx(2 / 3)
    assert result["mean_width"] == pytest.approx((0.4 + 0.4 + 0.2) / 3)
    assert result["median_width"] == pytest.approx(0.4)
    assert result["spearman"] == pytest.approx(1)


def test_precision_and_recall_of_trust():
    """Of 4 images that could have been trusted, one by the other detector only, 2 are; a third is trusted wrongly."""
    rows = pd.DataFrame(
        {
            "verdict": ["trust", "trust", "trust", "review", "junk", "out_of_domain"],
            "true_f1": [0.5, 0.9, 0.49, 0.2, 0.6, 0.1],
            "best_f1": [0.5, 0.9, 0.49, 0.7, 0.6, 0.1],
        }
    )
    result = real_metrics.evaluate_trust(rows)
    assert (result["n_possible"], result["n_trusted"], result["n_trusted_correctly"]) == (4, 3, 2)
    assert result["trust_precision"] == pytest.approx(2 / 3)
    assert result["trust_recall"] == pytest.approx(2 / 4)
    assert (result["n_junk"], result["n_out_of_domain"], result["n_review"]) == (1, 1, 1)
    assert np.isnan(real_metrics.evaluate_trust(rows[3:4])["trust_precision"])
    unlabelled = rows[:2].assign(true_f1=np.nan, best_f1=np.nan)
    assert real_metrics.evaluate_trust(unlabelled)["n_trusted"] == 2
    assert np.isnan(real_metrics.evaluate_trust(unlabelled)["trust_precision"])


def test_median_error_of_counts():
    result = real_metrics.evaluate_counts(pd.Series([5, 20, 36]), pd.Series([10, 20, 30]))
    assert result["median_count_error"] == pytest.approx(0.2)
    assert result["median_count_ratio"] == pytest.approx(1.0)
    assert result["count_spearman"] == pytest.approx(1.0)
