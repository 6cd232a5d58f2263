"""Verdicts of `emqa triage` on real labelled images, beside the true F1 of the detections in its workspace."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.studies.real_metrics import PAPER_IOU, evaluate_prediction, evaluate_trust, summarise_by
from emqa_dask import tables
from emqa_dask.boxes import match_boxes
from emqa_dask.pipeline.commands import triage
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace

CORNERS = ["y0", "x0", "y1", "x1"]
VERDICT_COLUMNS = ("uri", "verdict", "reasons", "detector", "n_detections", "predicted_f1", "predicted_f1_low")
VERDICT_COLUMNS += ("predicted_f1_high", "ood_distance", "nm_per_pixel", "nm_per_pixel_source")


class TriageGroup(NamedTuple):
    """Images that one run of `emqa triage` judges."""

    dataset: str
    fold: int  # -1 for a set as a whole
    kind: str  # of the objects; "" where they are unknown
    paths: list[Path]
    boxes: dict[str, np.ndarray]  # true boxes by file name; without an entry: not labelled
    sources: dict[str, str]  # by file name

    @property
    def name(self) -> str:
        """Name of its archive and workspace."""
        return f"{self.dataset}-{self.fold}" if self.fold >= 0 else self.dataset


def make_archive(folder: Path, paths: Iterable[Path]) -> Path:
    """The folder, with the files `paths` alone, as links where the file system allows them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name: path for path in paths}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
    for name, path in names.items():
        if (folder / name).exists():
            continue
        try:
            os.link(path, folder / name)
        except OSError:
            shutil.copyfile(path, folder / name)
    return folder


def triage_images(
    archive: Path, workspace: Path, settings: Settings, true_boxes: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """The rows of read_verdicts() after a run of `emqa triage` on an archive."""
    triage.run(str(archive), str(workspace), settings, say=lambda line: None)
    return read_verdicts(str(workspace), true_boxes)


def read_verdicts(root: str, true_boxes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row per image of a workspace: VERDICT_COLUMNS, flags, and the F1 of its detections at the score floors used.

    true_boxes: boxes by the name of the file. true_f1 is the F1 of the detector that the verdict is about, best_f1 the
    highest of all detectors of the run; NaN for images that `true_boxes` does not have.
    """
    rows = parts.load_table(Workspace(root).triage, tables.TRIAGE)
    rows = rows[rows["status"].eq("ok")]
    flags = parts.load_table(Workspace(root).flags, tables.FLAGS)
    own_flags = flags.groupby("micrograph_id")["flag"].agg(lambda names: " ".join(sorted(names)))
    f1_scores = compute_workspace_f1(root, rows.set_index("micrograph_id")["uri"], true_boxes)
    best = f1_scores.groupby("micrograph_id")["true_f1"].max().rename("best_f1")
    table = rows[["micrograph_id", *VERDICT_COLUMNS]].assign(
        reasons=rows["reasons"].map(" ".join), flags=rows["micrograph_id"].map(own_flags).fillna("")
    )
    table = table.merge(f1_scores, on=["micrograph_id", "detector"], how="left")
    return table.merge(best, on="micrograph_id", how="left").drop(columns="micrograph_id")


def compute_workspace_f1(root: str, uris: pd.Series, true_boxes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """micrograph_id, detector, score_floor and true_f1 of every labelled image and detector of a workspace.

    uris: by micrograph_id. The score floor is that of the evidence which the verdict was based on.
    """
    folders = list_run_folders(stored_settings.read_settings(root))
    detections = parts.read_table(root, folders["detections"], SCHEMAS["detections"])
    evidence = parts.read_table(root, folders["evidence"], SCHEMAS["evidence"])
    groups = dict(list(detections.groupby(["micrograph_id", "detector"])))
    rows = []
    for row in evidence.itertuples():
        true = true_boxes.get(uris[row.micrograph_id].rpartition("/")[2])
        detected = groups.get((row.micrograph_id, row.detector), detections.iloc[:0])
        detected = detected.loc[detected["score"] >= row.score_floor, CORNERS].to_numpy(float)
        f1 = np.nan if true is None else match_boxes(detected, true, PAPER_IOU).f1
        rows.append((row.micrograph_id, row.detector, row.score_floor, f1))
    return pd.DataFrame(rows, columns=["micrograph_id", "detector", "score_floor", "true_f1"])


def summarise_verdicts(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A row per group of `keys`: metrics.evaluate_trust() and, where F1 is known, metrics.evaluate_prediction()."""
    return summarise_by(rows, keys, lambda part: evaluate_trust(part) | evaluate_prediction(part))


def summarise_flags(rows: pd.DataFrame) -> pd.DataFrame:
    """set, flag, n_images, n_flagged and share, for every flag that an image of the set has."""
    flags = rows.assign(flag=rows["flags"].str.split()).explode("flag").dropna(subset="flag")
    counts = flags.groupby(["set", "flag"]).size().rename("n_flagged").reset_index()
    n_images = rows.groupby("set").size()
    counts["n_images"] = n_images.reindex(counts["set"]).to_numpy(int)
    return counts.assign(share=counts["n_flagged"] / counts["n_images"])
