"""How far the detections of an image are expected to be wrong about a result, from its predicted quality."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

INTERVAL_Z = 1.645  # half the width of a 90 % interval of a normal distribution, in standard deviations
UNKNOWN_DEVIATION = 12**-0.5  # of an F1 without prediction: that of a uniform distribution from 0 to 1
UNKNOWN_F1 = 0.5  # likewise its mean
MIN_QUALITY = 0.05  # predicted precision and recall are limited to this: a count is at most 20 times another one
MIN_DEVIATION = 0.01  # of an F1: no prediction is more certain
MIN_DOUBT = 0.05  # probability that a verdict is wrong: no prediction is more certain
FEW_DETECTIONS = 0.2  # of the mean number per image: an image with fewer may have objects that the detector misses


class Gain(NamedTuple):
    """Expected values and deviations of the images for a result, and how they are described.

    The detections of an image say little about it where there are few, or where no F1 could be predicted from them.
    """

    expected: NDArray[np.float64]  # (n,) contribution of each image to the result
    deviations: NDArray[np.float64]  # (n,) its expected standard deviation
    reasons: list[str]  # n
    is_uninformative: NDArray[np.bool_]  # (n,) whether the detections say little about it


def expect_f1(triage: pd.DataFrame) -> Gain:
    """F1 of the detections of each image, and half of the width of its predicted interval."""
    predicted = triage["predicted_f1"].to_numpy(float)
    deviations = _compute_f1_deviations(triage)
    reasons = [
        f"predicted F1 {value:.2f} +- {deviation:.2f}" if np.isfinite(value) else "no predicted F1"
        for value, deviation in zip(predicted, deviations)
    ]
    is_predicted = np.isfinite(predicted)
    return Gain(np.where(is_predicted, predicted, UNKNOWN_F1), deviations, reasons, ~is_predicted)


def expect_verdict(triage: pd.DataFrame) -> Gain:
    """Whether the F1 of each image reaches triage.trust_f1: its probability q, and the deviation sqrt(q (1 - q)).

    For the deviation, q is at least MIN_DOUBT and at most 1 - MIN_DOUBT.
    """
    probability = triage["f1_probability"].to_numpy(float)
    reasons = [f"trust has probability {q:.2f}" if np.isfinite(q) else "no predicted F1" for q in probability]
    is_predicted = np.isfinite(probability)
    expected = np.where(is_predicted, probability, UNKNOWN_F1)
    doubtful = np.clip(expected, MIN_DOUBT, 1 - MIN_DOUBT)
    return Gain(expected, np.sqrt(doubtful * (1 - doubtful)), reasons, ~is_predicted)


def expect_count(triage: pd.DataFrame) -> Gain:
    """Number of objects of each image, and its deviation after the factor that is common to all images.

    The expected number is n P / R for n detections of predicted precision P and recall R. It deviates from the common
    factor c times n because P / R of the image is another, because P and R are uncertain by u, the deviation of the F1,
    and because single objects are missed and invented at random. An image with fewer detections than the mean may have
    as many objects as that, if the detector does not see them: u counts for the mean number.
    """
    n_detections = triage["n_detections"].to_numpy(float, na_value=0.0)
    precision, recall = (_limit_quality(triage[f"predicted_{name}"]) for name in ("precision", "recall"))
    expected = n_detections * precision / recall
    total = n_detections.sum()
    factor = expected.sum() / total if total else 1.0
    mean = n_detections.mean() if len(n_detections) else 0.0
    uncertain = _compute_f1_deviations(triage) * np.maximum(n_detections, max(mean, 1.0))
    random_variance = np.maximum(expected * (1 - recall) + n_detections * (1 - precision), 0.25)
    deviations = np.sqrt((expected - factor * n_detections) ** 2 + uncertain**2 + random_variance)
    reasons = [
        f"{n:.0f} detections, {value:.0f} +- {deviation:.0f} objects expected"
        for n, value, deviation in zip(n_detections, expected, deviations)
    ]
    return Gain(expected, deviations, reasons, n_detections <= FEW_DETECTIONS * mean)


def _compute_f1_deviations(triage: pd.DataFrame) -> NDArray[np.float64]:
    widths = (triage["predicted_f1_high"] - triage["predicted_f1_low"]).to_numpy(float)
    return np.where(np.isfinite(widths), np.maximum(widths / (2 * INTERVAL_Z), MIN_DEVIATION), UNKNOWN_DEVIATION)


def _limit_quality(values: pd.Series) -> NDArray[np.float64]:
    return np.clip(np.where(values.notna(), values.to_numpy(float), UNKNOWN_F1), MIN_QUALITY, 1.0)


RESULTS: dict[str, Callable[[pd.DataFrame], Gain]] = {
    "f1": expect_f1,
    "density": expect_count,
    "triage": expect_verdict,
}
