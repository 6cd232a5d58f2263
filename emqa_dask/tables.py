"""Every table that rooms exchange: columns, dtypes, units and meaning, as pyarrow schemas; empty() and conform()."""

import pandas as pd
import pyarrow as pa

STATUSES = ("ok", "failed", "skipped", "removed")  # of a row of triage; a row of the catalog is never "removed"
VERDICTS = ("trust", "review", "out_of_domain", "junk", "unknown")


def _schema(columns: dict[str, tuple[pa.DataType, str]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"meaning": text}) for name, (kind, text) in columns.items()])


_ID = {"micrograph_id": (pa.string(), "first 32 hex digits of SHA-256(file's SHA-256, archive-relative URI, frame)")}
_MICROSCOPE = {
    "nm_per_pixel": (pa.float64(), "pixel size, nm; NaN when unknown"),
    "nm_per_pixel_source": (pa.string(), "header, sidecar, user or none"),
    "voltage_kv": (pa.float64(), "acceleration voltage, kV; NaN when unknown"),
    "magnification": (pa.float64(), "indicated magnification; NaN when unknown"),
    "instrument": (pa.string(), "microscope name as the file gives it; null when unknown"),
    "acquired": (pa.string(), "acquisition date and time, ISO 8601 as far as known; null when unknown"),
    "dose_e_per_nm2": (pa.float64(), "electron dose, electrons per square nanometre; NaN when unknown"),
    "exposure_s": (pa.float64(), "exposure or frame time, s; NaN when unknown"),
}

# A row per input file, whatever happened to it.
CATALOG = _schema(
    {
        "uri": (pa.string(), "archive-relative path with forward slashes; the file's identity with its content hash"),
        "content_sha256": (
            pa.string(),
            "SHA-256 of the file's bytes; null when it was not read (no permission, over the limit)",
        ),
        "size_bytes": (pa.int64(), "size of the file"),
        "modified_ns": (pa.int64(), "modification time, ns since the epoch; 0 when the source has none"),
        "format": (pa.string(), "what the content is, e.g. TIFF, MRC, DM3, PNG; null when not recognised"),
        "kind": (pa.string(), "micrograph, stack, spectrum, diffraction, signal, metadata, text, archive, unknown"),
        "status": (pa.string(), "ok, failed (should be a micrograph, could not be read) or skipped (is none)"),
        "reason": (
            pa.string(),
            "why a file failed or was skipped, or what to know of an ok one (wrong suffix, lost frames); else empty",
        ),
        "error": (pa.string(), "the exception's type and text; null when there was none"),
        "n_frames": (pa.int32(), "micrographs that the file gave"),
        "is_present": (pa.bool_(), "false where the last listing of the archive did not have the file any more"),
    }
)

# A row per micrograph: identity, size, microscope and place in the store.
MICROGRAPHS = _schema(
    {
        **_ID,
        "uri": (pa.string(), "archive-relative path of the file"),
        "frame": (pa.int32(), "position in the file, 0 for the only one"),
        "content_sha256": (pa.string(), "SHA-256 of the file's bytes"),
        "pixel_sha256": (pa.string(), "SHA-256 of the pixels' bytes (C order, little endian)"),
        "height_px": (pa.int64(), "rows"),
        "width_px": (pa.int64(), "columns"),
        "dtype": (pa.string(), "numpy name of the pixels' dtype as acquired"),
        "colour_fraction": (pa.float64(), "fraction of pixels whose RGB channels differ by over 8 %; 0 for grey files"),
        "damage": (pa.string(), "what the decoder says of damaged or absent pixels; null where all are whole"),
        **_MICROSCOPE,
        "header": (pa.string(), "JSON: the file's metadata, foreign names, numbers and short strings only"),
        "stack": (pa.string(), "name of the OME-Zarr stack"),
        "index": (pa.int64(), "position along the stack's n axis"),
        "partition": (pa.string(), "name of the partition (= shard = task = part) that holds it"),
        "path": (pa.string(), "where the file lay when it was surveyed, as scan.escape() writes it"),
    }
)

# A row per detection: position, size, score and mask.
DETECTIONS = _schema(
    {
        **_ID,
        "y_px": (pa.float64(), "centre, row, px; pixel centres are integers"),
        "x_px": (pa.float64(), "centre, column, px"),
        "y0": (pa.float64(), "box, half-open, px"),
        "x0": (pa.float64(), "box, half-open, px"),
        "y1": (pa.float64(), "box, half-open, px"),
        "x1": (pa.float64(), "box, half-open, px"),
        "sigma_px": (pa.float64(), "scale of the Laplacian-of-Gaussian maximum, px; NaN for other detectors"),
        "area_px": (pa.float64(), "area of the object, square px"),
        "response": (pa.float64(), "scale-normalised LoG response on the normalised image; NaN for other detectors"),
        "score": (pa.float64(), "in [0, 1]; its meaning is the detector's (LoG: see detect.log.score)"),
        "polarity": (pa.int8(), "+1 brighter than its surroundings, -1 darker, 0 not said"),
        "label": (pa.string(), "class name"),
        "detector": (pa.string(), "log, or the name on the model's card"),
        "mask_rle": (
            pa.string(),
            "mask in the whole image: counts of COCO's compressed run-length encoding, ascii; null without mask",
        ),
        "circularity": (
            pa.float64(),
            "Heywood: perimeter over that of the disk of equal area, of the mask's convex hull, >= 1; NaN without mask",
        ),
        "diameter_px": (
            pa.float64(),
            "LoG: 2 sqrt(2) sigma; mask: 2 sqrt(d_min d_max), d the distances of the hull's corners to their mean; px",
        ),
        "diameter_nm": (pa.float64(), "diameter_px in nm; NaN when the pixel size is unknown"),
    }
)

SCORE_BINS = tuple(f"score_fraction_{b}" for b in range(9))
DETECTION_FEATURES = (
    *SCORE_BINS,
    "n_detections",
    "area_ratio",
    "image_confidence",
    "mean_score",
    "std_score",
    "mean_size",
    "std_size",
    "mean_circularity",
    "std_circularity",
)

IMAGE_STATISTICS = {
    "short_side_px": "the smaller of height and width",
    "nonfinite_fraction": "fraction of pixels that are NaN or infinite",
    "colour_fraction": "fraction of pixels whose RGB channels differ by over 8 %; 0 for grey files",
    "contrast": "grey range (0.5 to 99.5 percentile) over the sum of its ends' magnitudes, Michelson",
    "entropy_bits": "entropy of a histogram of 256 bins over the grey range, bits",
    "n_levels": "distinct grey levels between the 0.1 and 99.9 percentile",
    "top_level": "99.9 percentile as a fraction of the dtype's largest value; NaN for floats",
    "mode_fraction": "pixels in the three fullest neighbouring bins of 256",
    "saturated_fraction": "pixels within 1.2 % of the largest value",
    "saturated_pile": "density of pixels there over the density just below it: above 1 where values pile up",
    "floor_fraction": "pixels within 1.2 % of the smallest value",
    "skewness": "skewness of the grey values, clipped to the grey range",
    "noise_floor": "standard deviation of the white noise, in grey ranges",
    "detail_cpp": "spatial frequency up to which there is detail above the noise, cycles/px",
    "spectrum_slope": "exponent p of the power spectrum q^-p over the detail",
    "spectrum_fall": "the same exponent over the last octave of the detail: large where optics end it, not noise",
    "structure": "largest autocorrelation 5 px or more away, less what noise gives: 0 for a blank image",
    "anisotropy": "rms of the log-power's departure from its rings' means, over the detail",
    "drift_contrast": "rms of the log-power's anisotropy that straight motion explains",
    "drift_px": "length of that motion, px; NaN without",
    "drift_angle_deg": "direction of that motion from the x axis towards +y, degrees in 0...180",
    "astigmatism_contrast": "rms of the log-power's anisotropy that an elliptical contrast transfer explains",
    "zero_long_px": "its first zero on the one axis, as a period in px; NaN without",
    "zero_short_px": "its first zero on the other axis, as a period in px; NaN without",
    "banner_rows": "rows of an information bar along the bottom, 0 without",
    "scale_bar_contrast": "least step between a flat, thin bar and its surroundings, in grey ranges; 0 without",
    "scale_bar_y0": "box of the bar, half-open, px; NaN without",
    "scale_bar_x0": "box of the bar, half-open, px; NaN without",
    "scale_bar_y1": "box of the bar, half-open, px; NaN without",
    "scale_bar_x1": "box of the bar, half-open, px; NaN without",
    "line_horizontal": "share of the width that the straight edges of one row cover",
    "line_vertical": "share of the height that the straight edges of one column cover",
    "stripe_rows": "rows at which the image jumps along the scan, per 1000 rows",
    "stripe_bands": "eighths of the height with such a row",
    "inversion_symmetry": "largest normalised self-convolution of the log image near its middle, 1 = symmetric",
    "centre_excess": "brightness of the symmetry centre over the outer part, 0...1",
    "radial_fraction": "fraction of the log image's variance that the distance from that centre explains",
    "tone_share": "variance of the means of 16 x 16 px blocks (of a 256 px copy) over the whole variance",
    "unevenness": "standard deviation of the log of these blocks' standard deviations",
    "busy_with_tone": "correlation of these blocks' means with the log of their standard deviations",
    "upright": "share of middling gradients within 7.5 degrees of the axes, times 6: 1 = no preference",
    "gradient_tail": "log of the 98 percentile of the gradient over its median",
    "gradient_median": "log of the median gradient, in grey ranges per 2 px of a 256 px copy",
    "flat_share": "share of that copy's pixels with a gradient below 3 % of the grey range",
    "scene_entropy_bits": "entropy of its 64-bin histogram, bits",
    "scene_peak": "fullest of these 64 bins",
    "fine_tail": "log kurtosis of its finest octave",
    "coarse_tail": "log kurtosis of its second octave",
    "octave_ratio": "log of its second octave's standard deviation over the third's",
    "tone_variety": "divergence of the histograms of its 64 x 64 px tiles, nats: 0 where all parts have the same tones",
    "octave_skew": "skewness of its second octave, without sign, as tanh of its half",
    "quiet_noise": "log of the noise in the quietest 5 % of the image's blocks, in grey ranges",
    "coherence": "mean coherence of its gradients over 5 px: 1 where they are parallel, 0 without direction",
    "coherence_upright": "cos(4 angle) of its strong, coherent edges: 1 along the axes, -1 along the diagonals",
    "empty_fraction": "pixels at the smallest value or within 2 % of the range above it",
    "loneliness": "1 - correlation of being occupied with pixels 4 px away: near 1 for sparse counts",
    "impulses_per_mpx": "single pixels far above all eight neighbours, per megapixel",
}

# A row per micrograph and detector: what its detections say.
EVIDENCE = _schema(
    {
        **_ID,
        "detector": (pa.string(), "log, or the name on the model's card; with the id the row's key"),
        "score_floor": (pa.float64(), "detections below this score were left out"),
        "is_capped": (pa.bool_(), "the detector stopped at its largest number of detections"),
        **{name: (pa.float64(), "see featurise.detections") for name in DETECTION_FEATURES},
        "agreement": (
            pa.float64(),
            "F1 of its boxes against the other detectors' (mean), see featurise.agreement; NaN for one alone",
        ),
    }
)

RINGS = {
    "defocus_nm": (
        pa.float64(),
        "magnitude of the mean defocus, from Thon rings; NaN without rings, see featurise.rings",
    ),
    "defocus_long_nm": (pa.float64(), "its magnitude in the direction where it is largest; NaN without rings"),
    "defocus_short_nm": (pa.float64(), "its magnitude where it is smallest; NaN without rings"),
    "astigmatism_deg": (pa.float64(), "direction of the largest, from the x axis towards +y, degrees in 0...180"),
    "information_limit_per_nm": (pa.float64(), "spatial frequency up to which the spectrum follows the rings, 1/nm"),
    "ring_quality": (pa.float64(), "0 to 1: how well it follows them up to there; NaN where none were looked for"),
}

# A row per micrograph: the image's statistics, and a signature for the search for near-duplicates.
FEATURES = _schema(
    {
        **_ID,
        **{name: (pa.float64(), text) for name, text in IMAGE_STATISTICS.items()},
        "disordered_fraction": (
            pa.float64(),
            "share of the area without lattice order, see tune.order; NaN when unknown or featurise.order is off",
        ),
        **RINGS,
        "signature": (pa.binary(), "256 int8 tones and 4096 bits of grain, see featurise.signature; null when unknown"),
    }
)

# A row per image and fault that was measured.
FLAGS = _schema(
    {
        **_ID,
        "flag": (pa.string(), "reason code, e.g. blur, banner, duplicate"),
        "value": (pa.float64(), "the number that was measured"),
        "limit": (pa.float64(), "the limit it passed"),
        "text": (pa.string(), "the finding in plain English, with the numbers"),
    }
)

# A row per micrograph and detector: predicted F1, precision and recall with their intervals.
PREDICTIONS = _schema(
    {
        **_ID,
        "detector": (pa.string(), "whose detections were judged: log or the card's name; with the id the row's key"),
        "predicted_f1": (pa.float64(), "model's mean, at the IoU and matching rule of its card; NaN without evidence"),
        "predicted_f1_low": (pa.float64(), "lower end of the model's conformal interval; its card says the coverage"),
        "predicted_f1_high": (pa.float64(), "upper end of the model's conformal interval"),
        "predicted_precision": (pa.float64(), "as predicted_f1; NaN where the model predicts F1 only"),
        "predicted_precision_low": (pa.float64(), "lower end of its interval"),
        "predicted_precision_high": (pa.float64(), "upper end of its interval"),
        "predicted_recall": (pa.float64(), "as predicted_f1; NaN where the model predicts F1 only"),
        "predicted_recall_low": (pa.float64(), "lower end of its interval"),
        "predicted_recall_high": (pa.float64(), "upper end of its interval"),
        "ood_distance": (
            pa.float64(),
            "distance to the model's training images, 1 = its 99th percentile; to their conditions where larger",
        ),
        "evidence": (
            pa.string(),
            "detections, no_detections, none (the image could not be judged) or no_model (none is for the detector)",
        ),
        "because": (pa.list_(pa.string()), "what moved predicted_f1 most, in words (SHAP); empty without evidence"),
    }
)

# A row per micrograph and member: what every member said is kept, so that entropy, mutual information and whatever is
# asked later come from the table. The classes are in one list, in the card's order: 30 classes of 16 members would be
# 480 rows a micrograph, and lists differ in length between classifiers.
PROBABILITIES = _schema(
    {
        **_ID,
        "classifier": (pa.string(), "the card's name"),
        "member": (pa.int16(), "place of a network on the card, or number of a pass of MC dropout, from 0"),
        "probabilities": (pa.list_(pa.float32()), "softmax, in the order of the card's classes; mean over windows"),
        "embedding": (pa.list_(pa.float32()), "what the last layer sees, mean over windows; null where not kept"),
    }
)

# A row per micrograph: what an ensemble says of each of its windows, as maps, and what there is in them.
REGIONS = _schema(
    {
        **_ID,
        "classifier": (pa.string(), "the card's name"),
        "y0": (pa.list_(pa.float32()), "first rows of the windows' rows, px"),
        "x0": (pa.list_(pa.float32()), "first columns of the windows' columns, px"),
        "height_px": (pa.float64(), "of a window, in the image"),
        "width_px": (pa.float64(), "of a window, in the image"),
        "predictive_entropy_nats": (pa.list_(pa.float32()), "of each window, row after row"),
        "mutual_information_nats": (pa.list_(pa.float32()), "of each window, row after row"),
        "predicted_class": (pa.list_(pa.int16()), "of each window: place in the card's classes"),
        "content": (pa.list_(pa.float32()), "embedding of what is in the windows, mean; see classify.content"),
        "foreign_log_odds": (pa.float64(), "that the windows show no micrograph, mean; see classify.content"),
    }
)

SHIFTS = ("none", "acquisition", "new_class", "unrelated")
SHIFT_SCORES = ("entropy", "mahalanobis", "nearest", "content", "statistics", "spectrum")
# A row per micrograph: what follows from its probabilities, embedding and statistics.
CLASSIFICATIONS = _schema(
    {
        **_ID,
        "classifier": (pa.string(), "the card's name"),
        "n_members": (pa.int16(), "members that were heard; 0 where the image could not be looked at"),
        "refusal": (pa.string(), "why the classifier could not look at the image; null where it could"),
        "predicted_class": (pa.string(), "most probable class; null without one"),
        "class_probability": (pa.float64(), "its mean probability over the members, at the card's temperature"),
        "predictive_entropy_nats": (pa.float64(), "of the members' mean, 0 to ln classes; see predict.entropy"),
        "mutual_information_nats": (pa.float64(), "of it what the members disagree about"),
        "variation_ratio": (pa.float64(), "share of members that name another class than most do"),
        "largest_region_entropy_nats": (pa.float64(), "predictive entropy of the least certain window"),
        **{
            f"{name}_score": (
                pa.float64(),
                "0: median of in-domain images, 1: their 95th percentile; see predict.shift",
            )
            for name in SHIFT_SCORES
        },
        "imaging_distance": (pa.float64(), "phase shift to the nearest training condition, 1 = limit; NaN unknown"),
        "shift_score": (pa.float64(), "all scores as one, 1 = the limit above which an image is out of domain"),
        "shift": (pa.string(), "none, acquisition, new_class or unrelated; null where unknown"),
        "shift_probability": (pa.float64(), "of that kind of shift among the kinds; NaN for none"),
        "because": (pa.list_(pa.string()), "the evidence in words; empty for none"),
    }
)

# A row per cohort and quantity: whether a session as a whole has drifted from the images it is held against.
DRIFTS = _schema(
    {
        "cohort": (pa.string(), "folder, instrument, magnification"),
        "quantity": (pa.string(), "column of classifications or features"),
        "reference": (pa.string(), "held_out: the classifier's in-domain images; others: the archive's other cohorts"),
        "first_acquired": (pa.string(), "earliest acquisition of the cohort, ISO 8601; null when unknown"),
        "last_acquired": (pa.string(), "latest one"),
        "n": (pa.int64(), "images of the cohort"),
        "n_reference": (pa.int64(), "images it is held against"),
        "median": (pa.float64(), "of the cohort"),
        "reference_median": (pa.float64(), "of the reference"),
        "statistic": (pa.float64(), "two-sample Kolmogorov-Smirnov"),
        "p_value": (pa.float64(), "of that statistic"),
        "p_corrected": (pa.float64(), "after Benjamini and Hochberg over all rows"),
        "effect": (pa.float64(), "Cliff's delta, -1 to 1: positive where the cohort's values are larger"),
        "is_drifted": (pa.bool_(), "p_corrected below the limit and the effect large enough to matter"),
    }
)

# A row per cohort of an archive that a classifier has looked at.
SESSIONS = _schema(
    {
        "cohort": (pa.string(), "folder, instrument, magnification"),
        "n_looked_at": (pa.int64(), "its micrographs that these figures rest on: an even sample of a large cohort"),
        "first_acquired": (pa.string(), "earliest acquisition of these, ISO 8601; null when unknown"),
        "last_acquired": (pa.string(), "latest one"),
        "out_of_domain_fraction": (pa.float64(), "share with a shift_score above 1"),
        **{f"{kind}_fraction": (pa.float64(), f"share with shift {kind}") for kind in SHIFTS[1:]},
        "shift": (pa.string(), "kind of shift of the cohort as a whole, see predict.shift.of_cohort; null: not judged"),
        "defocus_nm": (pa.float64(), "median of those with rings; NaN without"),
        "with_rings_fraction": (pa.float64(), "share of those whose defocus is known"),
        "imaging_distance": (pa.float64(), "median; see classifications"),
        "drifted": (pa.list_(pa.string()), "quantities that drifted, see drifts; the largest effect first"),
        "entropy_shape": (pa.list_(pa.float64()), "see predict.entropy.entropy_shape: 10 shares, then ENTROPY_SHAPE"),
    }
)
ENTROPY_SHAPE = ("mean", "std", "skewness", "quantile_10", "quantile_50", "quantile_90")

# A row per micrograph, and per file that gave none: verdict, reasons and the numbers behind them.
TRIAGE = _schema(
    {
        **_ID,
        "uri": (pa.string(), "archive-relative path of the file"),
        "frame": (pa.int32(), "position in the file; 0 where the file gave no micrograph"),
        "status": (pa.string(), "ok, failed, skipped, or removed: the archive does not hold the file any more"),
        "verdict": (pa.string(), "trust, review, out_of_domain, junk, or unknown for files that gave no micrograph"),
        "reasons": (pa.list_(pa.string()), "short codes, most important first"),
        "explanation": (pa.string(), "the reasons in plain English, with the numbers behind them"),
        "detector": (pa.string(), "whose detections the row tells of: see predict.choice; null where none looked"),
        "n_detections": (pa.int64(), "detections at or above the score floor; null where none was looked for"),
        "predicted_f1": (pa.float64(), "see predictions"),
        "predicted_f1_low": (pa.float64(), "see predictions"),
        "predicted_f1_high": (pa.float64(), "see predictions"),
        "predicted_precision": (pa.float64(), "see predictions"),
        "predicted_recall": (pa.float64(), "see predictions"),
        "agreement": (pa.float64(), "see evidence"),
        "ood_distance": (pa.float64(), "see predictions"),
        "disordered_fraction": (pa.float64(), "see features"),
        "predicted_class": (pa.string(), "see classifications; null without a classifier"),
        "class_probability": (pa.float64(), "see classifications"),
        "predictive_entropy_nats": (pa.float64(), "see classifications"),
        "mutual_information_nats": (pa.float64(), "see classifications"),
        "shift_score": (pa.float64(), "see classifications"),
        "shift": (pa.string(), "see classifications"),
        "defocus_nm": (pa.float64(), "see features"),
        "nm_per_pixel": (pa.float64(), "pixel size, nm; NaN when unknown"),
        "nm_per_pixel_source": (pa.string(), "header, sidecar, user or none"),
        "is_nm_per_pixel_suspect": (pa.bool_(), "about 10x or 100x off the other images of its cohort"),
        "height_px": (pa.int64(), "rows; null where the file gave no micrograph"),
        "width_px": (pa.int64(), "columns"),
        "format": (pa.string(), "what the file is"),
        "content_sha256": (pa.string(), "SHA-256 of the file's bytes"),
    }
)

# A row per micrograph: a small picture of it.
THUMBNAILS = _schema({**_ID, "jpeg": (pa.binary(), "grey JPEG, contrast stretched, longest side at most 256 px")})

# A row per task that ran: its duration, memory and outcome.
EVENTS = _schema(
    {
        "stage": (pa.string(), "survey, store, detect, ..."),
        "partition": (pa.string(), "the partition, or the name of the batch of files"),
        "worker": (pa.string(), "address of the worker, or in-process"),
        "started": (pa.float64(), "seconds since the epoch"),
        "seconds": (pa.float64(), "wall time of the task"),
        "n_images": (pa.int64(), "images (or files) it dealt with"),
        "bytes": (pa.int64(), "bytes of pixels it read"),
        "peak_memory_bytes": (pa.int64(), "peak resident memory of the worker's process so far"),
        "attempt": (pa.int32(), "1 for the first"),
        "outcome": (
            pa.string(),
            "done, found (its part was there), failed, or lost (its worker went away; another got it)",
        ),
    }
)

# A row per file or micrograph that a stage failed on.
FAILURES = _schema(
    {
        "uri": (pa.string(), "archive-relative path of the file"),
        "micrograph_id": (pa.string(), "of the micrograph that failed; null where the file gave none"),
        "stage": (pa.string(), "the stage that failed"),
        "kind": (pa.string(), "error, crash, timeout or memory"),
        "error": (pa.string(), "the exception's type and text"),
        "traceback": (pa.string(), "where it happened"),
        "attempts": (pa.int32(), "how often it was tried"),
        "worker": (pa.string(), "address of the worker, or in-process"),
        "peak_memory_bytes": (pa.int64(), "peak resident memory of the call that failed, where it was seen; else 0"),
    }
)


# A row per image that `emqa tune order` has mapped.
ORDER = _schema(
    {
        **_ID,
        "uri": (pa.string(), "archive-relative path of the file"),
        "frame": (pa.int32(), "position in the file"),
        "disordered_fraction": (pa.float64(), "share of the area without lattice order; NaN when unknown"),
        "verdict": (pa.string(), "what was found, in words"),
        "covariance": (pa.string(), "type of the Gaussian mixture that was chosen; null where none was needed"),
        "threshold": (pa.float64(), "of the posterior, above which a place is disordered; NaN where none was needed"),
        "n_points": (pa.int64(), "detections that it was judged by"),
        "spacing_px": (pa.float64(), "median distance of a point to its nearest neighbour, px"),
    }
)
# A row per window of these images.
ORDER_WINDOWS = _schema(
    {
        **_ID,
        **{name: (pa.int64(), "window, half-open, px") for name in ("y0", "x0", "y1", "x1")},
        "n_points": (pa.int64(), "detections in it"),
        "disordered_fraction": (pa.float64(), "share of its area; NaN when unknown"),
    }
)
# A row per detected point of these images.
ORDER_POINTS = _schema(
    {
        **_ID,
        "y_px": (pa.float64(), "row, px"),
        "x_px": (pa.float64(), "column, px"),
        "p_disordered": (pa.float64(), "posterior of the disordered component; NaN when unknown"),
        "is_disordered": (pa.bool_(), "lies in a disordered region"),
    }
)


def empty(schema: pa.Schema) -> pd.DataFrame:
    """A table with all of `schema`'s columns and no rows."""
    return schema.empty_table().to_pandas()


def conform(rows: pd.DataFrame | list[dict], schema: pa.Schema) -> pa.Table:
    """`rows` as an Arrow table of exactly `schema`: columns in its order, absent ones null, surplus ones refused.

    Raises ValueError for a column that the schema does not have, and pyarrow.ArrowInvalid for values that do not fit.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    surplus = sorted(set(map(str, frame.columns)) - set(schema.names))
    if surplus:
        raise ValueError(f"columns not in the schema: {', '.join(surplus)}")
    arrays = []
    for field in schema:
        if field.name not in frame.columns:
            arrays.append(pa.nulls(len(frame), field.type))
            continue
        values = frame[field.name]
        # NaN means unknown in float columns and stays; elsewhere a missing value is null.
        keep_nan = pa.types.is_floating(field.type)
        arrays.append(pa.array(values, type=field.type, from_pandas=not keep_nan, safe=True))
    return pa.Table.from_arrays(arrays, schema=schema)


def with_column(schema: pa.Schema, name: str, meaning: str) -> pa.Schema:
    """`schema` with one more string column."""
    return schema.append(pa.field(name, pa.string(), metadata={"meaning": meaning}))
