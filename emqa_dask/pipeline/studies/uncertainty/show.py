"""Tables, figures, page and lines of the study of uncertainty."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.pipeline.commands import ensemble_curve
from emqa_dask.pipeline.commands.ensemble_curve import Curve
from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.uncertainty import figures
from emqa_dask.pipeline.studies.uncertainty.cohorts import KINDS, MADE_NAME, Cohort
from emqa_dask.uncertainty import method_scores
from emqa_dask.uncertainty.method_scores import METHODS, Answers

TITLE = "emqa study uncertainty"
TEXT = (
    "The study of Zhang et al., ACS Omega 6 (2021) 12711: one network (softmax), a network whose dropout stays on, and "
    "a deep ensemble, on labelled images. All figures are of the test images, which no network was trained on.",
    "Fewer labels are seen for more epochs, in proportion to 1 / sqrt(share). Probabilities of an image are the mean "
    "over its windows. Intervals are 90 %, from resampled groups of images.",
)
HIDDEN_COLUMNS = ("ece_equal_mass", "risk_coverage_area", "temperature", "nll_tempered")  # of lines on the terminal
Say = Callable[[str], None]


class StudyResults(NamedTuple):
    """What the networks said."""

    test: dict[str, Answers]  # by method
    validation: dict[str, Answers]
    shifted: dict[str, list[Answers]]  # by method, in the order of `cohorts`
    cohorts: list[Cohort]
    test_uris: list[str]
    classes: tuple[str, ...]
    curves: dict[str, Curve]
    target: float


def write_uncertainty_study(out: Path, results: StudyResults, facts: Mapping[str, Any], say: Say) -> None:
    """Writes the folder of the study and says its main figures."""
    tables = list(_list_tables(results))
    rows = {table.name: table.rows for table in tables}
    sentences = [
        f"{method}, {text}" for method in METHODS for text in ensemble_curve.describe_curve(results.curves[method])
    ]
    notes = []
    if made_kinds := sorted({cohort.kind for cohort in results.cohorts if cohort.name == MADE_NAME}):
        notes.append(
            f"The images of {', '.join(made_kinds)} were made from the test images; they are not real shifts. "
            "Give folders of your own with --shifted."
        )
    if facts["networks_trained"] < facts["networks_planned"]:
        notes.append(
            f"{facts['networks_trained']} of {facts['networks_planned']} networks are trained: "
            "run it again for the others."
        )
    summary = {
        **facts,
        "table1": rows["table1"].set_index("method").to_dict("index"),
        "labels_needed": sentences,
    }
    paragraphs = [*TEXT, *notes, *(f"{sentence}." for sentence in sentences)]
    output.write_study(out, TITLE, summary, tables, list(_list_figures(results)), paragraphs)
    for name in ("table1", "table2", "shifts"):
        if name in rows:
            columns = rows[name].drop(columns=list(HIDDEN_COLUMNS), errors="ignore")
            for line in (name, *columns.to_string(index=False).splitlines()):
                say(line)
    for sentence in (*sentences, *notes):
        say(sentence)
    say(f"{out / 'index.html'}")


def _list_tables(results: StudyResults) -> Iterator[output.StudyTable]:
    scores = method_scores.tabulate_scores(results.test, results.validation)
    yield output.StudyTable("table1", "Table 1: accuracy and uncertainty of the methods on test images", scores)
    counts = method_scores.tabulate_member_counts(results.test["ensemble"])
    yield output.StudyTable("members", "Table 1 of ensembles with fewer members", counts)
    drop = method_scores.tabulate_accuracy_drop(results.test, results.shifted)
    if len(drop):
        yield output.StudyTable("table2", "Table 2: accuracy on test images and on shifted images of known class", drop)
    if results.cohorts:
        shifts = method_scores.tabulate_shifts(results.test, results.shifted)
        caption = "Figures 7 to 9: how well entropy tells shifted images from test images"
        yield output.StudyTable("shifts", caption, shifts)
    curves = pd.concat([curve.table.assign(method=method) for method, curve in results.curves.items()])
    yield output.StudyTable("learning_curve", "Figure 4: accuracy and confidence by number of labels", curves)
    needed = [
        {"method": method, "by": way, **answer._asdict()}
        for method, curve in results.curves.items()
        for way, answer in curve.needed.items()
    ]
    if needed:
        caption = "Labels needed for the target accuracy, with 90 % interval; inf: not reached"
        yield output.StudyTable("labels_needed", caption, pd.DataFrame(needed).round(1))
    shapes = method_scores.tabulate_entropy_shapes(results.test, results.shifted)
    yield output.StudyTable("entropy_shapes", "Figures 10 to 12: entropy / ln classes", shapes)
    caption = "Figure 5: error of the images kept"
    yield output.StudyTable("risk_coverage", caption, method_scores.tabulate_risk_coverage(results.test))
    yield output.StudyTable("images", "What each method says of each image", _tabulate_images(results))


def _tabulate_images(results: StudyResults) -> pd.DataFrame:
    """A row for each image and method: class, probability, entropy."""
    names = np.array([*results.classes, ""])
    parts = []
    for method in METHODS:
        images = [results.test_uris, *(cohort.images for cohort in results.cohorts)]
        for uris, answers in zip(images, [results.test[method], *results.shifted[method]]):
            mean = answers.mean
            columns = {"image": uris, "kind": answers.kind, "cohort": answers.cohort, "method": method}
            columns |= {"label": names[answers.y], "predicted_class": names[mean.argmax(axis=1)]}
            columns |= {"probability": mean.max(axis=1).round(5), "entropy_nats": answers.entropy_nats.round(5)}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _list_figures(results: StudyResults) -> Iterator[output.StudyFigure]:
    text = (
        "Figure 4: accuracy on test images, and mean confidence on unlabelled images, by number of labels; lines are "
        "power laws."
    )
    figure = ensemble_curve.plot_curves(results.curves, results.target)
    yield output.StudyFigure("figure04_learning_curve", text, figure)
    text = "Figure 5: error of the images that are kept, the most certain first."
    yield output.StudyFigure("figure05_risk_coverage", text, figures.draw_risk_coverage(results.test))
    for number, kind in enumerate(KINDS, start=7):
        cohorts = [cohort.name for cohort in results.cohorts if cohort.kind == kind]
        if cohorts:
            text = f"Figure {number}: ROC curves of predictive entropy for {kind} ({', '.join(cohorts)}) "
            text += "against test images."
            figure = figures.draw_roc(results.test, results.shifted, kind)
            yield output.StudyFigure(f"figure{number:02d}_roc_{kind}", text, figure)
    for number, method in enumerate(METHODS, start=10):
        text = f"Figure {number}: predictive entropy of test images and of shifted images, {method}."
        figure = figures.draw_entropies(results.test[method], results.shifted[method], method)
        yield output.StudyFigure(f"figure{number}_entropy_{method}", text, figure)
