"""What an ensemble says of a partition's images, as evidence; and what follows from it, judged without a network."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emqa_dask import models
from emqa_dask.settings import Settings
from emqa_dask.uncertainty import entropy
from emqa_dask.uncertainty.classification import classify_images


def classify_partition(
    ids: Sequence[str], images: list[np.ndarray], settings: Settings
) -> list[tuple[pd.DataFrame, dict]]:
    """Of each image its rows of tables.PROBABILITIES and its row of tables.REGIONS; loaded once a process.

    An image that is smaller than the classifier's window has no rows, and None for the other.
    """
    from emqa_dask import classify  # torch, which only runs with a classifier need

    how = settings.classify
    directory = models.locate_model(how.model)
    device = settings.run.device
    ensemble = classify.load_ensemble(directory, device, method=how.method or None, precision=how.precision)
    name = ensemble.card.name
    can = [not ensemble.refusal(image.shape) for image in images]
    examined = iter(ensemble.examine([image for image, is_fit in zip(images, can) if is_fit]))
    found = []
    for key, is_fit in zip(ids, can, strict=True):
        if not is_fit:
            found.append((classify.make_probability_rows([], [], name), None))
            continue
        one = next(examined)
        region = {"micrograph_id": key, "classifier": name} | _maps(one.regions, one.boxes)
        region |= {"content": one.content, "foreign_log_odds": one.foreign_log_odds}
        found.append((classify.make_probability_rows([key], [one], name, numbers=ensemble.numbers), region))
    return found


def _maps(said: np.ndarray, boxes: np.ndarray) -> dict:
    """`said` (members, rows, columns, classes) of windows with `boxes` (rows, columns, 4), as in tables.REGIONS."""
    p = said.reshape(len(said), -1, said.shape[-1])
    y0, x0, y1, x1 = np.moveaxis(boxes, -1, 0)
    return {
        "y0": y0[:, 0].astype(np.float32),
        "x0": x0[0].astype(np.float32),
        "height_px": float(y1[0, 0] - y0[0, 0]),
        "width_px": float(x1[0, 0] - x0[0, 0]),
        "predictive_entropy_nats": entropy.predictive_entropy(p).astype(np.float32),
        "mutual_information_nats": entropy.mutual_information(p).astype(np.float32),
        "predicted_class": p.mean(axis=0).argmax(axis=1).astype(np.int16),
    }


def classify_micrographs(
    probabilities: pd.DataFrame, regions: pd.DataFrame, features: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """A row of tables.CLASSIFICATIONS for each micrograph of `features`, which have its voltage_kv, too."""
    largest = regions["predictive_entropy_nats"].map(lambda values: float(np.max(values)) if len(values) else np.nan)
    told = regions[["micrograph_id", "content", "foreign_log_odds"]].assign(largest_region_entropy_nats=largest)
    known = features.merge(told, on="micrograph_id", how="left", validate="one_to_one")
    return classify_images(probabilities, known, models.locate_model(settings.classify.model))
