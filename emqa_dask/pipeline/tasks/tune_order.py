"""What a worker does for emqa tune order: map the disordered regions of one micrograph."""

import re

import numpy as np
from matplotlib.figure import Figure

from emqa_dask import tables
from emqa_dask.detect import log
from emqa_dask.detect.normalise import normalise
from emqa_dask.run.supervise import Call, direct
from emqa_dask.settings import Detect
from emqa_dask.store import files, micrographs, parts
from emqa_dask.tune import order, order_figures

TABLES = {"windows": tables.ORDER_WINDOWS, "points": tables.ORDER_POINTS}


def map_micrograph(root: str, row: dict, out: str, settings: Detect, call: Call = direct) -> dict:
    """Map one micrograph and write its parts; order.parquet's comes last, and says that all are there."""
    name = row["micrograph_id"]
    if parts.has_part(out, "order.parquet", name, tables.ORDER):
        return {"outcome": "found"}
    image = micrographs.read_window(root, row["stack"], row["index"])
    what = f"{row['uri']}, frame {row['frame']}"
    found, figure = call(compute_overlay_map, image, settings, what, label=row["uri"], megapixels=image.size / 1e6)
    told = {key: found.settings[key] for key in ("verdict", "covariance", "threshold", "spacing_px")}
    one = {key: row[key] for key in ("micrograph_id", "uri", "frame")} | told
    one |= {"disordered_fraction": found.area_fraction, "n_points": len(found.points)}
    slug = re.sub(r"[^\w.-]+", "_", row["uri"])[-100:]
    with files.write_whole(files.join(out, "overlays", f"{slug}-{row['frame']}-{name[:8]}.png")) as stream:
        figure.savefig(stream, format="png", dpi=150)
    for table in ("windows", "points"):
        rows = getattr(found, table).assign(micrograph_id=name)
        parts.write_part(out, f"{table}.parquet", name, rows, TABLES[table])
    parts.write_part(out, "order.parquet", name, [one], tables.ORDER)
    return {}


def compute_overlay_map(image: np.ndarray, settings: Detect, title: str) -> tuple[order.OrderMap, Figure]:
    """The map of one micrograph around its detections, and its overlay."""
    pixels = normalise(image, settings.low_percentile, settings.high_percentile)
    found = order.compute_order_map(pixels, log.detect_image(image, settings))
    return found, order_figures.draw_overlay(pixels, found, title=title)
