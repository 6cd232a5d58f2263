"""Lines of emqa watch: verdicts and alarms, for people or as JSON."""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

VERDICT_NAMES = ("uri", "frame", "verdict", "n_detections", "predicted_f1", "explanation")


def format_verdict(row: Mapping, seconds_since_file: float, is_json: bool) -> str:
    """Line about a row of tables.TRIAGE, whose file is `seconds_since_file` old."""
    if not is_json:
        return f"{row['verdict']:<13} {row['uri']}: {row['explanation']}"
    values = {name: _to_json_value(row[name]) for name in VERDICT_NAMES}
    values["reasons"] = [str(code) for code in row["reasons"]]
    values["seconds_since_file"] = _to_json_value(round(seconds_since_file, 3))
    return json.dumps({"event": "verdict", **values})


def format_alarm(alarm: Mapping, is_json: bool) -> str:
    """Line about a row of tables.ALARMS."""
    if is_json:
        return json.dumps({"event": "alarm", **alarm})
    return (
        f"ALARM {alarm['session']}: {alarm['statistic']} has changed since {alarm['first_uri']} "
        f"(image {alarm['n_images']} of the session: {alarm['last_uri']})"
    )


def _to_json_value(value):
    """`value` of a table, null where it is unknown."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
