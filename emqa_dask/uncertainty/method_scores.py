"""What softmax, MC dropout and a deep ensemble say, as tables: scores, shifts, accuracy under a shift, entropies."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.uncertainty import entropy, referral, reliability
from emqa_dask.uncertainty.held_out_scores import compute_held_out_scores
from emqa_dask.uncertainty.roc import RocCurve, compute_group_interval, compute_roc_curve

METHODS = ("softmax", "dropout", "ensemble")
SCORES = (
    "n", "accuracy", "confidence", "nll", "ece", "ece_equal_mass", "risk_coverage_area", "error_at_90_percent_coverage",
    "auroc_wrong_by_entropy",
)  # fmt: skip
IN_DOMAIN = "in-distribution"


class Answers(NamedTuple):
    """Probabilities of a method for images of one kind of shift, or of none."""

    kind: str  # IN_DOMAIN, or one of tables.SHIFTS
    cohort: str
    probabilities: NDArray[np.float64]  # (members, n, classes)
    y: NDArray[np.int64]  # (n,); negative where unknown
    groups: NDArray  # (n,)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean probabilities (n, classes) of the members."""
        return self.probabilities.mean(axis=0)

    @property
    def entropy_nats(self) -> NDArray[np.float64]:
        """Predictive entropy (n,)."""
        return entropy.predictive_entropy(self.probabilities)


def tabulate_scores(test: Mapping[str, Answers], validation: Mapping[str, Answers]) -> pd.DataFrame:
    """Table 1: a row for each method, on test images; `*_tempered` at the temperature of the validation images."""
    rows = []
    for method, answers in test.items():
        scores = compute_held_out_scores(answers.probabilities, answers.y)
        temperature = reliability.fit_temperature(validation[method].mean, validation[method].y)
        tempered = reliability.apply_temperature(answers.mean, temperature)
        rows.append(
            {"method": method, "members": len(answers.probabilities)}
            | {name: scores.get(name, np.nan) for name in SCORES}
            | {
                "temperature": round(temperature, 4),
                "nll_tempered": round(reliability.negative_log_likelihood(tempered, answers.y), 4),
                "ece_tempered": round(reliability.expected_calibration_error(tempered, answers.y), 4),
            }
        )
    return pd.DataFrame(rows)


def tabulate_member_counts(test: Answers) -> pd.DataFrame:
    """Scores of the first 1, 2, 4, ... members of an ensemble, and of all."""
    n = len(test.probabilities)
    counts = sorted({n, *(2**k for k in range(10) if 2**k < n)})
    scores = [compute_held_out_scores(test.probabilities[:count], test.y) for count in counts]
    return pd.DataFrame(
        [{"members": count} | {name: row.get(name, np.nan) for name in SCORES} for count, row in zip(counts, scores)]
    )


def tabulate_risk_coverage(test: Mapping[str, Answers]) -> pd.DataFrame:
    """Figure 5: coverage, risk and largest entropy kept, for every number of images kept by each method."""
    parts = []
    for method, answers in test.items():
        is_wrong = answers.mean.argmax(axis=1) != answers.y
        curve = referral.risk_coverage(answers.entropy_nats, is_wrong)
        columns = {"coverage": curve.coverage, "risk": curve.risk, "max_entropy_nats": curve.uncertainty}
        parts.append(pd.DataFrame({"method": method, **columns}))
    return pd.concat(parts, ignore_index=True)


def compute_shift_roc(test: Answers, shifted: Answers) -> RocCurve:
    """ROC curve of predictive entropy for shifted images against test images."""
    return compute_roc_curve(*_join_entropies(test, shifted))


def tabulate_shifts(
    test: Mapping[str, Answers], shifted: Mapping[str, list[Answers]], *, seed: int = 0
) -> pd.DataFrame:
    """A row for each cohort and method: AUROC of entropy with its 90 % interval, mean entropy, share above the limit.

    The limit is the 95 % quantile of the test images' entropy.
    """
    rows = []
    for method, cohorts in shifted.items():
        own = test[method]
        limit = np.quantile(own.entropy_nats, 0.95)
        for answers in (own, *cohorts):
            row = {"kind": answers.kind, "cohort": answers.cohort, "method": method, "n": len(answers.y)}
            values = answers.entropy_nats
            row |= {"mean_entropy_nats": values.mean(), "above_95_percent_limit": (values > limit).mean()}
            if answers is not own:
                score, is_shifted = _join_entropies(own, answers)
                groups = np.concatenate([own.groups.astype(str), np.char.add("shifted ", answers.groups.astype(str))])
                low, high = compute_group_interval(score, is_shifted, groups, seed=seed)
                row |= {"auroc": referral.auroc(score, is_shifted), "auroc_low": low, "auroc_high": high}
            rows.append(row)
    return pd.DataFrame(rows).round(4)


def tabulate_accuracy_drop(test: Mapping[str, Answers], shifted: Mapping[str, list[Answers]]) -> pd.DataFrame:
    """Table 2: accuracy on test images and on shifted images of the same classes, where these are known."""
    rows = []
    for method, cohorts in shifted.items():
        own = test[method]
        for answers in cohorts:
            is_known = answers.y >= 0
            is_same_class = np.isin(own.y, answers.y[is_known])
            if not is_known.any() or not is_same_class.any():
                continue
            accuracy = (own.mean.argmax(axis=1) == own.y)[is_same_class].mean()
            shifted_accuracy = (answers.mean.argmax(axis=1) == answers.y)[is_known].mean()
            row = {"cohort": answers.cohort, "kind": answers.kind, "method": method, "n": int(is_known.sum())}
            row |= {"in_distribution": accuracy, "shifted": shifted_accuracy, "drop": accuracy - shifted_accuracy}
            rows.append(row)
    columns = ["cohort", "kind", "method", "n", "in_distribution", "shifted", "drop"]
    return pd.DataFrame(rows, columns=columns).round(4)


def tabulate_entropy_shapes(test: Mapping[str, Answers], shifted: Mapping[str, list[Answers]]) -> pd.DataFrame:
    """Figures 10 to 12 in numbers: histogram and moments of entropy / ln classes, by method and cohort."""
    rows = []
    for method, cohorts in shifted.items():
        for answers in (test[method], *cohorts):
            shape = entropy.summarise_entropies(answers.entropy_nats, answers.probabilities.shape[2])
            rows.append({"method": method, "kind": answers.kind, "cohort": answers.cohort, **shape})
    return pd.DataFrame(rows).round(4)


def _join_entropies(test: Answers, shifted: Answers) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = np.concatenate([test.entropy_nats, shifted.entropy_nats])
    return values, np.arange(len(values)) >= len(test.y)
