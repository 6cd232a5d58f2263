"""emqa_dask: triage large archives of electron micrographs. Names load on first use: the import stays light."""

import os
import sys
from importlib import import_module
from typing import Any

UNSUPPORTED_SYSTEM = (
    "emqa_dask runs on Linux, not on Windows itself: install it in WSL (`wsl --install`, then as on Linux), "
    "or run it with Docker (cluster/Dockerfile)"
)


def _check_system() -> None:
    """Raises ImportError on a system without the POSIX modules; the command line ends with that sentence alone."""
    try:
        import fcntl  # noqa: F401
        import resource  # noqa: F401
    except ImportError:
        is_posix = False
    else:
        is_posix = sys.platform != "win32"
    if is_posix:
        return
    program = os.path.basename(sys.argv[0] if sys.argv else "").lower()
    if program == "-m" or program.partition(".")[0] in ("emqa", "emqa-script"):
        sys.exit(f"emqa: {UNSUPPORTED_SYSTEM}")  # exit code 1
    raise ImportError(UNSUPPORTED_SYSTEM)


_check_system()

__version__ = "0.2.0"

_HOMES = {
    "read_micrograph": "emqa_dask.archive.readers",
    "find_blobs": "emqa_dask.detect.blobs",
    "load_detector": "emqa_dask.detect.mask_rcnn",
    "load_ensemble": "emqa_dask.classify",
    "detection_features": "emqa_dask.featurise.detections",
    "image_statistics": "emqa_dask.featurise.images",
    "predictive_entropy": "emqa_dask.uncertainty.entropy",
    "mutual_information": "emqa_dask.uncertainty.entropy",
    "expected_calibration_error": "emqa_dask.uncertainty.reliability",
    "risk_coverage": "emqa_dask.uncertainty.referral",
    "contrast_transfer": "emqa_dask.optics",
    "match_boxes": "emqa_dask.boxes",
    "triage_archive": "emqa_dask.pipeline.commands.triage",
    "open_run": "emqa_dask.results.run",
    "Run": "emqa_dask.results.run",
    "estimate_run": "emqa_dask.verbs.steps",
    "watch_archive": "emqa_dask.verbs.steps",
    "ingest_archive": "emqa_dask.verbs.steps",
    "detect_objects": "emqa_dask.verbs.steps",
    "classify_micrographs": "emqa_dask.verbs.steps",
    "featurise_micrographs": "emqa_dask.verbs.steps",
    "predict_quality": "emqa_dask.verbs.steps",
    "measure_objects": "emqa_dask.verbs.steps",
    "report_verdicts": "emqa_dask.verbs.steps",
    "print_status": "emqa_dask.verbs.workspaces",
    "verify_workspace": "emqa_dask.verbs.workspaces",
    "retry_failures": "emqa_dask.verbs.workspaces",
    "calibrate_workspace": "emqa_dask.verbs.workspaces",
    "rescore_workspace": "emqa_dask.verbs.workspaces",
    "plan_review": "emqa_dask.verbs.review",
    "serve_review": "emqa_dask.verbs.review",
    "estimate_specimen": "emqa_dask.verbs.exchange",
    "export_detections": "emqa_dask.verbs.exchange",
    "list_files": "emqa_dask.verbs.exchange",
    "train_detector": "emqa_dask.verbs.models",
    "train_ensemble": "emqa_dask.verbs.models",
    "tune_log": "emqa_dask.verbs.models",
    "map_order": "emqa_dask.verbs.models",
    "map_atom_types": "emqa_dask.verbs.models",
    "study_f1": "emqa_dask.verbs.studies",
    "study_uncertainty": "emqa_dask.verbs.studies",
    "study_conditions": "emqa_dask.verbs.studies",
    "study_robustness": "emqa_dask.verbs.studies",
    "import_detector": "emqa_dask.verbs.machine",
    "synthesise_archive": "emqa_dask.verbs.machine",
    "write_certificates": "emqa_dask.verbs.machine",
    "check_machine": "emqa_dask.verbs.machine",
    "measure_scaling": "emqa_dask.verbs.machine",
    "Settings": "emqa_dask.settings",
    "load_settings": "emqa_dask.settings",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emqa_dask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
