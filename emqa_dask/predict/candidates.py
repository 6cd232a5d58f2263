"""Candidate models of a few labelled images: fitted once per set of rows, chosen by their errors on held-out rows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.predict import conformal, cross_validation, regressors
from emqa_dask.predict.few_residuals import compute_student_quantiles
from emqa_dask.predict.forest import PAPER_FEATURES
from emqa_dask.predict.quality_model import AGREEMENT, Component, QualityModel, TargetModel, predict_target
from emqa_dask.tables import F1_LEVELS

FEW_FEATURES = ("score_fraction_8", "mean_score", "image_confidence")  # a handful of labels constrains these
MIN_FOREST_IMAGES = 100  # labelled images; with fewer no forest is tried
N_INNER_FOLDS = 4  # folds by which candidates are compared
MARGIN = 0.5  # standard errors by which a candidate of fewer labels may be worse
N_BASE_IMAGES = 5  # the base counts as much as this number of labelled images that agree with it
NO_RESIDUALS = np.zeros(len(F1_LEVELS))  # of a candidate whose distribution is not computed yet
WITH_AGREEMENT = " with agreement"  # end of the name of a candidate that has the feature AGREEMENT, too
KINDS = {"forest": "forest", "mixed gaussian process": "mixed_gaussian_process"}  # candidate: kind of its regressor


class LabelledRows(NamedTuple):
    """Labelled images with detections, n rows."""

    values: NDArray[np.float64]  # (n, d), finite where the columns are PAPER_FEATURES
    columns: tuple[str, ...]  # d names
    truths: dict[str, NDArray[np.float64]]  # target -> (n,), NaN where unknown
    groups: NDArray[np.str_]  # (n,), images of one label belong together
    sessions: NDArray[np.str_] | None  # (n,); None with less than three sessions

    @property
    def has_agreement(self) -> bool:
        """Whether the agreement of detectors is known for every image."""
        return AGREEMENT in self.columns and bool(np.isfinite(self.values[:, self.columns.index(AGREEMENT)]).all())

    @property
    def units(self) -> NDArray[np.str_]:
        """Labels (n,) for which the intervals have to hold: sessions, or groups where there are too few."""
        return self.groups if self.sessions is None else self.sessions


class Choice(NamedTuple):
    """A chosen candidate, fitted, and the errors of all candidates."""

    name: str
    target: TargetModel
    errors: dict[str, float]  # candidate -> mean absolute error on held-out rows, each unit with the same weight


class CandidateFits:
    """Fits of candidates to sets of rows, each made once: protocols that leave out the same rows share them."""

    def __init__(self, rows: LabelledRows, base: QualityModel | None, coverage: float):
        self.rows = rows
        self.base = base
        self.coverage = coverage
        self.cache: dict[tuple, object] = {}
        self.base_predictions: dict[str, NDArray] = {}
        if base is not None:
            values = rows.values[:, [rows.columns.index(name) for name in base.columns]]
            for name, target in base.targets.items():
                self.base_predictions[name] = predict_target(target, base.columns, values)[0]

    def list_candidates(self, target: str) -> list[str]:
        """Names of the candidates for `target`, from those that depend on few labels to those that depend on many.

        Where the agreement of detectors is known, each candidate that is fitted has a variant with this feature.
        """
        names = ["few features", "gaussian process"]
        if target in self.base_predictions and np.isfinite(self.base_predictions[target]).all():
            names = ["base", "recalibrated base", "base and few features", "base and gaussian process", *names]
        if self.rows.sessions is not None:
            names.append("mixed gaussian process")
        if len(self.rows.values) >= MIN_FOREST_IMAGES:
            names.append("forest")
        if self.rows.has_agreement:
            ends = {name: ("",) if name.endswith("base") else ("", WITH_AGREEMENT) for name in names}
            names = [name + end for name in names for end in ends[name]]
        return names

    def choose_candidate(self, target: str, fit_rows: NDArray) -> Choice:
        """The best candidate by its error on folds of `fit_rows`, fitted to all of them, with its interval.

        The first candidate that is no worse than the best by MARGIN standard errors of their difference: with 20
        labels a wrong candidate is often better by a little.
        """
        true = self.rows.truths[target]
        units, positions, sizes = np.unique(self.rows.units[fit_rows], return_inverse=True, return_counts=True)
        folds = self._make_inner_folds(fit_rows)
        unit_errors = {}
        for name in self.list_candidates(target):
            mean, _ = self._predict_held_out(name, target, folds)
            unit_errors[name] = np.bincount(positions, np.abs(mean - true)[fit_rows]) / sizes
        errors = {name: float(each.mean()) for name, each in unit_errors.items()}
        best_errors = unit_errors[min(errors, key=errors.get)]
        chosen_name = next(
            name
            for name, each in unit_errors.items()
            if errors[name] <= best_errors.mean() + MARGIN * (each - best_errors).std(ddof=1) / np.sqrt(len(units))
        )
        return Choice(chosen_name, self.fit_distribution(chosen_name, target, fit_rows)[0], errors)

    def fit_distribution(self, name: str, target: str, fit_rows: NDArray) -> tuple[TargetModel, NDArray]:
        """Candidate `name` fitted to `fit_rows`, with its distribution, and quantiles of the held-out rows (n, k).

        Means and spreads of the held-out rows come from folds of `fit_rows`; the residuals of all of them make the
        distribution, of Student's kind with less than MIN_FOREST_IMAGES units.
        """
        true = self.rows.truths[target][fit_rows]
        units = self.rows.units[fit_rows]
        predicted = self._predict_held_out(name, target, self._make_inner_folds(fit_rows))
        mean, spread = (values[fit_rows] for values in predicted)
        is_few = len(np.unique(units)) < MIN_FOREST_IMAGES
        compute_quantiles = compute_student_quantiles if is_few else conformal.compute_residual_quantiles
        residuals = compute_quantiles(mean, spread, true, units)
        model = self._fit_candidate(name, target, fit_rows)
        target_model = TargetModel(model.components, model.offset, residuals)
        return target_model, conformal.compute_quantiles(mean, spread, residuals)

    def _make_inner_folds(self, fit_rows: NDArray) -> list[tuple[NDArray, NDArray]]:
        """Folds of `fit_rows`, as row numbers of the whole table."""
        sessions = self.rows.sessions
        groups = self.rows.groups[fit_rows]
        if sessions is not None and len(np.unique(sessions[fit_rows])) > 2:
            folds = cross_validation.make_leave_one_out_folds(sessions[fit_rows], groups)
        else:
            folds = cross_validation.make_grouped_folds(groups, N_INNER_FOLDS)
        return [(fit_rows[fit], fit_rows[held_out]) for fit, held_out in folds]

    def _predict_held_out(self, name: str, target: str, folds: list) -> tuple[NDArray, NDArray]:
        """Mean, clipped, and spread for every row of the table that a fold holds out; NaN elsewhere."""
        predicted = np.full((2, len(self.rows.values)), np.nan)
        for fit_rows, held_out in folds:
            key = (name, target, fit_rows.tobytes(), held_out.tobytes())
            if key not in self.cache:
                model = self._fit_candidate(name, target, fit_rows)
                self.cache[key] = predict_target(model, self.rows.columns, self.rows.values[held_out])
            predicted[:, held_out] = self.cache[key]
        return np.clip(predicted[0], 0, 1), predicted[1]

    def _fit_candidate(self, name: str, target: str, fit_rows: NDArray) -> TargetModel:
        """Candidate `name` fitted to `fit_rows`, without a distribution."""
        key = (name, target, fit_rows.tobytes())
        if key not in self.cache:
            if name == "base":
                self.cache[key] = self.base.targets[target]
            elif name == "recalibrated base":
                self.cache[key] = self._recalibrate_base(target, fit_rows)
            elif name.startswith("base and "):
                self.cache[key] = self._average_with_base(name.removeprefix("base and "), target, fit_rows)
            else:
                self.cache[key] = self._fit_regressor(name, target, fit_rows)
        return self.cache[key]

    def _recalibrate_base(self, target: str, fit_rows: NDArray) -> TargetModel:
        """The base with offset and slope from the labels, which count as if N_BASE_IMAGES more agreed with the base."""
        mean = self.base_predictions[target][fit_rows]
        true = self.rows.truths[target][fit_rows]
        offset, slope = conformal.fit_recalibration(mean, true, np.arange(len(fit_rows)))
        weight = len(fit_rows) / (len(fit_rows) + N_BASE_IMAGES)
        return scale_target(self.base.targets[target], weight * offset, 1 + weight * (slope - 1))

    def _average_with_base(self, name: str, target: str, fit_rows: NDArray) -> TargetModel:
        """The mean of the recalibrated base and candidate `name`."""
        recalibrated_base = scale_target(self._fit_candidate("recalibrated base", target, fit_rows), 0.0, 0.5)
        candidate = scale_target(self._fit_candidate(name, target, fit_rows), 0.0, 0.5)
        return TargetModel(
            (*recalibrated_base.components, *candidate.components),
            recalibrated_base.offset + candidate.offset,
            NO_RESIDUALS,
        )

    def _fit_regressor(self, name: str, target: str, fit_rows: NDArray) -> TargetModel:
        """A single regressor fitted to `fit_rows`."""
        plain_name = name.removesuffix(WITH_AGREEMENT)
        columns = FEW_FEATURES if plain_name == "few features" else PAPER_FEATURES
        columns += (AGREEMENT,) if plain_name != name else ()
        values = self.rows.values[np.ix_(fit_rows, [self.rows.columns.index(column) for column in columns])]
        groups = None if self.rows.sessions is None else self.rows.sessions[fit_rows]
        true = self.rows.truths[target][fit_rows]
        kind = KINDS.get(plain_name, "gaussian_process")
        regressor = regressors.fit_regressor(kind, values, true, columns, groups=groups)
        return TargetModel((Component(1.0, columns, regressor),), 0.0, NO_RESIDUALS)


def scale_target(target: TargetModel, offset: float, slope: float) -> TargetModel:
    """`target` times slope plus offset, without a distribution."""
    components = tuple(
        Component(slope * component.slope, component.columns, component.regressor) for component in target.components
    )
    return TargetModel(components, offset + slope * target.offset, NO_RESIDUALS)
