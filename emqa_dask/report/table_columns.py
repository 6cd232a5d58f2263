"""Columns of the page's table, as lists that JSON can hold."""

import base64
from collections.abc import Mapping, Sequence

import pandas as pd

from emqa_dask.report import classifier_section
from emqa_dask.report.classifier_section import to_json_numbers
from emqa_dask.report.formatting import (
    escape_invisible,
    format_code,
)
from emqa_dask.report.overlays import MAX_BOXES_IN_TABLE
from emqa_dask.tables import VERDICTS

LABELS = {"trust": "Trust", "review": "Review", "out_of_domain": "Out of domain", "junk": "Junk", "unknown": "Unknown"}


# name on the page -> column of tables.TRIAGE, decimal digits
_REALS = {
    "f1": ("predicted_f1", 4),
    "low": ("predicted_f1_low", 4),
    "high": ("predicted_f1_high", 4),
    "f1_probability": ("f1_probability", 4),
    "precision": ("predicted_precision", 4),
    "recall": ("predicted_recall", 4),
    "detector_agreement": ("detector_agreement", 4),
    "distance": ("ood_distance", 4),
    "nm": ("nm_per_pixel", 6),
    "nm_y": ("nm_per_pixel_y", 6),
    "defocus": ("defocus_nm", 1),
    "density": ("density_per_um2", 6),
    "diameter": ("mean_diameter_nm", 3),
    "area_fraction": ("area_fraction", 5),
    "swelling": ("swelling_percent", 4),
}
_INTEGERS = {"n": "n_detections", "height": "height_px", "width": "width_px"}


def list_columns(
    triage: pd.DataFrame, boxes: Mapping[str, str], jpegs: Mapping[str, bytes], rules: Sequence
) -> dict[str, list | int]:
    """Columns of the table as lists, and the names that its codes refer to; pictures as base64, None without one."""
    positions = {rule.code: k for k, rule in enumerate(rules)}
    ids = triage["micrograph_id"].astype(object).where(triage["micrograph_id"].notna(), None)
    return {
        "few": MAX_BOXES_IN_TABLE,
        "verdicts": [[verdict, LABELS[verdict]] for verdict in VERDICTS],
        "codes": [[rule.code, rule.meaning, format_code(rule.code)] for rule in rules],
        "uri": triage["uri"].map(escape_invisible).tolist(),
        "frame": triage["frame"].tolist(),
        "stacked": triage["uri"].isin(triage.loc[triage["frame"].gt(0), "uri"]).astype(int).tolist(),
        "verdict": pd.Categorical(triage["verdict"], VERDICTS).codes.tolist(),
        "reasons": [[positions[reason_code] for reason_code in reason_codes] for reason_codes in triage["reasons"]],
        "text": triage["explanation"].map(escape_invisible).tolist(),
        **_list_numbers(triage),
        "detector": triage["detector"].map(escape_invisible).tolist(),
        "source": triage["nm_per_pixel_source"].map(escape_invisible).tolist(),
        "format": triage["format"].map(escape_invisible).tolist(),
        "id": ids.tolist(),
        "jpeg": [base64.b64encode(jpegs[i]).decode() if i in jpegs else None for i in ids],
        "boxes": [boxes.get(i) for i in ids],
    }


def list_details(triage: pd.DataFrame, details: Mapping[str, Sequence]) -> list:
    """The pairs of label and text of each row; None without any."""
    return [details.get(i) or None for i in triage["micrograph_id"].astype(object)]


def _list_numbers(triage: pd.DataFrame) -> dict[str, list]:
    reals = {name: to_json_numbers(triage[column], digits) for name, (column, digits) in _REALS.items()}
    integers = {
        name: [None if v is pd.NA else int(v) for v in triage[column].astype("Int64")]
        for name, column in _INTEGERS.items()
    }
    return reals | integers


def list_class_columns_and_maps(triage: pd.DataFrame, maps: Mapping[str, str]) -> dict[str, list]:
    """Columns of the table for a classifier's results, with the entropy map of each image; None without one."""
    ids = triage["micrograph_id"].astype(object)
    return classifier_section.list_class_columns(triage) | {"maps": [maps.get(i) for i in ids]}
