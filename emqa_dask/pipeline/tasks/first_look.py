"""The first look at images of a session, from which its detector is chosen."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from emqa_dask import models
from emqa_dask.archive.name_escapes import unescape_name
from emqa_dask.archive.survey import fetch_file
from emqa_dask.backend import use_device
from emqa_dask.detect import log
from emqa_dask.featurise.lattice_peaks import measure_lattice_fraction
from emqa_dask.pipeline.tasks.image_stages import count_megapixels
from emqa_dask.pipeline.tasks.store_partition import read_row_windows, read_window
from emqa_dask.pipeline.workspace.detector_choices import DOT_SIGMAS
from emqa_dask.run.supervise import Call, CallFailed
from emqa_dask.settings import Detect, Settings
from emqa_dask.settings.stages import AUTO_NETWORK
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.session_choice import MIN_SCORE_SUM, Look

LOOK_PX = 1024  # of the middle of an image at most
MIN_SCORE = 0.3  # of detections that count


def look_at_session(workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call) -> dict:
    """Record of the task: the session's key, and a Look at each of its `rows` that could be read."""
    looks = []
    for row in rows.to_dict("records"):
        size = {"label": row["uri"], "megapixels": count_megapixels(row)}
        try:
            with fetch_file(unescape_name(row["path"])) as path:
                windows = call(read_row_windows, path, row["frame"], **size)
                image = np.concatenate([call(read_window, path, row["frame"], y0, y1, **size) for y0, y1 in windows])
            looks.append(call(look_at_image, image, settings, **size))
        except (CallFailed, OSError):
            continue  # detection will report it
    return {"folder": rows["folder"].iloc[0], "instrument": rows["session_instrument"].iloc[0], "looks": looks}


def look_at_image(image: np.ndarray, settings: Settings) -> Look:
    """Scores of the network by class, peaks of a lattice, and small dots where there are neither."""
    from emqa_dask.detect.mask_rcnn import load_detector

    y0, x0 = (max(0, (n - LOOK_PX) // 2) for n in image.shape)
    pixels = np.nan_to_num(np.asarray(image[y0 : y0 + LOOK_PX, x0 : x0 + LOOK_PX], np.float32))
    device = settings.run.device
    detector = load_detector(models.locate_model(AUTO_NETWORK), device, settings.detect.precision)
    with use_device(device):
        (detections,) = detector.detect([pixels])
    score_sums = sum_scores(detections, detector.card.classes)
    fraction = measure_lattice_fraction(pixels)
    n_dots = 0
    if sum(score_sums.values()) < MIN_SCORE_SUM:
        with use_device(device):
            n_dots = len(log.detect_image(pixels, dataclasses.replace(Detect(), **DOT_SIGMAS), device=device))
    return Look(score_sums, fraction, n_dots)


def sum_scores(detections: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Sum of the scores of the detections of each class, doubtful ones left out."""
    sums = detections[detections["score"] >= MIN_SCORE].groupby("label")["score"].sum()
    return {name: float(sums.get(name, 0.0)) for name in classes}
