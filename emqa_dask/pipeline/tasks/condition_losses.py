"""F1 that micrographs lose by their imaging conditions, by the response surfaces on the cards of quality models."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import models
from emqa_dask.pipeline.workspace.quality_models import select_fitting_models
from emqa_dask.response_surface import (
    DOSE_FACTOR,
    ResponseSurface,
    find_best_conditions,
    predict_f1_at_doses,
    read_response_surface,
)
from emqa_dask.settings import Settings


def compute_losses(rows: pd.DataFrame, settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Columns predicted_loss and dose_gain (n,) of rows of triage.rows.ROWS; NaN without a surface for the detector."""
    loss = np.full(len(rows), np.nan)
    gain = np.full(len(rows), np.nan)
    for detector, surface in find_surfaces(settings).items():
        positions = np.flatnonzero(rows["detector"].eq(detector))
        if len(positions):
            f1 = predict_f1_at_doses(surface, rows.iloc[positions], (1.0, DOSE_FACTOR))
            loss[positions] = find_best_conditions(surface)[1] - f1[:, 0]
            gain[positions] = f1[:, 1] - f1[:, 0]
    return {"predicted_loss": loss, "dose_gain": gain}


def find_surfaces(settings: Settings) -> dict[str, ResponseSurface]:
    """Detector -> surface of the first quality model that predicts for it: fitted at the run's score floor."""
    surfaces: dict[str, ResponseSurface | None] = {}
    for name in select_fitting_models(settings.predict.models, settings.detect):
        detector, own_floor = models.read_detector_and_floor(name)
        if own_floor == settings.featurise.score_floor and detector not in surfaces:
            directory = models.locate_model(name)
            surfaces[detector] = _load_surface(directory, models.digest_model_card(directory))
    return {detector: surface for detector, surface in surfaces.items() if surface is not None}


@functools.lru_cache(maxsize=8)
def _load_surface(directory: Path, digest: str) -> ResponseSurface | None:
    """The surface on the card of a model directory; None without one."""
    with models.blame_model(directory / "card.toml"):
        return read_response_surface(models.read_model_card(directory))
