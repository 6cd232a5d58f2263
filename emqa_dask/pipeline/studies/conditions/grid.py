"""True F1 of a detector over a grid of conditions: (images, points of the grid)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.boxes import match_boxes
from emqa_dask.pipeline.studies.conditions.acquire import Acquisition
from emqa_dask.pipeline.studies.output import ResultStore
from emqa_dask.pipeline.tasks.image_measurement import detect_objects
from emqa_dask.response_surface import list_grid_points
from emqa_dask.settings import Settings

Say = Callable[[str], None]


class Matching(NamedTuple):
    """What counts as found, from the card of the quality model."""

    score_floor: float
    iou_threshold: float
    rule: str


def compute_image_f1(
    acquisitions: Iterable[Acquisition], settings: Settings, matching: Matching
) -> NDArray[np.float64]:
    """True F1 of the detector of `settings` on every acquisition of one image; NaN where there is nothing at all."""
    scores = []
    for image, boxes, nm_per_pixel in acquisitions:
        row = {"micrograph_id": "", "nm_per_pixel": nm_per_pixel, "nm_per_pixel_y": nm_per_pixel}
        detections = detect_objects(image, row, settings)
        counted_rows = detections[detections["score"] >= matching.score_floor]
        corners = counted_rows[["y0", "x0", "y1", "x1"]].to_numpy(float)
        scores.append(match_boxes(corners, boxes, matching.iou_threshold, matching.rule).f1)
    return np.array(scores)


def compute_grid_f1(
    acquire: Sequence[Callable[[], Iterable[Acquisition]]],
    settings: Settings,
    matching: Matching,
    store: ResultStore,
    say: Say,
) -> NDArray[np.float64]:
    """True F1 (images, points); images that an interrupted study has finished come from `store`."""
    rows = []
    for number, acquire_image in enumerate(acquire):
        rows.append(
            store.load_or_compute(
                f"image {number}",
                lambda acquire_image=acquire_image: compute_image_f1(acquire_image(), settings, matching),
            )
        )
        say(f"image {number + 1} of {len(acquire)}: mean F1 {np.nanmean(rows[-1]):.2f} over {len(rows[-1])} conditions")
    return np.stack(rows)


def tabulate_grid(axes: Mapping[str, NDArray], f1: NDArray, held_out_f1: NDArray, best_f1: float) -> pd.DataFrame:
    """A row for each point of the grid: conditions, mean true F1 with its standard error, and F1 of held-out fits."""
    table = pd.DataFrame(list_grid_points(axes), columns=list(axes))
    n = np.isfinite(f1).sum(axis=0)
    table["n_images"] = n
    table["true_f1"] = np.nanmean(f1, axis=0)
    table["standard_error"] = np.nanstd(f1, axis=0, ddof=1) / np.sqrt(n) if len(f1) > 1 else np.nan
    table["held_out_f1"] = held_out_f1
    table["true_loss"] = best_f1 - table["true_f1"]
    return table


def tabulate_images(axes: Mapping[str, NDArray], f1: NDArray, names: Sequence[str]) -> pd.DataFrame:
    """A row for each image and point of the grid, with the true F1."""
    table = pd.DataFrame(np.tile(list_grid_points(axes), (len(f1), 1)), columns=list(axes))
    table.insert(0, "image", np.repeat(list(names), f1.shape[1]))
    table["true_f1"] = f1.ravel()
    return table
