"""Data and pictures of the pages of images, of some partitions, for the report."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.tasks.nearest_labelled import describe_nearest
from emqa_dask.pipeline.tasks.report_pictures import PictureLevels, write_pictures
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.report import image_details, micrograph_data
from emqa_dask.report.formatting import escape_invisible
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

LEDGER_COLUMNS = ["micrograph_id", "partition", "stack", "index", "pixel_sha256", "header"]
LEDGER_COLUMNS += [name for name in image_details.HEADER_COLUMNS if name not in LEDGER_COLUMNS]
ROW_NUMBERS = ("n_detections", "density_per_um2", "mean_diameter_nm", "area_fraction", "ood_distance", "shift_score")
ROW_NUMBERS += ("class_probability", "predictive_entropy_nats", "nm_per_pixel", "nm_per_pixel_y", "defocus_nm")
TRIAGE_COLUMNS = ["micrograph_id", "uri", "frame", "session", "height_px", "width_px", "verdict", "reasons"]
TRIAGE_COLUMNS += ["explanation", "detector", "predicted_class", "content_sha256", *ROW_NUMBERS]
F1_NUMBERS = ("predicted_f1", "predicted_f1_low", "predicted_f1_high", "predicted_precision", "predicted_recall")
TABLES = {  # that are read, with their columns
    "detections": ["micrograph_id", "detector", "y0", "x0", "y1", "x1", "score", "mask_rle"],
    "evidence": ["micrograph_id", "detector", "score_floor", "is_capped", "detector_agreement"],
    "predictions": ["micrograph_id", "detector", *F1_NUMBERS, "because"],
    "tiles": tables.TILES.names,
    "thumbnails": ["micrograph_id", "jpeg"],
    "regions": ["micrograph_id", "y0", "x0", "height_px", "width_px", "predictive_entropy_nats"],
    "custom_checks": tables.CUSTOM_CHECKS.names,
}
LONG_TABLES = ("detections", "tiles")  # that have many rows of an image

Columns: TypeAlias = Mapping[str, NDArray]  # values of the same rows, by the name of the column


class Neighbours(NamedTuple):
    """Addresses partition/micrograph_id of the images before and after an image in its session; "" without one."""

    previous: str
    next: str


def write_image_data(
    workspace: Workspace,
    neighbours: Mapping[str, Mapping[str, Neighbours]],
    settings: Settings,
    addresses: Mapping[str, str],
    call: Call = call_directly,
) -> dict:
    """Record of a task that writes the data, and if required the pictures, of the images of some partitions.

    `neighbours`: partition -> micrograph_id -> those of the image; it has all images of a partition that get a page.
    `addresses`: micrograph_id -> page of labelled images.
    `digests` of the record has the digest of each partition's file.
    """
    digests: dict[str, str] = {}
    names = list(neighbours)
    ids = [micrograph_id for images in neighbours.values() for micrograph_id in images]
    image_tables = _read_tables(workspace, settings, names, ids)
    nearest = describe_nearest(workspace, settings, names, ids, addresses)
    rows = _read_rows(workspace, names, ids)
    headers = image_details.describe_headers(rows)
    records = rows.to_dict("records")
    positions = rows.groupby("partition", sort=False).indices
    for name, images in neighbours.items():
        own_positions = positions.get(name, [])
        levels = {}
        if settings.report.pictures == "full":
            levels = write_pictures(workspace, name, rows.iloc[own_positions])
        descriptions = {}
        for row in (records[k] for k in own_positions):
            micrograph_id = row["micrograph_id"]
            descriptions[micrograph_id] = _describe_image(
                row, headers[micrograph_id], image_tables, images[micrograph_id], settings, levels, nearest
            )
        text = json.dumps({"partition": name, "images": descriptions}, separators=(",", ":"), allow_nan=False)
        uri = workspace.image_data(name)
        files.write_bytes(uri, f"emqa.addImages({text});\n".encode("ascii"))
        digests[name] = provenance.digest_of(uri)
    return {"n_images": len(rows), "digests": digests}


class ImageTables(NamedTuple):
    """Rows of some images by table and micrograph_id; an image without rows in a table is missing there."""

    columns: dict[str, dict[str, Columns]]  # of the tables whose images have many rows
    records: dict[str, dict[str, list[dict]]]  # of the others
    checks: dict[str, image_details.Details]

    def select_columns(self, table: str, micrograph_id: str) -> Columns:
        """Columns of the image's rows in `table`, one of LONG_TABLES."""
        return self.columns.get(table, {}).get(micrograph_id) or dict.fromkeys(TABLES[table], np.empty(0, object))

    def select_records(self, table: str, micrograph_id: str) -> list[dict]:
        """The image's rows in `table`."""
        return self.records.get(table, {}).get(micrograph_id, [])


def _read_tables(workspace: Workspace, settings: Settings, names: Sequence[str], ids: Sequence[str]) -> ImageTables:
    """Rows of the images `ids` in each of TABLES."""
    image_tables = ImageTables({}, {}, {})
    for table, folder in list_run_folders(settings).items():
        if table not in TABLES or (table == "thumbnails" and settings.report.pictures == "none"):
            continue
        existing = set(parts.list_parts(workspace.uri, folder))
        own_names = [name for name in names if name in existing]
        rows = parts.read_table(
            workspace.uri, folder, SCHEMAS[table], TABLES[table], own_names, ("micrograph_id", list(ids))
        )
        indices = rows.groupby("micrograph_id", sort=False).indices
        if table == "custom_checks":
            image_tables.checks.update(image_details.describe_checks(rows, settings.flags.custom))
        elif table in LONG_TABLES:
            columns = {name: rows[name].to_numpy() for name in TABLES[table]}
            image_tables.columns[table] = {
                micrograph_id: select_rows(columns, own_indices) for micrograph_id, own_indices in indices.items()
            }
        else:
            records = rows.to_dict("records")
            image_tables.records[table] = {
                micrograph_id: [records[k] for k in own_indices] for micrograph_id, own_indices in indices.items()
            }
    return image_tables


def select_rows(columns: Columns, selection: NDArray) -> Columns:
    """The rows of `columns` that `selection` (a mask or indices) names."""
    return {name: values[selection] for name, values in columns.items()}


def _read_rows(workspace: Workspace, names: Sequence[str], ids: Sequence[str]) -> pd.DataFrame:
    """Rows of triage of the images `ids`, with LEDGER_COLUMNS; there `detector` is that of the microscope.

    The detector whose detections count is `chosen_detector`.
    """

    def read(uri: str, schema: pa.Schema, columns: list[str], row_filter: tuple[str, list[str]]) -> pd.DataFrame:
        batches = parts.iterate_table(uri, schema, columns, row_filter=row_filter)
        return pd.concat([tables.empty(schema)[columns], *batches], ignore_index=True)

    triage = read(workspace.triage, tables.TRIAGE, TRIAGE_COLUMNS, ("micrograph_id", list(ids)))
    ledger = read(workspace.micrographs, tables.MICROGRAPHS, LEDGER_COLUMNS, ("partition", list(names)))
    triage = triage.rename(columns={"detector": "chosen_detector"})
    both = [name for name in ledger if name in triage and name != "micrograph_id"]
    return triage.drop(columns=both).merge(ledger, on="micrograph_id", how="inner")


def _describe_image(
    row: dict,
    header_details: image_details.Details,
    image_tables: ImageTables,
    neighbours: Neighbours,
    settings: Settings,
    levels: Mapping[str, PictureLevels],
    nearest: Mapping[tuple[str, str], list[dict]],
) -> dict:
    """What the page of the image `row` shows."""
    micrograph_id = row["micrograph_id"]
    shape = int(row["height_px"]), int(row["width_px"])
    jpegs = [own["jpeg"] for own in image_tables.select_records("thumbnails", micrograph_id) if own["jpeg"] is not None]
    regions = image_tables.select_records("regions", micrograph_id)
    picture_levels = levels.get(micrograph_id)
    return {
        "uri": escape_invisible(row["uri"]),
        "frame": int(row["frame"]),
        "session": escape_invisible(row["session"]),
        "size": shape,
        "verdict": row["verdict"],
        "reasons": list(row["reasons"]),
        "explanation": escape_invisible(row["explanation"]),
        "numbers": dict(zip(ROW_NUMBERS, micrograph_data.list_numbers([row[name] for name in ROW_NUMBERS]))),
        "class": escape_invisible(row["predicted_class"]) or None,
        "details": header_details + image_tables.checks.get(micrograph_id, []),
        "header": micrograph_data.shorten_header(row["header"]),
        "provenance": _list_provenance(row),
        "chosen": escape_invisible(row["chosen_detector"]) or None,
        "detectors": _describe_detectors(micrograph_id, image_tables, shape, nearest),
        "tiles": micrograph_data.describe_tiles(image_tables.select_columns("tiles", micrograph_id)),
        "entropy": micrograph_data.describe_entropy(regions[0], shape) if regions else None,
        "jpeg": base64.b64encode(jpegs[0]).decode() if jpegs else None,
        "pictures": picture_levels._asdict() if picture_levels else None,
        **neighbours._asdict(),
    }


def _list_provenance(row: dict) -> list[list[str]]:
    """Identities of the image and its file."""
    return [
        ["Micrograph", row["micrograph_id"]],
        ["SHA-256 of the file", escape_invisible(row["content_sha256"])],
        ["SHA-256 of the pixels", escape_invisible(row["pixel_sha256"])],
        ["Stored in", f"micrographs.zarr/{row['stack']}, slot {row['index']}"],
        ["Part of each table", row["partition"]],
    ]


def _describe_detectors(
    micrograph_id: str,
    image_tables: ImageTables,
    shape: tuple[int, int],
    nearest: Mapping[tuple[str, str], list[dict]],
) -> list[dict]:
    """Detections and predictions of each detector with evidence."""
    detections = image_tables.select_columns("detections", micrograph_id)
    predictions = {row["detector"]: row for row in image_tables.select_records("predictions", micrograph_id)}
    descriptions = []
    for evidence in image_tables.select_records("evidence", micrograph_id):
        name = evidence["detector"]
        prediction = predictions.get(name, {})
        numbers = micrograph_data.list_numbers([prediction.get(column, float("nan")) for column in F1_NUMBERS])
        floor = float(np.nan_to_num(evidence["score_floor"]))
        (agreement,) = micrograph_data.list_numbers([evidence["detector_agreement"]])
        own_detections = select_rows(detections, detections["detector"] == name)
        descriptions.append(
            {
                "name": name,
                "floor": floor,
                "is_capped": bool(evidence["is_capped"]),
                "agreement": agreement,
                **dict(zip(F1_NUMBERS, numbers, strict=True)),
                "effects": micrograph_data.list_effects(prediction.get("because")),
                "nearest": nearest.get((micrograph_id, name), []),
                **micrograph_data.describe_detections(own_detections, shape, floor),
            }
        )
    return descriptions
