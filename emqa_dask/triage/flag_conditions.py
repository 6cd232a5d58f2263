"""What image flags compute, row by row, from image statistics (columns of tables.IMAGE_STATISTICS) and pixel sizes."""

import numpy as np
import pandas as pd

from emqa_dask.settings.flags import Flags

BLUR_DETAIL_CPP = (0.05, 0.06, 0.08)  # cycles/px at 512 px a side, for blur_fall_coarse, _medium and _fine
REFERENCE_SIDE_PX = 512  # the side that the limits of blur hold for


def compute_scaled_detail(features: pd.DataFrame) -> pd.Series:
    return features["detail_cpp"] * np.sqrt(features["short_side_px"] / REFERENCE_SIDE_PX)


def has_optical_fall(features: pd.DataFrame, limits: Flags) -> pd.Series:
    # Noise ends detail gently. The finer the detail, the likelier a steep end is the specimen's own, as of a lattice.
    falls = (limits.blur_fall_coarse, limits.blur_fall_medium, limits.blur_fall_fine)
    return features["spectrum_slope_last_octave"] > np.interp(compute_scaled_detail(features), BLUR_DETAIL_CPP, falls)


def compute_line_fraction(features: pd.DataFrame) -> pd.Series:
    return features[["line_horizontal", "line_vertical"]].min(axis=1)


def is_plot(features: pd.DataFrame, limits: Flags) -> pd.Series:
    return (features["mode_fraction"] > limits.plot_ground_fraction) & (compute_line_fraction(features) > 0)


def is_count_map(features: pd.DataFrame, limits: Flags) -> pd.Series:
    # Raw counts of a dose-starved micrograph look alike, but nobody scales those to the dtype's range.
    is_scaled = ~(features["top_level"] < limits.raw_count_level)
    is_coarse = (features["n_levels"] < limits.eds_map_levels) | has_colour(features, limits)
    is_scattered = features["occupancy_decorrelation"] > limits.eds_map_decorrelation
    return is_scaled & is_coarse & is_scattered & (features["empty_fraction"] > limits.eds_map_empty_fraction)


def has_colour(features: pd.DataFrame, limits: Flags) -> pd.Series:
    is_mapped = features["colour"].fillna("").str.startswith("colour map")
    return (features["colour_fraction"] > limits.eds_map_colour_fraction) | is_mapped


def is_no_drawing(features: pd.DataFrame, limits: Flags) -> pd.Series:
    return ~is_count_map(features, limits) & ~is_plot(features, limits)


def is_diffraction(features: pd.DataFrame, limits: Flags) -> pd.Series:
    is_detailed = features["block_mean_variance_fraction"] < limits.diffraction_block_fraction
    is_strongly_skewed = features["skewness"] > limits.diffraction_strong_skewness
    is_radial = features["radial_fraction"] > limits.diffraction_radial_fraction
    return is_radial & (features["skewness"] > limits.diffraction_skewness) & (is_detailed | is_strongly_skewed)


def is_mostly_motion(features: pd.DataFrame, limits: Flags) -> pd.Series:
    # Wires and rods that lie parallel make a spectrum as anisotropic as motion does, but of another form.
    fraction = (features["drift_contrast"] / features["anisotropy"].clip(lower=1e-6)) ** 2
    return fraction > limits.drift_fraction


def has_optical_directions(features: pd.DataFrame, limits: Flags) -> pd.Series:
    # A lattice has directions of its own, which motion explains not at all and an elliptical transfer badly.
    fraction = (features["astigmatism_contrast"] / features["anisotropy"].clip(lower=1e-6)) ** 2
    drift = features["drift_contrast"]
    exceeds_both_limits = (fraction > limits.astigmatism_fraction) & (drift > limits.astigmatism_drift_contrast)
    exceeds_strong_limit = (fraction > limits.astigmatism_strong_fraction) | (
        drift > limits.astigmatism_strong_drift_contrast
    )
    return exceeds_both_limits | exceeds_strong_limit


def is_unscaled(features: pd.DataFrame, limits: Flags) -> pd.Series:
    return (features["contrast"] > 0) & ~(features["top_level"] > limits.raw_count_level)


def compute_pixel_ratio(features: pd.DataFrame) -> pd.Series:
    """Longer side of a pixel over the shorter one; NaN where one of them is unknown."""
    ratio = features["nm_per_pixel_y"] / features["nm_per_pixel"]
    return ratio.where(ratio >= 1, 1 / ratio)
