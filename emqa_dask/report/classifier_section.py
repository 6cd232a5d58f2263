"""What the page shows of a classifier: the contents of its section, and the columns that its table gets."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from emqa_dask.report import trends
from emqa_dask.report.classifier_counts import ENTROPY_EDGES, ClassifierSection
from emqa_dask.report.figures import draw_classifier_distributions
from emqa_dask.report.formatting import escape_invisible, format_code
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


def list_class_columns(triage: pd.DataFrame) -> dict:
    """The table's columns on classes; a class is its position among the names in order."""
    names = sorted(triage["predicted_class"].dropna().unique())
    return {
        "class_names": [escape_invisible(name) for name in names],
        "shift_names": [SHIFT_LABELS[kind] for kind in SHIFTS],
        "class": list_category_codes(triage["predicted_class"], names),
        "probability": to_json_numbers(triage["class_probability"], 4),
        "entropy": to_json_numbers(triage["predictive_entropy_nats"], 5),
        "mutual": to_json_numbers(triage["mutual_information_nats"], 5),
        "shift": list_category_codes(triage["shift"], SHIFTS),
        "shift_score": to_json_numbers(triage["shift_score"], 4),
    }


def list_category_codes(values: pd.Series, categories: Sequence[str]) -> list:
    return [
        None if category_code < 0 else int(category_code) for category_code in pd.Categorical(values, categories).codes
    ]


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


def to_json_numbers(values: pd.Series, digits: int) -> list:
    """As JSON can hold them: rounded, None for what is unknown or infinite."""
    values = pd.to_numeric(values).astype(float).round(digits)
    return [v if np.isfinite(v) else None for v in values.to_numpy(np.float64, na_value=np.nan).tolist()]
