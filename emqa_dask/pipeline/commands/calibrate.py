"""emqa calibrate: fit quality models to a few labelled images of a run. No detector runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from emqa_dask import __version__, domain_distance, imaging_conditions, models, output_folders
from emqa_dask.number_ranges import check_number
from emqa_dask.pipeline.commands.report_copies import label_acquisition_groups
from emqa_dask.pipeline.tasks.predict import join_evidence
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.labelled_micrographs import (
    LabelledMicrographs,
    describe_matching,
    read_labelled,
)
from emqa_dask.predict import calibration, quality_model
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.predict.sparse_truth import RULES
from emqa_dask.settings import Settings, replace
from emqa_dask.store import files, lock, marker, stored_settings
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
MATCHING = (0.1, "greedy")  # IoU and rule of the published study, used without a base model and --iou
MODELS = "models"  # folder of the workspace
MIN_DOMAIN_IMAGES = 20  # minimum of domain_distance.fit_domain
CONTENT_KEY = "labelled_content_sha256"  # on the card: the images that the model was fitted to
MAX_NAMED = 10  # failed micrographs that a note names


def calibrate(
    root: str,
    labels: str | Sequence[str],
    settings: Settings,
    *,
    detectors: Sequence[str] = (),
    iou_threshold: float | None = None,
    out: str = "",
    say: Say = print,
) -> int:
    """Exit code 0. Fits quality models to the micrographs of `root` that the files `labels` list.

    For every detector of the run, or those named, a model directory <out>/<detector> is written (default of `out`: the
    workspace's models/) with the errors on held-out images, groups and sessions. Its name enters the workspace's
    settings, so that `rescore` and every later run use it. No detector runs. Boxes are matched by IoU and rule of the
    present model, or by `iou_threshold` (greedy); points and counts as in predict.sparse_truth. Raises ValueError,
    naming images and rows, for labels of other micrographs, labels that contradict each other, a detector that the run
    does not have, and less than 8 labelled images with detections.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    if iou_threshold is not None:
        check_number("--iou", iou_threshold, 0, 1)
    folder = _locate_output(workspace, out)
    directories = {name: _name_directory(folder, name) for name in _select_detectors(settings, detectors)}
    output_folders.check_folder(*directories.values())
    with lock.hold_lock(root, say):
        labelled = read_labelled(workspace, settings, [labels] if isinstance(labels, str) else labels)
        say(labelled.describe())
        for name, directory in directories.items():
            result, domain = _fit_detector(name, labelled, settings, iou_threshold)
            _write_model(directory, name, result, domain, labelled)
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


def _load_base(
    name: str, settings: Settings, labelled: LabelledMicrographs
) -> tuple[quality_model.QualityModel | None, Path | None]:
    """The quality model of the settings for the detector `name`, and its directory; None without one.

    A model that was calibrated on one of the labelled images is passed over: its errors on them would be too small.
    """
    for model in settings.predict.models:
        if models.read_detector_and_floor(model) != (name, settings.featurise.score_floor):
            continue
        directory = models.locate_model(model)
        if not set(models.read_model_card(directory).get(CONTENT_KEY, [])) & set(labelled.rows["content_sha256"]):
            return load_quality_model(model), directory
    return None, None


def _fit_detector(
    name: str, labelled: LabelledMicrographs, settings: Settings, iou_threshold: float | None
) -> tuple[calibration.Calibration, domain_distance.Domain | None]:
    """The calibrated model of the detector `name`, and the domain of the base model or of the labelled images."""
    base, directory = _load_base(name, settings, labelled)
    if base is not None and base.rule in RULES and base.rule != labelled.kind:
        base = None  # it predicts what another kind of labels says
    iou, rule = (base.iou_threshold, base.rule) if base else MATCHING
    if labelled.kind != "boxes":
        iou, rule = (0.0, labelled.kind)
    elif iou_threshold is not None and iou_threshold != iou:
        iou = iou_threshold
        base = None  # it predicts F1 at another IoU
    evidence = labelled.evidence[labelled.evidence["detector"] == name]
    features = join_evidence(evidence, labelled.features)
    failed = sorted(set(labelled.truth) - set(features["micrograph_id"]))
    truth = labelled.compute_quality(name, settings.featurise.score_floor, iou, rule)
    truth = truth[~truth["micrograph_id"].isin(failed)]
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
) -> None:
    """Writes the model directory, whole or not at all."""
    features = labelled.features.merge(labelled.rows[["micrograph_id", "voltage_kv"]], on="micrograph_id")
    conditions = imaging_conditions.fit_training_conditions(features["defocus_nm"], features["voltage_kv"])
    model_card = {
        "trained_on": f"{len(labelled.rows)} labelled micrographs of {', '.join(labelled.files)}",
        "made_by": "emqa calibrate",
        CONTENT_KEY: sorted(set(labelled.rows["content_sha256"])),
        **imaging_conditions.make_card_table(conditions),
        "versions": {"emqa_dask": __version__},
    }
    with output_folders.write_folder(directory) as fresh:
        calibration.write_calibration(result, fresh, f"{name}-calibrated", domain, **model_card)


def _print_report(name: str, result: calibration.Calibration, say: Say) -> None:
    say(f"{name}: {result.model.kind}, {describe_matching(result.model)}")
    say(f"  {'held out':<22}{'n':>6}{'MAE':>8}{'RMSE':>8}{'R2':>8}{'coverage':>10}{'width':>8}")
    for row in result.report.itertuples():
        say(
            f"  {row.protocol:<22}{row.n:>6}{row.mae:>8.3f}{row.rmse:>8.3f}{row.r2:>8.2f}{row.coverage:>10.2f}"
            f"{row.width:>8.2f}"
        )
    for note in result.notes:
        say(f"  {note}")
