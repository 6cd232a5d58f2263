"""Flags and rules of the custom checks of the settings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.settings.custom_checks import CustomCheck
from emqa_dask.settings.flags import Flags
from emqa_dask.triage.rules import RULES, Rule


def list_rules(settings: Flags) -> tuple[Rule, ...]:
    """RULES and a rule for each custom check, which comes behind the others of its verdict."""
    return (*RULES, *(Rule(check.code, check.verdict, check.meaning) for check in settings.custom))


def flag_custom_checks(values: pd.DataFrame, checks: Sequence[CustomCheck]) -> pd.DataFrame:
    """Rows of tables.FLAGS where a value passes the limit of its check; an unknown (NaN) value passes none.

    values: rows of tables.CUSTOM_CHECKS. Rows come in the order of `checks`. No values give an empty table.
    """
    rows = []
    for check in checks:
        own_values = values[values["name"].eq(check.name)]
        is_raised = np.array([check.is_passed(value) for value in own_values["value"]], bool)
        for micrograph_id, value in own_values.loc[is_raised, ["micrograph_id", "value"]].itertuples(index=False):
            row = {"flag": check.code, "value": value, "limit": check.limit, "text": check.write_sentence(value)}
            rows.append({"micrograph_id": micrograph_id, **row})
    return tables.conform(rows, tables.FLAGS).to_pandas()
