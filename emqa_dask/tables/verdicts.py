"""Table of verdicts."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, define_schema

VERDICTS = ("trust", "review", "out_of_domain", "junk", "unknown")

# A row per micrograph, and per file without micrographs: verdict, reasons and the numbers behind them.
TRIAGE = define_schema(
    {
        **ID,
        "uri": (pa.string(), "Path of the file in the archive."),
        "frame": (pa.int32(), "Position of the micrograph in its file, from 0. 0 for a file without micrographs."),
        "status": (
            pa.string(),
            "ok, failed, skipped, or removed (the archive no longer contains the file).",
        ),
        "verdict": (
            pa.string(),
            "trust, review, out_of_domain, junk, or unknown (for files without micrographs).",
        ),
        "reasons": (pa.list_(pa.string()), "Codes of the reasons for the verdict, the most important first."),
        "explanation": (pa.string(), "The reasons in plain English, with their numbers."),
        "detector": (
            pa.string(),
            "Detector whose detections and predicted F1 are in this row. Of several, the one with the highest "
            "predicted_f1_low whose quality model has the image in its domain. Null when no detector ran.",
        ),
        "n_detections": (
            pa.int64(),
            "Number of detections at or above the score floor. Null when no detector ran.",
        ),
        "density_per_um2": (
            pa.float64(),
            "Number of objects of all classes per um^2, edge-corrected; see measurements.",
        ),
        "mean_diameter_nm": (pa.float64(), "Mean diameter of these objects in nm; see measurements."),
        "area_fraction": (pa.float64(), "Area of these objects divided by that of the image; see measurements."),
        "swelling_percent": (pa.float64(), "Swelling in %, where the foil thickness is known; see measurements."),
        "predicted_f1": (pa.float64(), "Predicted F1 of the detections; see predictions."),
        "predicted_f1_low": (pa.float64(), "Lower end of its conformal interval."),
        "predicted_f1_high": (pa.float64(), "Upper end of its conformal interval."),
        "f1_probability": (
            pa.float64(),
            "Probability that the F1 of the detections is at least triage.trust_f1, from 0.01 to 0.99. NaN without a "
            "prediction.",
        ),
        "predicted_loss": (
            pa.float64(),
            "F1 that the detector loses by the imaging conditions (dose, defocus, pixel size): at the best conditions "
            "of the study, minus at those of the image, by the response surface on the quality model's card. NaN "
            "without a surface, where a condition is unknown, and outside the grid of the study.",
        ),
        "f1_probability_at_twice_dose": (
            pa.float64(),
            "f1_probability if the image had twice its dose, by the same surface. NaN where that says nothing.",
        ),
        "predicted_precision": (pa.float64(), "Predicted precision of the detections; see predictions."),
        "predicted_precision_low": (pa.float64(), "Lower end of its conformal interval."),
        "predicted_precision_high": (pa.float64(), "Upper end of its conformal interval."),
        "predicted_recall": (pa.float64(), "Predicted recall of the detections; see predictions."),
        "predicted_recall_low": (pa.float64(), "Lower end of its conformal interval."),
        "predicted_recall_high": (pa.float64(), "Upper end of its conformal interval."),
        "because": (
            pa.string(),
            "Features that changed predicted_f1 most (SHAP values), in words; see predictions. Null without any.",
        ),
        "detector_agreement": (pa.float64(), "Agreement of the detector with the others (F1); see evidence."),
        "ood_distance": (
            pa.float64(),
            "Distance of the image to the training images of the quality model; see predictions.",
        ),
        "disordered_fraction": (pa.float64(), "Fraction of the area without lattice order; see features."),
        "predicted_class": (pa.string(), "Most probable class; see classifications. Null without a classifier."),
        "class_probability": (pa.float64(), "Probability of this class; see classifications."),
        "predictive_entropy_nats": (
            pa.float64(),
            "Predictive entropy of the classification in nats; see classifications.",
        ),
        "mutual_information_nats": (
            pa.float64(),
            "Part of this entropy from disagreement between the members, in nats; see classifications.",
        ),
        "shift_score": (pa.float64(), "Combined shift score, above 1 out of domain; see classifications."),
        "shift": (pa.string(), "Kind of distribution shift; see classifications."),
        "defocus_nm": (pa.float64(), "Magnitude of the mean defocus in nm, from Thon rings; see features."),
        "nm_per_pixel": (pa.float64(), "Pixel size along x (columns) in nm. NaN when it is unknown."),
        "nm_per_pixel_y": (
            pa.float64(),
            "Pixel size along y (rows) in nm; equal to that along x for square pixels. NaN when it is unknown.",
        ),
        "nm_per_pixel_source": (
            pa.string(),
            "Source of the pixel size: header, sidecar, user, scale_bar, lattice or none.",
        ),
        "is_nm_per_pixel_suspect": (
            pa.bool_(),
            "True when the pixel size is about 10 or 100 times larger or smaller than that of the acquisition group.",
        ),
        "session": (
            pa.string(),
            "Images that were recorded together: uppermost folder, instrument and magnification, as far as they are "
            "known. Null for a file without micrographs.",
        ),
        "instrument": (pa.string(), "Name of the microscope as written in the file. Null when it is unknown."),
        "acquired": (
            pa.string(),
            "Date and time of the acquisition, ISO 8601, as precise as the file gives it. Null when it is unknown.",
        ),
        "voltage_kv": (pa.float64(), "Acceleration voltage in kV. NaN when it is unknown."),
        "dose_e_per_nm2": (pa.float64(), "Electron dose in electrons per square nanometre; see micrographs."),
        "stated_defocus_nm": (
            pa.float64(),
            "Defocus as the microscope noted it, in nm; negative for underfocus. NaN when it is unknown.",
        ),
        "magnification": (pa.float64(), "Magnification that the microscope indicated. NaN when it is unknown."),
        "height_px": (pa.int64(), "Height of the image in px (rows). Null for a file without micrographs."),
        "width_px": (pa.int64(), "Width of the image in px (columns). Null for a file without micrographs."),
        "format": (pa.string(), "Format of the file's content, e.g. TIFF. Null when it is not recognised."),
        "content_sha256": (pa.string(), "SHA-256 of the file's bytes."),
        "partition": (
            pa.string(),
            "Name of the partition (shard, task and part file) that contains the micrograph; see micrographs. Null for "
            "a file without micrographs.",
        ),
    }
)
