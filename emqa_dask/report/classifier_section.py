"""What the page shows of a classifier: the contents of its section, and the columns that its table gets."""

from collections.abc import Callable

from markupsafe import Markup
from numpy.typing import NDArray

from emqa_dask.report import trends
from emqa_dask.report.classifier_counts import ENTROPY_EDGES, ClassifierSection
from emqa_dask.report.figures import draw_classifier_distributions
from emqa_dask.report.formatting import format_code
from emqa_dask.settings import Triage
from emqa_dask.tables import SHIFTS

MAX_CLASSES = 30  # counted one by one, the most frequent
MAX_COHORT_ROWS = 60  # rows of the tables of cohorts
SHIFT_LABELS = {"none": "none", "acquisition": "acquisition", "new_class": "new class", "unrelated": "unrelated"}
ADVICE = {
    "none": "As in training: the class can be used where the entropy is below its limit.",
    "acquisition": "Acquired unlike the training images. Augment the training with them, or acquire them again.",
    "new_class": "Of a class that was not in training. Test these samples further, and label some.",
    "unrelated": "Nothing to do with what was learnt. Discard them.",
}


def fill_section(
    classes: ClassifierSection, column: Callable[[str], NDArray], verdicts: NDArray, settings: Triage
) -> dict:
    """What the template's section on the classifier needs: counts with shares, figures, and the longest tables cut."""
    limit = settings.max_entropy_nats or classes.entropy_limit_nats
    max_class_count = max((n for _, n in classes.classes), default=1)
    max_entropy_nats = max(
        (ENTROPY_EDGES[1:][line.entropy > 0].max(initial=0) for line in classes.cohorts), default=1.0
    )
    cohorts = [
        line._asdict()
        | {
            "shift": SHIFT_LABELS.get(line.shift, "–"),
            "svg": trends.draw_sparkline(
                line.entropy, ENTROPY_EDGES, max_entropy_nats, f"Predictive entropy, 0 to {max_entropy_nats:.2g} nats"
            ),
        }
        for line in classes.cohorts[:MAX_COHORT_ROWS]
    ]
    plot = Markup("")
    if classes.times is not None and classes.quantity:
        plot = trends.draw_trend(classes.times, f"{format_code(classes.quantity)} over time", classes.reference_median)
    return classes._asdict() | {
        "figures": draw_classifier_distributions(column, verdicts, limit),
        "rows": [{"name": name, "n": n, "share": n / max_class_count} for name, n in classes.classes[:MAX_CLASSES]],
        "n_beyond": sum(n for _, n in classes.classes[MAX_CLASSES:]),
        "kinds": [
            {"name": kind, "label": SHIFT_LABELS[kind], "n": classes.shifts[kind], "advice": ADVICE[kind]}
            for kind in SHIFTS
        ],
        "drifts": classes.drifts.head(MAX_COHORT_ROWS).to_dict("records"),
        "n_drifts": len(classes.drifts),
        "cohorts": cohorts,
        "upto": max_entropy_nats,
        "n_cohorts": len(classes.cohorts),
        "plot": plot,
        "quantity": format_code(classes.quantity or ""),
    }
