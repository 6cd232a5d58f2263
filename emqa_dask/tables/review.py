"""Tables of the review by people: which images to check, and what each reviewer decided."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, define_schema

DECISION_KINDS = ("accept", "reject", "unsure")

OBJECT = pa.struct([(name, pa.float64()) for name in ("y0", "x0", "y1", "x1", "diameter_px", "area_px")])

# A row per decision. A workspace has each as a JSON file of its own in decisions/, which is never changed.
DECISIONS = define_schema(
    {
        "decision_id": (
            pa.string(),
            "Identity of the decision: the first 32 hex digits of the SHA-256 of its other values. It is the name of "
            "the decision's file, so that a damaged file is detected.",
        ),
        **ID,
        "uri": (pa.string(), "Path of the file in the archive."),
        "frame": (pa.int32(), "Position of the micrograph in its file, from 0."),
        "pixel_sha256": (
            pa.string(),
            "SHA-256 of the pixels that were judged, as in micrographs. A decision counts for this image only while "
            "its pixels are these.",
        ),
        "detector": (pa.string(), "Detector whose detections were shown. Null when no detector ran."),
        "decision": (
            pa.string(),
            "accept (the objects below are those of the image), reject (the image must not be used), unsure; null "
            "where the row takes back another one.",
        ),
        "reviewer": (pa.string(), "Name of the person who decided."),
        "time": (
            pa.string(),
            "Time of the decision, UTC, ISO 8601; later than that of every earlier decision of the reviewer on it.",
        ),
        "comment": (pa.string(), "Comment of the reviewer. Null without one."),
        "objects": (
            pa.list_(OBJECT),
            "Objects of the image according to the reviewer, all of them: boxes y0, x0, y1, x1 in px as in detections, "
            "with y0 = y1 and x0 = x1 for points. Diameter and area are those of unchanged detections, else null. "
            "Null where the reviewer says nothing about the objects.",
        ),
        "review_probability": (
            pa.float64(),
            "Probability with which the plan drew the image, as in review_plan. NaN for an image outside the plan.",
        ),
        "plan_id": (pa.string(), "Plan that drew the image. Null for an image outside the plan."),
        "undoes": (pa.string(), "Identity of the decision that this row takes back. Null for a decision."),
    }
)

# A row per covered image: its probability to be reviewed, and its position among those that were drawn.
REVIEW_PLAN = define_schema(
    {
        "plan_id": (pa.string(), "Identity of the plan: a digest of its options, images and probabilities."),
        "position": (
            pa.int64(),
            "Position in the order of review, from 1; the order is random. Null for images that were not drawn.",
        ),
        **ID,
        "uri": (pa.string(), "Path of the file in the archive."),
        "frame": (pa.int32(), "Position of the micrograph in its file, from 0."),
        "sample": (pa.string(), "Stratum: the session of the image, or its group of --by."),
        "review_probability": (
            pa.float64(),
            "Probability with which the plan draws the image, above 0 for every covered image.",
        ),
        "gain": (
            pa.float64(),
            "Expected part of the image in the variance of the result, as a share of that of all images.",
        ),
        "why": (pa.string(), "The reason for the image's probability, with its numbers."),
    }
)
