"""Boxes and entropy maps that the page draws over thumbnails, packed as base64 of uint16."""

import base64

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MAX_BOXES = 300  # detections drawn per image, the strongest; more hide the image and enlarge the page


MAX_BOXES_IN_TABLE = 60  # detections drawn on a thumbnail of the table


def encode_entropy_maps(triage: pd.DataFrame, regions: pd.DataFrame, most_nats: float) -> dict[str, str]:
    """Map of predictive entropy per image, as encode_boxes() encodes it, with entropy / `most_nats` as score.

    `regions` (tables.REGIONS) has rows of some images in `triage`. Windows overlap; the cell of a window ends half-way
    to the centres of its neighbours, so that cells cover the image once.
    """
    sizes = triage.dropna(subset="micrograph_id").set_index("micrograph_id")[["height_px", "width_px"]].astype(float)
    maps = {}
    for row in regions[regions["micrograph_id"].isin(sizes.index)].itertuples():
        height, width = sizes.loc[row.micrograph_id]
        y = _compute_cell_edges(row.y0, row.height_px, height)
        x = _compute_cell_edges(row.x0, row.width_px, width)
        entropy = np.reshape(row.predictive_entropy_nats, (len(y) - 1, len(x) - 1)) / most_nats
        cells = [np.broadcast_to(part, entropy.shape) for part in (y[:-1, None], x[:-1], y[1:, None], x[1:], entropy)]
        values = np.stack(cells, axis=-1).reshape(-1, 5)
        maps[row.micrograph_id] = base64.b64encode(_encode_fractions(values).tobytes()).decode()
    return maps


def _compute_cell_edges(starts: NDArray, length: float, side: float) -> NDArray[np.float64]:
    starts = np.asarray(starts, float)
    centres = starts + length / 2
    return np.array([starts[0], *(centres[1:] + centres[:-1]) / 2, starts[-1] + length]) / side


def _encode_fractions(fractions: NDArray) -> NDArray[np.uint16]:
    return np.round(np.clip(np.nan_to_num(fractions), 0, 1) * 65535).astype("<u2")


def encode_boxes(triage: pd.DataFrame, detections: pd.DataFrame) -> dict[str, str]:
    """Strongest detections per image: base64 of uint16 values y0, x0, y1, x1 (fractions of the image size) and score.

    `triage` has rows of tables.TRIAGE; `detections` (tables.DETECTIONS) has all rows of some of these images.
    """
    sizes = triage.dropna(subset="micrograph_id").set_index("micrograph_id")
    sizes = sizes[["height_px", "width_px", "n_detections"]].astype(float)
    rows = detections[detections["micrograph_id"].isin(sizes.index)]
    rows = rows.sort_values(["micrograph_id", "score"], ascending=[True, False], kind="stable")
    # Detections below the score floor are stored, too; only the n_detections strongest ones count.
    n_boxes = sizes["n_detections"].fillna(MAX_BOXES).clip(upper=MAX_BOXES).reindex(rows["micrograph_id"]).to_numpy()
    rows = rows[rows.groupby("micrograph_id").cumcount().to_numpy() < n_boxes]
    height, width = sizes[["height_px", "width_px"]].reindex(rows["micrograph_id"]).to_numpy().T
    values = rows[["y0", "x0", "y1", "x1", "score"]].to_numpy(float)
    values = values / np.stack([height, width, height, width, np.ones(len(rows))], axis=1)
    packed = _encode_fractions(values)
    names, starts = np.unique(rows["micrograph_id"].to_numpy(object).astype(str), return_index=True)
    cuts = np.split(packed, starts[1:]) if len(names) else []
    return {name: base64.b64encode(part.tobytes()).decode() for name, part in zip(names, cuts, strict=True)}
