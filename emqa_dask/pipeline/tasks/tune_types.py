"""Task of emqa tune types: find the types of the atomic columns of a partition's micrographs and write its parts."""

import hashlib
import io
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.detect.normalise import normalise
from emqa_dask.pipeline.workspace import atom_tables, micrograph_ledger
from emqa_dask.pipeline.workspace.failures import read_failed_ids
from emqa_dask.run.supervise import Call, CallFailed, call_directly
from emqa_dask.store import files, micrographs, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.tune import atom_figures, atom_types

DETECTION_COLUMNS = ["micrograph_id", "detector", "score", "y_px", "x_px"]
FIGURE_DPI = 150
MAX_NAME_LETTERS = 100  # of the URI in the name of an overlay; file systems allow 255 in all


class TypeRequest(NamedTuple):
    """What is asked of every partition."""

    detections: str  # folder with the parts of detections
    detector: str
    score_floor: float
    max_types: int
    seed: int
    digest: str  # of all of these


def map_partition(
    workspace: Workspace, name: str, packed: bytes, request: TypeRequest, call: Call = call_directly
) -> dict:
    """Record with the number of images that failed. Maps the micrographs `packed` of partition `name`.

    A micrograph that has a map with the same digest and an intact overlay is not mapped again, and rows of other
    micrographs stay. A partition with a damaged part is mapped anew.
    """
    rows = micrograph_ledger.unpack_rows(packed)
    old_tables = atom_tables.read_tables(workspace, name)
    missing = rows[~rows["micrograph_id"].isin(_list_mapped(workspace, old_tables["atom_maps"], request.digest))]
    if missing.empty:
        return {"outcome": "found", "n_images": len(rows), "n_failed": 0}
    detections = parts.read_part(workspace.uri, request.detections, name, tables.DETECTIONS, DETECTION_COLUMNS)
    detections = detections[detections["detector"].eq(request.detector) & detections["score"].ge(request.score_floor)]
    failed_ids = set(read_failed_ids(workspace, request.detections, name))
    new_tables = {
        table: [old_rows[~old_rows["micrograph_id"].isin(missing["micrograph_id"])]]
        for table, old_rows in old_tables.items()
    }
    n_failed = 0
    for row in missing.to_dict("records"):
        points = detections[detections["micrograph_id"].eq(row["micrograph_id"])]
        if row["micrograph_id"] in failed_ids:
            image_tables = {"atom_maps": _describe_failure(row, request, "detection failed")}
        else:
            image_tables = _map_image(workspace, row, points[["y_px", "x_px"]], request, call)
        n_failed += image_tables["atom_maps"]["digest"].eq("").sum()
        for table, image_rows in image_tables.items():
            new_tables[table].append(image_rows.assign(micrograph_id=row["micrograph_id"]))
    atom_tables.write_tables(workspace, name, new_tables)
    return {"n_images": len(missing), "n_failed": int(n_failed)}


def _list_mapped(workspace: Workspace, maps: pd.DataFrame, digest: str) -> list[str]:
    """The micrographs that have a map with this digest and the overlay that was written with it."""
    own = maps[maps["digest"].eq(digest)]
    return [
        row.micrograph_id
        for row in own.itertuples()
        if atom_tables.has_overlay(workspace, row.overlay, row.overlay_sha256)
    ]


def _map_image(
    workspace: Workspace, row: dict, points: pd.DataFrame, request: TypeRequest, call: Call
) -> dict[str, pd.DataFrame]:
    """Rows of the tables atom_tables.SCHEMAS of one micrograph, whose overlay is written; failures become a row."""
    arguments = (points, f"{row['uri']}, frame {row['frame']}", request.max_types, request.seed)
    try:
        image = micrographs.read_window(workspace.uri, row["stack"], row["index"])
        atoms, picture = call(map_columns, image, *arguments, label=row["uri"], megapixels=image.size / 1e6)
    except CallFailed as died:
        return {"atom_maps": _describe_failure(row, request, died.error)}
    except OSError as error:
        return {"atom_maps": _describe_failure(row, request, str(error))}
    name = _name_overlay(row)
    files.write_bytes(files.join(workspace.atom_overlays, name), picture)
    results = {
        "n_columns": len(atoms.columns),
        "n_types": len(atoms.types) or None,
        "bic": atoms.bic or None,
        "spacing_px": atoms.spacing_px,
        "verdict": atoms.verdict,
        "overlay": name,
        "overlay_sha256": hashlib.sha256(picture).hexdigest(),
        "digest": request.digest,
    }
    maps = pd.DataFrame([_identify(row, request) | results])
    return {"atom_columns": atoms.columns, "atom_types": atoms.types, "atom_maps": maps}


def _name_overlay(row: dict) -> str:
    """Name of the PNG of a micrograph, after the end of its URI, its frame and its id."""
    name = re.sub(r"[^\w.-]+", "_", row["uri"])[-MAX_NAME_LETTERS:]
    return f"{name}-{row['frame']}-{row['micrograph_id'][:8]}.png"


def map_columns(
    image: np.ndarray, points: pd.DataFrame, title: str, max_types: int, seed: int
) -> tuple[atom_types.AtomTypes, bytes]:
    """The types of the columns of one micrograph, and its overlay as PNG."""
    pixels = image.astype(np.float64)
    is_finite = np.isfinite(pixels)
    pixels[~is_finite] = np.median(pixels[is_finite]) if is_finite.any() else 0.0
    atoms = atom_types.find_types(pixels, points, max_types=max_types, seed=seed)
    stream = io.BytesIO()
    figure = atom_figures.draw_overlay(normalise(image, 1, 99), atoms, title=title)
    figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    return atoms, stream.getvalue()


def _identify(row: dict, request: TypeRequest) -> dict:
    return {key: row[key] for key in ("micrograph_id", "uri", "frame")} | {"detector": request.detector}


def _describe_failure(row: dict, request: TypeRequest, error: str) -> pd.DataFrame:
    """The row of a micrograph without a map; its empty digest lets the next run try again."""
    return pd.DataFrame([_identify(row, request) | {"verdict": f"failed: {error}", "digest": ""}])
