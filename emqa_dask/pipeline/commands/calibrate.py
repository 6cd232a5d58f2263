"""emqa calibrate: fit predictions to a few labelled images of a run. No detector runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask import __version__, domain_distance, imaging_conditions, models, output_folders, tables
from emqa_dask.number_ranges import check_number
from emqa_dask.pipeline.commands.verdicts import cohorts
from emqa_dask.pipeline.tasks.predict import joined
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import names_of
from emqa_dask.pipeline.workspace.labels import match_labels, read_labels
from emqa_dask.pipeline.workspace.stages import SCHEMAS, folders
from emqa_dask.predict import calibration, quality_model
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.settings import Settings, replace
from emqa_dask.store import files, layout, lock, parts

Say = Callable[[str], None]
OF_LEDGER = ("micrograph_id", "uri", "frame", "content_sha256", "height_px", "width_px", "partition")
OF_LEDGER += ("instrument", "magnification", "voltage_kv")
MATCHING = (0.1, "greedy")  # IoU and rule of the published study, where neither a model nor the user says another
MODELS = "models"


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
    """Fit what predicts F1, precision and recall to the micrographs of `root` that the COCO file `labels` has; 0.

    For every detector of the run, or those named, a model directory <out>/<detector> is written (`out` is the
    workspace's models/) with the figures on images, groups and cohorts that it had not seen, and the workspace's
    settings name it: `rescore` and every later run use it. No detector runs. Boxes are matched as the model that was
    used so far says, or by `iou_threshold` (greedy). ValueError, naming images and rows, for labels of others, a
    detector that the run does not have, and less than 8 labelled images with detections.
    """
    layout.source_of(root)
    if iou_threshold is not None:
        check_number("--iou", iou_threshold, 0, 1)
    out = _folder(root, out)
    known = names_of(settings.detect)
    for name in detectors:
        if name not in known:
            raise ValueError(f"--detector {name}: this run has {', '.join(known)}")
    output_folders.check_folder(*(_place(out, name) for name in detectors or known))
    with lock.hold(root, say):
        ledger = pd.concat(
            [tables.empty(tables.MICROGRAPHS)[[*OF_LEDGER]], *micrograph_ledger.current(root, OF_LEDGER)]
        )
        ledger = ledger.reset_index(drop=True)
        truth = match_labels(read_labels(labels), ledger, labels)
        rows = ledger[ledger["micrograph_id"].isin(truth)].reset_index(drop=True)
        tables_of = _tables(root, settings, rows)
        say(f"{len(rows)} labelled micrographs with {sum(map(len, truth.values()))} objects")
        written = []
        for name in detectors or known:
            found = _fitted(name, tables_of, truth, rows, settings, iou_threshold)
            conditions = _conditions(tables_of["features"], rows)
            _write(_place(out, name), name, *found, conditions, labels, len(rows))
            _tell(name, found[0], say)
            written.append(str(_place(out, name)))
        named = (*written, *(f for f in settings.predict.models if f not in written))
        changed = replace(settings, {"predict": {"models": list(named)}})
        layout.write_settings(root, changed)
    say(f"models: {', '.join(written)}; see what they change: emqa rescore {root}")
    return 0


def _folder(root: str, out: str) -> Path:
    if out:
        return Path(os.path.abspath(out))
    if not files.is_local(root):
        raise ValueError(f"{files.redact(root)} is a bucket, and models are read from folders: give --out DIR")
    return Path(os.path.abspath(files.locate(root)[1])) / MODELS


def _place(out: Path, name: str) -> Path:
    """The model directory of the detector `name`; ValueError for a name that leads out of the folder `out`."""
    if Path(name).name != name:
        raise ValueError(f"the detector's name is {name!r}, which names no folder: rename it in its card.toml")
    return out / name


def _tables(root: str, settings: Settings, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Detections, evidence and features of the micrographs `rows`; ValueError where they were not made."""
    where = folders(settings)
    found = {}
    for table in ("detections", "evidence", "features"):
        there = set(parts.part_names(root, where[table]))
        lacking = sorted(set(rows["partition"]) - there)
        if lacking:
            raise ValueError(
                f"{len(lacking)} partitions with labelled micrographs have no {table} for these settings: run "
                f"`emqa featurise {files.redact(root)}` first"
            )
        names = sorted(set(rows["partition"]))
        of = parts.read_table(root, where[table], SCHEMAS[table], None, partitions=names)
        found[table] = of[of["micrograph_id"].isin(rows["micrograph_id"])].reset_index(drop=True)
    return found


def _base(name: str, settings: Settings) -> tuple[quality_model.QualityModel | None, Path | None]:
    for model in settings.predict.models:
        if models.what_for(model) == (name, settings.featurise.score_floor):
            return load_quality_model(model), models.locate(model)
    return None, None


def _fitted(
    name: str,
    tables_of: dict[str, pd.DataFrame],
    truth: dict[str, np.ndarray],
    rows: pd.DataFrame,
    settings: Settings,
    iou_threshold: float | None,
) -> tuple[calibration.Calibration, domain_distance.Domain | None]:
    base, directory = _base(name, settings)
    iou, rule = (base.iou_threshold, base.rule) if base else MATCHING
    if iou_threshold is not None and iou_threshold != iou:
        # a model for another IoU says nothing of this one
        iou = iou_threshold
        base = None
    detections = tables_of["detections"]
    evidence = tables_of["evidence"]
    evidence = joined(evidence[evidence["detector"] == name], tables_of["features"])
    failed = sorted(set(truth) - set(evidence["micrograph_id"]))
    truth = {key: boxes for key, boxes in truth.items() if key not in failed}
    floor = settings.featurise.score_floor
    labelled = calibration.compute_true_quality(detections[detections["detector"] == name], truth, rule, iou, floor)
    keys = rows["micrograph_id"]
    session = cohorts(rows).fillna("").astype(str) + "|" + rows["uri"].str.rpartition("/")[0]
    found = calibration.calibrate_quality_model(
        evidence,
        labelled,
        dict(zip(keys, rows["content_sha256"])),
        dict(zip(keys, session)),
        base,
        iou_threshold=iou,
        rule=rule,
    )
    if failed:
        found.notes.append(f"{len(failed)} labelled micrographs failed in the run: {', '.join(failed[:10])}")
    return found, domain_distance.read_domain(directory) if directory else _domain(evidence, rows)


def _domain(evidence: pd.DataFrame, rows: pd.DataFrame) -> domain_distance.Domain | None:
    """What the labelled images look like, where there are enough; the features are those of the bundled model."""
    columns = domain_distance.read_domain(models.locate("log-synthetic")).columns
    known = evidence.dropna(subset=list(columns))
    varied = [c for c in columns if known[c].std() > 0]
    if len(known) < 20 or not varied:
        return None
    groups = known["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["content_sha256"])))
    return domain_distance.fit_domain(known, groups, columns=varied)


def _conditions(features: pd.DataFrame, rows: pd.DataFrame) -> dict:
    """The labelled images' imaging conditions for the model's card, where rings tell those of enough of them."""
    known = features.merge(rows[["micrograph_id", "voltage_kv"]], on="micrograph_id")
    return imaging_conditions.make_card_table(
        imaging_conditions.fit_training_conditions(known["defocus_nm"], known["voltage_kv"])
    )


def _write(
    out: Path,
    name: str,
    found: calibration.Calibration,
    domain: domain_distance.Domain | None,
    conditions: dict,
    labels: str,
    n: int,
) -> None:
    """The model directory `out`, whole or as it was."""
    known = {"trained_on": f"{n} labelled micrographs of {Path(labels).name}", "made_by": "emqa calibrate"}
    known |= conditions
    with output_folders.write_folder(out) as fresh:
        calibration.write_calibration(
            found, fresh, f"{name}-calibrated", domain, **known, versions={"emqa_dask": __version__}
        )


def _tell(name: str, found: calibration.Calibration, say: Say) -> None:
    say(f"{name}: {found.model.kind}, F1 at IoU {found.model.iou_threshold:g} ({found.model.rule})")
    say(f"  {'held out':<22}{'n':>6}{'MAE':>8}{'RMSE':>8}{'R2':>8}{'coverage':>10}{'width':>8}")
    for row in found.report.itertuples():
        say(
            f"  {row.protocol:<22}{row.n:>6}{row.mae:>8.3f}{row.rmse:>8.3f}{row.r2:>8.2f}{row.coverage:>10.2f}"
            f"{row.width:>8.2f}"
        )
    for note in found.notes:
        say(f"  {note}")
