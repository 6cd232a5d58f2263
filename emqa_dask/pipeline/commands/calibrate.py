"""emqa calibrate: fit quality models to a few labelled images of a run. No detector runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import __version__, domain_distance, imaging_conditions, models, output_folders, tables
from emqa_dask.number_ranges import check_number
from emqa_dask.pipeline.commands.report_copies import label_acquisition_groups
from emqa_dask.pipeline.tasks.predict import join_evidence
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.labels import match_labels, read_labels
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict import calibration, quality_model
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.predict.true_quality import compute_true_quality
from emqa_dask.settings import Settings, replace
from emqa_dask.store import files, lock, marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
LEDGER_COLUMNS = ("micrograph_id", "uri", "frame", "content_sha256", "height_px", "width_px", "partition")
LEDGER_COLUMNS += ("instrument", "magnification", "voltage_kv")
MATCHING = (0.1, "greedy")  # IoU and rule of the published study, used without a base model and --iou
MODELS = "models"  # folder of the workspace
MIN_DOMAIN_IMAGES = 20  # minimum of domain_distance.fit_domain
MAX_NAMED = 10  # failed micrographs that a note names


class LabelledMicrographs(NamedTuple):
    """Labelled micrographs of a run, and the tables that models are fitted to."""

    rows: pd.DataFrame  # LEDGER_COLUMNS of the labelled micrographs
    boxes: dict[str, NDArray[np.float64]]  # micrograph_id -> true boxes (m, 4): y0, x0, y1, x1, half-open, px
    detections: pd.DataFrame  # tables.DETECTIONS
    evidence: pd.DataFrame  # detection features, tables.EVIDENCE
    features: pd.DataFrame  # image statistics, tables.FEATURES


def calibrate(
    root: str,
    labels: str,
    settings: Settings,
    *,
    detectors: Sequence[str] = (),
    iou_threshold: float | None = None,
    out: str = "",
    say: Say = print,
) -> int:
    """Exit code 0. Fits quality models to the micrographs of `root` that the COCO file `labels` lists.

    For every detector of the run, or those named, a model directory <out>/<detector> is written (default of `out`: the
    workspace's models/) with the errors on held-out images, groups and sessions. Its name enters the workspace's
    settings, so that `rescore` and every later run use it. No detector runs. Boxes are matched by IoU and rule of the
    present model, or by `iou_threshold` (greedy). Raises ValueError, naming images and rows, for labels of other
    micrographs, a detector that the run does not have, and less than 8 labelled images with detections.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    if iou_threshold is not None:
        check_number("--iou", iou_threshold, 0, 1)
    folder = _locate_output(workspace, out)
    directories = {name: _name_directory(folder, name) for name in _select_detectors(settings, detectors)}
    output_folders.check_folder(*directories.values())
    with lock.hold_lock(root, say):
        labelled = _read_labelled(workspace, settings, labels)
        n_objects = sum(map(len, labelled.boxes.values()))
        say(f"{len(labelled.rows)} labelled micrographs with {n_objects} objects")
        for name, directory in directories.items():
            result, domain = _fit_detector(name, labelled, settings, iou_threshold)
            _write_model(directory, name, result, domain, labelled, labels)
            _print_report(name, result, say)
        paths = [str(directory) for directory in directories.values()]
        named_models = (*paths, *(model for model in settings.predict.models if model not in paths))
        stored_settings.write_settings(root, replace(settings, {"predict": {"models": list(named_models)}}))
    say(f"models: {', '.join(paths)}; see what they change: emqa rescore {root}")
    return 0


def _select_detectors(settings: Settings, detectors: Sequence[str]) -> Sequence[str]:
    """The named detectors, by default all of the run; ValueError for one that the run does not have."""
    available = name_detectors(settings.detect)
    for name in detectors:
        if name not in available:
            raise ValueError(f"--detector {name}: this run has {', '.join(available)}")
    return detectors or list(available)


def _locate_output(workspace: Workspace, out: str) -> Path:
    """The folder of the models: `out`, or MODELS in a local workspace."""
    if out:
        return Path(os.path.abspath(out))
    if not files.is_local(workspace.uri):
        raise ValueError(f"{files.redact(workspace.uri)} is a bucket, and models are read from folders: give --out DIR")
    return Path(os.path.abspath(files.locate(workspace.uri)[1])) / MODELS


def _name_directory(folder: Path, name: str) -> Path:
    """The model directory of the detector `name`; ValueError for a name that leads out of `folder`."""
    if Path(name).name != name:
        raise ValueError(f"the detector's name is {name!r}, which names no folder: rename it in its card.toml")
    return folder / name


def _read_labelled(workspace: Workspace, settings: Settings, labels: str) -> LabelledMicrographs:
    """The labelled micrographs of the workspace; ValueError where their tables were not made."""
    empty = tables.empty(tables.MICROGRAPHS)[[*LEDGER_COLUMNS]]
    ledger = pd.concat([empty, *micrograph_ledger.iter_current(workspace, LEDGER_COLUMNS)]).reset_index(drop=True)
    boxes = match_labels(read_labels(labels), ledger, labels)
    rows = ledger[ledger["micrograph_id"].isin(boxes)].reset_index(drop=True)
    labelled_tables = {
        table: _read_table(workspace, settings, table, rows) for table in ("detections", "evidence", "features")
    }
    return LabelledMicrographs(rows, boxes, **labelled_tables)


def _read_table(workspace: Workspace, settings: Settings, table: str, rows: pd.DataFrame) -> pd.DataFrame:
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


def _load_base(name: str, settings: Settings) -> tuple[quality_model.QualityModel | None, Path | None]:
    """The quality model of the settings for the detector `name`, and its directory; None without one."""
    for model in settings.predict.models:
        if models.read_detector_and_floor(model) == (name, settings.featurise.score_floor):
            return load_quality_model(model), models.locate_model(model)
    return None, None


def _fit_detector(
    name: str, labelled: LabelledMicrographs, settings: Settings, iou_threshold: float | None
) -> tuple[calibration.Calibration, domain_distance.Domain | None]:
    """The calibrated model of the detector `name`, and the domain of the base model or of the labelled images."""
    base, directory = _load_base(name, settings)
    iou, rule = (base.iou_threshold, base.rule) if base else MATCHING
    if iou_threshold is not None and iou_threshold != iou:
        iou = iou_threshold
        base = None  # it predicts F1 at another IoU
    evidence = labelled.evidence[labelled.evidence["detector"] == name]
    features = join_evidence(evidence, labelled.features)
    failed = sorted(set(labelled.boxes) - set(features["micrograph_id"]))
    boxes = {key: value for key, value in labelled.boxes.items() if key not in failed}
    detections = labelled.detections[labelled.detections["detector"] == name]
    truth = compute_true_quality(detections, boxes, rule, iou, settings.featurise.score_floor)
    rows = labelled.rows
    acquisition = label_acquisition_groups(rows).fillna("").astype(str)
    session = acquisition + "|" + rows["uri"].str.rpartition("/")[0]
    result = calibration.calibrate_quality_model(
        features,
        truth,
        groups=dict(zip(rows["micrograph_id"], rows["content_sha256"])),
        sessions=dict(zip(rows["micrograph_id"], session)),
        base=base,
        iou_threshold=iou,
        rule=rule,
    )
    if failed:
        result.notes.append(f"{len(failed)} labelled micrographs failed in the run: {', '.join(failed[:MAX_NAMED])}")
    return result, domain_distance.read_domain(directory) if directory else _fit_domain(features, rows)


def _fit_domain(features: pd.DataFrame, rows: pd.DataFrame) -> domain_distance.Domain | None:
    """The domain of the labelled images by the bundled model's features; None where images are few or all alike."""
    columns = domain_distance.read_domain(models.locate_model("log-synthetic")).columns
    complete = features.dropna(subset=list(columns))
    varying = [name for name in columns if complete[name].std() > 0]
    if len(complete) < MIN_DOMAIN_IMAGES or not varying:
        return None
    groups = complete["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["content_sha256"])))
    return domain_distance.fit_domain(complete, groups, columns=varying)


def _write_model(
    directory: Path,
    name: str,
    result: calibration.Calibration,
    domain: domain_distance.Domain | None,
    labelled: LabelledMicrographs,
    labels: str,
) -> None:
    """Writes the model directory, whole or not at all."""
    features = labelled.features.merge(labelled.rows[["micrograph_id", "voltage_kv"]], on="micrograph_id")
    conditions = imaging_conditions.fit_training_conditions(features["defocus_nm"], features["voltage_kv"])
    model_card = {
        "trained_on": f"{len(labelled.rows)} labelled micrographs of {Path(labels).name}",
        "made_by": "emqa calibrate",
        **imaging_conditions.make_card_table(conditions),
        "versions": {"emqa_dask": __version__},
    }
    with output_folders.write_folder(directory) as fresh:
        calibration.write_calibration(result, fresh, f"{name}-calibrated", domain, **model_card)


def _print_report(name: str, result: calibration.Calibration, say: Say) -> None:
    say(f"{name}: {result.model.kind}, F1 at IoU {result.model.iou_threshold:g} ({result.model.rule})")
    say(f"  {'held out':<22}{'n':>6}{'MAE':>8}{'RMSE':>8}{'R2':>8}{'coverage':>10}{'width':>8}")
    for row in result.report.itertuples():
        say(
            f"  {row.protocol:<22}{row.n:>6}{row.mae:>8.3f}{row.rmse:>8.3f}{row.r2:>8.2f}{row.coverage:>10.2f}"
            f"{row.width:>8.2f}"
        )
    for note in result.notes:
        say(f"  {note}")
