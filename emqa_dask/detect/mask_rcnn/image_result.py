"""What a detector gives for an image."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class ImageResult(NamedTuple):
    """Detections of an image, its embedding, and how sure the network is."""

    detections: pd.DataFrame  # rows of tables.DETECTIONS without micrograph_id
    embedding: NDArray[np.float32]  # (d,): see embedding.pool_maps; empty for an image that no network can take
    expected_f1: float  # of the selected detections, from their scores alone: see selection
    n_selected: int  # the first so many detections have the highest expected F1
    mean_score: float  # of the selected detections; 0 without any
    scale: float  # at which the network saw the image
