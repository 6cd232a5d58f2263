"""Findings from a classifier: kinds of distribution shift, uncertain classes, and images that it could not process."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.settings import Triage
from emqa_dask.triage.findings import make_findings, round_up, write_sentences

N_EVIDENCE = 3  # pieces of evidence for a shift that an explanation contains; more make it long


class Shift(NamedTuple):
    """A kind of distribution shift: the code of its rule, what it means for the image, and what to do."""

    code: str
    meaning: str
    advice: str


# Kind of shift in tables.CLASSIFICATIONS -> its finding. The advice is that of Zhang et al. for each kind.
SHIFTS = {
    "unrelated": Shift("unrelated", "This has nothing to do with what the classifier has learnt", "Discard it."),
    "new_class": Shift(
        "new_class",
        "This seems to be of a class that the classifier does not know",
        "Test the sample further, and label some of these images.",
    ),
    "acquisition": Shift(
        "shifted_acquisition",
        "This was acquired unlike the classifier's training images",
        "Augment its training with images like this, or acquire it again.",
    ),
}


def list_class_findings(rows: pd.DataFrame, is_open: pd.Series, settings: Triage) -> pd.DataFrame:
    """Shifts, uncertain classes and refusals of the classifier.

    rows: as complete_rows() returns them. `is_open`: rows of micrographs that are not junk; about the others, a
    classifier says nothing. Out of its domain, its certainty says nothing. The limit of the entropy is
    settings.max_entropy_nats where that is above 0, else the row's entropy_limit_nats; without a limit, no class is
    uncertain.
    """
    findings = []
    for kind, shift in SHIFTS.items():
        is_shifted = is_open & rows["shift"].eq(kind)
        findings.append(make_findings(is_shifted, shift.code, _describe_shift(rows, is_shifted, shift)))
    limit = rows["entropy_limit_nats"]
    if settings.max_entropy_nats > 0:
        limit = pd.Series(settings.max_entropy_nats, index=rows.index)
    is_out = rows["shift"].isin(list(SHIFTS))
    is_uncertain = is_open & ~is_out & rows["predictive_entropy_nats"].gt(limit)
    findings.append(make_findings(is_uncertain, "uncertain_class", _describe_entropy(rows, is_uncertain, limit)))
    refusal = write_sentences("The classifier could not look at it: " + rows["refusal"].astype(object).fillna(""))
    findings.append(make_findings(is_open & rows["refusal"].notna(), "not_classified", refusal))
    return pd.concat(findings)


def _describe_shift(rows: pd.DataFrame, is_shifted: pd.Series, shift: Shift) -> pd.Series:
    """A text for each row where `is_shifted` holds; "" elsewhere."""
    texts = pd.Series("", index=rows.index, dtype=object)
    columns = ["shift_probability", "shift_score", "predictive_entropy_nats", "shift_because"]
    for k, probability, score, entropy, because in rows.loc[is_shifted, columns].itertuples():
        measurements = []
        if not np.isnan(probability):
            measurements.append(f"probability {probability:.2f}")
        if not np.isnan(score):
            measurements.append(f"shift score {round_up(score, 2)}, and the limit is 1")
        if not np.isnan(entropy):
            measurements.append(f"predictive entropy {round_up(entropy, 3)} nats")
        sentences = [shift.meaning + (f" ({'; '.join(measurements)})" if measurements else "") + "."]
        if isinstance(because, list | tuple | np.ndarray) and len(because):
            evidence = [str(text).strip().rstrip(".") for text in because[:N_EVIDENCE]]
            sentences.append(f"Evidence: {'; '.join(evidence)}.")
        texts[k] = " ".join([*sentences, shift.advice])
    return texts


def _describe_entropy(rows: pd.DataFrame, is_uncertain: pd.Series, limits: pd.Series) -> pd.Series:
    """A text for each row where `is_uncertain` holds; "" elsewhere."""
    texts = pd.Series("", index=rows.index, dtype=object)
    columns = ["predicted_class", "class_probability", "predictive_entropy_nats", "mutual_information_nats"]
    for k, name, probability, entropy, mutual_information in rows.loc[is_uncertain, columns].itertuples():
        limit = "no limit makes this classifier safe"
        if np.isfinite(limits[k]):
            limit = f"the limit is {np.floor(limits[k] * 1000 + 1e-6) / 1000:g}"
        text = (
            f"Class {name!r} has a probability of {probability:.2f}: predictive entropy is {round_up(entropy, 3)} nats"
        )
        text += f", and {limit}, so that a person should look."
        if not np.isnan(mutual_information):
            text += f" Of it the members disagree about {mutual_information:.3g} nats."
        texts[k] = text
    return texts
