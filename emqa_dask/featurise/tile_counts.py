"""Detections in the tiles of an image, and the agreement of detectors there."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emqa_dask.boxes import match_boxes
from emqa_dask.featurise.detector_agreement import IOU_THRESHOLD
from emqa_dask.featurise.region_map import TileEdges


def count_in_tiles(centres: NDArray, edges: TileEdges) -> NDArray[np.int64]:
    """Numbers (k,) of `centres` (n, 2: y, x; px, whole at the centre of a pixel) in each tile, row by row."""
    n_tiles = (len(edges.y) - 1) * (len(edges.x) - 1)
    return np.bincount(find_tiles(centres, edges), minlength=n_tiles)


def find_tiles(centres: NDArray, edges: TileEdges) -> NDArray[np.int64]:
    """The tile (n,) of each of `centres` (n, 2: y, x), numbered row by row; one outside belongs to the nearest tile."""
    y, x = (
        np.clip(np.searchsorted(axis_edges, values + 0.5, side="right") - 1, 0, len(axis_edges) - 2)
        for axis_edges, values in zip(edges, np.reshape(centres, (-1, 2)).T, strict=True)
    )
    return y * (len(edges.x) - 1) + x


def compute_tile_agreement(
    boxes: Mapping[str, NDArray], centres: Mapping[str, NDArray], edges: TileEdges
) -> dict[str, NDArray[np.float64]]:
    """Mean F1 (k,) of each detector's boxes (n, 4) with those of the other detectors, in each tile.

    Boxes are matched in the whole image, as detector_agreement.compute_agreement() does. A box belongs to the tile of
    its centre (n, 2): F1 is the fraction of the boxes of both detectors in a tile that have a partner. 1 where there is
    no box, NaN for a single detector.
    """
    names = list(boxes)
    counts = {name: count_in_tiles(centres[name], edges) for name in names}
    n_tiles = (len(edges.y) - 1) * (len(edges.x) - 1)
    f1_by_detector: dict[str, list[NDArray]] = {name: [] for name in names}
    for k, name in enumerate(names):
        for other_name in names[k + 1 :]:
            pairs = match_boxes(boxes[name], boxes[other_name], IOU_THRESHOLD, "optimal").pairs
            n_matched = count_in_tiles(centres[name][pairs[:, 0]], edges)
            n_matched += count_in_tiles(centres[other_name][pairs[:, 1]], edges)
            n_boxes = counts[name] + counts[other_name]
            f1 = np.divide(n_matched, n_boxes, out=np.ones(n_tiles), where=n_boxes > 0)
            f1_by_detector[name].append(f1)
            f1_by_detector[other_name].append(f1)
    unknown = np.full(n_tiles, np.nan)
    return {name: np.mean(values, axis=0) if values else unknown for name, values in f1_by_detector.items()}
