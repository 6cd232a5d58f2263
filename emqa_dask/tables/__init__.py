"""Schemas of all tables: columns, types and descriptions with units; empty() and conform() make tables of them."""

from emqa_dask.tables.archive import CATALOG, MICROGRAPHS, STATUSES, THUMBNAILS
from emqa_dask.tables.classifications import (
    CLASSIFICATIONS,
    DRIFTS,
    ENTROPY_SHAPE,
    PROBABILITIES,
    REGIONS,
    SESSIONS,
    SHIFT_SCORES,
    SHIFTS,
)
from emqa_dask.tables.detections import (
    CONSISTENCY_FEATURES,
    CONTENT,
    DETECTION_FEATURES,
    DETECTIONS,
    EMBEDDINGS,
    EVIDENCE,
    F1_LEVELS,
    F1_QUANTILES,
    PREDICTIONS,
    SCORE_BINS,
)
from emqa_dask.tables.images import CUSTOM_CHECKS, FEATURES, FLAGS, IMAGE_STATISTICS, THON_RINGS
from emqa_dask.tables.order import LATTICE_ORDER, LATTICE_ORDER_POINTS, LATTICE_ORDER_WINDOWS
from emqa_dask.tables.runs import DETECTOR_CHOICES, EVENTS, FAILURES
from emqa_dask.tables.schema import conform, empty, with_column
from emqa_dask.tables.verdicts import TRIAGE, VERDICTS

# Schema of every table by its name, in the order in which a run makes them.
ALL_TABLES = {
    "catalog": CATALOG,
    "micrographs": MICROGRAPHS,
    "thumbnails": THUMBNAILS,
    "detector_choices": DETECTOR_CHOICES,
    "detections": DETECTIONS,
    "embeddings": EMBEDDINGS,
    "evidence": EVIDENCE,
    "features": FEATURES,
    "custom_checks": CUSTOM_CHECKS,
    "flags": FLAGS,
    "predictions": PREDICTIONS,
    "probabilities": PROBABILITIES,
    "regions": REGIONS,
    "classifications": CLASSIFICATIONS,
    "sessions": SESSIONS,
    "drifts": DRIFTS,
    "triage": TRIAGE,
    "events": EVENTS,
    "failures": FAILURES,
    "lattice_order": LATTICE_ORDER,
    "lattice_order_windows": LATTICE_ORDER_WINDOWS,
    "lattice_order_points": LATTICE_ORDER_POINTS,
}

__all__ = [
    "ALL_TABLES",
    "CATALOG",
    "CLASSIFICATIONS",
    "CONSISTENCY_FEATURES",
    "CONTENT",
    "CUSTOM_CHECKS",
    "DETECTIONS",
    "DETECTION_FEATURES",
    "DETECTOR_CHOICES",
    "DRIFTS",
    "EMBEDDINGS",
    "ENTROPY_SHAPE",
    "EVENTS",
    "EVIDENCE",
    "F1_LEVELS",
    "F1_QUANTILES",
    "FAILURES",
    "FEATURES",
    "FLAGS",
    "IMAGE_STATISTICS",
    "LATTICE_ORDER",
    "LATTICE_ORDER_POINTS",
    "LATTICE_ORDER_WINDOWS",
    "MICROGRAPHS",
    "PREDICTIONS",
    "PROBABILITIES",
    "REGIONS",
    "SCORE_BINS",
    "SESSIONS",
    "SHIFTS",
    "SHIFT_SCORES",
    "STATUSES",
    "THON_RINGS",
    "THUMBNAILS",
    "TRIAGE",
    "VERDICTS",
    "conform",
    "empty",
    "with_column",
]
