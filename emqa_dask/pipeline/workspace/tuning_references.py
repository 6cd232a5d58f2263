"""Objects that a detector's settings are compared with: detections of another detector, or labels."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.failures import read_failed_ids
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.settings import Settings
from emqa_dask.store import files, marker, parts
from emqa_dask.store.layout import Workspace

BOX_COLUMNS = ["y0", "x0", "y1", "x1"]
LABEL_COLUMNS = ["micrograph_id", "uri", "path", "frame", "height_px", "width_px", "content_sha256"]


class References(NamedTuple):
    """Reference objects of the micrographs of a workspace: of a detector, or the labels of a file."""

    workspace: Workspace
    settings: Settings
    detector: str  # "" for labels
    labels: dict[str, LabelledMicrograph]  # micrograph_id -> labels with boxes or points

    @property
    def micrograph_ids(self) -> Collection[str] | None:
        """Micrographs that have a reference; None: all."""
        return None if self.detector else self.labels.keys()

    def read_objects(self, rows: pd.DataFrame) -> list[pd.DataFrame]:
        """Objects of each micrograph of `rows` (micrograph_id, partition): y_px, x_px and, where known, their boxes.

        Raises ValueError where the detector has not looked at a micrograph.
        """
        if not self.detector:
            return [_list_labelled_objects(self.labels[name]) for name in rows["micrograph_id"]]
        detections = self._read_detections(rows)
        grouped = dict(tuple(detections.groupby("micrograph_id")))
        return [grouped.get(name, detections.iloc[:0]) for name in rows["micrograph_id"]]

    def _read_detections(self, rows: pd.DataFrame) -> pd.DataFrame:
        root = self.workspace.uri
        folder = list_run_folders(self.settings)["detections"]
        names = rows["partition"].unique()
        failed = [
            name for name in names if set(read_failed_ids(self.workspace, folder, name)) & {*rows["micrograph_id"]}
        ]
        missing = set(names) - set(parts.list_parts(root, folder))
        if failed or missing:
            cause = "not done" if missing else "failed on sampled images"
            command = marker.format_command("detect", root)
            raise ValueError(f"--reference {self.detector}: detection is {cause} in {files.redact(root)}: {command}")
        columns = ["micrograph_id", "detector", "score", "y_px", "x_px", *BOX_COLUMNS]
        detections = parts.read_table(root, folder, tables.DETECTIONS, columns, list(names))
        floor = self.settings.featurise.score_floor
        return detections[detections["detector"].eq(self.detector) & (detections["score"] >= floor)]


def find_references(name: str, workspace: Workspace, settings: Settings) -> References:
    """References by `name`: a detector of the workspace's run, or a file or folder of labels of its micrographs.

    Raises ValueError for what is neither, and for labels of other micrographs or without places.
    """
    detectors = name_detectors(settings.detect)
    if name in detectors:
        return References(workspace, settings, name, {})
    if not Path(name).exists():
        names = ", ".join(detectors)
        raise ValueError(f"--reference {name}: there is no such file, and the detectors of the workspace are {names}")
    return read_labelled_references(name, workspace, settings, "--reference")


def read_labelled_references(path: str, workspace: Workspace, settings: Settings, option: str) -> References:
    """References of a file or folder of labels; ValueError, which names `option`, for labels without places."""
    batches = list(micrograph_ledger.iter_current(workspace, LABEL_COLUMNS))
    if not any(map(len, batches)):
        command = marker.format_command("status", workspace.uri)
        raise ValueError(f"{option} {path}: {files.redact(workspace.uri)} has no micrograph to label; see {command}")
    ledger = pd.concat(batches, ignore_index=True)
    labels = {key: label for key, label in read_matched_labels([path], ledger).items() if label.kinds[0] != "counts"}
    if not labels:
        raise ValueError(f"{option} {path}: it has counts; a reference needs boxes, outlines or points")
    return References(workspace, settings, "", labels)


def _list_labelled_objects(label: LabelledMicrograph) -> pd.DataFrame:
    """Labels count from the upper left corner of the image, y_px and x_px from the centre of its first pixel."""
    if label.boxes is None:
        return pd.DataFrame(np.asarray(label.points, np.float64).reshape(-1, 2) - 0.5, columns=["y_px", "x_px"])
    objects = pd.DataFrame(np.asarray(label.boxes, np.float64).reshape(-1, 4), columns=BOX_COLUMNS)
    return objects.assign(**{f"{axis}_px": (objects[f"{axis}0"] + objects[f"{axis}1"] - 1) / 2 for axis in "yx"})
