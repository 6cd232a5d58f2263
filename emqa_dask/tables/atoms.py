"""Tables that `emqa tune types` writes: types of atomic columns, and the columns with their types."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, define_schema

# A row per image that `emqa tune types` has mapped.
ATOM_MAPS = define_schema(
    {
        **ID,
        "uri": (pa.string(), "Path of the file in the archive."),
        "frame": (pa.int32(), "Position of the micrograph in its file, from 0."),
        "detector": (pa.string(), "Detector whose detections are the columns."),
        "n_columns": (pa.int64(), "Number of columns."),
        "n_types": (pa.int64(), "Number of types, that of the lowest BIC. Null when it is unknown."),
        "bic": (
            pa.list_(pa.float64()),
            "Bayesian information criterion of the mixtures of 1, 2, ... types. NaN for a mixture in which a type has "
            "too few columns. Null when the types are unknown.",
        ),
        "spacing_px": (pa.float64(), "Median distance from a column to its nearest neighbour, in px."),
        "verdict": (pa.string(), "Result in words, or why it is unknown."),
        "overlay": (pa.string(), "Name of the picture in the folder atom_overlays."),
        "overlay_sha256": (pa.string(), "SHA-256 of the picture, in hex digits."),
        "digest": (pa.string(), "Digest of the detections and options that the map was made with. Empty on failure."),
    }
)
# A row per type of these images.
ATOM_TYPES = define_schema(
    {
        **ID,
        "type": (pa.int64(), "Number of the type, from 1. Type 1 has the highest mean intensity."),
        "n_columns": (pa.int64(), "Number of columns of the type."),
        "mean_intensity": (pa.float64(), "Mean intensity of its columns, in grey values above the valleys."),
        "intensity_sd": (pa.float64(), "Standard deviation of the intensity of its columns, in grey values."),
    }
)
# A row per atomic column of these images.
ATOM_COLUMNS = define_schema(
    {
        **ID,
        "y_px": (pa.float64(), "Row of the column's centre in px. The centre of a pixel is a whole number."),
        "x_px": (pa.float64(), "Column of the centre in px."),
        "type": (pa.int64(), "Number of the type in the image, from 1. Null when it is unknown."),
        "posterior": (pa.float64(), "Posterior probability of the type, from 0 to 1. NaN when it is unknown."),
        "intensity": (
            pa.float64(),
            "Mean grey value above the valleys between columns, weighted by a Gaussian around the centre. NaN when it "
            "is unknown.",
        ),
    }
)
