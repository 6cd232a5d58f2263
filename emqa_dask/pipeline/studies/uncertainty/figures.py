"""Figures 5 and 7 to 12 of Zhang et al., ACS Omega 6 (2021) 12711, from what the methods said of images."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emqa_dask.pipeline.studies.uncertainty.cohorts import KINDS, MADE_NAME
from emqa_dask.uncertainty import referral
from emqa_dask.uncertainty.method_scores import IN_DOMAIN, Answers, compute_shift_roc

COLOURS = {"softmax": "tab:blue", "dropout": "tab:orange", "ensemble": "tab:green"}
KIND_COLOURS = dict(zip((IN_DOMAIN, *KINDS), ("0.3", "tab:blue", "tab:orange", "tab:red")))
N_BINS = 25  # of an entropy histogram


def draw_risk_coverage(test: Mapping[str, Answers]) -> Figure:
    """Figure 5: error of the images kept against their share, for each method."""
    figure, axes = _make_figure()
    for method, answers in test.items():
        is_wrong = answers.mean.argmax(axis=1) != answers.y
        curve = referral.risk_coverage(answers.entropy_nats, is_wrong)
        axes.plot(curve.coverage, curve.risk, color=COLOURS[method], label=f"{method}, area {curve.area:.3f}")
    axes.axvline(0.9, color="0.7", linestyle=":")
    n = len(next(iter(test.values())).y)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="coverage: share of images kept", ylabel="error of the images kept")
    axes.set_title(f"{n} test images")
    axes.legend(frameon=False)
    return figure


def draw_roc(test: Mapping[str, Answers], shifted: Mapping[str, Sequence[Answers]], kind: str) -> Figure:
    """Figures 7 to 9: ROC curves of entropy for one kind of shift, all its cohorts together, for each method."""
    figure, axes = _make_figure()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    for method, answers in test.items():
        joint = join_cohorts([part for part in shifted[method] if part.kind == kind])
        curve = compute_shift_roc(answers, joint)
        label = f"{method}, area {curve.area:.2f}"
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=COLOURS[method], label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="share of test images above", ylabel="share of shifted images above")
    axes.set_title(f"{_name_kind(joint)}: {len(joint.y)}; test images: {len(answers.y)}", fontsize=10)
    axes.legend(frameon=False)
    return figure


def draw_entropies(test: Answers, shifted: Sequence[Answers], method: str) -> Figure:
    """Figures 10 to 12: histograms of a method's entropy, for each kind of shift beside the test images."""
    kinds = [kind for kind in KINDS if any(part.kind == kind for part in shifted)]
    figure = Figure((4.0 * max(1, len(kinds)), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
    bins = np.linspace(0, np.log(test.probabilities.shape[2]), N_BINS + 1)
    for axes, kind in zip(panels, kinds or [""]):
        _draw_histogram(axes, test, bins)
        if kind:
            _draw_histogram(axes, join_cohorts([part for part in shifted if part.kind == kind]), bins)
        axes.set(xlabel="predictive entropy (nats)", title=f"{method}: {kind}" if kind else method)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("share of the images")
    return figure


def _draw_histogram(axes: Axes, answers: Answers, bins: np.ndarray) -> None:
    weights = np.full(len(answers.y), 1 / len(answers.y))
    style = {"histtype": "stepfilled", "alpha": 0.45, "color": KIND_COLOURS[answers.kind]}
    axes.hist(
        answers.entropy_nats, bins, weights=weights, label=f"{_name_kind(answers)}, n = {len(answers.y)}", **style
    )


def _name_kind(answers: Answers) -> str:
    """The kind, which says of examples that emqa_dask made that they are."""
    return f"{answers.kind}, {MADE_NAME}" if answers.cohort == MADE_NAME else answers.kind


def join_cohorts(parts: Sequence[Answers]) -> Answers:
    """The images of several cohorts of one kind."""
    return Answers(
        parts[0].kind,
        ", ".join(part.cohort for part in parts),
        np.concatenate([part.probabilities for part in parts], axis=1),
        np.concatenate([part.y for part in parts]),
        np.concatenate([np.asarray(part.groups).astype(str) for part in parts]),
    )


def _make_figure() -> tuple[Figure, Axes]:
    """A figure with one panel, without any global state."""
    figure = Figure((5.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
