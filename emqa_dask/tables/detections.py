"""Tables about detected objects, and about how good the detections of an image are."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, define_schema

_BOX = "The box spans rows y0 to y1 and columns x0 to x1; the upper limits are exclusive."

# A row per detection: position, size, score and mask.
DETECTIONS = define_schema(
    {
        **ID,
        "y_px": (pa.float64(), "Row of the object's centre in px. The centre of a pixel is a whole number."),
        "x_px": (pa.float64(), "Column of the object's centre in px."),
        "y0": (pa.float64(), f"First row of the object's bounding box in px. {_BOX}"),
        "x0": (pa.float64(), "First column of the bounding box in px."),
        "y1": (pa.float64(), "Row behind the last one of the bounding box in px."),
        "x1": (pa.float64(), "Column behind the last one of the bounding box in px."),
        "sigma_px": (
            pa.float64(),
            "Standard deviation of the Laplacian-of-Gaussian (LoG) kernel with the strongest response, in px. NaN for "
            "other detectors.",
        ),
        "area_px": (pa.float64(), "Area of the object in square px."),
        "response": (
            pa.float64(),
            "Scale-normalised LoG response on the normalised image, without unit. NaN for other detectors.",
        ),
        "score": (
            pa.float64(),
            "Confidence of the detector in the object, from 0 to 1. Scores of different detectors are not comparable.",
        ),
        "class_margin": (
            pa.float64(),
            "Probability of the object's class less that of the second class, from a second look at the box. NaN for "
            "detectors that do not tell.",
        ),
        "stability": (
            pa.float64(),
            "IoU of the box with the most similar box in a mirrored, smaller copy of the image, times the ratio of "
            "their scores if that is below 1. NaN where it was not measured (detect.stability_scale).",
        ),
        "polarity": (pa.int8(), "+1: brighter than the surroundings. -1: darker. 0: the detector does not tell."),
        "label": (pa.string(), "Name of the object's class."),
        "detector": (pa.string(), "log, or the name in the detector's model card."),
        "mask_rle": (
            pa.string(),
            "Mask in the coordinates of the whole image: the counts of COCO's compressed run-length encoding, as "
            "ASCII text. Null for detectors without masks.",
        ),
        "circularity": (
            pa.float64(),
            "Heywood circularity of the convex hull of the mask: its perimeter divided by that of a disk of equal "
            "area. 1 for a disk, larger otherwise. NaN without a mask.",
        ),
        "diameter_px": (
            pa.float64(),
            "Diameter of the object in px. LoG: 2 sqrt(2) sigma. Mask: 2 sqrt(d_min d_max), where d_min and d_max are "
            "the smallest and largest distance from the mean of the convex hull's corners to a corner.",
        ),
        "diameter_nm": (
            pa.float64(),
            "Diameter of the object in nm. Pixels that are not square count by their area. NaN when the pixel size is "
            "unknown.",
        ),
    }
)

CONTENT = "content"  # in place of a detector's name: the bundled network that embeds what an image shows
OBJECT_KINDS = "object-kinds"  # likewise: the bundled network that gives the probabilities of kinds of objects
OBJECT_KIND_NAMES = ("cavity", "particle", "loop", "lattice", "texture")  # texture: grains, rough surfaces

# A row per micrograph and network, and one each of CONTENT and OBJECT_KINDS, if a network ran.
EMBEDDINGS = define_schema(
    {
        **ID,
        "detector": (
            pa.string(),
            "Name in the model card of the network, content or object-kinds. With micrograph_id it identifies the row.",
        ),
        "embedding": (
            pa.list_(pa.float32()),
            "Means over the image of the feature maps of the network's backbone, then their standard deviations; of "
            "content the 128 numbers of the bundled network of that name; of object-kinds the probabilities of cavity, "
            "particle, loop, lattice and texture. Empty for an image without contrast.",
        ),
    }
)

SCORE_BINS = tuple(f"score_fraction_{b}" for b in range(9))
_SCORE_BIN_MEANINGS = {
    name: f"Fraction of the detections with a score from {(b + 1) / 10:.1f} to below {(b + 2) / 10:.1f}."
    for b, name in enumerate(SCORE_BINS[:-1])
} | {SCORE_BINS[-1]: "Fraction of the detections with a score from 0.9 to 1.0."}
_FEATURE_MEANINGS = _SCORE_BIN_MEANINGS | {
    "n_detections": "Number of detections at or above the score floor.",
    "area_ratio": "Sum of the areas of all boxes divided by the area of the image. Overlaps count twice.",
    "image_confidence": "Mean score, weighted by the area of the box. NaN without detections.",
    "mean_score": "Mean of the scores. NaN without detections.",
    "std_score": "Standard deviation of the scores. NaN without detections.",
    "mean_size": "Mean area of a box divided by the area of the image. NaN without detections.",
    "std_size": "Standard deviation of the area of a box divided by the area of the image. NaN without detections.",
    "mean_circularity": "Mean Heywood circularity of the objects; 1 for disks. NaN without detections.",
    "std_circularity": "Standard deviation of the Heywood circularity of the objects. NaN without detections.",
}
DETECTION_FEATURES = tuple(_FEATURE_MEANINGS)
_CONSISTENCY_MEANINGS = {
    "mean_stability": "Mean stability of the detections. NaN without detections or where it was not measured.",
    "mean_class_margin": "Mean class margin of the detections. NaN without detections or classes.",
    "label_purity": "Fraction of the detections that have the most frequent class. NaN without detections.",
}
CONSISTENCY_FEATURES = tuple(_CONSISTENCY_MEANINGS)

# A row per micrograph and detector: features of its detections.
EVIDENCE = define_schema(
    {
        **ID,
        "detector": (
            pa.string(),
            "log, or the name in the detector's model card. With micrograph_id it identifies the row.",
        ),
        "score_floor": (pa.float64(), "Detections with a lower score are not counted in this row."),
        "is_capped": (
            pa.bool_(),
            "True when the detector stopped at its largest number of detections.",
        ),
        **{name: (pa.float64(), text) for name, text in _FEATURE_MEANINGS.items()},
        **{name: (pa.float64(), text) for name, text in _CONSISTENCY_MEANINGS.items()},
        "detector_agreement": (
            pa.float64(),
            "Agreement with the other detectors: mean F1 of this detector's boxes against those of each other "
            "detector, matched at an intersection over union (IoU) of 0.3. NaN for a single detector.",
        ),
    }
)

# Levels of the quantiles that describe the distribution of F1: those of the usual probabilities of trust are exact.
F1_LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
F1_QUANTILES = tuple(f"f1_quantile_{round(100 * level):02d}" for level in F1_LEVELS)

_NO_TARGET = "NaN when the quality model predicts F1 only."

# A row per micrograph and detector: predicted F1, precision and recall with their intervals.
PREDICTIONS = define_schema(
    {
        **ID,
        "detector": (
            pa.string(),
            "Detector whose detections are rated: log, or the name in its model card. With micrograph_id it "
            "identifies the row.",
        ),
        "predicted_f1": (
            pa.float64(),
            "F1 of the detections as the quality model predicts it (mean). The model's card gives the IoU threshold "
            "and the matching rule. NaN without a prediction.",
        ),
        "predicted_f1_low": (
            pa.float64(),
            "Lower end of the conformal interval of predicted_f1. The model's card gives its coverage.",
        ),
        "predicted_f1_high": (pa.float64(), "Upper end of the conformal interval of predicted_f1."),
        **{
            name: (pa.float64(), f"F1 that the detections fall short of with a probability of {level:g}.")
            for name, level in zip(F1_QUANTILES, F1_LEVELS)
        },
        "predicted_precision": (pa.float64(), f"Predicted precision of the detections. {_NO_TARGET}"),
        "predicted_precision_low": (pa.float64(), "Lower end of the conformal interval of predicted_precision."),
        "predicted_precision_high": (pa.float64(), "Upper end of the conformal interval of predicted_precision."),
        "predicted_recall": (pa.float64(), f"Predicted recall of the detections. {_NO_TARGET}"),
        "predicted_recall_low": (pa.float64(), "Lower end of the conformal interval of predicted_recall."),
        "predicted_recall_high": (pa.float64(), "Upper end of the conformal interval of predicted_recall."),
        "ood_distance": (
            pa.float64(),
            "Distance of the image to the training images of the quality model, or to their imaging conditions if "
            "that is larger, or content_distance if that is. 1 is the 99th percentile of the training images.",
        ),
        "content_distance": (
            pa.float64(),
            "Mahalanobis distance of what the image shows (embedding of the bundled network content) to the training "
            "images of the detector, of which 5 % of held-out ones exceed 1; or the probability of other kinds of "
            "objects (network object-kinds) over its limit, if that is larger. NaN for log, and for a network whose "
            "model card has neither content_domain nor object_kinds.",
        ),
        "other_kind": (
            pa.string(),
            "Likeliest kind of objects that the detector was not trained on, where their probability is above the "
            "limit in the detector's card: cavity, particle, loop, lattice or texture. Else missing.",
        ),
        "evidence": (
            pa.string(),
            "Basis of the prediction: detections; no_detections; none (the image could not be rated); or no_model "
            "(there is no quality model for the detector).",
        ),
        "because": (
            pa.list_(pa.string()),
            "Features that changed predicted_f1 most (SHAP values), in words. Empty without a prediction.",
        ),
    }
)
