"""Tables about what a classifier predicts for images, and how far images and sessions lie outside its domain."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, define_schema

SHIFTS = ("none", "acquisition", "new_class", "unrelated")  # kinds of distribution shift
SHIFT_SCORES = ("entropy", "mahalanobis", "nearest", "content", "statistics", "spectrum")
ENTROPY_SHAPE = ("mean", "std", "skewness", "quantile_10", "quantile_50", "quantile_90")
_SCORE_SUBJECTS = {
    "entropy": "predictive entropy of the ensemble",
    "mahalanobis": "Mahalanobis distance of the embedding to the nearest class",
    "nearest": "distance of the embedding to the nearest training images",
    "content": "distance of the content embedding to those of the training images",
    "statistics": "distance of grey values and overlays to those of the training images",
    "spectrum": "distance of noise, detail and power spectrum to those of the training images",
}
_SCORE_SCALE = "0 is the median of in-domain images, 1 their 95th percentile."

# A row per micrograph and ensemble member. Entropy and mutual information are computed from this table at any time. The
# classes are in one list, in the order of the card: 30 classes of 16 members would be 480 rows per micrograph.
PROBABILITIES = define_schema(
    {
        **ID,
        "classifier": (pa.string(), "Name in the classifier's model card."),
        "member": (
            pa.int16(),
            "Ensemble member: position of the network in the card, or number of the Monte Carlo dropout pass, from 0.",
        ),
        "probabilities": (
            pa.list_(pa.float32()),
            "Softmax probabilities in the order of the card's classes; mean over the windows.",
        ),
        "embedding": (
            pa.list_(pa.float32()),
            "Input of the last layer of the network; mean over the windows. Null when it is not kept.",
        ),
    }
)

# A row per micrograph: the ensemble's results for each of its windows, as maps.
REGIONS = define_schema(
    {
        **ID,
        "classifier": (pa.string(), "Name in the classifier's model card."),
        "y0": (pa.list_(pa.float32()), "First row of each row of windows, in px."),
        "x0": (pa.list_(pa.float32()), "First column of each column of windows, in px."),
        "height_px": (pa.float64(), "Height of a window in the image, in px."),
        "width_px": (pa.float64(), "Width of a window in the image, in px."),
        "predictive_entropy_nats": (
            pa.list_(pa.float32()),
            "Predictive entropy of each window in nats, row by row.",
        ),
        "mutual_information_nats": (
            pa.list_(pa.float32()),
            "Mutual information between members and class of each window in nats, row by row.",
        ),
        "predicted_class": (
            pa.list_(pa.int16()),
            "Most probable class of each window, as position in the card's classes, row by row.",
        ),
        "content": (
            pa.list_(pa.float32()),
            "Embedding of the image content by the content model, which is independent of the classifier; mean over "
            "the windows.",
        ),
        "foreign_log_odds": (
            pa.float64(),
            "Logarithmic odds that the windows show no micrograph but, say, a photograph; mean over the windows.",
        ),
    }
)

# A row per micrograph: class, uncertainty and distribution shift, computed from its probabilities and statistics.
CLASSIFICATIONS = define_schema(
    {
        **ID,
        "classifier": (pa.string(), "Name in the classifier's model card."),
        "n_members": (
            pa.int16(),
            "Number of ensemble members that contribute. 0 when the classifier could not process the image.",
        ),
        "refusal": (
            pa.string(),
            "Why the classifier could not process the image. Null when it could.",
        ),
        "predicted_class": (pa.string(), "Most probable class. Null without a classification."),
        "class_probability": (
            pa.float64(),
            "Probability of this class: mean over the members, temperature-scaled as the card prescribes.",
        ),
        "predictive_entropy_nats": (
            pa.float64(),
            "Entropy of the members' mean probabilities in nats, from 0 to the logarithm of the number of classes.",
        ),
        "mutual_information_nats": (
            pa.float64(),
            "Part of the predictive entropy that comes from disagreement between the members, in nats.",
        ),
        "variation_ratio": (pa.float64(), "Fraction of the members that predict another class than the majority."),
        "largest_region_entropy_nats": (
            pa.float64(),
            "Predictive entropy of the most uncertain window of the image, in nats.",
        ),
        **{
            f"{name}_score": (pa.float64(), f"Shift score of the {_SCORE_SUBJECTS[name]}. {_SCORE_SCALE}")
            for name in SHIFT_SCORES
        },
        "imaging_distance": (
            pa.float64(),
            "Difference in the phase of the contrast transfer function to the nearest training condition. 1 is the "
            "limit. NaN when the imaging conditions are unknown.",
        ),
        "shift_score": (
            pa.float64(),
            "All shift scores combined. An image with a score above 1 is out of domain.",
        ),
        "shift": (
            pa.string(),
            "Kind of distribution shift: none, acquisition, new_class or unrelated. Null when it is unknown.",
        ),
        "shift_probability": (
            pa.float64(),
            "Probability of this kind of shift among the kinds of shift. NaN without a shift.",
        ),
        "because": (pa.list_(pa.string()), "The evidence for the shift in words. Empty without a shift."),
    }
)

# A row per session (cohort) and quantity: whether the session as a whole has drifted from its reference images.
DRIFTS = define_schema(
    {
        "cohort": (pa.string(), "Folder, instrument and magnification of the session."),
        "quantity": (pa.string(), "Name of the compared column of classifications or features."),
        "reference": (
            pa.string(),
            "Reference images: held_out (in-domain images of the classifier) or others (all other sessions of the "
            "archive).",
        ),
        "first_acquired": (
            pa.string(),
            "Earliest acquisition of the session, ISO 8601. Null when it is unknown.",
        ),
        "last_acquired": (pa.string(), "Latest acquisition of the session, ISO 8601. Null when it is unknown."),
        "n": (pa.int64(), "Number of images of the session."),
        "n_reference": (pa.int64(), "Number of reference images."),
        "median": (pa.float64(), "Median of the quantity over the session, in the unit of the quantity."),
        "reference_median": (pa.float64(), "Median of the quantity over the reference images, in the same unit."),
        "statistic": (pa.float64(), "Two-sample Kolmogorov-Smirnov statistic."),
        "p_value": (pa.float64(), "p value of that statistic."),
        "p_corrected": (pa.float64(), "p value after the Benjamini-Hochberg correction over all rows."),
        "effect": (
            pa.float64(),
            "Effect size (Cliff's delta) from -1 to 1. Positive when the values of the session are larger.",
        ),
        "is_drifted": (
            pa.bool_(),
            "True when p_corrected is below its limit and the magnitude of the effect is above its limit.",
        ),
    }
)

# A row per session (cohort) of an archive with classified images.
SESSIONS = define_schema(
    {
        "cohort": (pa.string(), "Folder, instrument and magnification of the session."),
        "n_looked_at": (
            pa.int64(),
            "Number of micrographs that these figures are based on: an even sample of a large session.",
        ),
        "first_acquired": (
            pa.string(),
            "Earliest acquisition of these micrographs, ISO 8601. Null when it is unknown.",
        ),
        "last_acquired": (pa.string(), "Latest acquisition of them, ISO 8601. Null when it is unknown."),
        "out_of_domain_fraction": (pa.float64(), "Fraction of these micrographs with a shift_score above 1."),
        **{
            f"{kind}_fraction": (pa.float64(), f"Fraction of these micrographs whose kind of shift is {kind}.")
            for kind in SHIFTS[1:]
        },
        "shift": (
            pa.string(),
            "Kind of shift of the session as a whole: none, acquisition, new_class or unrelated. Null when there are "
            "too few images.",
        ),
        "defocus_nm": (pa.float64(), "Median defocus in nm of the micrographs with Thon rings. NaN without rings."),
        "with_rings_fraction": (pa.float64(), "Fraction of these micrographs whose defocus is known."),
        "imaging_distance": (pa.float64(), "Median of imaging_distance in the table classifications."),
        "drifted": (
            pa.list_(pa.string()),
            "Quantities that drifted (table drifts), the largest effect first.",
        ),
        "entropy_shape": (
            pa.list_(pa.float64()),
            "Distribution of the predictive entropy: fraction in each of 10 equal bins, then mean, standard deviation, "
            "skewness and the 10, 50 and 90 percentiles, relative to the largest possible entropy.",
        ),
    }
)
