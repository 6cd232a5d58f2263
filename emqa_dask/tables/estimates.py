"""Table of estimates for groups of images, from labels of some and detections in all."""

import pyarrow as pa

from emqa_dask.tables.schema import define_schema

_INTERVAL = "95 % confidence interval. NaN without an interval; remark has the reason"

# A row per group and quantity.
ESTIMATES = define_schema(
    {
        "grouping": (pa.string(), "What makes the groups: --by, or all."),
        "sample": (pa.string(), "Name of the group."),
        "quantity": (
            pa.string(),
            "density, mean_diameter, swelling, n_objects (total of the group), mean_f1 (of the detections), "
            "trusted_share (of images whose F1 is at least triage.trust_f1), and quantiles over the images by their "
            "percentage: n_per_image_q50, density_q50, mean_diameter_q50 (of the images with objects).",
        ),
        "unit": (pa.string(), "Unit of the values, e.g. per_um2; null for numbers."),
        "estimate": (pa.float64(), "Estimate from labels and detections for all covered images of the group."),
        "low": (pa.float64(), f"Lower end of its {_INTERVAL}."),
        "high": (pa.float64(), f"Upper end of its {_INTERVAL}."),
        "labels_alone": (pa.float64(), "Estimate from the labels without the detections."),
        "labels_low": (pa.float64(), f"Lower end of its {_INTERVAL}."),
        "labels_high": (pa.float64(), f"Upper end of its {_INTERVAL}."),
        "detections_alone": (pa.float64(), "Result of the detections without labels; the detector's bias is in it."),
        "detections_weight": (
            pa.float64(),
            "Weight of the detections in the estimate, fitted to the labels. 0: labels alone; 1: as many objects more "
            "as there are detections more.",
        ),
        "n_images": (pa.int64(), "Number of images for which the estimate holds."),
        "n_labels": (pa.int64(), "Number of labelled images among these."),
        "n_not_covered": (
            pa.int64(),
            "Number of other images of the group: verdict junk, out_of_domain or unknown, not measured, or without the "
            "pixel size that the quantity needs.",
        ),
        "n_further_labels": (
            pa.int64(),
            "Number of further labelled images, selected as the present ones, that halves the interval.",
        ),
        "assumption": (pa.string(), "Assumption about the selection of the labelled images; null without an estimate."),
        "remark": (pa.string(), "Reason for a missing estimate or interval, else null."),
    }
)
