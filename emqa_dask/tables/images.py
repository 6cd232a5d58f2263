"""Tables about the pixels of an image: statistics, Thon rings and flags.

Two terms occur in the descriptions. Grey range: the distance between the 0.5 and the 99.5 percentile of the grey
values. Copy of 256 px: the image, scaled so that its shorter side has 256 px.
"""

import pyarrow as pa

from emqa_dask.tables.schema import ID, Columns, define_schema

IMAGE_STATISTICS = {
    "short_side_px": "Smaller one of height and width, in px.",
    "nonfinite_fraction": "Fraction of the pixels that are NaN or infinite.",
    "colour_fraction": (
        "Fraction of the pixels whose red, green and blue values differ by more than 8 %. 0 for grey files."
    ),
    "contrast": (
        "Michelson contrast: the difference between the 99.5 and the 0.5 percentile of the grey values, divided "
        "by the sum of their magnitudes."
    ),
    "entropy_bits": "Entropy of the histogram of grey values (256 bins over the grey range), in bits.",
    "n_levels": "Number of different grey values between the 0.1 and the 99.9 percentile.",
    "top_level": (
        "99.9 percentile of the grey values, as a fraction of the largest value of the data type. NaN for "
        "floating-point pixels."
    ),
    "mode_fraction": "Fraction of the pixels in the three fullest neighbouring bins of the histogram (256 bins).",
    "saturated_fraction": "Fraction of the pixels within 1.2 % of the largest grey value.",
    "saturated_density_ratio": (
        "Density of grey values within 1.2 % of the largest one, divided by the density just below. Above 1 where "
        "the detector saturated."
    ),
    "floor_fraction": "Fraction of the pixels within 1.2 % of the smallest grey value.",
    "skewness": "Skewness of the grey values, which are first clipped to the grey range.",
    "noise_floor": "Standard deviation of the white noise, in grey ranges.",
    "detail_cpp": "Spatial frequency up to which the image contains detail above its noise, in cycles/px.",
    "spectrum_slope": "Exponent p of the power spectrum, power ~ q^-p, over the frequencies with detail.",
    "spectrum_slope_last_octave": (
        "The same exponent over the last octave of the detail. Large when the optics limit the resolution, small "
        "when noise does."
    ),
    "autocorrelation_excess": (
        "Largest autocorrelation at distances of 5 px and more, minus the value that noise alone gives. 0 for an "
        "image without structure."
    ),
    "anisotropy": (
        "Root mean square deviation of the logarithmic power spectrum from its mean at the same frequency, over "
        "the frequencies with detail."
    ),
    "drift_contrast": (
        "Part of the anisotropy of the logarithmic power spectrum (root mean square) that a straight motion of "
        "the specimen explains."
    ),
    "drift_px": "Length of this motion during the exposure, in px. NaN without motion.",
    "drift_angle_deg": "Direction of this motion in degrees from 0 to 180, measured from the x axis towards +y.",
    "astigmatism_contrast": (
        "Part of the anisotropy of the logarithmic power spectrum (root mean square) that an elliptical contrast "
        "transfer function explains."
    ),
    "first_zero_long_px": (
        "Period of the first zero of this contrast transfer function along the axis where it is longest, in px. "
        "NaN without astigmatism."
    ),
    "first_zero_short_px": "Period of its first zero along the perpendicular axis, in px. NaN without astigmatism.",
    "banner_rows": "Height of the information bar at the bottom of the image, in rows. 0 without a bar.",
    "scale_bar_contrast": (
        "Smallest grey step between a thin, uniform bar (the scale bar) and its surroundings, in grey ranges. 0 "
        "without a bar."
    ),
    "scale_bar_y0": "First row of the scale bar, in px. NaN without a bar.",
    "scale_bar_x0": "First column of the scale bar, in px. NaN without a bar.",
    "scale_bar_y1": "Row behind the last one of the scale bar, in px. NaN without a bar.",
    "scale_bar_x1": "Column behind the last one of the scale bar, in px. NaN without a bar.",
    "line_horizontal": "Largest fraction of the image width that straight edges in a single row cover.",
    "line_vertical": "Largest fraction of the image height that straight edges in a single column cover.",
    "stripe_rows": "Number of rows, per 1000 rows, at which the brightness jumps, as charging causes it.",
    "stripe_bands": "Number of bands, of eight equal horizontal ones, that contain such a row.",
    "inversion_symmetry": (
        "Largest normalised self-convolution of the logarithmic image near its centre. 1 for a pattern with "
        "inversion symmetry, such as a diffraction pattern (Friedel's law)."
    ),
    "centre_excess": (
        "Brightness of the disk around the centre of symmetry minus that of the outer part, relative to the "
        "brightest pixel; from 0 to 1."
    ),
    "radial_fraction": (
        "Fraction of the variance of the logarithmic image that the distance from the centre of symmetry explains."
    ),
    "block_mean_variance_fraction": (
        "Variance of the mean grey values of blocks of 16 x 16 px, divided by the variance of all pixels. "
        "Measured on a copy of 256 px."
    ),
    "local_contrast_spread": "Standard deviation, over these blocks, of the logarithm of a block's standard deviation.",
    "tone_texture_correlation": (
        "Correlation, over these blocks, between the mean grey value and the logarithm of the standard deviation."
    ),
    "axis_alignment": (
        "Fraction of the gradients of medium strength that point within 7.5 degrees of the image axes, times 6. 1 "
        "without a preferred direction."
    ),
    "gradient_tail": "Logarithm of the 98th percentile of the gradient magnitude divided by its median.",
    "gradient_median": "Logarithm of the median gradient magnitude, in grey ranges per 2 px of a copy of 256 px.",
    "flat_fraction": "Fraction of the pixels of that copy with a gradient below 3 % of the grey range.",
    "scene_entropy_bits": "Entropy of the histogram of that copy (64 bins), in bits.",
    "scene_mode_fraction": "Fraction of the pixels of that copy in the fullest bin of its histogram (64 bins).",
    "fine_kurtosis": "Logarithm of the kurtosis of the finest octave of that copy (band-pass filtered).",
    "coarse_kurtosis": "Logarithm of the kurtosis of the second octave of that copy.",
    "octave_ratio": "Logarithm of the standard deviation of the second octave divided by that of the third.",
    "histogram_divergence": (
        "Jensen-Shannon divergence of the histograms of tiles of 64 x 64 px of that copy, in nats. 0 when all "
        "tiles have the same grey values."
    ),
    "octave_skewness": "Magnitude of the skewness s of the second octave of that copy, as tanh(s / 2).",
    "flat_block_noise": "Logarithm of the noise in the 5 % of blocks with the least noise, in grey ranges.",
    "coherence": (
        "Mean coherence of the structure tensor over 5 px of that copy. 1 where gradients are parallel, 0 without "
        "a preferred direction."
    ),
    "coherent_axis_alignment": (
        "Mean of cos(4 angle) over its strong, coherent edges. 1 for edges along the image axes, -1 for diagonal ones."
    ),
    "photograph_probability": (
        "Probability that the picture is a photograph, by its grey thumbnail alone (network `picture-kinds`). NaN for "
        "fewer than 96 px and without contrast."
    ),
    "drawing_probability": "Probability, by the same network, that it is a plot, a diagram, a text or a screenshot.",
    "empty_fraction": "Fraction of the pixels at the smallest grey value or within 2 % of the range above it.",
    "occupancy_decorrelation": (
        "1 minus the correlation, over a distance of 4 px, of whether pixels are non-empty. Near 1 for sparse "
        "single counts, near 0 for solid objects."
    ),
    "impulses_per_mpx": "Number of single pixels that are far brighter than all eight neighbours, per megapixel.",
}

_TILE_ORDER = "of the tiles of the region map (table tiles), row by row. Null for an image without finite pixels."
_TILE_LISTS: Columns = {
    "tile_sharpness": (pa.list_(pa.float32()), f"Sharpness {_TILE_ORDER}"),
    "tile_noise": (pa.list_(pa.float32()), f"Noise {_TILE_ORDER}"),
}
TILE_COLUMNS = tuple(_TILE_LISTS)

THON_RINGS: Columns = {
    "defocus_nm": (
        pa.float64(),
        "Magnitude of the mean defocus in nm, from Thon rings. NaN when no rings were found or pixels are not square.",
    ),
    "defocus_long_nm": (
        pa.float64(),
        "Magnitude of the defocus in nm along the direction where it is largest. NaN without rings.",
    ),
    "defocus_short_nm": (
        pa.float64(),
        "Magnitude of the defocus in nm along the perpendicular direction, where it is smallest. NaN without rings.",
    ),
    "astigmatism_deg": (
        pa.float64(),
        "Direction of the largest defocus in degrees from 0 to 180, measured from the x axis towards +y. NaN without "
        "rings.",
    ),
    "information_limit_per_nm": (
        pa.float64(),
        "Information limit in 1/nm: the spatial frequency up to which the power spectrum follows the Thon rings.",
    ),
    "ring_quality": (
        pa.float64(),
        "Mean local correlation of the power spectrum with the Thon rings up to the information limit, from 0 to 1. "
        "NaN when no rings were searched for.",
    ),
}

# A row per micrograph: statistics of the image, a signature and landmarks for the search for near-duplicates.
FEATURES = define_schema(
    {
        **ID,
        **{name: (pa.float64(), text) for name, text in IMAGE_STATISTICS.items()},
        "disordered_fraction": (
            pa.float64(),
            "Fraction of the area without lattice order. NaN when it is unknown or featurise.order is off.",
        ),
        **THON_RINGS,
        "signature": (
            pa.binary(),
            "Signature that near-duplicates share: 16 x 16 mean grey values (int8) and 64 x 64 signs of the band-pass "
            "filtered centre (bits). Null when it is unknown.",
        ),
        "landmarks": (
            pa.binary(),
            "Up to 32 landmarks that shifted and rescaled copies share, 12 bytes each: 48 bits that describe the "
            "surroundings, brightness, scale and position. Null when they are unknown.",
        ),
        **_TILE_LISTS,
    }
)

# A row per micrograph, detector and tile of the region map, row by row.
TILES = define_schema(
    {
        **ID,
        "detector": (pa.string(), "Detector whose detections are counted: log, or the name in its model card."),
        "y_px": (pa.int32(), "First row of the tile, in px."),
        "x_px": (pa.int32(), "First column of the tile, in px."),
        "height_px": (pa.int32(), "Number of rows of the tile."),
        "width_px": (pa.int32(), "Number of columns of the tile."),
        "n_detections": (
            pa.int32(),
            "Number of detections at or above the score floor whose centre lies in the tile.",
        ),
        "density_per_um2": (
            pa.float32(),
            "This number divided by the area of the tile, per square micrometre, without a correction at the edges of "
            "the image. NaN when the pixel size is unknown.",
        ),
        "agreement": (
            pa.float32(),
            "Agreement with the other detectors in the tile, as detector_agreement in evidence: boxes are matched in "
            "the whole image, and F1 is computed from the boxes whose centre lies in the tile. 1 where no detector "
            "has one. NaN for a single detector.",
        ),
        "sharpness": (
            pa.float32(),
            "detail_cpp (table features) of the window in the middle of the tile, in cycles/px: up to 128 px, half of "
            "the tile's side. NaN for tiles below 32 px.",
        ),
        "noise": (pa.float32(), "noise_floor (table features) of the same window, in grey ranges of the whole image."),
    }
)

# A row per micrograph that shows the same frame as another one, the original of each group included.
DUPLICATE_GROUPS = define_schema(
    {
        "group": (pa.int64(), "Number of the group, from 0: its micrographs show the same frame."),
        **ID,
        "original_id": (
            pa.string(),
            "micrograph_id of the micrograph that this one repeats: the first by URI and frame that agrees with it, "
            "with files whose name says that they are a copy behind all others. Its own id in the row of the group's "
            "original, which repeats none.",
        ),
        "kind": (
            pa.string(),
            "identical (the same pixels), near (saved again with other grey values or compression), rescaled (the same "
            "field of view with other pixels), or shifted (an overlapping field of view, at any scale). Null for the "
            "original.",
        ),
        "agreement": (
            pa.float64(),
            "Agreement with the original: of kind near, correlation of the signs of fine detail; of kinds rescaled and "
            "shifted, share of the landmarks of the common field that agree. 1 for identical pixels.",
        ),
        "scale": (
            pa.float64(),
            "Length of an object in this micrograph, in px, divided by its length in the original, in px. 1 for kinds "
            "identical and near.",
        ),
        "shift_y_px": (
            pa.float64(),
            "Shift along y in px of this micrograph: y = scale * y_original + shift_y_px. 0 for kinds identical "
            "and near.",
        ),
        "shift_x_px": (
            pa.float64(),
            "Shift along x in px of this micrograph: x = scale * x_original + shift_x_px. 0 for kinds identical "
            "and near.",
        ),
    }
)

# A row per micrograph and custom check of the settings, without those whose function failed.
CUSTOM_CHECKS = define_schema(
    {
        **ID,
        "name": (pa.string(), "Name of the check: NAME of [flags.custom.NAME]."),
        "value": (pa.float64(), "Number that the function gave. NaN when it is unknown."),
    }
)

# A row per image and fault that was measured.
FLAGS = define_schema(
    {
        **ID,
        "flag": (pa.string(), "Code of the flag, e.g. blur, banner or duplicate."),
        "value": (pa.float64(), "Measured value, in the unit that the text gives."),
        "limit": (pa.float64(), "Limit that the value exceeds, or is below, in the same unit."),
        "text": (pa.string(), "The finding in plain English, with its numbers."),
    }
)
