"""Table of an image's detections by a Mask R-CNN."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.detect.mask_rcnn.detector_card import DetectorCard

COLUMNS = [name for name in tables.DETECTIONS.names if name != "micrograph_id"]


def make_table(
    model_card: DetectorCard,
    boxes: NDArray,
    values: Mapping[str, NDArray],
    classes: NDArray,
    runs: Sequence[mk.Runs],
    shape: tuple[int, int],
    nm_per_pixel: float,
) -> pd.DataFrame:
    """Rows of tables.DETECTIONS without micrograph_id, one for each box (n, 4).

    `values` holds its `score`, `class_margin` and `stability`, `runs` its mask.
    """
    mask_shapes = mk.measure(runs)
    rows = pd.DataFrame(
        {
            "y_px": (boxes[:, 0] + boxes[:, 2]) / 2 - 0.5,
            "x_px": (boxes[:, 1] + boxes[:, 3]) / 2 - 0.5,
            **dict(zip(("y0", "x0", "y1", "x1"), boxes.T)),
            "sigma_px": np.nan,
            "area_px": mask_shapes.area_px,
            "response": np.nan,
            **values,
            "polarity": np.zeros(len(boxes), np.int8),
            "label": pd.Series([model_card.classes[k] for k in classes], dtype=object),
            "detector": pd.Series([model_card.name] * len(boxes), dtype=object),
            "mask_rle": pd.Series(mk.encode(runs, shape), dtype=object),
            "circularity": mask_shapes.circularity,
            "diameter_px": mask_shapes.diameter_px,
            "diameter_nm": mask_shapes.diameter_px * nm_per_pixel,
        },
        index=range(len(boxes)),
    )[COLUMNS]
    for column in ("sigma_px", "response"):
        rows[column] = rows[column].astype(float)
    return rows
