"""Settings of the image flags: a switch for every flag and its limits, in the units of the image statistics."""

from dataclasses import dataclass
from typing import ClassVar

from emqa_dask.number_ranges import Range
from emqa_dask.settings.custom_checks import CustomCheck
from emqa_dask.settings.rules import require

FRACTION = Range(0, 1)


@dataclass(frozen=True)
class Flags:
    """Faults that an image is flagged for.

    A key with the name of a flag switches it on or off. The other keys are its limits, set on synthetic faults and on
    real micrographs; benchmarks/bench_faults.py measures how many faults and how many good images they flag.
    """

    blank: bool = True
    blank_correlation: float = 0.002  # of pixels 5 px and more apart, beyond noise; below: nothing but noise
    no_finite_pixels: bool = True
    nonfinite_pixels: bool = True
    nonfinite_pixels_fraction: float = 0.0  # of the pixels; above: NaN or infinity is no measured intensity
    too_small: bool = True
    too_small_px: int = 48  # px, of the shorter side; below: no room for an object and its surroundings
    photograph: bool = True
    photograph_probability: float = 0.9  # by content, colour and header; above: a photograph
    plot: bool = True
    plot_line_fraction: float = 0.45  # of both sides; above: straight lines as long as axes and frames
    plot_ground_fraction: float = 0.5  # of the pixels; above: an even ground, as of paper
    plot_probability: float = 0.9  # by content, colour and header; above: a plot, a chart or a screenshot
    doubtful_picture: bool = True
    doubtful_picture_probability: float = 0.5  # of a photograph or a drawing; above: a person has to look
    diffraction: bool = True
    diffraction_symmetry: float = 0.62  # correlation with the image turned by 180 degrees; above: Friedel's law
    diffraction_radial_fraction: float = 0.5  # of the variance; above: intensity depends on the distance to the centre
    diffraction_skewness: float = 1.4  # of the grey values; above: few bright spots on a dark ground
    diffraction_block_fraction: float = 0.86  # of the variance, in blocks of 16 px; below: detail, no smooth gradient
    diffraction_strong_skewness: float = 2.2  # of the grey values; above: so few bright spots that tone does not count
    eds_map: bool = True
    eds_map_empty_fraction: float = 0.33  # of the pixels; above: counts are rare
    eds_map_decorrelation: float = 0.3  # 1 - correlation of counts 4 px apart; above: counts are scattered
    eds_map_levels: int = 90  # grey levels; below: counts, not intensities
    eds_map_colour_fraction: float = 0.03  # of the pixels; above: in colour, whatever the number of levels
    raw_count_level: float = 0.1  # brightest pixel / largest of its type; below: raw counts, not scaled to the type
    blur: bool = True
    blur_detail_cpp: float = 0.08  # cycles/px at 512 px a side, as optics limits detail per field of view; below: blur
    blur_fall_coarse: float = 4.2  # exponent of the spectrum for detail up to 0.05 cycles/px; above: optics, not noise
    blur_fall_medium: float = 5.0  # the same at 0.06 cycles/px
    blur_fall_fine: float = 7.0  # the same from 0.08 cycles/px, where lattices have steep ends of their own
    drift: bool = True
    drift_contrast: float = 0.45  # of the spectrum's logarithm, explained by a motion; above: more than grain has
    drift_fraction: float = 0.6  # of the spectrum's anisotropy, squared; above: motion, not parallel objects
    astigmatism: bool = True
    astigmatism_contrast: float = 0.34  # of the spectrum's logarithm, explained by an elliptical transfer function
    astigmatism_fraction: float = 0.17  # of the spectrum's anisotropy; above, with drift_contrast: not a lattice's own
    astigmatism_drift_contrast: float = 0.15  # goes with the fraction above, as a motion explains no lattice at all
    astigmatism_strong_fraction: float = 0.3  # of the spectrum's anisotropy; above: whatever a motion explains
    astigmatism_strong_drift_contrast: float = 0.3  # above: whatever fraction is explained
    saturation: bool = True
    saturation_fraction: float = 0.03  # of the pixels; above: more than bright objects have
    saturation_density_ratio: float = 2.5  # density of grey values at the end over that below it; above: cut off
    under_exposure: bool = True
    under_exposure_levels: float = 16.5  # grey levels; below: steps are as large as the contrast
    charging: bool = True
    charging_rows: float = 8.0  # per 1000 rows; above: more jumps of brightness than edges of objects give
    charging_bands: int = 4  # of eight; from this on the jumps are all over the image, not one object's
    x_rays: bool = True
    x_rays_per_mpx: float = 100.0  # lone bright pixels per megapixel; above: more than noise gives
    pixel_size_conflict: bool = True
    non_square_pixels: bool = True
    non_square_ratio: float = 1.02  # longer / shorter side of a pixel; above: more than rounding of the metadata gives
    banner: bool = True
    banner_rows: int = 1  # rows at the lower end; above: more than a border
    scale_bar: bool = True
    scale_bar_contrast: float = 0.3  # of the grey range; above: drawn, not imaged
    duplicate: bool = True
    near_duplicate: bool = True
    custom: tuple[CustomCheck, ...] = ()  # functions of yours with their limits: [flags.custom.NAME]

    RANGES: ClassVar = {
        "blank_correlation": FRACTION,
        "nonfinite_pixels_fraction": FRACTION,
        "too_small_px": Range(0, 1_000_000),
        "photograph_probability": FRACTION,
        "plot_line_fraction": FRACTION,
        "plot_ground_fraction": FRACTION,
        "plot_probability": FRACTION,
        "doubtful_picture_probability": FRACTION,
        "diffraction_symmetry": FRACTION,
        "diffraction_radial_fraction": FRACTION,
        "diffraction_skewness": Range(-1000, 1000),
        "diffraction_block_fraction": FRACTION,
        "diffraction_strong_skewness": Range(-1000, 1000),
        "eds_map_empty_fraction": FRACTION,
        "eds_map_decorrelation": Range(0, 2),
        "eds_map_levels": Range(0, 1_000_000_000),
        "eds_map_colour_fraction": FRACTION,
        "raw_count_level": FRACTION,
        "blur_detail_cpp": Range(0, 100),
        "blur_fall_coarse": Range(0, 100),
        "blur_fall_medium": Range(0, 100),
        "blur_fall_fine": Range(0, 100),
        "drift_contrast": Range(0, 100),
        "drift_fraction": FRACTION,
        "astigmatism_contrast": Range(0, 100),
        "astigmatism_fraction": FRACTION,
        "astigmatism_drift_contrast": Range(0, 100),
        "astigmatism_strong_fraction": FRACTION,
        "astigmatism_strong_drift_contrast": Range(0, 100),
        "saturation_fraction": FRACTION,
        "saturation_density_ratio": Range(0, 1_000_000),
        "under_exposure_levels": Range(0, 1_000_000_000),
        "charging_rows": Range(0, 1000),
        "charging_bands": Range(0, 8),
        "x_rays_per_mpx": Range(0, 1_000_000),
        "non_square_ratio": Range(1, 1000),
        "banner_rows": Range(0, 1_000_000),
        "scale_bar_contrast": FRACTION,
    }

    def check(self) -> None:
        """SettingsError for a custom check that cannot be."""
        for custom_check in self.custom:
            custom_check.check()
        names = [custom_check.name for custom_check in self.custom]
        require(len(set(names)) == len(names), "flags.custom", names, "has a name twice")
