"""Region maps (tables.TILES) from stored detections and features, of one partition or of several at once."""

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.featurise.region_map import TileEdges, place_map_tiles
from emqa_dask.featurise.tile_counts import compute_tile_agreement, count_in_tiles
from emqa_dask.measure.swelling import NM2_PER_UM2
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

BOX_COLUMNS = ["y0", "x0", "y1", "x1"]
COLUMNS = {  # of each table that are read
    "evidence": ["micrograph_id", "detector", "score_floor"],
    "detections": ["micrograph_id", "detector", "score", "y_px", "x_px", *BOX_COLUMNS],
    "features": ["micrograph_id", *tables.TILE_COLUMNS],
}
SIZE_COLUMNS = ["micrograph_id", "height_px", "width_px", "nm_per_pixel", "nm_per_pixel_y"]


def map_stored_tiles(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, names: Sequence[str]
) -> pd.DataFrame:
    """Rows of tables.TILES of the micrographs `rows` (SIZE_COLUMNS) of partitions `names`, those with evidence."""
    folders = list_run_folders(settings)
    stored_tables = {
        table: parts.read_table(workspace.uri, folders[table], SCHEMAS[table], columns, names)
        for table, columns in COLUMNS.items()
    }
    return map_tiles(**stored_tables, rows=rows)


def map_tiles(
    evidence: pd.DataFrame, detections: pd.DataFrame, features: pd.DataFrame, rows: pd.DataFrame
) -> pd.DataFrame:
    """Rows of tables.TILES of the micrographs `rows`, in the order of `evidence`."""
    sizes = {
        micrograph_id: ((int(height), int(width)), float(compute_pixel_side_nm(nm_x, nm_y)) ** 2)
        for micrograph_id, height, width, nm_x, nm_y in zip(*(rows[name] for name in SIZE_COLUMNS), strict=True)
    }
    statistics = features.set_index("micrograph_id")[list(tables.TILE_COLUMNS)]
    positions = detections.groupby(["micrograph_id", "detector"], sort=False).indices
    scores = detections["score"].to_numpy(float)
    columns = {
        "boxes": detections[BOX_COLUMNS].to_numpy(float),
        "centres": detections[["y_px", "x_px"]].to_numpy(float),
    }
    maps = []
    for micrograph_id, own_evidence in evidence.groupby("micrograph_id", sort=False):
        shape, pixel_area_nm2 = sizes[micrograph_id]
        edges = place_map_tiles(shape)
        own_statistics = statistics.loc[micrograph_id] if micrograph_id in statistics.index else None
        picked = {}
        for detector, floor in zip(own_evidence["detector"], own_evidence["score_floor"], strict=True):
            own_positions = np.asarray(positions.get((micrograph_id, detector), []), np.intp)
            picked[detector] = own_positions[scores[own_positions] >= floor]
        own_columns = {
            name: {detector: values[own_positions] for detector, own_positions in picked.items()}
            for name, values in columns.items()
        }
        maps += _iterate_maps(micrograph_id, edges, own_columns, own_statistics, pixel_area_nm2)
    return pd.concat(maps, ignore_index=True) if maps else tables.empty(tables.TILES)


def _iterate_maps(
    micrograph_id: str,
    edges: TileEdges,
    columns: Mapping[str, Mapping[str, NDArray]],
    statistics: pd.Series | None,
    pixel_area_nm2: float,
) -> Iterator[pd.DataFrame]:
    """Rows of tables.TILES of each detector on an image; `columns` has its boxes and centres by detector."""
    y, x = (values.ravel() for values in np.meshgrid(edges.y[:-1], edges.x[:-1], indexing="ij"))
    height, width = (values.ravel() for values in np.meshgrid(np.diff(edges.y), np.diff(edges.x), indexing="ij"))
    places = {"y_px": y, "x_px": x, "height_px": height, "width_px": width}
    agreements = compute_tile_agreement(columns["boxes"], columns["centres"], edges)
    sharpness, noise = (
        np.nan if statistics is None or statistics[name] is None else statistics[name] for name in tables.TILE_COLUMNS
    )
    area_um2 = height * width * pixel_area_nm2 / NM2_PER_UM2
    for detector, centres in columns["centres"].items():
        n_detections = count_in_tiles(centres, edges)
        yield pd.DataFrame(
            {
                "micrograph_id": micrograph_id,
                "detector": detector,
                **places,
                "n_detections": n_detections,
                "density_per_um2": n_detections / area_um2,
                "agreement": agreements[detector],
                "sharpness": sharpness,
                "noise": noise,
            }
        )


def make_tiles_together(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call = call_directly
) -> dict:
    """Record of the task that makes the region maps of partitions with detections, evidence and features.

    `rows` and errors: see `predict.make_predictions_together`.
    """
    started = time.perf_counter()
    names = list(dict.fromkeys(rows["partition"]))
    tiles = map_stored_tiles(workspace, rows, settings, names)
    partition_names = tiles["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["partition"], strict=True)))
    folder = list_run_folders(settings)["tiles"]
    parts.write_parts(workspace.uri, folder, tiles, partition_names, names, tables.TILES)
    return {"stages": {"tiles": time.perf_counter() - started}, "n_images": len(rows)}
