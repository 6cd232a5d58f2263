"""Fit F1, precision and recall to a few labelled images of a run, without running a detector, and say how well."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from emqa_dask import boxes, domain_distance, models
from emqa_dask.predict import conformal, cross_validation, quality_model, regressors
from emqa_dask.predict.forest import PAPER_FEATURES, select_values
from emqa_dask.predict.identities import check_identities
from emqa_dask.predict.quality_model import (
    TARGETS,
    Component,
    QualityModel,
    TargetModel,
    build_quality_model,
    predict_target,
)

FEW_FEATURES = (
    "score_fraction_8",
    "mean_score",
    "image_confidence",
)  # what a handful of labels can say something about
MIN_FOREST_IMAGES = 100  # labelled images from which a forest is tried too
MIN_IMAGES = 8
_INNER = 4  # folds by which candidates are chosen
_MARGIN = 0.5  # standard errors by which a candidate of fewer labels may be worse


@dataclass(frozen=True)
class Calibration:
    """A judge, how well it and its interval did on labelled images that it had not seen, and what was tried."""

    model: QualityModel
    report: pd.DataFrame  # a row a protocol: see calibrate()
    tried: pd.DataFrame  # a row a candidate: `candidate`, `mae` on left-out groups, `is_chosen`
    notes: list[str]  # rows that were left aside, and why


def compute_true_quality(
    detections: pd.DataFrame,
    truth_boxes: Mapping[str, ArrayLike],
    rule: str = "greedy",
    iou_threshold: float = 0.1,
    score_floor: float = 0.0,
) -> pd.DataFrame:
    """A row for each image of `truth_boxes`: micrograph_id, true_f1, precision, recall, n_detections, n_true.

    detections: rows of tables.DETECTIONS of one detector (micrograph_id, y0, x0, y1, x1, score); those below
    `score_floor` are left out; truth_boxes: micrograph_id -> its true boxes (m x 4: y0, x0, y1, x1, half-open, px),
    none for an image without objects. Matched by boxes.match_boxes. Precision is NaN without detections, recall
    without true boxes, F1 with neither. Raises ValueError for several detectors and malformed boxes, naming the image.
    """
    if "detector" in detections and detections["detector"].nunique() > 1:
        raise ValueError(f"detections of several detectors: {', '.join(sorted(detections['detector'].unique()))}")
    kept = detections[detections["score"] >= score_floor]
    corners = kept[["y0", "x0", "y1", "x1"]].to_numpy(dtype=np.float64)
    rows_of = kept.groupby("micrograph_id").indices
    rows = []
    for image, true in truth_boxes.items():
        predicted = corners[rows_of.get(image, np.zeros(0, dtype=np.int64))]
        try:
            match = boxes.match_boxes(predicted, true, iou_threshold, rule)
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from None
        found = {"true_f1": match.f1, "precision": match.precision, "recall": match.recall}
        rows.append({"micrograph_id": image, **found, "n_detections": len(predicted), "n_true": match.tp + match.fn})
    names = ["micrograph_id", "true_f1", "precision", "recall", "n_detections", "n_true"]
    return pd.DataFrame(rows, columns=names)


@ThreadpoolController().wrap(limits=1, user_api="blas")  # of 50 x 50 matrices, which threads make 50 times slower
def calibrate_quality_model(
    evidence: pd.DataFrame,
    truth: pd.DataFrame,
    groups: Mapping[str, str] | None = None,
    cohorts: Mapping[str, str] | None = None,
    base: QualityModel | None = None,
    *,
    iou_threshold: float,
    rule: str = "greedy",
    coverage: float = 0.9,
) -> Calibration:
    """A judge for the detector of `evidence`, fitted on the images of `truth`.

    evidence: rows of tables.FEATURES of one detector and score floor, at least of the labelled images; truth: rows
    of f1_of() or a table like it: micrograph_id, true_f1, precision, recall; groups and cohorts: micrograph_id -> what
    belongs together (parent image; instrument and session), by default every image by itself and no cohorts; base: a
    judge of the same detector and score floor, for which the labels are few corrections.

    Candidates: the base as it is, the base recalibrated, a Gaussian process of FEW features, one of the published
    eight, half of each with the base, with cohorts a process with offsets of theirs, and a forest from N_FOREST images.
    Taken is the one that needs the fewest labels of those about as good as the best on left-out cohorts (with less
    than 3 cohorts: on folds of groups).

    report: for the protocols `random` (5 folds), `grouped by image` and `leave one cohort out` the columns n, n_groups,
    mae, rmse, r2, coverage, width, bias_at_low_f1 (truth below 0.3) and candidates (those chosen). Nested: candidates
    and widths were chosen anew without each left-out part.

    Raises ValueError, naming rows, for labels of images that are not in the evidence, images labelled twice, truths
    that break an identity (predict.identities) and less than MIN_IMAGES images with detections.
    """
    rows, notes = _join_labels(evidence, truth)
    true = {name: rows[column].to_numpy(dtype=np.float64) for name, column in TARGETS.items()}
    ids = rows["micrograph_id"]
    group = np.array([str((groups or {}).get(i, i)) for i in ids])
    cohort = None if cohorts is None else np.array([str(cohorts.get(i, "")) for i in ids])
    if cohort is not None and len(np.unique(cohort)) < 3:
        notes.append(f"{len(np.unique(cohort))} cohorts among the labelled images: too few to leave one out")
        cohort = None
    detector = str(rows["detector"].iloc[0]) if "detector" in rows else (base.detector if base else "log")
    floor = float(rows["score_floor"].iloc[0])
    if base is not None and (base.detector, base.score_floor) != (detector, floor):
        raise ValueError(
            f"the base model is for {base.detector} at score floor {base.score_floor:g}, the evidence is of "
            f"{detector} at {floor:g}"
        )
    columns = tuple(dict.fromkeys((*PAPER_FEATURES, *(base.columns if base else ()))))
    values = select_values(rows, columns)
    unit = group if cohort is None else cohort
    fits = CandidateFits(values, columns, base, cohort)
    names = fits.candidates("f1", len(rows))

    def inner(fit: NDArray) -> list:
        """Folds of the rows `fit` by which candidates are chosen, as positions in the whole table."""
        if cohort is not None and len(np.unique(cohort[fit])) > 2:
            folds = cross_validation.make_leave_one_out_folds(cohort[fit], group[fit])
        else:
            folds = cross_validation.make_grouped_folds(group[fit], _INNER)
        return [(fit[a], fit[b]) for a, b in folds]

    everything = np.arange(len(rows))
    tests = {
        "random": cross_validation.make_random_folds(len(rows)),
        "grouped by image": cross_validation.make_grouped_folds(group),
        **(
            {} if cohort is None else {"leave one cohort out": cross_validation.make_leave_one_out_folds(cohort, group)}
        ),
    }
    single = len(np.unique(group)) == len(rows)  # then no fold can share an image
    report = []
    for protocol, folds in tests.items():
        if protocol == "grouped by image" and single:
            report.append({**report[0], "protocol": protocol})
            continue
        found = np.full((len(rows), 3), np.nan)
        chosen = []
        for fit, held_out in folds:
            name, target = fits.choose("f1", names, true["f1"], fit, inner(fit), unit, coverage)
            mean, spread = predict_target(target, columns, values[held_out])
            mean = np.clip(mean, 0, 1)
            ends = conformal.compute_interval(mean, spread, (target.width_low, target.width_high), target.spread_floor)
            found[held_out] = np.stack([mean, *ends], axis=1)
            chosen.append(name)
        of = cohort if protocol == "leave one cohort out" else group
        counts = {"protocol": protocol, "n": len(rows), "n_groups": len(np.unique(of))}
        report.append(
            {**counts, **_compute_report_figures(true["f1"], found), "candidates": ", ".join(sorted(set(chosen)))}
        )
    targets = {}
    tried = []
    for name in TARGETS:
        known = everything[np.isfinite(true[name])]
        if len(known) < MIN_IMAGES:
            notes.append(f"{name} is known for {len(known)} images only: it is not predicted")
            continue
        options = fits.candidates(name, len(rows))
        errors: dict[str, float] = {}
        best, targets[name] = fits.choose(name, options, true[name], known, inner(known), unit, coverage, errors)
        if name == "f1":
            kind = best.replace("base", f"base ({base.kind})") if base else best
            tried = [{"candidate": k, "mae": v, "is_chosen": k == best} for k, v in errors.items()]
    used = {c for target in targets.values() for part in target.parts for c in part.columns}
    kept = tuple(c for c in columns if c in used)
    conditions = {"detector": detector, "score_floor": floor, "iou_threshold": iou_threshold, "rule": rule}
    at = [columns.index(c) for c in kept]
    made = build_quality_model(targets, kept, values[:, at], true["f1"], kind, coverage, conditions)
    return Calibration(made, pd.DataFrame(report), pd.DataFrame(tried), notes)


def write_calibration(
    found: Calibration, directory: Path, name: str, domain: domain_distance.Domain | None = None, **card: object
) -> None:
    """Writes a model directory: the judge, a domain for the out-of-domain distance (the base model's, or one fitted to
    the run), and a card with the report under `measured`, beside the entries of `card`."""
    record = quality_model.write_quality_model(found.model, directory)
    if domain is not None:
        record |= domain_distance.write_domain(domain, directory)
    measured = {
        row["protocol"].replace(" ", "_"): {
            key: value if isinstance(value, (str, int)) else round(float(value), 4)
            for key, value in row.items()
            if key != "protocol" and (isinstance(value, str) or np.isfinite(value))
        }
        for row in found.report.to_dict("records")
    }
    tried = {row["candidate"].replace(" ", "_"): round(row["mae"], 4) for row in found.tried.to_dict("records")}
    task = f"predict F1, precision and recall of {found.model.detector} on an image from its detections"
    what = {"name": name, "task": task, "notes": found.notes, "measured": measured, "tried_mae": tried}
    models.write_card(directory, {**what, **card, **record})


def _join_labels(evidence: pd.DataFrame, truth: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Labelled images with detections and their features; what was left aside."""
    for table, what in ((evidence, "evidence"), (truth, "truth")):
        twice = table["micrograph_id"][table["micrograph_id"].duplicated()].unique()
        if what == "evidence":
            twice = twice[np.isin(twice, truth["micrograph_id"])]
        if len(twice):
            raise ValueError(f"images twice in the {what}: {', '.join(map(str, twice))}")
    for name in ("score_floor", "detector"):
        if name in evidence and evidence[name].nunique() > 1:
            raise ValueError(f"the evidence has several values of {name}: {sorted(evidence[name].unique())}")
    foreign = truth["micrograph_id"][~truth["micrograph_id"].isin(evidence["micrograph_id"])]
    if len(foreign):
        raise ValueError(
            f"labels for {len(foreign)} images that this run does not have: {', '.join(map(str, foreign))}"
        )
    evidence = evidence[evidence["micrograph_id"].isin(truth["micrograph_id"])]
    if "n_detections" in truth:
        known = evidence.set_index("micrograph_id")["n_detections"].reindex(truth["micrograph_id"]).to_numpy()
        other = truth["micrograph_id"][truth["n_detections"].to_numpy() != known]
        if len(other):
            raise ValueError(
                f"the truth counts another number of detections than the evidence for {len(other)} images: "
                f"{', '.join(map(str, other))} (match the detections at the evidence's score floor)"
            )
    columns = ["micrograph_id", *TARGETS.values()]
    rows = truth[columns].merge(evidence.drop(columns=list(TARGETS.values()), errors="ignore"), on="micrograph_id")
    rows = rows.sort_values("micrograph_id", ignore_index=True)  # the order of labels is nobody's choice
    notes = []
    for bad, why in (
        (rows["n_detections"] == 0, "without detections: a class of their own, not fitted"),
        (rows["true_f1"].isna() & (rows["n_detections"] > 0), "without a true F1: neither objects nor labels"),
    ):
        if bad.any():
            notes.append(f"{int(bad.sum())} labelled images {why}: {', '.join(map(str, rows['micrograph_id'][bad]))}")
    rows = rows[(rows["n_detections"] > 0) & rows["true_f1"].notna()].reset_index(drop=True)
    check_identities(rows.assign(recall=rows["recall"].fillna(0)), lambda i: str(rows["micrograph_id"][i]))
    known = np.isfinite(select_values(rows, PAPER_FEATURES)).all(axis=1)
    if not known.all():
        notes.append(
            f"{(~known).sum()} labelled images with unknown features: {', '.join(rows['micrograph_id'][~known])}"
        )
    rows = rows[known].reset_index(drop=True)
    if len(rows) < MIN_IMAGES:
        raise ValueError(f"{len(rows)} labelled images with detections: at least {MIN_IMAGES} are needed")
    return rows, notes


def _compute_report_figures(true: NDArray, found: NDArray) -> dict[str, float]:
    mean, low, high = found.T
    error = cross_validation.compute_errors(true, mean)
    interval = cross_validation.compute_interval_errors(true, low, high)
    bad = true < 0.3
    return {
        **{name: error[name] for name in ("mae", "rmse", "r2")},
        **{name: interval[name] for name in ("coverage", "width")},
        "bias_at_low_f1": float((mean - true)[bad].mean()) if bad.any() else float("nan"),
    }


class CandidateFits:
    """Candidates fitted to sets of rows, each once: protocols that leave out the same rows share what was fitted."""

    def __init__(
        self, values: NDArray, columns: tuple[str, ...], base: QualityModel | None, cohort: NDArray | None = None
    ):
        self.values = values
        self.columns = columns
        self.base = base
        self.cohort = cohort
        self.cache: dict[tuple, object] = {}
        self.based = {}
        if base is not None:
            at = [columns.index(c) for c in base.columns]
            self.based = {
                name: predict_target(target, base.columns, values[:, at]) for name, target in base.targets.items()
            }

    def candidates(self, target: str, n: int) -> list[str]:
        names = ["few features", "gaussian process"]
        if self.base is not None and target in self.base.targets and np.isfinite(self.based[target][0]).all():
            names = ["base", "recalibrated base", "base and few features", "base and gaussian process", *names]
        if self.cohort is not None:
            names.append("mixed gaussian process")
        return [*names, "forest"] if n >= MIN_FOREST_IMAGES else names

    def target(self, name: str, target: str, true: NDArray, rows: NDArray) -> TargetModel:
        """Candidate `name` fitted on `rows`, its interval still without width."""
        key = (name, target, rows.tobytes())
        if key not in self.cache:
            self.cache[key] = self._target(name, target, true, rows)
        return self.cache[key]

    def _target(self, name: str, target: str, true: NDArray, rows: NDArray) -> TargetModel:
        if name == "base":
            return self.base.targets[target]
        if name == "recalibrated base":
            mean = self.based[target][0][rows]
            # As many images as if five more had agreed with the base: a handful of labels does not turn it over.
            offset, slope = conformal.fit_recalibration(mean, true[rows], np.arange(len(rows)))
            share = len(rows) / (len(rows) + 5)
            return _scale_target(self.base.targets[target], share * offset, 1 + share * (slope - 1))
        if name.startswith("base and "):
            one = self.target("recalibrated base", target, true, rows)
            two = self.target(name.removeprefix("base and "), target, true, rows)
            one = _scale_target(one, 0.0, 0.5)
            two = _scale_target(two, 0.0, 0.5)
            return TargetModel((*one.parts, *two.parts), one.offset + two.offset, 0.0, 0.0)
        columns = FEW_FEATURES if name == "few features" else PAPER_FEATURES
        values = self.values[np.ix_(rows, [self.columns.index(c) for c in columns])]
        kind = {"forest": "forest", "mixed gaussian process": "mixed_gaussian_process"}.get(name, "gaussian_process")
        groups = None if self.cohort is None else self.cohort[rows]
        fitted = regressors.fit_regressor(kind, values, true[rows], columns, groups=groups)
        return TargetModel((Component(1.0, columns, fitted),), 0.0, 0.0, 0.0)

    def held_out(self, name: str, target: str, true: NDArray, folds: list) -> tuple[NDArray, NDArray]:
        """Mean, clipped, and spread for every row of the table that a fold holds out; NaN elsewhere."""
        found = np.full((2, len(self.values)), np.nan)
        for fit, rows in folds:
            key = (name, target, fit.tobytes(), rows.tobytes())
            if key not in self.cache:
                fitted = self.target(name, target, true, fit)
                self.cache[key] = predict_target(fitted, self.columns, self.values[rows])
            found[:, rows] = self.cache[key]
        return np.clip(found[0], 0, 1), found[1]

    def choose(
        self, target: str, names: list[str], true: NDArray, fit: NDArray, folds: list, unit: NDArray, coverage: float,
        errors: dict[str, float] | None = None,
    ) -> tuple[str, TargetModel]:  # fmt: skip
        """A candidate by its error on `folds` of the rows `fit`, fitted on all of them, with its interval.

        The first of `names`, which go from what leans on few labels to what leans on many, that is no worse than the
        best by _MARGIN standard errors of their difference: 20 labels often favour the wrong one by a little.
        """
        errors = {} if errors is None else errors
        units, of, sizes = np.unique(unit[fit], return_inverse=True, return_counts=True)
        each = {}  # every unit's mean error
        for name in names:
            mean, _ = self.held_out(name, target, true, folds)
            each[name] = np.bincount(of, np.abs(mean - true)[fit]) / sizes
            errors[name] = float(each[name].mean())
        least = each[min(errors, key=errors.get)]
        margin = {k: _MARGIN * (v - least).std(ddof=1) / np.sqrt(len(units)) for k, v in each.items()}
        best = next(k for k in names if errors[k] <= least.mean() + margin[k])
        mean, spread = self.held_out(best, target, true, folds)
        low, high = conformal.compute_group_widths(mean[fit], spread[fit], true[fit], unit[fit], coverage)
        fitted = self.target(best, target, true, fit)
        return best, TargetModel(fitted.parts, fitted.offset, low, high)


def _scale_target(target: TargetModel, offset: float, slope: float) -> TargetModel:
    """`target` times slope plus offset, without an interval."""
    parts = tuple(Component(slope * part.slope, part.columns, part.regressor) for part in target.parts)
    return TargetModel(parts, offset + slope * target.offset, 0.0, 0.0)
