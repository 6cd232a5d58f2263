"""Task of emqa tune order: map the disordered regions of one micrograph and write its parts."""

import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emqa_dask import tables
from emqa_dask.detect import log
from emqa_dask.detect.log_windows import detect_image_by_windows
from emqa_dask.detect.normalise import normalise
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Detect
from emqa_dask.settings.detect_windows import DetectWindows
from emqa_dask.store import files, micrographs, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.tune import order, order_figures

FIGURE_DPI = 150
MAX_NAME_LETTERS = 100  # of the URI in the name of an overlay; file systems allow 255 in all
SUMMARY_SETTINGS = ("verdict", "covariance", "threshold", "spacing_px")


def map_micrograph(
    workspace: Workspace,
    row: dict,
    out: str,
    settings: Detect,
    windows: DetectWindows = (),
    call: Call = call_directly,
) -> dict:
    """Maps one micrograph and writes its parts; the part of order.parquet is the last, so it marks a finished map."""
    micrograph_id = row["micrograph_id"]
    if parts.has_part(out, "order.parquet", micrograph_id, tables.LATTICE_ORDER):
        return {"outcome": "found"}
    image = micrographs.read_window(workspace.uri, row["stack"], row["index"])
    title = f"{row['uri']}, frame {row['frame']}"
    size = {"label": row["uri"], "megapixels": image.size / 1e6}
    order_map, figure = call(compute_overlay_map, image, settings, windows, title, **size)
    with files.write_whole(_locate_overlay(out, row)) as stream:
        figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    tiles = order_map.tiles.assign(micrograph_id=micrograph_id)
    points = order_map.points.assign(micrograph_id=micrograph_id)
    parts.write_part(out, "windows.parquet", micrograph_id, tiles, tables.LATTICE_ORDER_WINDOWS)
    parts.write_part(out, "points.parquet", micrograph_id, points, tables.LATTICE_ORDER_POINTS)
    parts.write_part(out, "order.parquet", micrograph_id, [_summarise(row, order_map)], tables.LATTICE_ORDER)
    return {}


def compute_overlay_map(
    image: np.ndarray, settings: Detect, windows: DetectWindows, title: str
) -> tuple[order.OrderMap, Figure]:
    """The map of one micrograph around its detections, and its overlay."""
    pixels = normalise(image, settings.low_percentile, settings.high_percentile)
    if windows:
        points = detect_image_by_windows(image, settings, windows)
    else:
        points = log.detect_image(image, settings)
    order_map = order.compute_order_map(pixels, points)
    return order_map, order_figures.draw_overlay(pixels, order_map, title=title)


def _locate_overlay(out: str, row: dict) -> str:
    """The PNG of a micrograph, named after the end of its URI, its frame and its id."""
    name = re.sub(r"[^\w.-]+", "_", row["uri"])[-MAX_NAME_LETTERS:]
    return files.join(out, "overlays", f"{name}-{row['frame']}-{row['micrograph_id'][:8]}.png")


def _summarise(row: dict, order_map: order.OrderMap) -> dict[str, Any]:
    """The row of tables.LATTICE_ORDER."""
    identity = {key: row[key] for key in ("micrograph_id", "uri", "frame")}
    settings = {key: order_map.settings[key] for key in SUMMARY_SETTINGS}
    figures = {"disordered_fraction": order_map.area_fraction, "n_points": len(order_map.points)}
    return identity | settings | figures
