"""Pictures of a report: thumbnails with boxes and entropy maps of some rows, in files that the page loads on demand."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import models, tables
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.report import overlays
from emqa_dask.report.image_details import HEADER_COLUMNS, Details, describe_checks, describe_headers
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

PARTITIONS_PER_READ = 24  # partitions whose shown images' detections are in memory at a time
PAGE_IMAGE_COLUMNS = {  # of each table, for micrographs that are shown
    "detections": ["micrograph_id", "detector", "y0", "x0", "y1", "x1", "score"],
    "thumbnails": ["micrograph_id", "jpeg"],
    "custom_checks": tables.CUSTOM_CHECKS.names,
    "regions": ["micrograph_id", "y0", "x0", "height_px", "width_px", "predictive_entropy_nats"],
}


class PageImages(NamedTuple):
    """Boxes, thumbnails, entropy maps and details by micrograph_id; a micrograph without one has no entry."""

    boxes: dict[str, str]
    pictures: dict[str, bytes]  # JPEG
    entropy_maps: dict[str, str]
    details: dict[str, Details]

    def add(self, others: "PageImages") -> None:
        """Add those of another workspace."""
        self.boxes.update(others.boxes)
        self.pictures.update(others.pictures)
        self.entropy_maps.update(others.entropy_maps)
        self.details.update(others.details)


def _read_headers(workspace: Workspace, ids: pd.Series) -> dict[str, Details]:
    """Details of the acquisition of the micrographs `ids`."""
    details = {}
    columns = ["micrograph_id", *HEADER_COLUMNS]
    for rows in parts.iterate_table(
        workspace.micrographs, tables.MICROGRAPHS, columns, row_filter=("micrograph_id", list(ids))
    ):
        details |= describe_headers(rows)
    return details


def read_page_images(workspace: Workspace, shown_rows: pd.DataFrame, settings: Settings) -> PageImages:
    """Drawn images of the micrographs in `shown_rows`, some partitions at a time."""
    shown_ids = shown_rows["micrograph_id"].dropna()
    page_images = PageImages({}, {}, {}, _read_headers(workspace, shown_ids))
    partitions = shown_rows.dropna(subset="micrograph_id").groupby("partition")["micrograph_id"].agg(list).to_dict()
    folder_names = {table: name for table, name in list_run_folders(settings).items() if table in PAGE_IMAGE_COLUMNS}
    part_names = {table: set(parts.list_parts(workspace.uri, folder)) for table, folder in folder_names.items()}
    detector = shown_rows.dropna(subset="micrograph_id").set_index("micrograph_id")["detector"]
    max_entropy_nats = np.nan
    if "regions" in folder_names:
        model_card = models.read_model_card(models.locate_model(settings.classify.model))
        max_entropy_nats = np.log(len(model_card["classes"]))
    names = list(partitions)
    for start in range(0, len(names), PARTITIONS_PER_READ):
        batch = names[start : start + PARTITIONS_PER_READ]
        ids = [micrograph_id for name in batch for micrograph_id in partitions[name]]
        rows = {
            table: parts.read_table(
                workspace.uri,
                folder,
                SCHEMAS[table],
                PAGE_IMAGE_COLUMNS[table],
                [name for name in batch if name in part_names[table]],
                ("micrograph_id", ids),
            )
            for table, folder in folder_names.items()
        }
        detections = rows["detections"]
        is_of_row = detections["detector"].to_numpy() == detector.reindex(detections["micrograph_id"]).to_numpy()
        page_images.boxes.update(
            overlays.encode_boxes(shown_rows[shown_rows["micrograph_id"].isin(ids)], detections[is_of_row])
        )
        jpegs = rows["thumbnails"].dropna()
        page_images.pictures.update(zip(jpegs["micrograph_id"], jpegs["jpeg"], strict=True))
        if "custom_checks" in rows:
            for micrograph_id, checks in describe_checks(rows["custom_checks"], settings.flags.custom).items():
                page_images.details[micrograph_id] += checks
        if "regions" in rows:
            page_images.entropy_maps.update(overlays.encode_entropy_maps(shown_rows, rows["regions"], max_entropy_nats))
    return page_images
