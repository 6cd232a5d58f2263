"""Findings from detections and the predicted F1."""

import numpy as np
import pandas as pd

from emqa_dask.settings import Triage
from emqa_dask.triage.findings import format_numbers, make_findings, write_sentences
from emqa_dask.triage.rules import CHECK_FAILED, MEANINGS

OBJECT_WORDS = {
    "cavity": "cavities",
    "particle": "particles",
    "loop": "dislocation loops",
    "lattice": "an atomic lattice",
    "texture": "grains or a rough surface",
}
MIN_LOSS = 0.05  # of F1 by imaging conditions, from which it is worth a sentence: about the error of the surface
N_BECAUSE = 2  # reasons of a predicted F1 that an explanation contains; more make it long


def list_prediction_findings(rows: pd.DataFrame, is_open: pd.Series, settings: Triage) -> pd.DataFrame:
    """Stages that failed, and micrographs whose detections or predicted F1 do not suffice for trust.

    rows: as complete_rows() returns them. `is_open`: rows of micrographs that are not junk; about the others,
    detections say nothing. Out of the domain, the predicted F1 says nothing.
    """
    is_complete = is_open & rows["is_complete"]
    is_out = is_complete & rows["ood_distance"].gt(settings.max_ood_distance)
    is_count_zero = rows["n_detections"].eq(0).fillna(False).astype(bool)
    is_empty = is_complete & (is_count_zero | rows["evidence"].eq("no_detections"))
    failure = rows["failure"].where(~rows["is_complete"], None)  # a later run has made good an old failure
    is_checked = rows["is_complete"]  # another stage's failure is the finding of an incomplete one
    is_unfinished = is_open & ~rows["is_complete"] & failure.isna()
    return pd.concat(
        [
            make_findings(failure.notna(), "quarantined", write_sentences(failure)),
            make_findings(
                is_checked & rows["check_failure"].notna(), CHECK_FAILED, write_sentences(rows["check_failure"])
            ),
            make_findings(is_unfinished, "not_judged", MEANINGS["not_judged"]),
            make_findings(is_out, "out_of_domain", _describe_distance(rows, settings)),
            make_findings(is_open & rows["is_nm_per_pixel_suspect"], "pixel_size_suspect", _describe_pixel_size(rows)),
            make_findings(is_empty, "no_detections", MEANINGS["no_detections"]),
            make_findings(is_complete & rows["is_capped"], "too_many_blobs", _describe_cap(rows)),
            make_findings(
                is_complete & rows["detector_agreement"].lt(settings.min_agreement),
                "detectors_disagree",
                _describe_agreement(rows, settings),
            ),
            _list_f1_findings(rows, is_complete & ~is_out & ~is_empty, settings),
            make_findings(
                is_complete & rows["predicted_loss"].gt(MIN_LOSS), "imaging_conditions", describe_loss(rows, settings)
            ),
        ]
    )


def _list_f1_findings(rows: pd.DataFrame, is_rated: pd.Series, settings: Triage) -> pd.DataFrame:
    """Missing and low predicted F1, of the rows where `is_rated` holds."""
    probability = rows["f1_probability"]
    is_missing = is_rated & probability.isna()
    has_no_model = rows["evidence"].eq("no_model")
    return pd.concat(
        [
            make_findings(
                is_missing & ~has_no_model, "no_prediction", "No F1 could be predicted from these detections."
            ),
            make_findings(is_missing & has_no_model, "no_prediction", "No model predicts the F1 of this detector."),
            make_findings(
                is_rated & probability.lt(settings.trust_probability), "low_predicted_f1", describe_f1(rows, settings)
            ),
        ]
    )


def _describe_distance(rows: pd.DataFrame, settings: Triage) -> pd.Series:
    # Rounded away from trust: 1.001 is above a limit of 1.
    distance = format_numbers("{:.2f}", np.ceil(rows["ood_distance"] * 100 - 1e-6) / 100)
    limit = f"the limit is {settings.max_ood_distance:g}"
    is_content = rows["content_distance"].gt(settings.max_ood_distance)
    own_text = (
        "Distance to the training images is " + distance + f", and {limit}: no predicted F1 can be relied on here."
    )
    content = format_numbers("{:.2f}", np.ceil(rows["content_distance"] * 100 - 1e-6) / 100)
    kind_names = [OBJECT_WORDS.get(kind) for kind in rows["other_kind"]]
    texts = [f"its content looks like {kind_name}" if kind_name else None for kind_name in kind_names]
    kind_texts = pd.Series(texts, rows.index, object)
    reason = kind_texts.where(kind_texts.notna(), "distance " + content + f", and {limit}")
    content_text = "The image shows something else than the detector was trained on: " + reason + "."
    return own_text.where(~is_content, content_text)


def _describe_pixel_size(rows: pd.DataFrame) -> pd.Series:
    size = format_numbers("{:.4g}", rows["nm_per_pixel"])
    return "Pixel size " + size + " nm is about 10x or 100x off the other images of its cohort."


def _describe_cap(rows: pd.DataFrame) -> pd.Series:
    n_detections = rows["n_detections"].astype(str)
    return (
        "The detector stopped at its cap with " + n_detections + " detections, so objects are missing from the count."
    )


def _describe_agreement(rows: pd.DataFrame, settings: Triage) -> pd.Series:
    # Rounded away from trust: 0.299 is below a limit of 0.3.
    agreement = format_numbers("{:.2f}", np.floor(rows["detector_agreement"] * 100 + 1e-6) / 100)
    limit = f"(F1), and the limit is {settings.min_agreement:g}"
    return "Agreement of the detector with the others of the run is " + agreement + f" {limit}."


def describe_f1(rows: pd.DataFrame, settings: Triage) -> pd.Series:
    """Predicted F1 with its interval, the probability that trust depends on, and the reasons of the prediction."""
    probability = rows["f1_probability"]
    # Rounded away from trust, so that no sentence says that 0.90 is below 0.9.
    columns = [rows[f"predicted_f1{end}"] for end in ("", "_low", "_high")]
    columns.append(np.floor(probability * 100 + 1e-6) / 100)
    demand = f"trust asks for {settings.trust_probability:g}"
    texts = [
        f"Predicted F1 is {mean:.2f} ({low:.2f} to {high:.2f}). "
        f"It is at least {settings.trust_f1:g} with a probability of {p:.2f}; {demand}."
        for mean, low, high, p in zip(*columns, strict=True)
    ]
    texts = [text + _describe_reasons(reasons) for text, reasons in zip(texts, rows["because"], strict=True)]
    return pd.Series(texts, index=rows.index, dtype=object)


def describe_loss(rows: pd.DataFrame, settings: Triage) -> pd.Series:
    """The predicted loss of each row, and what twice the dose would give, as sentences."""
    texts = []
    for loss, probability in zip(rows["predicted_loss"], rows["f1_probability_at_twice_dose"]):
        text = f"By its dose, defocus and pixel size the detector loses about {loss:.2f} of F1."
        if np.isfinite(probability):
            text += f" At twice the dose, F1 is at least {settings.trust_f1:g} with a probability of {probability:.2f}."
        texts.append(text)
    return pd.Series(texts, index=rows.index, dtype=object)


def _describe_reasons(because: object) -> str:
    """The main reasons of a prediction as a sentence, with a blank in front; "" without any."""
    reasons = join_reasons(because, N_BECAUSE)
    return f" Mostly: {reasons}." if reasons else ""


def join_reasons(because: object, n_max: int | None = None) -> str | None:
    """The first `n_max` reasons of a prediction as one text; None without any."""
    reasons = list(because)[:n_max] if isinstance(because, list | tuple | np.ndarray) else []
    return "; ".join(reasons) or None
