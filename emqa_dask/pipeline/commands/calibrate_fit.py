"""What emqa calibrate computes: the choice of detector and score floor, the quality model, its domain and the limit."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import domain_distance, models
from emqa_dask.pipeline.tasks.predict import join_evidence, summarise_detections
from emqa_dask.pipeline.tasks.report_rows import label_acquisition_groups
from emqa_dask.pipeline.workspace.labelled_micrographs import (
    LabelledMicrographs,
    list_measured_partitions,
    read_table,
)
from emqa_dask.pipeline.workspace.quality_models import fits_detectors, list_other_detectors
from emqa_dask.predict import calibration, quality_model
from emqa_dask.predict.detection_choice import DetectionChoice, choose_detection
from emqa_dask.predict.forest import select_feature_values
from emqa_dask.predict.label_curve import compute_label_curve
from emqa_dask.predict.labelled_images import LabelledImages, collect_labelled_images
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.predict.sparse_truth import RULES
from emqa_dask.predict.trust_limit import TrustRecord, choose_trust_limit, record_trust
from emqa_dask.settings import Predict, Settings, replace
from emqa_dask.store.layout import Workspace
from emqa_dask.tables import F1_QUANTILES
from emqa_dask.triage.f1_probability import compute_f1_probability

MATCHING = (0.1, "greedy")  # IoU and rule of the published study
SCORE_FLOORS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # tried beside that of the settings
MIN_DOMAIN_IMAGES = 20  # minimum of domain_distance.fit_domain
MAX_NAMED = 10  # failed micrographs that a note names
MAX_SAMPLE_IMAGES = 1000  # micrographs of the archive whose probabilities the limit of trust depends on
CONTENT_KEY = "labelled_content_sha256"  # on the card: the images that the model was fitted to
BASE_KEY = "base_model"  # on the card: the model that the labels corrected


class Base(NamedTuple):
    """The quality model that the labels correct; without one, None and ""."""

    model: quality_model.QualityModel | None
    name: str


class Calibrated(NamedTuple):
    """Everything that the labels decide."""

    choice: DetectionChoice
    base_name: str
    result: calibration.Calibration
    domain: domain_distance.Domain | None
    trust: TrustRecord
    curve: pd.DataFrame  # see predict.label_curve
    images: LabelledImages


def calibrate_run(
    workspace: Workspace,
    labelled: LabelledMicrographs,
    settings: Settings,
    detectors: Sequence[str],
    iou_threshold: float | None,
) -> Calibrated:
    """Detector, score floor, quality model, domain and limit of trust that fit the labels."""
    bases = {name: find_base(name, labelled, settings) for name in detectors}
    matching = _find_matching(bases.values(), labelled, iou_threshold)
    sessions = label_sessions(labelled.rows)
    present = settings.featurise.score_floor
    # One floor holds for the whole run, and sessions of other detectors have models for the present one.
    floors = [present] if settings.detect.is_automatic else sorted({present, *SCORE_FLOORS})
    f1 = {}
    for name in detectors:
        for floor, values in zip(floors, labelled.compute_f1_above(name, floors, *matching)):
            f1[name, floor] = values
    choice = choose_detection(f1, settings.featurise.score_floor)
    base = _select_base(bases[choice.detector], matching[1], choice.score_floor)
    chosen_settings = replace(settings, {"featurise": {"score_floor": choice.score_floor}})
    features = make_features(workspace, labelled.rows, labelled.features, chosen_settings, choice.detector)
    truth = labelled.compute_quality(choice.detector, choice.score_floor, *matching)
    failed = sorted(set(labelled.truth) - set(features["micrograph_id"]))
    result = calibration.calibrate_quality_model(
        features,
        truth[~truth["micrograph_id"].isin(failed)],
        groups=dict(zip(labelled.rows["micrograph_id"], labelled.rows["content_sha256"])),
        sessions=dict(zip(labelled.rows["micrograph_id"], sessions)),
        base=base.model,
        iou_threshold=matching[0],
        rule=matching[1],
        agreement_detectors=list_other_detectors(choice.detector, settings.detect),
    )
    result.notes.extend(_list_notes(labelled, sessions, failed))
    sample = _read_sample(workspace, labelled, chosen_settings, choice.detector)
    trust, curve = _measure_trust(result, sample, settings.triage.trust_f1)
    images = collect_labelled_images(result.model, features, truth, labelled.rows)
    return Calibrated(choice, base.name, result, _make_domain(base, features, labelled.rows), trust, curve, images)


def find_base(name: str, labelled: LabelledMicrographs, settings: Settings) -> Base:
    """The first quality model of the settings, or of the defaults, for the detector `name`; none: Base(None, "").

    A model for the run's score floor comes first. A model that was calibrated on one of the labelled images is passed
    over for its own base: its errors on them would be too small.
    """
    names = [*settings.predict.models, *Predict().models]
    content = set(labelled.rows["content_sha256"])
    candidates = []
    for model in names:  # grows by the bases of calibrated models
        card = models.read_model_card(models.locate_model(model))
        if set(card.get(CONTENT_KEY, [])) & content:
            if card.get(BASE_KEY):
                names.append(card[BASE_KEY])
            continue
        detector, floor = models.read_detector_and_floor(model)
        if detector == name and fits_detectors(model, settings.detect):
            candidates.append((floor != settings.featurise.score_floor, model))
    if not candidates:
        return Base(None, "")
    model = min(candidates, key=lambda candidate: candidate[0])[1]
    return Base(load_quality_model(model), model)


def _find_matching(
    bases: Iterable[Base], labelled: LabelledMicrographs, iou_threshold: float | None
) -> tuple[float, str]:
    """IoU and rule by which the labels of this kind are matched: those of all bases, or MATCHING where they differ."""
    if labelled.kind != "boxes":
        return (0.0, labelled.kind)
    rules = {
        (base.model.iou_threshold, base.model.rule) for base in bases if base.model and base.model.rule not in RULES
    }
    iou, rule = rules.pop() if len(rules) == 1 else MATCHING
    return (iou if iou_threshold is None else iou_threshold, rule)


def _select_base(base: Base, rule: str, score_floor: float) -> Base:
    """The base for `score_floor`; Base(None, "") where it was fitted to another kind of labels.

    For another score floor or IoU than its own, the base is off; the labels show by how much, and whether it is of use.
    """
    if base.model is None or (base.model.rule in RULES and base.model.rule != rule):
        return Base(None, "")
    return Base(dataclasses.replace(base.model, score_floor=score_floor), base.name)


def label_sessions(rows: pd.DataFrame) -> list[str]:
    """The source of every micrograph of the ledger: acquisition group and folder."""
    acquisition = label_acquisition_groups(rows).fillna("").astype(str)
    return list(acquisition + "|" + rows["uri"].str.rpartition("/")[0])


def make_features(
    workspace: Workspace, rows: pd.DataFrame, features: pd.DataFrame, settings: Settings, detector: str
) -> pd.DataFrame:
    """Input of the quality model for micrographs `rows` at the score floor of the settings; no pixel is read."""
    names = sorted(set(rows["partition"]))
    evidence = pd.DataFrame(summarise_detections(workspace, rows, settings, names))
    if evidence.empty:
        return evidence.reindex(columns=["micrograph_id", "detector"])
    return join_evidence(evidence[evidence["detector"] == detector], features)


def _read_sample(
    workspace: Workspace, labelled: LabelledMicrographs, settings: Settings, detector: str
) -> pd.DataFrame:
    """Input of the quality model for micrographs without labels: whole partitions, evenly over the archive."""
    finished = list_measured_partitions(workspace, settings)
    ledger = labelled.ledger[labelled.ledger["partition"].isin(finished)]
    names = list(dict.fromkeys(ledger["partition"]))
    step = max(1, len(ledger) // MAX_SAMPLE_IMAGES)
    rows = ledger[ledger["partition"].isin(names[::step])]
    rows = rows[~rows["micrograph_id"].isin(labelled.truth)].reset_index(drop=True)
    if rows.empty:
        return rows
    return make_features(workspace, rows, read_table(workspace, settings, "features", rows), settings, detector)


def _measure_trust(
    result: calibration.Calibration, sample: pd.DataFrame, trust_f1: float
) -> tuple[TrustRecord, pd.DataFrame]:
    """The limit of trust with its record, and precision and recall of trust against the number of labels."""

    def compute_probability(quantiles: NDArray) -> NDArray:
        return compute_f1_probability(pd.DataFrame(quantiles, columns=list(F1_QUANTILES)), trust_f1)

    probability = compute_f1_probability(result.held_out, trust_f1)
    is_good = (result.held_out["true_f1"] >= trust_f1).to_numpy()
    archive = probability
    if len(sample):
        values = select_feature_values(sample, result.model.columns)
        values = values[np.isfinite(values).all(axis=1) & (sample["n_detections"] > 0).to_numpy()]
        archive = compute_probability(
            quality_model.predict_distribution(result.model.targets["f1"], result.model.columns, values)[1]
        )
    limit = choose_trust_limit(probability, is_good, archive)
    name = next(row.candidate for row in result.candidate_errors.itertuples() if row.is_chosen)
    curve = compute_label_curve(result.fits, name, compute_probability, trust_f1)
    return record_trust(limit, probability, is_good, archive), curve


def _make_domain(base: Base, features: pd.DataFrame, rows: pd.DataFrame) -> domain_distance.Domain | None:
    """The domain of the base with the labelled images in it, or that of the labelled images alone.

    None where there is no base and the images are few or all alike.
    """
    domain = domain_distance.read_domain(models.locate_model(base.name)) if base.name else None
    groups = features["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["content_sha256"])))
    if domain is not None:
        return domain_distance.extend_domain(domain, features, groups)
    columns = domain_distance.read_domain(models.locate_model("log-f1")).columns
    complete = features.dropna(subset=list(columns))
    varying = [name for name in columns if complete[name].std() > 0]
    if len(complete) < MIN_DOMAIN_IMAGES or not varying:
        return None
    return domain_distance.fit_domain(complete, groups[complete.index], columns=varying)


def _list_notes(labelled: LabelledMicrographs, sessions: Sequence[str], failed: Sequence[str]) -> list[str]:
    """What the labels do not cover: sources without labels, and micrographs that failed."""
    notes = []
    archive_sessions = set(label_sessions(labelled.ledger))
    n_sessions = len(archive_sessions & set(sessions))
    if len(archive_sessions) > n_sessions:
        n_other = len(archive_sessions) - n_sessions
        notes.append(
            f"{n_other} of {len(archive_sessions)} sources (folder, instrument, magnification) of the archive have no "
            "labelled image: nothing here is measured on them"
        )
    if failed:
        notes.append(f"{len(failed)} labelled micrographs failed in the run: {', '.join(failed[:MAX_NAMED])}")
    return notes
