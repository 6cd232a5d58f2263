"""Outputs of an ensemble for a partition's images, and classifications from stored outputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emqa_dask import models
from emqa_dask.backend import use_device
from emqa_dask.settings import Settings
from emqa_dask.uncertainty import entropy
from emqa_dask.uncertainty.classification import classify_images

if TYPE_CHECKING:
    from emqa_dask.classify import Ensemble, ImageOutputs


def classify_partition(
    ids: Sequence[str], images: list[np.ndarray], settings: Settings
) -> list[tuple[pd.DataFrame, dict | None]]:
    """Rows of tables.PROBABILITIES and the row of tables.REGIONS of each image.

    An image smaller than the classifier's window has no rows of the first table, and None instead of the second. A
    process loads the ensemble once.
    """
    from emqa_dask import classify  # imports torch, which only runs with a classifier need

    ensemble = _load_ensemble(settings)
    name = ensemble.card.name
    is_accepted = [not ensemble.explain_refusal(image.shape) for image in images]
    accepted = [image for image, is_ok in zip(images, is_accepted) if is_ok]
    with use_device(settings.run.device):
        outputs = iter(list(ensemble.classify_images(accepted)))
    results = []
    for micrograph_id, is_ok in zip(ids, is_accepted, strict=True):
        if not is_ok:
            results.append((classify.make_probability_rows([], [], name), None))
            continue
        output = next(outputs)
        numbers = ensemble.member_numbers
        rows = classify.make_probability_rows([micrograph_id], [output], name, member_numbers=numbers)
        results.append((rows, _make_region_row(micrograph_id, name, output)))
    return results


def _load_ensemble(settings: Settings) -> "Ensemble":
    """The ensemble of the settings."""
    from emqa_dask import classify

    options = settings.classify
    directory = models.locate_model(options.model)
    return classify.load_ensemble(
        directory, settings.run.device, method=options.method or None, precision=options.precision
    )


def _make_region_row(micrograph_id: str, classifier: str, output: "ImageOutputs") -> dict[str, Any]:
    """The row of tables.REGIONS: maps over the windows, and the image's content."""
    p = output.window_probabilities
    p = p.reshape(len(p), -1, p.shape[-1])
    y0, x0 = np.moveaxis(output.window_boxes[..., :2], -1, 0)
    y1, x1 = np.moveaxis(output.window_boxes[..., 2:], -1, 0)
    return {
        "micrograph_id": micrograph_id,
        "classifier": classifier,
        "y0": y0[:, 0].astype(np.float32),
        "x0": x0[0].astype(np.float32),
        "height_px": float(y1[0, 0] - y0[0, 0]),
        "width_px": float(x1[0, 0] - x0[0, 0]),
        "predictive_entropy_nats": entropy.predictive_entropy(p).astype(np.float32),
        "mutual_information_nats": entropy.mutual_information(p).astype(np.float32),
        "predicted_class": p.mean(axis=0).argmax(axis=1).astype(np.int16),
        "content": output.content,
        "foreign_log_odds": output.foreign_log_odds,
    }


def classify_micrographs(
    probabilities: pd.DataFrame, regions: pd.DataFrame, features: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """A row of tables.CLASSIFICATIONS for each micrograph of `features`, which include voltage_kv; no network runs."""
    entropy_maps = regions["predictive_entropy_nats"]
    largest_entropies = entropy_maps.map(lambda values: float(np.max(values)) if len(values) else np.nan)
    contents = regions[["micrograph_id", "content", "foreign_log_odds"]].assign(
        largest_region_entropy_nats=largest_entropies
    )
    merged = features.merge(contents, on="micrograph_id", how="left", validate="one_to_one")
    return classify_images(probabilities, merged, models.locate_model(settings.classify.model))
