"""Custom checks on a micrograph: the user's function gets pixels and header, and its number is stored."""

import dataclasses
import json
import math
import traceback
from typing import Any, NamedTuple

import numpy as np

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.pipeline.workspace.check_functions import load_function
from emqa_dask.run.supervise import describe_error
from emqa_dask.settings.custom_checks import CustomCheck

HEADER_FIELDS = tuple(field.name for field in dataclasses.fields(Header) if field.name != "foreign")


class CheckResult(NamedTuple):
    """What a custom check gave for a micrograph."""

    value: float  # NaN: unknown
    error: str = ""  # type and text of the exception that the function raised
    traceback: str = ""


def run_check(image: np.ndarray, row: dict, check: CustomCheck) -> CheckResult:
    """The number of `check` for an image; an exception of the user's function is a result, too.

    row: of the ledger, with the columns HEADER_FIELDS and header. Raises ImportError where the function cannot be
    loaded.
    """
    function = load_function(check)
    try:
        return CheckResult(_convert_to_number(function(image.copy(), make_header(row))))
    except Exception as error:
        return CheckResult(math.nan, describe_error(error), traceback.format_exc())


def make_header(row: dict) -> Header:
    """The header of the micrograph of the ledger `row`; unknown texts are None and unknown numbers NaN."""
    texts = ("nm_per_pixel_source", "pixel_size_problem", "instrument", "acquired", "detector")
    values = {name: row[name] for name in HEADER_FIELDS}
    values |= {name: row[name] if isinstance(row[name], str) else None for name in texts}
    return Header(**values, foreign=json.loads(row["header"]) if isinstance(row["header"], str) else {})


def _convert_to_number(value: Any) -> float:
    """`value` as a number; None is unknown. Raises TypeError for anything else."""
    if value is None:
        return math.nan
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise TypeError(f"the function returned {type(value).__name__} of shape {number.shape}: it has to be a number")
    return float(number.item())
