"""Laws of the detection features: identities, invariances, hand-computed examples, and images without detections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.featurise.consistency import summarise_consistency
from emqa_dask.featurise.detections import detection_features
from emqa_dask.tables import DETECTION_FEATURES, SCORE_BINS

SHAPE = (200, 300)


def scene(n, seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 150, (n, 2))
    size = rng.uniform(2, 40, (n, 2))
    return np.hstack([corner, corner + size]), rng.uniform(0.1, 1, n)


scenes = st.builds(scene, st.integers(1, 60), st.integers(0, 10**6))


def test_two_boxes_by_hand():
    found = detection_features([[0, 0, 10, 20], [10, 10, 30, 30]], [0.95, 0.15], (100, 200))
    expected = {
        **dict.fromkeys(SCORE_BINS, 0.0),
        "score_fraction_0": 0.5,
        "score_fraction_8": 0.5,
        "n_detections": 2,
        "area_ratio": 600 / 20000,
        "image_confidence": (200 * 0.95 + 400 * 0.15) / 600,
        "mean_score": 0.55,
        "std_score": 0.4,
        "mean_size": 0.015,
        "std_size": 0.005,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    # an ellipse of 1:2 has a perimeter of 9.68845 (semi-axes 1 and 2), a square box holds a disk
    ellipse = 9.688448 / (2 * np.pi * np.sqrt(2))
    assert found["mean_circularity"] == pytest.approx((ellipse + 1) / 2, rel=1e-5)
    assert found["std_circularity"] == pytest.approx((ellipse - 1) / 2, rel=1e-4)


@given(scenes)
def test_identities(boxes_and_scores):
    boxes, scores = boxes_and_scores
    f = detection_features(boxes, scores, SHAPE)
    assert tuple(f) == DETECTION_FEATURES
    assert f["area_ratio"] == pytest.approx(f["n_detections"] * f["mean_size"])
    assert sum(f[name] for name in SCORE_BINS) == pytest.approx(1)
    assert scores.min() - 1e-12 <= f["image_confidence"] <= scores.max() + 1e-12
    assert f["mean_circularity"] >= 1 - 1e-12
    assert all(type(value) is float for value in f.values())


@given(scenes, st.randoms())
def test_the_order_of_detections_does_not_matter(boxes_and_scores, random):
    boxes, scores = boxes_and_scores
    order = random.sample(range(len(scores)), len(scores))
    a = detection_features(boxes, scores, SHAPE)
    b = detection_features(boxes[order], scores[order], SHAPE)
    assert a == pytest.approx(b)


@given(scenes, st.integers(2, 9))
def test_a_magnified_image_has_the_same_features(boxes_and_scores, factor):
    boxes, scores = boxes_and_scores
    a = detection_features(boxes, scores, SHAPE)
    b = detection_features(boxes * factor, scores, (SHAPE[0] * factor, SHAPE[1] * factor))
    assert a == pytest.approx(b)


@given(scenes)
def test_every_detection_twice_changes_only_count_and_area(boxes_and_scores):
    boxes, scores = boxes_and_scores
    a = detection_features(boxes, scores, SHAPE)
    b = detection_features(np.vstack([boxes, boxes]), np.tile(scores, 2), SHAPE)
    doubled = {name: value * (2 if name in ("n_detections", "area_ratio") else 1) for name, value in a.items()}
    assert b == pytest.approx(doubled, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_left_closed_on_the_decimal_edges(dtype):
    box = [[0, 0, 5, 5]]
    for k in range(9):
        edge = dtype((k + 1) / 10)
        assert detection_features(box, [edge], SHAPE)[f"score_fraction_{k}"] == 1
        below = np.array([np.nextafter(edge, dtype(0))])
        found = detection_features(box, below, SHAPE)
        assert found[f"score_fraction_{k}"] == 0
        assert k == 0 or found[f"score_fraction_{k - 1}"] == 1
    assert detection_features(box, [dtype(1)], SHAPE)["score_fraction_8"] == 1


def test_no_detections_are_known_zeros_and_unknown_means():
    f = detection_features([], [], SHAPE, masks=[])
    zero = {*SCORE_BINS, "n_detections", "area_ratio"}
    assert tuple(f) == DETECTION_FEATURES
    assert all(f[name] == 0 for name in zero)
    assert all(np.isnan(f[name]) for name in DETECTION_FEATURES if name not in zero)


def test_circularity_of_masks_is_that_of_their_convex_hulls():
    y, x = np.mgrid[:101, :101]
    disk = (y - 50) ** 2 + (x - 50) ** 2 <= 40**2
    horseshoe = disk & ~((np.abs(y - 50) < 5) & (x > 50))
    bar = np.ones((10, 40), bool)
    boxes = [[0, 0, 100, 100]] * 3
    scores = [0.5] * 3
    one = [detection_features(boxes[:1], [0.5], SHAPE, [m])["mean_circularity"] for m in (disk, horseshoe, bar)]
    assert one[0] == pytest.approx(1, abs=0.01)
    assert one[1] == pytest.approx(one[0], rel=1e-3)  # the hull closes the slit
    assert one[2] == pytest.approx(100 / (2 * np.sqrt(np.pi * 400)))
    all_three = detection_features(boxes, scores, SHAPE, [disk, horseshoe, bar])
    assert all_three["mean_circularity"] == pytest.approx(np.mean(one))
    assert all_three["std_circularity"] == pytest.approx(np.std(one))
    with_empty = detection_features(boxes[:2], scores[:2], SHAPE, [bar, np.zeros((4, 4), bool)])
    assert with_empty["mean_circularity"] == pytest.approx(one[2])


def test_boxes_without_area_leave_weighted_means_unknown():
    f = detection_features([[5, 5, 5, 5]], [0.5], SHAPE)
    assert np.isnan([f["image_confidence"], f["mean_circularity"]]).all()
    assert (f["n_detections"], f["area_ratio"], f["mean_score"]) == (1, 0, 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([[0, 0, 1, 1]], [0.5, 0.6], SHAPE), "scores"),
        (([[0, 0, 1, 1]], [1.5], SHAPE), "0, 1"),
        (([[0, 0, 1, 1]], [np.nan], SHAPE), "0, 1"),
        (([[0, 0, 1, 1]], [0.5], (0, 10)), "image_shape"),
        (([[0, 0, 1, 1]], [0.5], SHAPE, []), "0 masks for 1 boxes"),
    ],
)
def test_refuses_what_it_cannot_describe(arguments, says):
    with pytest.raises(ValueError, match=says):
        detection_features(*arguments)


def test_consistency_is_the_mean_over_detections():
    labels = np.array(["cavity", "loop", "cavity", "cavity"], object)
    summary = summarise_consistency(np.array([1.0, 0.5, 0.0, 0.5]), np.array([0.2, 0.4, 0.6, 0.8]), labels)
    assert summary == pytest.approx({"mean_stability": 0.5, "mean_class_margin": 0.5, "label_purity": 0.75})
    unmeasured = summarise_consistency(np.full(4, np.nan), np.full(4, np.nan), labels)
    assert np.isnan(unmeasured["mean_stability"])
    assert unmeasured["label_purity"] == 0.75
    assert all(np.isnan(list(summarise_consistency(np.zeros(0), np.zeros(0), labels[:0]).values())))
