"""The page of a report: counts over all rows, and some rows with boxes, thumbnails and entropy maps."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import models, tables
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.report import overlays, page
from emqa_dask.report.classifier_counts import ClassifierCounts, ClassifierSection, find_most_drifted
from emqa_dask.report.image_details import HEADER_COLUMNS, Details, describe_checks, describe_headers
from emqa_dask.report.triage_counts import Overview
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.custom_checks import list_rules
from emqa_dask.triage.rules import CHECK_FAILED, CLASSIFIER_CODES

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


def write_sessions(workspace: Workspace, settings: Settings, classes: ClassifierCounts) -> ClassifierSection | None:
    """The page's section on the classifier. Tests sessions for drift; writes drifts and sessions."""
    if not settings.classify.model:
        return None
    # Imported here, since it takes a second that runs without a classifier need not wait for.
    from emqa_dask.pipeline.workspace.sessions import compute_session_drifts
    from emqa_dask.uncertainty.drift import summarise_over_time

    result = compute_session_drifts(workspace, settings)
    with parts.open_table_writer(workspace.drifts, tables.DRIFTS) as write:
        write(result.drifts)
    with parts.open_table_writer(workspace.sessions, tables.SESSIONS) as write:
        write(result.sessions)
    quantity = find_most_drifted(result.drifts)
    shift_kinds = dict(zip(result.sessions["cohort"], result.sessions["shift"]))
    trend = summarise_over_time(result.values, quantity) if quantity else None
    return classes.make_section(result.drifts, quantity, trend, shift_kinds)


def render_page(
    workspace: Workspace,
    overview: Overview,
    settings: Settings,
    facts: dict,
    section: ClassifierSection | None,
    samples: pd.DataFrame,
) -> Iterator[str]:
    """The page in pieces. Reads one column of the triage table at a time, and the shown rows."""

    def read_column(name: str) -> NDArray:
        batches = parts.iterate_table(workspace.triage, tables.TRIAGE, [name])
        return np.concatenate([np.zeros(0), *(rows[name].to_numpy(float, na_value=np.nan) for rows in batches)])

    shown_rows = _read_shown_rows(workspace, overview.choose_shown_rows())
    page_images = _read_page_images(workspace, shown_rows, settings)
    impossible_codes = (() if section else CLASSIFIER_CODES) + (() if settings.flags.custom else (CHECK_FAILED,))
    rules = [rule for rule in list_rules(settings.flags) if rule.code not in impossible_codes]
    return page.render_page(
        overview,
        read_column,
        shown_rows,
        page_images.boxes,
        page_images.pictures,
        facts,
        settings.triage,
        rules,
        section,
        page_images.entropy_maps,
        page_images.details,
        samples,
    )


def _read_shown_rows(workspace: Workspace, positions: NDArray) -> pd.DataFrame:
    """Rows of tables.TRIAGE at sorted `positions`."""
    batches = [tables.empty(tables.TRIAGE)]
    first_number = 0
    for rows in parts.iterate_table(workspace.triage, tables.TRIAGE):
        own_positions = positions[(positions >= first_number) & (positions < first_number + len(rows))]
        batches.append(rows.iloc[own_positions - first_number])
        first_number += len(rows)
    return pd.concat(batches, ignore_index=True)


def _group_by_partition(workspace: Workspace, ids: pd.Series) -> dict[str, list[str]]:
    """Partition -> its ids among `ids`; partitions without such ids are left out."""
    grouped: dict[str, list[str]] = {}
    columns = ["micrograph_id", "partition"]
    for rows in parts.iterate_table(
        workspace.micrographs, tables.MICROGRAPHS, columns, row_filter=("micrograph_id", list(ids))
    ):
        for name, group in rows.groupby("partition"):
            grouped.setdefault(name, []).extend(group["micrograph_id"])
    return grouped


def _read_headers(workspace: Workspace, ids: pd.Series) -> dict[str, Details]:
    """Details of the acquisition of the micrographs `ids`."""
    details = {}
    columns = ["micrograph_id", *HEADER_COLUMNS]
    for rows in parts.iterate_table(
        workspace.micrographs, tables.MICROGRAPHS, columns, row_filter=("micrograph_id", list(ids))
    ):
        details |= describe_headers(rows)
    return details


def _read_page_images(workspace: Workspace, shown_rows: pd.DataFrame, settings: Settings) -> PageImages:
    """Drawn images of the micrographs in `shown_rows`, some partitions at a time."""
    shown_ids = shown_rows["micrograph_id"].dropna()
    page_images = PageImages({}, {}, {}, _read_headers(workspace, shown_ids))
    partitions = _group_by_partition(workspace, shown_ids)
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
