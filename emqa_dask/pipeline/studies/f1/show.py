"""Tables, figures, page and lines of the study of predicted F1."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.f1 import figures
from emqa_dask.pipeline.studies.f1.compute import F1Results
from emqa_dask.predict.figures import draw_shap_summary
from emqa_dask.predict.protocols import ALL, MEANS, METRICS, RANDOM
from emqa_dask.predict.published_table import GOOD_F1, format_published

TITLE = "emqa study f1"
LOW_F1 = 0.3  # below it the bias is stated: regressors over-estimate low F1
PAPER = "Li et al., Digital Discovery 4 (2025) 987"
TEXT = (
    f"The study of {PAPER}: a random forest predicts a detector's F1 on an image from features of its detections. "
    "Every prediction here was made by a model that had not seen the row.",
    "Random folds are the published protocol. They put one image into training and test where it is in several splits, "
    "so that the other protocols stand beside it: folds that share no image, and splits that are left out as a whole.",
)


def write_f1_study(out: str, table: pd.DataFrame, results: F1Results, facts: Mapping[str, Any]) -> None:
    """Writes the folder of the study."""
    summary = {**facts, **summarise_results(table, results)}
    output.write_study(
        out, TITLE, summary, list(_list_tables(table, results)), list(_list_figures(table, results)),
        [*TEXT, *(f"Note: {note}." for note in results.notes)],
    )  # fmt: skip


def _list_tables(table: pd.DataFrame, results: F1Results) -> Iterator[output.StudyTable]:
    yield output.StudyTable("table2", "Table 2: errors of predicted F1 by split and protocol", results.errors)
    caption = "Table 3: errors of the forest on random folds, by target"
    yield output.StudyTable("table3", caption, results.target_errors)
    if results.coverage:
        coverage = pd.DataFrame([{"model": kind, **row} for kind, row in results.coverage.items()])
        yield output.StudyTable("coverage", "Intervals on splits left out, calibrated on the others", coverage)
    caption = "Telling images of at least a threshold of F1, random folds (figures 7 to 9)"
    yield output.StudyTable("classification", caption, results.by_threshold)
    importance = pd.DataFrame({"feature": results.ranking.columns, "mean_absolute_shap": results.ranking.importance})
    yield output.StudyTable("importance", "Features by their mean absolute SHAP value", importance)
    if results.sweep is not None:
        caption = "Errors with the first features of this order, random folds"
        yield output.StudyTable("feature_sweep", caption, results.sweep)
    rows = results.rows
    predictions = {"image": rows.images, "split": rows.splits, "true_f1": rows.true, **results.predictions}
    yield output.StudyTable("predictions", "Held-out predictions of F1 by protocol", pd.DataFrame(predictions))
    yield output.StudyTable("table", "The rows in the published layout", format_published(table))


def _list_figures(table: pd.DataFrame, results: F1Results) -> Iterator[output.StudyFigure]:
    rows = results.rows
    random = results.predictions[RANDOM]
    text = "Figure 3: SHAP values of all candidate features, a dot for each row."
    yield output.StudyFigure("figure3_shap", text, draw_shap_summary(results.ranking, table))
    if results.sweep is not None:
        text = "Figure 4: error against the number of features, random folds; the dotted line is the published model's."
        yield output.StudyFigure("figure4_number_of_features", text, figures.draw_feature_sweep(results.sweep))
    text = "Figure 5: true F1 of all rows, and mean and standard deviation of each split."
    yield output.StudyFigure("figure5_f1", text, figures.draw_f1_histograms(rows))
    for protocol, predicted in results.predictions.items():
        name = f"figure6_parity_{protocol.replace(', ', '_').replace(' ', '_')}"
        text = f"Figure 6, {protocol}: predicted against true F1 of rows, and of splits with standard deviations."
        yield output.StudyFigure(name, text, figures.draw_parity(rows, predicted, protocol))
    text = "Figure 7: true against predicted F1, random folds, in tenths and at 0.5."
    yield output.StudyFigure("figure7_confusion", text, figures.draw_confusion(rows, random))
    text = "Figure 8: precision and recall of telling F1 of 0.5 or more, random folds."
    yield output.StudyFigure("figure8_precision_recall", text, figures.draw_precision_recall(rows, random))
    text = (
        "Figure 9: telling images of at least a threshold of F1, random folds; dots in grey: the best constant answer."
    )
    yield output.StudyFigure("figure9_classification", text, figures.draw_classification(results.by_threshold))


def summarise_results(table: pd.DataFrame, results: F1Results) -> dict[str, Any]:
    """The study's main figures."""
    rows = results.rows
    at_half = results.by_threshold[np.isclose(results.by_threshold["threshold"], GOOD_F1)].iloc[0]
    is_low = rows.true < LOW_F1
    bias = {name: float((p - rows.true)[is_low].mean()) for name, p in results.predictions.items() if is_low.any()}
    return {
        "n_rows": len(table),
        "n_images": int(table["image"].nunique()),
        "splits": table["split"].value_counts().to_dict(),
        "errors": {split: _select_errors(results.errors, split) for split in (ALL, *MEANS)},
        "targets": results.target_errors.set_index("target")[list(METRICS)].to_dict("index"),
        "f1_of_at_least_0.5": at_half.drop("threshold").to_dict(),
        "interval_on_splits_left_out": results.coverage,
        f"mean_error_where_f1_is_below_{LOW_F1}": bias,
        "notes": results.notes,
    }


def _select_errors(errors: pd.DataFrame, split: str) -> dict[str, dict[str, float]]:
    """Protocol -> errors of a row of Table 2."""
    return errors[errors["split"] == split].set_index("protocol")[list(METRICS)].to_dict("index")


def describe_results(results: F1Results) -> Iterator[str]:
    """The main figures as lines."""
    yield f"{'held out':<58}{'RMSE':>7}{'MAE':>7}{'R2':>7}"
    for split in (ALL, *MEANS):
        for protocol, row in _select_errors(results.errors, split).items():
            yield f"{f'{split}, {protocol}':<58}{row['rmse']:>7.3f}{row['mae']:>7.3f}{row['r2']:>7.3f}"
    for kind, row in results.coverage.items():
        yield (
            f"{kind.replace('_', ' ')}: {row['nominal']:.0%} interval on splits left out: coverage "
            f"{row['coverage']:.2f}, width {row['width']:.2f}"
        )
    for note in results.notes:
        yield f"note: {note}"
