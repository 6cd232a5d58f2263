"""What emqa calibrate writes and says: a model directory with a figure, its choices, claims and advice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask import __version__, imaging_conditions, output_folders
from emqa_dask.pipeline.commands.calibrate_fit import BASE_KEY, CONTENT_KEY, Calibrated
from emqa_dask.pipeline.workspace.labelled_micrographs import LabelledMicrographs, describe_matching
from emqa_dask.pipeline.workspace.quality_models import list_other_detectors
from emqa_dask.predict import calibration
from emqa_dask.predict.candidates import WITH_AGREEMENT
from emqa_dask.predict.labelled_images import write_labelled_images
from emqa_dask.predict.trust_limit import PRECISION, UNREACHABLE_LIMIT, TrustRecord, describe_claim
from emqa_dask.settings import Settings

Say = Callable[[str], None]
FIGURE = "trust.png"
FIGURE_DPI = 120
FINE_TUNED_F1 = (0.61, 0.80)  # box F1 at IoU 0.5 on other sources of three real sets: benchmarks/studies/fine_tune.py
MIN_GAIN = 0.1  # of F1, from which training is worth its hours
MAX_ROWS = 6  # choices that are printed


def write_model(directory: Path, calibrated: Calibrated, labelled: LabelledMicrographs) -> None:
    """Writes the model directory, whole or not at all."""
    features = labelled.features.merge(labelled.rows[["micrograph_id", "voltage_kv"]], on="micrograph_id")
    conditions = imaging_conditions.fit_training_conditions(features["defocus_nm"], features["voltage_kv"])
    choice = calibrated.choice
    model_card = {
        "trained_on": f"{len(labelled.rows)} labelled micrographs of {', '.join(labelled.files)}",
        "made_by": "emqa calibrate",
        BASE_KEY: calibrated.base_name,
        CONTENT_KEY: sorted(set(labelled.rows["content_sha256"])),
        "trust": _make_trust_table(calibrated.trust),
        **imaging_conditions.make_card_table(conditions),
        "versions": {"emqa_dask": __version__},
    }
    with output_folders.write_folder(directory) as fresh:
        if len(calibrated.curve):
            _write_figure(fresh, calibrated, len(labelled.rows))
        write_labelled_images(calibrated.images, fresh)
        name = f"{choice.detector}-calibrated"
        calibration.write_calibration(calibrated.result, fresh, name, calibrated.domain, **model_card)


def _make_trust_table(trust: TrustRecord) -> dict[str, float]:
    """The table `trust` of the card: numbers that are known."""
    values = {**trust._asdict(), "precision": trust.precision, "recall": trust.recall}
    values["precision_bound"] = trust.precision_bound
    return {key: round(float(value), 4) for key, value in values.items() if np.isfinite(value)}


def _write_figure(directory: Path, calibrated: Calibrated, n_labelled: int) -> None:
    from emqa_dask.predict.figures import plot_label_curve  # matplotlib takes a second to import

    directory.mkdir(parents=True, exist_ok=True)
    title = f"{calibrated.choice.detector}, {n_labelled} labelled micrographs"
    plot_label_curve(calibrated.curve, PRECISION, title).savefig(directory / FIGURE, dpi=FIGURE_DPI)


def print_report(calibrated: Calibrated, labelled: LabelledMicrographs, settings: Settings, say: Say) -> None:
    """Says what was chosen, how good it is on held-out images, and what the labels can claim."""
    _print_choice(calibrated, settings, say)
    result = calibrated.result
    say(f"quality model: {result.model.kind}, {describe_matching(result.model)}")
    if result.fits.rows.has_agreement:
        others = ", ".join(list_other_detectors(calibrated.choice.detector, settings.detect))
        say(f"  {_describe_agreement(result, others)}")
    say(f"  {'held out':<22}{'n':>6}{'MAE':>8}{'RMSE':>8}{'R2':>8}{'coverage':>10}{'width':>8}")
    for row in result.report.itertuples():
        say(
            f"  {row.protocol:<22}{row.n:>6}{row.mae:>8.3f}{row.rmse:>8.3f}{row.r2:>8.2f}{row.coverage:>10.2f}"
            f"{row.width:>8.2f}"
        )
    _print_trust(calibrated.trust, settings.triage.trust_f1, say)
    _print_curve(calibrated.curve, say)
    for note in [*result.notes, *_list_class_notes(calibrated.trust, settings.triage.trust_f1)]:
        say(f"  {note}")
    advice = advise_training(calibrated, labelled)
    if advice:
        say(advice)


def _describe_agreement(result: calibration.Calibration, others: str) -> str:
    """What came of the agreement with the detectors `others` as a feature, as a sentence without a full stop."""
    errors = result.candidate_errors
    is_with = errors["candidate"].str.endswith(WITH_AGREEMENT)
    best, best_without = (errors.loc[rows, "mae"].min() for rows in (is_with, ~is_with))
    used = "is used" if result.model.agreement_detectors else "was tried and is not used"
    return (
        f"agreement with {others} as a feature {used}: MAE of the candidates on held-out images is at best {best:.3f} "
        f"with it and {best_without:.3f} without"
    )


def _print_choice(calibrated: Calibrated, settings: Settings, say: Say) -> None:
    choice = calibrated.choice
    row = choice.select_row(choice.detector, choice.score_floor)
    say(f"detector: {choice.detector} at score floor {choice.score_floor:g}, mean F1 {row['mean_f1']:.3f}")
    best_rows = choice.table.sort_values("mean_f1", ascending=False, kind="stable")[:MAX_ROWS]
    first = choice.table.iloc[0]["detector"]
    say(f"  {'detector':<22}{'floor':>6}{'mean F1':>9}  better than {first} at {settings.featurise.score_floor:g}")
    for candidate in best_rows.itertuples():
        say(
            f"  {candidate.detector:<22}{candidate.score_floor:>6g}{candidate.mean_f1:>9.3f}  "
            f"with a probability of {candidate.probability:.2f}"
        )


def _print_trust(trust: TrustRecord, trust_f1: float, say: Say) -> None:
    if trust.limit == UNREACHABLE_LIMIT:
        say(f"trust: no limit is expected to reach a precision of {PRECISION:g}; no image will be trusted")
    else:
        say(
            f"trust: from a probability of {trust.limit:.3f} that F1 >= {trust_f1:g}: {trust.share:.0%} of the "
            f"archive, with an expected precision of {trust.expected_precision:.2f}"
        )
    precision = _format_share(trust.precision)
    recall = _format_share(trust.recall)
    say(
        f"  held out: {trust.n_trusted} of {trust.n_labelled} labelled images are trusted, {trust.n_right} of them "
        f"rightly, and {trust.n_good} are good: precision {precision}, recall {recall}"
    )
    say(f"  {describe_claim(trust)}")


def _print_curve(curve: pd.DataFrame, say: Say) -> None:
    if curve.empty:
        return
    say(f"  {'labels':>8}{'precision of trust':>26}{'recall of trust':>24}")
    for row in curve.itertuples():
        texts = [
            f"{value:.2f} ({low:.2f} to {high:.2f})" if np.isfinite(value) else "-"
            for value, low, high in (
                (row.precision, row.precision_low, row.precision_high),
                (row.recall, row.recall_low, row.recall_high),
            )
        ]
        say(f"  {row.n_labels:>8}{texts[0]:>26}{texts[1]:>24}")


def _format_share(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def _list_class_notes(trust: TrustRecord, trust_f1: float) -> list[str]:
    """Notes where all labelled images are of one class, good or not."""
    if trust.n_good == trust.n_labelled:
        return [
            f"one class only: all {trust.n_labelled} labelled images have an F1 of at least {trust_f1:g}, so they do "
            "not show what a bad image looks like; label some that look doubtful"
        ]
    if trust.n_good == 0:
        return [
            f"one class only: none of the {trust.n_labelled} labelled images has an F1 of {trust_f1:g}, so nothing can "
            "be trusted with this detector"
        ]
    return []


def advise_training(calibrated: Calibrated, labelled: LabelledMicrographs) -> str:
    """A recommendation to train a detector, with the gain that was measured elsewhere; "" where it is not expected."""
    row = calibrated.choice.select_row(calibrated.choice.detector, calibrated.choice.score_floor)
    low, high = FINE_TUNED_F1
    if low - row["mean_f1"] < MIN_GAIN:
        return ""
    start = "cavity-tem" if calibrated.choice.detector == "log" else calibrated.choice.detector
    labels = labelled.files[0] if labelled.kind == "boxes" else "LABELS"
    advice = (
        f"a detector of your own would do more: mean F1 is {row['mean_f1']:.2f}, and detectors that were fine-tuned on "
        f"labelled images had {low:.2f} to {high:.2f} (at IoU 0.5) on other images of three real sets: "
        f"emqa train detector --coco {labels} --images ARCHIVE --start {start} --out my-detector"
    )
    return advice if labelled.kind == "boxes" else f"{advice} (it takes boxes or masks)"
