"""Quality models from a few labelled images of a run, without running a detector, and their measured errors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from emqa_dask import domain_distance, models
from emqa_dask.predict import conformal, cross_validation
from emqa_dask.predict.candidates import CandidateFits, Choice, LabelledRows
from emqa_dask.predict.forest import PAPER_FEATURES, select_feature_values
from emqa_dask.predict.quality_files import write_quality_model
from emqa_dask.predict.quality_fit import build_quality_model
from emqa_dask.predict.quality_model import AGREEMENT, TARGETS, QualityModel, predict_distribution
from emqa_dask.predict.true_quality import MIN_IMAGES, join_labels
from emqa_dask.tables import F1_QUANTILES

LOW_F1 = 0.3  # true F1 below which the report gives the bias apart: regressors over-estimate it
MIN_SESSIONS = 3  # with fewer, leaving one out leaves a single session to fit


@dataclass(frozen=True)
class Calibration:
    """A quality model, its errors and the coverage of its interval on held-out labelled images, and the candidates."""

    model: QualityModel
    report: pd.DataFrame  # a row per protocol: see calibrate_quality_model()
    candidate_errors: pd.DataFrame  # a row per candidate: `candidate`, `mae` on left-out groups, `is_chosen`
    held_out: pd.DataFrame  # micrograph_id, true_f1 and F1_QUANTILES of models that had no row of the image's group
    fits: CandidateFits
    notes: list[str]  # rows that were left out, and why


@ThreadpoolController().wrap(limits=1, user_api="blas")  # of 50 x 50 matrices, which threads make 50 times slower
def calibrate_quality_model(
    features: pd.DataFrame,
    truth: pd.DataFrame,
    groups: Mapping[str, str] | None = None,
    sessions: Mapping[str, str] | None = None,
    base: QualityModel | None = None,
    *,
    iou_threshold: float,
    rule: str = "greedy",
    coverage: float = 0.9,
    agreement_detectors: Sequence[str] = (),
) -> Calibration:
    """A quality model for the detector of `features`, fitted to the images of `truth`.

    features: rows of tables.FEATURES of one detector and score floor, at least of the labelled images. truth: rows of
    true_quality.compute_true_quality() or a table with micrograph_id, true_f1, precision and recall. groups and
    sessions: micrograph_id -> label of images that belong together (parent image; instrument and session); by default
    every image is a group and there are no sessions. base: a model of the same detector and score floor, which the
    labels correct. agreement_detectors: the other detectors of the run, with which `detector_agreement` in `features`
    compares; a base has to compare with the same ones or with none.

    Candidates: the base as it is, the base recalibrated, a Gaussian process of candidates.FEW_FEATURES, one of the
    published eight, the mean of each with the base, with sessions a process with an offset per session, and a forest
    from candidates.MIN_FOREST_IMAGES images. Where the agreement of detectors is known for all labelled images, each
    fitted candidate is tried with it, too. Chosen is the candidate that needs the fewest labels among those about as
    good as the best on left-out sessions (with less than MIN_SESSIONS: on folds of groups).

    report: for the protocols `random` (5 folds), `grouped by image` and `leave one session out` the columns n,
    n_groups, mae, rmse, r2, coverage, width, bias_at_low_f1 (truth below LOW_F1) and candidates (those chosen). Nested:
    candidates and widths were chosen anew without each left-out part.

    Raises ValueError, naming rows, for labels of images without features, images labelled twice, truths that break an
    identity (predict.identities), less than MIN_IMAGES images with detections, and a base for other conditions.
    """
    table, notes = join_labels(features, truth)
    others = tuple(sorted(agreement_detectors))
    conditions = _read_conditions(table, base, others) | {"iou_threshold": iou_threshold, "rule": rule}
    rows = _arrange_rows(table, groups, sessions, base, has_agreement=bool(others))
    if sessions is not None and rows.sessions is None:
        n_sessions = len({str(sessions.get(name, "")) for name in table["micrograph_id"]})
        notes.append(
            f"the labelled images are of {n_sessions} session{'s' * (n_sessions > 1)}: too few to leave one out"
        )
    fits = CandidateFits(rows, base, coverage)
    report, quantiles = _evaluate_protocols(fits)
    held_out = pd.DataFrame(quantiles, columns=list(F1_QUANTILES))
    held_out.insert(0, "true_f1", rows.truths["f1"])
    held_out.insert(0, "micrograph_id", table["micrograph_id"])
    choices = _choose_candidates(fits, notes)
    candidate_errors = [
        {"candidate": name, "mae": error, "is_chosen": name == choices["f1"].name}
        for name, error in choices["f1"].errors.items()
    ]
    conditions["agreement_detectors"] = others
    model = _build_model(rows, choices, base, coverage, conditions)
    return Calibration(model, report, pd.DataFrame(candidate_errors), held_out, fits, notes)


def _choose_candidates(fits: CandidateFits, notes: list[str]) -> dict[str, Choice]:
    """The chosen candidate of every target that is known for enough images; adds to `notes` those that are not."""
    choices = {}
    for name, true in fits.rows.truths.items():
        labelled_rows = np.flatnonzero(np.isfinite(true))
        if len(labelled_rows) < MIN_IMAGES:
            notes.append(f"{name} is known for {len(labelled_rows)} images only: it is not predicted")
        else:
            choices[name] = fits.choose_candidate(name, labelled_rows)
    return choices


def _build_model(
    rows: LabelledRows,
    choices: Mapping[str, Choice],
    base: QualityModel | None,
    coverage: float,
    conditions: Mapping[str, object],
) -> QualityModel:
    """The quality model of the chosen candidates, with the columns that they use."""
    kind = choices["f1"].name
    if base is not None:
        kind = kind.replace("base", f"base ({base.kind})")
    targets = {name: choice.target for name, choice in choices.items()}
    used = {column for target in targets.values() for part in target.components for column in part.columns}
    indices = [i for i, column in enumerate(rows.columns) if column in used]
    columns = tuple(rows.columns[i] for i in indices)
    values = rows.values[:, indices]
    if AGREEMENT not in columns:
        conditions = {**conditions, "agreement_detectors": ()}
    return build_quality_model(targets, columns, values, rows.truths["f1"], kind, coverage, conditions)


def _read_conditions(
    table: pd.DataFrame, base: QualityModel | None, agreement_detectors: tuple[str, ...]
) -> dict[str, object]:
    """Detector and score floor of the labelled images; ValueError where the base has others."""
    score_floor = float(table["score_floor"].iloc[0])
    if "detector" in table:
        detector = str(table["detector"].iloc[0])
    else:
        detector = base.detector if base else "log"
    if base is not None and (base.detector, base.score_floor) != (detector, score_floor):
        raise ValueError(
            f"the base model is for {base.detector} at score floor {base.score_floor:g}, the features are of "
            f"{detector} at {score_floor:g}"
        )
    if base is not None and base.agreement_detectors not in ((), agreement_detectors):
        raise ValueError(
            f"the base model compares {detector} with {', '.join(base.agreement_detectors)}, the features with "
            f"{', '.join(agreement_detectors) or 'no detector'}: give a base for the same detectors"
        )
    return {"detector": detector, "score_floor": score_floor}


def _arrange_rows(
    table: pd.DataFrame,
    groups: Mapping[str, str] | None,
    sessions: Mapping[str, str] | None,
    base: QualityModel | None,
    *,
    has_agreement: bool,
) -> LabelledRows:
    """The rows of join_labels() as arrays; without sessions where there are less than MIN_SESSIONS."""
    agreement_columns = (AGREEMENT,) if has_agreement else ()
    columns = tuple(dict.fromkeys((*PAPER_FEATURES, *(base.columns if base else ()), *agreement_columns)))
    names = table["micrograph_id"]
    session_labels = None
    if sessions is not None:
        session_labels = np.array([str(sessions.get(name, "")) for name in names])
        if len(np.unique(session_labels)) < MIN_SESSIONS:
            session_labels = None
    return LabelledRows(
        values=select_feature_values(table, columns),
        columns=columns,
        truths={name: table[column].to_numpy(dtype=np.float64) for name, column in TARGETS.items()},
        groups=np.array([str((groups or {}).get(name, name)) for name in names]),
        sessions=session_labels,
    )


def _evaluate_protocols(fits: CandidateFits) -> tuple[pd.DataFrame, NDArray]:
    """The report: errors of F1 on rows that neither the fit nor the choice of the candidate had.

    Also the quantiles (n, k) of F1 of every row by models that had no row of its group.
    """
    rows = fits.rows
    n = len(rows.values)
    row, quantiles = _evaluate_protocol(fits, "random", cross_validation.make_random_folds(n), rows.groups)
    report = [row]
    if len(np.unique(rows.groups)) == n:  # no fold can share a group
        report.append({**row, "protocol": "grouped by image"})
    else:
        folds = cross_validation.make_grouped_folds(rows.groups)
        row, quantiles = _evaluate_protocol(fits, "grouped by image", folds, rows.groups)
        report.append(row)
    if rows.sessions is not None:
        folds = cross_validation.make_leave_one_out_folds(rows.sessions, rows.groups)
        report.append(_evaluate_protocol(fits, "leave one session out", folds, rows.sessions)[0])
    return pd.DataFrame(report), quantiles


def _evaluate_protocol(
    fits: CandidateFits, protocol: str, folds: Iterator[tuple[NDArray, NDArray]], labels: NDArray
) -> tuple[dict, NDArray]:
    """A row of the report and the quantiles (n, k) of the held-out rows. labels: (n,), what n_groups counts."""
    rows = fits.rows
    mean = np.full(len(rows.values), np.nan)
    quantiles = np.full((len(rows.values), len(F1_QUANTILES)), np.nan)
    names = set()
    for fit_rows, held_out in folds:
        choice = fits.choose_candidate("f1", fit_rows)
        mean[held_out], quantiles[held_out] = predict_distribution(choice.target, rows.columns, rows.values[held_out])
        names.add(choice.name)
    counts = {"protocol": protocol, "n": len(rows.values), "n_groups": len(np.unique(labels))}
    low, high = conformal.select_interval(mean, quantiles, fits.coverage)
    errors = _compute_errors(rows.truths["f1"], mean, low, high)
    return {**counts, **errors, "candidates": ", ".join(sorted(names))}, quantiles


def _compute_errors(true: NDArray, mean: NDArray, low: NDArray, high: NDArray) -> dict[str, float]:
    """Errors of predictions, coverage and width of their interval, and the bias where the true F1 is low."""
    errors = cross_validation.compute_errors(true, mean)
    interval = cross_validation.compute_interval_errors(true, low, high)
    is_low = true < LOW_F1
    return {
        **{name: errors[name] for name in ("mae", "rmse", "r2")},
        **{name: interval[name] for name in ("coverage", "width")},
        "bias_at_low_f1": float((mean - true)[is_low].mean()) if is_low.any() else float("nan"),
    }


def write_calibration(
    calibration: Calibration,
    directory: Path,
    name: str,
    domain: domain_distance.Domain | None = None,
    **model_card: object,
) -> None:
    """Writes a model directory: the quality model, a domain for the out-of-domain distance, and a card.

    The card has the report under `measured`, and the entries of `model_card`.
    """
    record = write_quality_model(calibration.model, directory)
    if domain is not None:
        record |= domain_distance.write_domain(domain, directory)
    figures = {}
    for row in calibration.report.to_dict("records"):
        protocol = row.pop("protocol").replace(" ", "_")
        figures[protocol] = {
            key: value if isinstance(value, (str, int)) else round(float(value), 4)
            for key, value in row.items()
            if isinstance(value, str) or np.isfinite(value)
        }
    candidate_errors = {
        row["candidate"].replace(" ", "_"): round(row["mae"], 4)
        for row in calibration.candidate_errors.to_dict("records")
    }
    task = f"predict F1, precision and recall of {calibration.model.detector} on an image from its detections"
    description = {
        "name": name,
        "task": task,
        "notes": calibration.notes,
        "measured": figures,
        "tried_mae": candidate_errors,
    }
    models.write_model_card(directory, {**description, **model_card, **record})
