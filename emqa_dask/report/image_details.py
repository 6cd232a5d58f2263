"""What the view of an image says about its acquisition and its custom checks, as pairs of label and text."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from emqa_dask.report.formatting import escape_invisible, format_number
from emqa_dask.settings.custom_checks import CustomCheck

# Columns of tables.MICROGRAPHS that are shown.
HEADER_COLUMNS = (
    *("instrument", "voltage_kv", "magnification", "acquired", "detector", "dose_e_per_nm2", "exposure_s"),
    *("stage_x_um", "stage_y_um", "stage_z_um", "tilt_deg"),
)
N_DIGITS = 4  # of numbers; more is noise of the metadata

Details = list[tuple[str, str]]


def describe_headers(micrographs: pd.DataFrame) -> dict[str, Details]:
    """Details of each of `micrographs` (micrograph_id, HEADER_COLUMNS), without what is unknown."""
    rows = micrographs.to_dict("records")
    return {row["micrograph_id"]: _describe_header(row) for row in rows}


def _describe_header(row: Mapping[str, Any]) -> Details:
    texts = {name: escape_invisible(row[name]) for name in ("instrument", "acquired", "detector")}
    numbers = {name: format_number(row[name], N_DIGITS) for name in HEADER_COLUMNS if name not in texts}
    quantities = {name: text for name, text in numbers.items() if row[name] == row[name]}
    microscope = [texts["instrument"]]
    microscope += [
        f"{quantities[name]}{unit}"
        for name, unit in (("voltage_kv", " kV"), ("magnification", "×"))
        if name in quantities
    ]
    stage = [f"{axis} {quantities[f'stage_{axis}_um']} µm" for axis in "xyz" if f"stage_{axis}_um" in quantities]
    stage += [f"tilt {quantities['tilt_deg']}°"] if "tilt_deg" in quantities else []
    details = [
        ("Microscope", ", ".join(filter(None, microscope))),
        ("Acquired", texts["acquired"].replace("T", " ")),
        ("Camera or signal", texts["detector"]),
        ("Dose", f"{quantities['dose_e_per_nm2']} e/nm²" if "dose_e_per_nm2" in quantities else ""),
        ("Exposure", f"{quantities['exposure_s']} s" if "exposure_s" in quantities else ""),
        ("Stage", ", ".join(stage)),
    ]
    return [(label, text) for label, text in details if text]


def describe_checks(values: pd.DataFrame, checks: Sequence[CustomCheck]) -> dict[str, Details]:
    """Number and limit of each check, by micrograph_id. values: rows of tables.CUSTOM_CHECKS."""
    details: dict[str, Details] = {micrograph_id: [] for micrograph_id in values["micrograph_id"]}
    for check in checks:
        own_values = values[values["name"].eq(check.name)]
        for micrograph_id, value in zip(own_values["micrograph_id"], own_values["value"], strict=True):
            number = format_number(value, N_DIGITS) if value == value else "unknown"
            side = "above" if check.is_above else "below"
            text = f"{number} (fault {side} {format_number(check.limit, N_DIGITS)})"
            details[micrograph_id].append((f"Check {check.name.replace('_', ' ')}", text))
    return details
