"""Tables that `emqa tune order` writes: lattice order of images, windows and points."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, define_schema

_WINDOW_LIMITS = {
    "y0": "First row of the window in px.",
    "x0": "First column of the window in px.",
    "y1": "Row behind the last one of the window in px.",
    "x1": "Column behind the last one of the window in px.",
}

# A row per image that `emqa tune order` has mapped.
LATTICE_ORDER = define_schema(
    {
        **ID,
        "uri": (pa.string(), "Path of the file in the archive."),
        "frame": (pa.int32(), "Position of the micrograph in its file, from 0."),
        "disordered_fraction": (
            pa.float64(),
            "Fraction of the area without lattice order. NaN when it is unknown.",
        ),
        "verdict": (pa.string(), "Result in words."),
        "covariance": (
            pa.string(),
            "Covariance type of the Gaussian mixture that was selected. Null when no mixture was needed.",
        ),
        "threshold": (
            pa.float64(),
            "Posterior probability above which a point is disordered. NaN when no mixture was needed.",
        ),
        "n_points": (pa.int64(), "Number of detections that the result is based on."),
        "spacing_px": (pa.float64(), "Median distance from a point to its nearest neighbour, in px."),
    }
)
# A row per window of these images.
LATTICE_ORDER_WINDOWS = define_schema(
    {
        **ID,
        **{name: (pa.int64(), text) for name, text in _WINDOW_LIMITS.items()},
        "n_points": (pa.int64(), "Number of detections in the window."),
        "disordered_fraction": (
            pa.float64(),
            "Fraction of the window's area without lattice order. NaN when it is unknown.",
        ),
    }
)
# A row per detected point of these images.
LATTICE_ORDER_POINTS = define_schema(
    {
        **ID,
        "y_px": (pa.float64(), "Row of the point in px."),
        "x_px": (pa.float64(), "Column of the point in px."),
        "p_disordered": (
            pa.float64(),
            "Posterior probability of the disordered component. NaN when it is unknown.",
        ),
        "is_disordered": (pa.bool_(), "True when the point is in a disordered region."),
    }
)
