"""FLAGS, the list of image flags: what is measured or stated, its limit, the sentence that reports it, the verdict."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from emqa_dask.settings.flags import Flags
from emqa_dask.triage.flag_conditions import (
    compute_line_fraction,
    compute_pixel_ratio,
    compute_scaled_detail,
    has_optical_directions,
    has_optical_fall,
    is_count_map,
    is_diffraction,
    is_mostly_motion,
    is_no_drawing,
    is_plot,
    is_unscaled,
)
from emqa_dask.triage.picture_evidence import compute_foreign_probability, is_doubtful, is_like_drawing

PIXEL_SIZE_COLUMNS = (
    "nm_per_pixel",
    "nm_per_pixel_y",
    "pixel_size_problem",
)  # of tables.MICROGRAPHS, beside statistics
ALL_PIXELS = 0.9999999  # a fraction of pixels that rounding errors of one 1e7th do not reach


class Flag(NamedTuple):
    """One fault of an image.

    The flag is raised where `statistic` passes the limit and `condition` holds. Two entries may have the same code: one
    of them is enough. `text` may name `value`, `limit`, `percent` and `limit_percent` (both times 100), `period_px` of
    the finest detail, every column of tables.IMAGE_STATISTICS, and those of PIXEL_SIZE_COLUMNS.
    """

    code: str  # also the name of its switch in [flags]
    verdict: str  # of an image with it, unless a rule of more importance holds; "note" changes no verdict
    meaning: str
    statistic: (
        str | Callable[[pd.DataFrame], pd.Series]
    )  # a column of tables.IMAGE_STATISTICS, or computed from columns
    limit: str | float  # a key of [flags]; or a number that follows from the definition of the flag
    is_above: bool  # the fault lies above the limit
    text: str
    condition: Callable[[pd.DataFrame, Flags], pd.Series] | None = None


# Flags of the same verdict come in the order of their importance, which is that of the reasons in triage.parquet.
FLAGS = (
    Flag(
        code="blank",
        verdict="junk",
        meaning="The image is (nearly) constant: there is nothing in it to detect.",
        statistic=lambda f: f["autocorrelation_excess"].where(f["contrast"] != 0, 0.0),
        limit="blank_correlation",
        is_above=False,
        text="blank: pixels 5 px and more apart correlate by {value:.4f} beyond noise (limit {limit:.4f})",
    ),
    Flag(
        code="no_finite_pixels",
        verdict="junk",
        meaning="Every pixel is NaN or infinite.",
        statistic="nonfinite_fraction",
        limit=ALL_PIXELS,
        is_above=True,
        text="no pixel is a finite number",
    ),
    Flag(
        code="too_small",
        verdict="junk",
        meaning="The image is too small to hold an object and its surroundings.",
        statistic="short_side_px",
        limit="too_small_px",
        is_above=False,
        text="too small: the shorter side has {value:.0f} px (limit {limit:.0f})",
    ),
    Flag(
        code="photograph",
        verdict="junk",
        meaning="The picture is a photograph, not a micrograph.",
        statistic=compute_foreign_probability,
        limit="photograph_probability",
        is_above=True,
        text="a photograph, by its content: probability {value:.3f} (limit {limit:.3f})",
        condition=lambda f, limits: ~is_like_drawing(f) & ~is_doubtful(f, limits) & is_no_drawing(f, limits),
    ),
    Flag(
        code="plot",
        verdict="junk",
        meaning="The picture is a plot, a chart or a screenshot.",
        statistic=compute_line_fraction,
        limit="plot_line_fraction",
        is_above=True,
        text="a plot: straight lines over {percent:.0f} % of both sides (limit {limit_percent:.0f} %) on an even "
        "ground",
        condition=is_plot,
    ),
    Flag(
        code="plot",
        verdict="junk",
        meaning="The picture is a plot, a chart or a screenshot.",
        statistic=compute_foreign_probability,
        limit="plot_probability",
        is_above=True,
        text="a plot, a chart or a screenshot, by its content: probability {value:.3f} (limit {limit:.3f})",
        condition=lambda f, limits: is_like_drawing(f) & ~is_doubtful(f, limits),
    ),
    Flag(
        code="diffraction",
        verdict="junk",
        meaning="The image is a diffraction pattern: distances in it are not nanometres.",
        statistic="inversion_symmetry",
        limit="diffraction_symmetry",
        is_above=True,
        text="a diffraction pattern: {percent:.0f} % symmetric about a point (limit {limit_percent:.0f} %), "
        "fading outwards",
        condition=is_diffraction,
    ),
    Flag(
        code="eds_map",
        verdict="junk",
        meaning="The image is an element map of X-ray counts.",
        statistic="empty_fraction",
        limit="eds_map_empty_fraction",
        is_above=True,
        text="an element map: {percent:.0f} % of the pixels are empty (limit {limit_percent:.0f} %), "
        "counts are scattered",
        condition=is_count_map,
    ),
    Flag(
        code="doubtful_picture",
        verdict="review",
        meaning="The picture may be a photograph or a drawing: too likely for trust, too unlikely for junk.",
        statistic=compute_foreign_probability,
        limit="doubtful_picture_probability",
        is_above=True,
        text="a photograph or a drawing with a probability of {value:.2f} by its content (limit {limit:.2f})",
        condition=is_doubtful,
    ),
    Flag(
        code="blur",
        verdict="review",
        meaning="The image is out of focus.",
        statistic=compute_scaled_detail,
        limit="blur_detail_cpp",
        is_above=False,
        text="blurred: no detail finer than {period_px:.0f} px, and the spectrum falls as steeply there as optics "
        "makes it, q^-{spectrum_slope_last_octave:.1f}; detail up to {value:.3f} cycles/px for 512 px a side "
        "(limit {limit:.3f})",
        condition=has_optical_fall,
    ),
    Flag(
        code="drift",
        verdict="review",
        meaning="The sample or stage moved during the exposure.",
        statistic="drift_contrast",
        limit="drift_contrast",
        is_above=True,
        text="drift: the spectrum fades as by a motion of {drift_px:.0f} px at {drift_angle_deg:.0f} degrees; "
        "contrast of that pattern {value:.2f} (limit {limit:.2f})",
        condition=is_mostly_motion,
    ),
    Flag(
        code="astigmatism",
        verdict="review",
        meaning="Focus differs with direction.",
        statistic="astigmatism_contrast",
        limit="astigmatism_contrast",
        is_above=True,
        text="astigmatic: contrast first vanishes at {first_zero_long_px:.0f} px on one axis and "
        "{first_zero_short_px:.0f} px on the other; contrast of that pattern {value:.2f} (limit {limit:.2f})",
        condition=has_optical_directions,
    ),
    Flag(
        code="saturation",
        verdict="review",
        meaning="Many pixels are at the end of the detector's range.",
        statistic="saturated_fraction",
        limit="saturation_fraction",
        is_above=True,
        text="saturated: {percent:.1f} % of the pixels are at the bright end (limit {limit_percent:.1f} %)",
        condition=lambda f, limits: f["saturated_density_ratio"] > limits.saturation_density_ratio,
    ),
    Flag(
        code="under_exposure",
        verdict="review",
        meaning="Few electrons or few grey levels: noise covers the contrast.",
        statistic="n_levels",
        limit="under_exposure_levels",
        is_above=False,
        text="under-exposed: only {value:.0f} grey levels (limit {limit:.0f})",
        condition=is_unscaled,
    ),
    Flag(
        code="charging",
        verdict="review",
        meaning="Bright or dark stripes from charging.",
        statistic="stripe_rows",
        limit="charging_rows",
        is_above=True,
        text="charging: brightness jumps along the scan at {value:.0f} in 1000 rows (limit {limit:.0f}), all over the "
        "image",
        condition=lambda f, limits: f["stripe_bands"] >= limits.charging_bands,
    ),
    Flag(
        code="x_rays",
        verdict="review",
        meaning="Isolated, very bright pixels from X-rays or cosmic rays.",
        statistic="impulses_per_mpx",
        limit="x_rays_per_mpx",
        is_above=True,
        text="x-ray hits: {value:.0f} lone bright pixels per megapixel (limit {limit:.0f})",
    ),
    Flag(
        code="nonfinite_pixels",
        verdict="review",
        meaning="Some pixels are NaN or infinite.",
        statistic="nonfinite_fraction",
        limit="nonfinite_pixels_fraction",
        is_above=True,
        text="{percent:.3g} % of the pixels are NaN or infinite",
        condition=lambda f, limits: f["nonfinite_fraction"] < 1,
    ),
    Flag(
        code="pixel_size_conflict",
        verdict="review",
        meaning="The metadata of the file contradict the pixel size, or the image was cropped or resized since.",
        statistic=lambda f: f["pixel_size_problem"].notna().astype(float),
        limit=0.0,
        is_above=True,
        text="the pixel size may be wrong: {pixel_size_problem}",
    ),
    Flag(
        code="non_square_pixels",
        verdict="review",
        meaning="Pixels are not square: detectors and quality models were fitted on images with square pixels.",
        statistic=compute_pixel_ratio,
        limit="non_square_ratio",
        is_above=True,
        text="pixels are not square: {nm_per_pixel:.4g} nm along x and {nm_per_pixel_y:.4g} nm along y, a ratio of "
        "{value:.3f} (limit {limit:.3f})",
    ),
    Flag(
        code="banner",
        verdict="note",
        meaning="A banner of text lies along an edge.",
        statistic="banner_rows",
        limit="banner_rows",
        is_above=True,
        text="an information bar covers the lowest {value:.0f} rows",
    ),
    Flag(
        code="scale_bar",
        verdict="note",
        meaning="A scale bar is drawn into the image.",
        statistic="scale_bar_contrast",
        limit="scale_bar_contrast",
        is_above=True,
        text="a scale bar is burned in at rows {scale_bar_y0:.0f}-{scale_bar_y1:.0f}, columns "
        "{scale_bar_x0:.0f}-{scale_bar_x1:.0f}; contrast {value:.2f} (limit {limit:.2f})",
    ),
)
