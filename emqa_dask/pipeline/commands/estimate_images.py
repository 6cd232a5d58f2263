"""The images of a workspace with the totals of their detections, and the totals of labelled images."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.measure.micrograph import Field, Objects, measure_objects
from emqa_dask.measure.samples import compute_megapixels
from emqa_dask.pipeline.commands.estimate_quality import QUALITY, predict_quality
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.acquisition_groups import name_groups
from emqa_dask.pipeline.workspace.labels import match_labels
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.review.labels.csv_tables import read_text_table
from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors
from emqa_dask.settings import Measure, Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

LEDGER_COLUMNS = ["micrograph_id", "uri", "path", "frame", "content_sha256", "pixel_sha256", "height_px", "width_px"]
LEDGER_COLUMNS += ["partition", "nm_per_pixel", "nm_per_pixel_y", "instrument", "magnification", "acquired"]
MEASURED_COLUMNS = ["n_objects", "n_corrected", "mean_diameter_px", "mean_diameter_nm", "area_um2", "volume_nm3"]
TOTALS = ("n", "diameters_px", "diameters_nm", "volume_nm3", "area_mpx", "area_um2", "specimen_nm3", *QUALITY)
VERDICT_COLUMNS = ["micrograph_id", "verdict", "detector", "predicted_f1", "f1_probability"]
COVERED_VERDICTS = ("trust", "review")
NOT_MEASURED = "not measured"
NOT_PLANNED = "not in the plan"
NM3_PER_UM2_NM = 1e6  # volume of 1 um^2 of a foil of 1 nm
PROBABILITY = "review_probability"


def read_images(workspace: Workspace, settings: Settings) -> pd.DataFrame:
    """A row per current micrograph: LEDGER_COLUMNS, session, verdict, detector, MEASURED_COLUMNS, QUALITY and `cover`.

    The measurements are those of all classes of the detector that the verdict is about. `cover` is empty for covered
    images, else the verdict or NOT_MEASURED. Raises ValueError without verdicts or measurements.
    """
    folder = list_run_folders(settings)["measurements"]
    empty = tables.empty(tables.MICROGRAPHS)[LEDGER_COLUMNS]
    ledger = pd.concat([empty, *micrograph_ledger.iter_current(workspace, LEDGER_COLUMNS)]).reset_index(drop=True)
    verdicts = parts.load_table(workspace.triage, tables.TRIAGE, VERDICT_COLUMNS)
    if verdicts.empty or not parts.list_parts(workspace.uri, folder):
        missing, verb = ("verdicts", "report") if verdicts.empty else ("measurements of these settings", "measure")
        root = files.redact(workspace.uri)
        raise ValueError(f"{root} has no {missing}: run `emqa {verb} {root}` with the same settings first")
    columns = ["micrograph_id", "detector", "label", *MEASURED_COLUMNS]
    measurements = parts.read_table(workspace.uri, folder, SCHEMAS["measurements"], columns)
    measurements = measurements[measurements["label"].isna()].drop(columns="label")
    images = ledger.merge(verdicts.dropna(subset="micrograph_id"), on="micrograph_id", how="left")
    images = images.merge(measurements, on=["micrograph_id", "detector"], how="left")
    cover = images["verdict"].fillna("unknown").astype(object)
    is_covered = cover.isin(COVERED_VERDICTS)
    cover = cover.where(~is_covered, np.where(images["n_objects"].isna(), NOT_MEASURED, ""))
    return predict_quality(images.assign(session=name_groups(images), cover=cover))


def compute_totals(rows: pd.DataFrame, thickness_nm: float, has_edge_correction: bool) -> NDArray[np.float64]:
    """(n, 10) TOTALS of images with MEASURED_COLUMNS, QUALITY, height_px and width_px; thickness_nm: 0: unknown.

    Without edge correction, n is the number of all objects, while sizes remain those of the objects that are not cut.
    """
    weights = rows["n_corrected"].to_numpy(float)
    has_sizes = rows["mean_diameter_px"].notna().to_numpy()
    diameters = [np.where(has_sizes, weights * rows[f"mean_diameter_{unit}"], 0.0) for unit in ("px", "nm")]
    area_um2 = rows["area_um2"].to_numpy(float)
    n_objects = weights if has_edge_correction else rows["n_objects"].to_numpy(float)
    area_mpx = compute_megapixels(rows)
    specimen = area_um2 * (thickness_nm or math.nan) * NM3_PER_UM2_NM
    quality = rows[QUALITY].to_numpy(float)
    return np.column_stack([n_objects, *diameters, rows["volume_nm3"], area_mpx, area_um2, specimen, quality])


def measure_labels(
    labels: Mapping[str, LabelledMicrograph], images: pd.DataFrame, settings: Measure, has_boxes: bool
) -> pd.DataFrame:
    """MEASURED_COLUMNS, height_px and width_px of labelled micrographs, by micrograph_id.

    With `has_boxes` as the measurements of detections; otherwise the numbers of objects, without sizes.
    """
    rows = images.set_index("micrograph_id").loc[list(labels)]
    shapes = rows[["height_px", "width_px"]]
    if not has_boxes:
        counts = [_count_objects(label) for label in labels.values()]
        rows = rows.assign(n_objects=counts, n_corrected=counts, mean_diameter_px=np.nan, mean_diameter_nm=np.nan)
        return shapes.join(rows.assign(volume_nm3=np.nan)[MEASURED_COLUMNS])
    image_rows = []
    for row, label in zip(rows.itertuples(), labels.values(), strict=True):
        field = Field((row.height_px, row.width_px), row.nm_per_pixel, row.nm_per_pixel_y)
        image_rows.append(measure_objects(_list_objects(label), field, settings)[0][0])
    return shapes.join(pd.DataFrame(image_rows, index=rows.index)[MEASURED_COLUMNS])


def _count_objects(label: LabelledMicrograph) -> int:
    if label.n_objects is not None:
        return label.n_objects
    return len(label.points if label.boxes is None else label.boxes)


def _list_objects(label: LabelledMicrograph) -> Objects:
    boxes = label.boxes
    unknown = np.full(len(boxes), np.nan)
    return Objects(
        centres=(boxes[:, :2] + boxes[:, 2:]) / 2,
        boxes=boxes,
        areas_px=unknown if label.areas_px is None else label.areas_px,
        circularity=unknown,
        diameters_px=np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        if label.diameters_px is None
        else label.diameters_px,
        labels=np.full(len(boxes), None, object),
    )


def read_probabilities(path: str | Path, images: pd.DataFrame) -> dict[str, float]:
    """micrograph_id -> review probability, of a CSV file with the columns uri and review_probability.

    `frame` is optional. ValueError names images that the workspace does not have, and values outside (0, 1].
    """
    table = read_text_table(path, f"uri,{PROBABILITY}")
    if missing := [name for name in ("uri", PROBABILITY) if name not in table]:
        raise ValueError(f"{path}: it has no column {missing[0]}; it needs uri and {PROBABILITY}")
    values = pd.to_numeric(table[PROBABILITY], errors="coerce").to_numpy(float)
    frames = pd.to_numeric(table["frame"], errors="coerce") if "frame" in table else pd.Series(0, table.index)
    is_good = (values > 0) & (values <= 1) & frames.ge(0) & frames.mod(1).eq(0)
    if not is_good.all():
        errors = [f"line {k + 2}: {table[PROBABILITY][k]!r}" for k in np.flatnonzero(~is_good)]
        raise ValueError(
            f"{path}: {PROBABILITY} has to be above 0 and at most 1, and frame whole: {list_errors(errors)}"
        )
    rows = [
        LabelledMicrograph(uri, int(frame), None, n_objects=k)
        for k, (uri, frame) in enumerate(zip(table["uri"], frames, strict=True))
    ]
    return {key: float(values[label.n_objects]) for key, label in match_labels(rows, images, path).items()}


def has_probabilities(path: str) -> bool:
    """Whether a file of labels is a CSV file with the column review_probability."""
    if not path.lower().endswith(".csv"):
        return False
    return PROBABILITY in pd.read_csv(path, nrows=0, encoding="utf-8-sig", skipinitialspace=True).columns


def merge_probabilities(paths: Sequence[str], images: pd.DataFrame) -> dict[str, float]:
    """The review probabilities of several files together; ValueError for different values of an image."""
    merged: dict[str, float] = {}
    for path in paths:
        for key, value in read_probabilities(path, images).items():
            if merged.setdefault(key, value) != value:
                raise ValueError(f"{path}: another file has another {PROBABILITY} for an image of it")
    return merged
