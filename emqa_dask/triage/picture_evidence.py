"""Probability that a picture is a photograph or a drawing, from its content, its colour and its header."""

import numpy as np
import pandas as pd

from emqa_dask.settings.flags import Flags

MIN_PROBABILITY = 1e-9  # of the content: beyond, log odds would be infinite
COLOUR_LOG_ODDS = 4.0  # for a picture in colour: none of 750 real micrographs was, and most photographs are
COLOUR_FRACTION = 0.05  # of the pixels; above: in colour, not a grey picture with a few marks
CONDITIONS_LOG_ODDS = -6.0  # for a header with a pixel size, a voltage or a magnification: a microscope wrote it


def compute_foreign_probability(features: pd.DataFrame) -> pd.Series:
    """Probability that a picture is a photograph or a drawing; NaN where the content is unknown.

    features: the columns of tables.IMAGE_STATISTICS, and `has_imaging_conditions`.
    """
    content = features["photograph_probability"] + features["drawing_probability"]
    bounded = content.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    shift = COLOUR_LOG_ODDS * (features["colour_fraction"] > COLOUR_FRACTION)
    shift = shift + CONDITIONS_LOG_ODDS * features["has_imaging_conditions"].astype(bool)
    return 1 / (1 + np.exp(-(np.log(bounded / (1 - bounded)) + shift)))


def is_like_drawing(features: pd.DataFrame) -> pd.Series:
    """Whether a drawing is likelier than a photograph."""
    return features["drawing_probability"] > features["photograph_probability"]


def is_doubtful(features: pd.DataFrame, limits: Flags) -> pd.Series:
    """Whether a picture is not junk: its probability is too low, or its header says that a microscope recorded it."""
    limit = np.where(is_like_drawing(features), limits.plot_probability, limits.photograph_probability)
    return (compute_foreign_probability(features) <= limit) | features["has_imaging_conditions"].astype(bool)
