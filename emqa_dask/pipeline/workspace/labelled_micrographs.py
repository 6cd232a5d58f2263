"""Labelled micrographs of a workspace with what the run knows about them, and the true quality of their detections."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detector_choices import read_choices
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.pipeline.workspace.reviewed import REVIEWED, read_reviewed
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict.quality_model import QualityModel
from emqa_dask.predict.sparse_truth import compute_count_quality, compute_point_quality
from emqa_dask.predict.true_quality import MIN_IMAGES, compute_f1_above, compute_true_quality
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

LEDGER_COLUMNS = ("micrograph_id", "uri", "path", "frame", "content_sha256", "pixel_sha256", "height_px", "width_px")
LEDGER_COLUMNS += ("partition", "instrument", "magnification", "voltage_kv", "nm_per_pixel", "nm_per_pixel_y")
FIELDS = {"boxes": "boxes", "points": "points", "counts": "n_objects"}  # kind of labels: field of LabelledMicrograph


class LabelledMicrographs(NamedTuple):
    """Labelled micrographs of a run, and the tables that models are fitted to."""

    rows: pd.DataFrame  # LEDGER_COLUMNS of the labelled micrographs
    kind: str  # of the labels that are used, one of FIELDS
    truth: dict  # micrograph_id -> value of the field of `kind`
    n_unused: int  # labelled micrographs without labels of `kind`
    files: tuple[str, ...]  # names of the files of labels
    ledger: pd.DataFrame  # LEDGER_COLUMNS of all micrographs of the run
    detections: pd.DataFrame  # tables.DETECTIONS
    features: pd.DataFrame  # image statistics, tables.FEATURES
    lines: tuple[str, ...] = ()  # about the decisions of reviewers

    def count_objects(self) -> int:
        """Number of labelled objects."""
        return sum(self.truth.values()) if self.kind == "counts" else sum(map(len, self.truth.values()))

    def describe(self) -> str:
        """The numbers of micrographs and objects, as a sentence without a full stop."""
        text = f"{len(self.rows)} labelled micrographs with {self.count_objects()} objects ({self.kind})"
        return f"{text}; {self.n_unused} more without {self.kind} are left out" if self.n_unused else text

    def compute_quality(self, detector: str, score_floor: float, iou_threshold: float, rule: str) -> pd.DataFrame:
        """Rows of true_quality.COLUMNS of the detections of `detector` from `score_floor` on.

        Boxes are matched by `iou_threshold` and `rule`; points and counts as in predict.sparse_truth.
        """
        detections = self.detections[self.detections["detector"] == detector]
        if self.kind == "counts":
            return compute_count_quality(detections, self.truth, score_floor)
        if self.kind == "points":
            return compute_point_quality(detections, self.truth, score_floor)
        return compute_true_quality(detections, self.truth, rule, iou_threshold, score_floor)

    def compute_f1_above(
        self, detector: str, score_floors: Sequence[float], iou_threshold: float, rule: str
    ) -> NDArray[np.float64]:
        """`true_f1` of compute_quality() at each score floor: (floors, images)."""
        if self.kind == "boxes":
            detections = self.detections[self.detections["detector"] == detector]
            return compute_f1_above(detections, self.truth, score_floors, rule, iou_threshold)
        rows = [self.compute_quality(detector, floor, iou_threshold, rule)["true_f1"] for floor in score_floors]
        return np.array(rows, dtype=np.float64)


def list_searched(workspace: Workspace, labelled: LabelledMicrographs, settings: Settings) -> dict[str, str]:
    """micrograph_id -> detector that searched it, in a run with a detector for each session."""
    choices = read_choices(workspace, settings)
    places = labelled.rows[["micrograph_id", "uri", "instrument"]].itertuples(index=False)
    return {key: next(iter(name_detectors(choices.resolve(settings.detect, *place)))) for key, *place in places}


def select_micrographs(labelled: LabelledMicrographs, micrograph_ids: Collection[str]) -> LabelledMicrographs:
    """The labelled micrographs with these ids; the ledger stays that of the run."""

    def select_rows(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["micrograph_id"].isin(micrograph_ids)].reset_index(drop=True)

    return labelled._replace(
        rows=select_rows(labelled.rows),
        truth={key: value for key, value in labelled.truth.items() if key in micrograph_ids},
        detections=select_rows(labelled.detections),
        features=select_rows(labelled.features),
    )


def describe_matching(model: QualityModel) -> str:
    """What F1 means by the labels that a quality model was fitted to."""
    if model.rule == "counts":
        return "largest F1 that the counts allow, 2 min(n, m) / (n + m)"
    return "F1 by labelled points" if model.rule == "points" else f"F1 at IoU {model.iou_threshold:g} ({model.rule})"


def read_labelled(workspace: Workspace, settings: Settings, paths: Sequence[str]) -> LabelledMicrographs:
    """The micrographs of the workspace that the files `paths` label; ValueError where their tables were not made."""
    empty = tables.empty(tables.MICROGRAPHS)[[*LEDGER_COLUMNS]]
    ledger = pd.concat([empty, *micrograph_ledger.iter_current(workspace, LEDGER_COLUMNS)]).reset_index(drop=True)
    reviewed = read_reviewed(workspace, ledger) if REVIEWED in paths else None
    labels = read_matched_labels(paths, ledger, reviewed and reviewed.labels)
    kind = select_kind(labels.values())
    truth = {key: getattr(label, FIELDS[kind]) for key, label in labels.items() if kind in label.kinds}
    rows = ledger[ledger["micrograph_id"].isin(truth)].reset_index(drop=True)
    labelled_tables = {table: read_table(workspace, settings, table, rows) for table in ("detections", "features")}
    names = tuple(Path(path).name for path in paths)
    lines = tuple(reviewed.lines) if reviewed else ()
    return LabelledMicrographs(
        rows, kind, truth, len(labels) - len(truth), names, ledger, **labelled_tables, lines=lines
    )


def select_kind(labels: Sequence[LabelledMicrograph]) -> str:
    """The most informative kind that MIN_IMAGES labels have; otherwise the kind that most of them have."""
    n_labels = {kind: sum(kind in label.kinds for label in labels) for kind in FIELDS}
    sufficient = [kind for kind, n in n_labels.items() if n >= MIN_IMAGES]
    return sufficient[0] if sufficient else max(n_labels, key=n_labels.get)


def list_measured_partitions(workspace: Workspace, settings: Settings) -> set[str]:
    """Names of the partitions that have detections and features."""
    table_folders = list_run_folders(settings)
    finished = (set(parts.list_parts(workspace.uri, table_folders[table])) for table in ("detections", "features"))
    return set.intersection(*finished)


def read_table(workspace: Workspace, settings: Settings, table: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of the workspace for the micrographs `rows`; ValueError where a part was not made."""
    folder = list_run_folders(settings)[table]
    partitions = sorted(set(rows["partition"]))
    missing = set(partitions) - set(parts.list_parts(workspace.uri, folder))
    if missing:
        raise ValueError(
            f"{len(missing)} partitions with labelled micrographs have no {table} for these settings: run "
            f"`emqa featurise {files.redact(workspace.uri)}` first"
        )
    content = parts.read_table(workspace.uri, folder, SCHEMAS[table], None, partitions=partitions)
    return content[content["micrograph_id"].isin(rows["micrograph_id"])].reset_index(drop=True)
