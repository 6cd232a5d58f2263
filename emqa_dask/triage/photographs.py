"""Score of a grey picture that photographs have and micrographs lack: a logistic regression on image statistics."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

# Weights of featurise.foreign.SCENE_STATISTICS, fitted by benchmarks/fit_photographs.py:
# logistic regression of grey photographs against micrographs. No limit on one or two statistics separated them.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "block_mean_variance_fraction": 0.8845,
        "local_contrast_spread": -0.704,
        "tone_texture_correlation": -4.982,
        "axis_alignment": 2.148,
        "gradient_tail": 5.325,
        "gradient_median": 2.288,
        "flat_fraction": 0.5492,
        "scene_entropy_bits": 4.159,
        "scene_mode_fraction": -21.7,
        "fine_kurtosis": 0.01598,
        "coarse_kurtosis": -2.248,
        "octave_ratio": -5.892,
        "histogram_divergence": 3.835,
        "octave_skewness": -2.739,
        "flat_block_noise": -2.945,
        "coherence": 16.22,
        "coherent_axis_alignment": 4.283,
    }
)
INTERCEPT = -50.84  # of the same regression
MAX_LOGIT = 50.0  # beyond, the score is 0 or 1 to 20 digits, and exp() would overflow


def score_photographs(features: pd.DataFrame) -> pd.Series:
    """Score in [0, 1] per image, above 0.5 where a photograph is likelier; NaN where a statistic is unknown."""
    logit = sum(weight * features[name] for name, weight in WEIGHTS.items()) + INTERCEPT
    return 1 / (1 + np.exp(-logit.clip(-MAX_LOGIT, MAX_LOGIT)))
