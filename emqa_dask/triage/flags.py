"""What is wrong with an image, by rules on its statistics: each has a number, a limit and a sentence."""

from collections.abc import Callable, Mapping
from string import Formatter
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables

# Limits, in the statistics' own units (see tables.IMAGE_STATISTICS). Set on synthetic faults of seeds below 1000 and on
# real micrographs; benchmarks/bench_faults.py measures them on others.
DEFAULT: Mapping[str, float] = MappingProxyType(
    {
        "too_small": 48,  # px
        "blank": 0.002,  # autocorrelation
        "blur": 0.08,  # cycles/px for 512 px a side; optics limits detail relative to the field of view
        "drift": 0.45,
        "astigmatism": 0.34,
        "astigmatism_share": 0.17,
        "astigmatism_drift": 0.15,
        "astigmatism_strong_share": 0.3,
        "astigmatism_as_drift": 0.3,
        "saturation": 0.03,
        "saturation_pile": 2.5,
        "under_exposure": 16.5,  # grey levels
        "charging": 8.0,  # rows in 1000
        "charging_bands": 4,
        "x_rays": 100.0,  # per megapixel
        "banner": 1,  # rows
        "scale_bar": 0.3,
        "colour": 0.03,
        "photograph": 0.7,
        "plot": 0.45,
        "plot_ground": 0.5,
        "diffraction": 0.62,
        "diffraction_radial": 0.5,
        "diffraction_skewness": 1.4,
        "diffraction_tone_share": 0.86,
        "diffraction_strong_skewness": 2.2,
        "eds_map": 0.33,
        "eds_map_loneliness": 0.3,
        "eds_map_levels": 90,
    }
)

# The exponent that the fall of the spectrum has to pass for blur, by where detail ends (as in the limit of blur): noise
# ends detail gently, and the finer the detail, the likelier a steep end is the specimen's own, as of a lattice.
BLUR_DETAIL = (0.05, 0.06, 0.08)
BLUR_FALL = (4.2, 5.0, 7.0)

# Weights of featurise.foreign.SCENE_STATISTICS in a photographed scene, fitted by benchmarks/fit_photographs.py:
# logistic regression of grey photographs against micrographs. A rule on one or two marks could not do it.
PHOTOGRAPH: Mapping[str, float] = MappingProxyType(
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
        "intercept": -50.84,
    }
)


class Rule(NamedTuple):
    """`value` measures; `limit` names the entry of the limits it has to pass; `also` says what else has to hold."""

    flag: str
    value: Callable[[pd.DataFrame], pd.Series]
    limit: str
    is_above: bool
    text: str
    also: Callable[[pd.DataFrame, Mapping[str, float]], pd.Series] | None = None


def _detail(f: pd.DataFrame) -> pd.Series:
    return f["detail_cpp"] * np.sqrt(f["short_side_px"] / 512)


def _share(f: pd.DataFrame) -> pd.Series:
    return (f["astigmatism_contrast"] / f["anisotropy"].clip(lower=1e-6)) ** 2


def photograph_score(features: pd.DataFrame) -> pd.Series:
    """Probability-like score in [0, 1] that a grey image is a photograph; NaN where a mark is unknown."""
    total = sum(weight * features[name] for name, weight in PHOTOGRAPH.items() if name != "intercept")
    return 1 / (1 + np.exp(-(total + PHOTOGRAPH["intercept"]).clip(-50, 50)))


def _is_plot(f: pd.DataFrame, limits: Mapping[str, float]) -> pd.Series:
    return (f["mode_fraction"] > limits["plot_ground"]) & (f[["line_horizontal", "line_vertical"]].min(axis=1) > 0)


def _is_count_map(f: pd.DataFrame, limits: Mapping[str, float]) -> pd.Series:
    # Raw counts of a dose-starved micrograph look alike, but nobody scales those to the dtype's range.
    scaled = ~(f["top_level"] < 0.1)
    few = (f["n_levels"] < limits["eds_map_levels"]) | (f["colour_fraction"] > limits["colour"])
    lonely = f["occupancy_decorrelation"] > limits["eds_map_loneliness"]
    return scaled & few & lonely & (f["empty_fraction"] > limits["eds_map"])


RULES = (
    Rule(
        "too_small",
        lambda f: f["short_side_px"],
        "too_small",
        False,
        "too small: the shorter side has {value:.0f} px (limit {limit:.0f})",
    ),
    Rule(
        "no_finite_pixels",
        lambda f: f["nonfinite_fraction"],
        "no_finite_pixels",
        True,
        "no pixel is a finite number",
    ),
    Rule(
        "nonfinite_pixels",
        lambda f: f["nonfinite_fraction"],
        "nonfinite_pixels",
        True,
        "{percent:.3g} % of the pixels are NaN or infinite",
        lambda f, _: f["nonfinite_fraction"] < 1,
    ),
    Rule(
        "blank",
        lambda f: f["autocorrelation_excess"].where(f["contrast"] != 0, 0.0),
        "blank",
        False,
        "blank: pixels 5 px and more apart correlate by {value:.4f} beyond noise (limit {limit:.4f})",
    ),
    Rule(
        "photograph",
        lambda f: f["colour_fraction"],
        "colour",
        True,
        "a photograph: {percent:.0f} % of the pixels have colour (limit {limit_percent:.0f} %)",
        lambda f, limits: ~_is_count_map(f, limits) & ~(_is_plot(f, limits)),
    ),
    Rule(
        "photograph",
        photograph_score,
        "photograph",
        True,
        "a photograph, by the spread of its tones, edges and empty areas: score {value:.2f} (limit {limit:.2f})",
        lambda f, limits: ~(f["colour_fraction"] > limits["colour"]) & ~_is_plot(f, limits) & ~_is_count_map(f, limits),
    ),
    Rule(
        "plot",
        lambda f: f[["line_horizontal", "line_vertical"]].min(axis=1),
        "plot",
        True,
        "a plot: straight lines over {percent:.0f} % of both sides (limit {limit_percent:.0f} %) on an even ground",
        _is_plot,
    ),
    Rule(
        "diffraction",
        lambda f: f["inversion_symmetry"],
        "diffraction",
        True,
        "a diffraction pattern: {percent:.0f} % symmetric about a point (limit {limit_percent:.0f} %), fading outwards",
        lambda f, limits: (
            (f["radial_fraction"] > limits["diffraction_radial"])
            & (f["skewness"] > limits["diffraction_skewness"])
            & (
                (f["block_mean_variance_fraction"] < limits["diffraction_tone_share"])
                | (f["skewness"] > limits["diffraction_strong_skewness"])
            )
        ),
    ),
    Rule(
        "eds_map",
        lambda f: f["empty_fraction"],
        "eds_map",
        True,
        "an element map: {percent:.0f} % of the pixels are empty (limit {limit_percent:.0f} %), counts are scattered",
        _is_count_map,
    ),
    Rule(
        "blur",
        _detail,
        "blur",
        False,
        "blurred: no detail finer than {period:.0f} px, and the spectrum falls as steeply there as optics makes it, "
        "q^-{fall:.1f}; detail up to {value:.3f} cycles/px for 512 px a side (limit {limit:.3f})",
        lambda f, _: f["spectrum_slope_last_octave"] > np.interp(_detail(f), BLUR_DETAIL, BLUR_FALL),
    ),
    Rule(
        "drift",
        lambda f: f["drift_contrast"],
        "drift",
        True,
        "drift: the spectrum fades as by a motion of {drift_px:.0f} px at {drift_angle_deg:.0f} degrees; "
        "contrast of that pattern {value:.2f} (limit {limit:.2f})",
    ),
    Rule(
        "astigmatism",
        lambda f: f["astigmatism_contrast"],
        "astigmatism",
        True,
        "astigmatic: contrast first vanishes at {first_zero_long_px:.0f} px on one axis and "
        "{first_zero_short_px:.0f} px on the other; contrast of that pattern {value:.2f} (limit {limit:.2f})",
        lambda f, limits: (
            # A lattice has directions of its own, which motion explains not at all and an elliptical transfer badly.
            ((_share(f) > limits["astigmatism_share"]) & (f["drift_contrast"] > limits["astigmatism_drift"]))
            | (_share(f) > limits["astigmatism_strong_share"])
            | (f["drift_contrast"] > limits["astigmatism_as_drift"])
        ),
    ),
    Rule(
        "saturation",
        lambda f: f["saturated_fraction"],
        "saturation",
        True,
        "saturated: {percent:.1f} % of the pixels are at the bright end (limit {limit_percent:.1f} %)",
        lambda f, limits: f["saturated_density_ratio"] > limits["saturation_pile"],
    ),
    Rule(
        "under_exposure",
        lambda f: f["n_levels"],
        "under_exposure",
        False,
        "under-exposed: only {value:.0f} grey levels (limit {limit:.0f})",
        lambda f, _: (f["contrast"] > 0) & ~(f["top_level"] > 0.1),
    ),
    Rule(
        "charging",
        lambda f: f["stripe_rows"],
        "charging",
        True,
        "charging: brightness jumps along the scan at {value:.0f} in 1000 rows (limit {limit:.0f}), all over the image",
        lambda f, limits: f["stripe_bands"] >= limits["charging_bands"],
    ),
    Rule(
        "x_rays",
        lambda f: f["impulses_per_mpx"],
        "x_rays",
        True,
        "x-ray hits: {value:.0f} lone bright pixels per megapixel (limit {limit:.0f})",
    ),
    Rule(
        "banner",
        lambda f: f["banner_rows"],
        "banner",
        True,
        "an information bar covers the lowest {value:.0f} rows",
    ),
    Rule(
        "scale_bar",
        lambda f: f["scale_bar_contrast"],
        "scale_bar",
        True,
        "a scale bar is burned in at rows {scale_bar_y0:.0f}-{scale_bar_y1:.0f}, columns "
        "{scale_bar_x0:.0f}-{scale_bar_x1:.0f}; contrast {value:.2f} (limit {limit:.2f})",
    ),
)
_FIXED = {"no_finite_pixels": 0.9999999, "nonfinite_pixels": 0.0}


def flag_images(features: pd.DataFrame, limits: Mapping[str, float] = DEFAULT) -> pd.DataFrame:
    """Rows of `tables.FLAGS` for the images whose statistics pass a rule's limit; several flags an image are usual.

    features: micrograph_id and the columns of `tables.IMAGE_STATISTICS`. An unknown (NaN) statistic passes no limit.
    Rows come in the order of the images, then of RULES. No rows give an empty table. Raises KeyError for a missing
    column or limit.
    """
    limits = {**limits, **_FIXED}
    found = []
    with np.errstate(invalid="ignore", over="ignore"):
        for order, rule in enumerate(RULES):
            value = rule.value(features)
            limit = float(limits[rule.limit])
            hit = value > limit if rule.is_above else value < limit
            if rule.also is not None:
                hit &= rule.also(features, limits)
            for k in np.flatnonzero(hit.to_numpy(bool)):
                found.append((k, order, rule, float(value.iloc[k]), limit))
    found.sort(key=lambda f: f[:2])
    rows = [
        {
            "micrograph_id": features["micrograph_id"].iloc[k],
            "flag": rule.flag,
            "value": value,
            "limit": limit,
            "text": _sentence(rule, features, k, value, limit),
        }
        for k, _, rule, value, limit in found
    ]
    return tables.conform(rows, tables.FLAGS).to_pandas()


def _sentence(rule: Rule, features: pd.DataFrame, k: int, value: float, limit: float) -> str:
    named = {name for _, name, _, _ in Formatter().parse(rule.text)}
    # Only what the sentence names: a row of sixty columns takes ten times as long to get.
    numbers = {name: features[name].iloc[k] for name in sorted(named & tables.IMAGE_STATISTICS.keys())}
    if "period" in named:
        numbers |= {
            "period": 1 / max(features["detail_cpp"].iloc[k], 1e-6),
            "fall": features["spectrum_slope_last_octave"].iloc[k],
        }
    return rule.text.format(value=value, limit=limit, percent=100 * value, limit_percent=100 * limit, **numbers)
