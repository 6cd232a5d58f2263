"""What the page of an image shows, as data of a partition that its script loads."""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.report.formatting import escape_invisible

MAX_DRAWN = 1000  # detections of a detector that are drawn, the strongest: 13 kB, and masks of about 80 kB
MAX_HEADER_CHARACTERS = 20_000  # of the file's metadata: more are rare, and the ledger has them
N_DIGITS = 4  # of numbers in maps
BOX_COLUMNS = ("y0", "x0", "y1", "x1", "score")
TILE_SIDES = ("y_px", "x_px", "height_px", "width_px")
MAP_QUANTITIES = ("n_detections", "density_per_um2", "agreement", "sharpness", "noise")  # of tables.TILES
_EFFECT = re.compile(r"(.*): (lowers|raises) the predicted \w+ by ([\d.]+)\.?$", re.DOTALL)

Values = dict[str, Any]  # what JSON can hold


def describe_detections(detections: Mapping[str, ArrayLike], shape: tuple[int, int], score_floor: float) -> Values:
    """Boxes and masks of the strongest `detections` of one detector on an image of `shape`.

    `detections`: columns of tables.DETECTIONS, as arrays or a data frame: for an image's few rows, pandas takes ten
    times as long as numpy. `boxes`: base64 of uint16 y0, x0, y1, x1 (65535 is the end of the image) and score, the
    strongest first. `masks`: COCO's compressed run lengths, null without any. `n`: detections at or above the score
    floor, `n_stored` all of them; `n_drawn` of them are in `boxes`.
    """
    scores = np.asarray(detections["score"], float)
    strongest = np.argsort(-scores, kind="stable")[:MAX_DRAWN]
    height, width = shape
    values = np.column_stack([np.asarray(detections[name], float)[strongest] for name in BOX_COLUMNS])
    texts = [text if isinstance(text, str) else None for text in np.asarray(detections["mask_rle"], object)[strongest]]
    return {
        "n": int((scores >= score_floor).sum()),
        "n_stored": len(scores),
        "n_drawn": len(strongest),
        "boxes": base64.b64encode(_encode_fractions(values / [height, width, height, width, 1]).tobytes()).decode(),
        "masks": texts if any(texts) else None,
    }


def _encode_fractions(fractions: NDArray) -> NDArray[np.uint16]:
    return np.round(np.clip(np.nan_to_num(fractions), 0, 1) * 65535).astype("<u2")


def describe_tiles(tiles: Mapping[str, ArrayLike]) -> Values:
    """Edges of the tiles of an image and their values by detector, from columns of its rows of tables.TILES."""
    columns = {name: np.asarray(tiles[name]) for name in ("detector", *TILE_SIDES, *MAP_QUANTITIES)}
    detectors = {}
    first = np.zeros(len(columns["detector"]), bool)
    for detector in dict.fromkeys(columns["detector"].tolist()):
        is_own = columns["detector"] == detector
        first = first if first.any() else is_own
        detectors[detector] = {name: list_numbers(columns[name][is_own]) for name in MAP_QUANTITIES}
    sides = {name: columns[name][first] for name in TILE_SIDES}
    return {
        "y": _list_edges(sides["y_px"], sides["height_px"]),
        "x": _list_edges(sides["x_px"], sides["width_px"]),
        "detectors": detectors,
    }


def _list_edges(starts: NDArray, lengths: NDArray) -> list[int]:
    return np.union1d(starts, starts + lengths).astype(int).tolist()


def list_numbers(values: Sequence[float] | pd.Series | NDArray) -> list[float | None]:
    """`values` with N_DIGITS digits; None where they are unknown."""
    return [float(f"{value:.{N_DIGITS}g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def describe_entropy(region: Mapping[str, Any], shape: tuple[int, int]) -> Values:
    """Edges of cells and the predictive entropy of each, of a row of tables.REGIONS.

    Windows overlap; the cell of a window ends half-way to the centres of its neighbours.
    """
    edges = {
        axis: _find_cell_edges(np.asarray(region[f"{axis}0"], float), region[length], side)
        for axis, length, side in zip("yx", ("height_px", "width_px"), shape, strict=True)
    }
    return edges | {"values": list_numbers(region["predictive_entropy_nats"])}


def _find_cell_edges(starts: NDArray, length: float, side: int) -> list[float]:
    centres = starts + length / 2
    edges = [starts[0], *(centres[1:] + centres[:-1]) / 2, starts[-1] + length]
    return [round(float(min(max(edge, 0), side)), 1) for edge in edges]


def list_effects(because: object) -> list[dict]:
    """Text and effect on the predicted F1 of each reason of a prediction (`because` of tables.PREDICTIONS)."""
    texts = because if isinstance(because, list | tuple | np.ndarray) else []
    return [_split_effect(str(text)) for text in texts]


def _split_effect(text: str) -> dict:
    match = _EFFECT.match(text)
    if not match:
        return {"text": text, "effect": None}
    return {"text": match[1], "effect": float(match[3]) * (1 if match[2] == "raises" else -1)}


def shorten_header(header: object) -> str:
    """The file's metadata, at most MAX_HEADER_CHARACTERS; "" without any."""
    text = escape_invisible(header)
    return text if len(text) <= MAX_HEADER_CHARACTERS else f"{text[:MAX_HEADER_CHARACTERS]} ..."
