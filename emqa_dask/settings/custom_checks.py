"""Settings of custom checks: functions of users that give a number for each micrograph, and limits of these numbers."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any

from emqa_dask.settings.rules import SettingsError, check_values, require

MAX_CHECKS = 50  # of a run; each is a call for every micrograph
MAX_NAME_CHARACTERS = 40  # of a check; the name is part of the code of its reason
CHECK_VERDICTS = ("review", "junk", "out_of_domain", "note")
CHECK_KEYS = ("function", "above", "below", "verdict", "text", "folder", "source")
_FUNCTION = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"


@dataclass(frozen=True)
class CustomCheck:
    """A function of yours that gives a number for each micrograph, and the verdict where this passes a limit."""

    name: str  # NAME of [flags.custom.NAME]
    function: str  # package.module:function
    limit: float
    is_above: bool  # the fault lies above the limit
    verdict: str = "review"  # of a micrograph with the fault
    text: str = ""  # the sentence of the fault; "" = a plain one
    folder: str = ""  # that the module is imported from, beside installed packages
    source: str = ""  # digest of the function's code, which a run enters

    @property
    def code(self) -> str:
        """Code of the reason and of the flag."""
        return f"custom_{self.name}"

    @property
    def meaning(self) -> str:
        """What a reason of this check means."""
        return f"Your function {self.function} gave a number {self._side} {self.limit:g}."

    @property
    def _side(self) -> str:
        return "above" if self.is_above else "below"

    def write_sentence(self, value: float) -> str:
        """The fault of a micrograph with this `value`."""
        if self.text:
            return self.text.format(value=value, limit=self.limit)
        return f"{self.name.replace('_', ' ')} is {value:.4g}, {self._side} the limit of {self.limit:.4g}"

    def is_passed(self, value: float) -> bool:
        """Whether `value` passes the limit; False for NaN."""
        return value > self.limit if self.is_above else value < self.limit

    def to_toml_table(self) -> dict[str, object]:
        """As the table [flags.custom.NAME] of the settings file, without empty texts."""
        values = {"function": self.function, self._side: self.limit, "verdict": self.verdict}
        texts = {"text": self.text, "folder": self.folder, "source": self.source}
        return values | {key: text for key, text in texts.items() if text}

    def check(self) -> None:
        """SettingsError for values that this check cannot have."""
        key = f"flags.custom.{self.name}"
        check_values(self, key)
        is_name = re.fullmatch(r"[a-z][a-z0-9_]*", self.name) and len(self.name) <= MAX_NAME_CHARACTERS
        rule = f"has to be a name of small letters, digits and _, at most {MAX_NAME_CHARACTERS} of them"
        require(bool(is_name), "the name of flags.custom", self.name, rule)
        is_function = bool(re.fullmatch(_FUNCTION, self.function))
        require(is_function, f"{key}.function", self.function, "has to be package.module:function")
        require(math.isfinite(self.limit), f"{key}.{self._side}", self.limit, "has to be a finite number")
        require(
            self.verdict in CHECK_VERDICTS, f"{key}.verdict", self.verdict, f"is one of {', '.join(CHECK_VERDICTS)}"
        )
        is_placed = not self.folder or os.path.isabs(self.folder)
        require(is_placed, f"{key}.folder", self.folder, "has to be absolute, or be given in a settings file")
        require(_is_sentence(self.text), f"{key}.text", self.text, "may name {value} and {limit} only, with a format")


def _is_sentence(text: str) -> bool:
    """Whether `text` can be formatted with the numbers value and limit."""
    try:
        names = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
        text.format(value=0.5, limit=0.5)
    except (ValueError, LookupError, AttributeError):
        return False
    return names <= {"value", "limit"}


def parse_custom_checks(checks: object, key: str) -> tuple[CustomCheck, ...]:
    """The checks of a table name -> values; SettingsError, which names `key`, for one that is not complete."""
    if not isinstance(checks, Mapping) or not all(isinstance(values, Mapping) for values in checks.values()):
        raise SettingsError(f"{key} has to be tables: [flags.custom.NAME] with function, and above or below")
    require(len(checks) <= MAX_CHECKS, key, list(checks), f"has at most {MAX_CHECKS} checks")
    return tuple(_parse_check(name, values, f"{key}.{name}") for name, values in checks.items())


def _parse_check(name: str, values: Mapping[str, Any], key: str) -> CustomCheck:
    for unknown_key in values.keys() - set(CHECK_KEYS):
        raise SettingsError(f"unknown setting {key}.{unknown_key}; known: {', '.join(CHECK_KEYS)}")
    limits = {side: values[side] for side in ("above", "below") if side in values}
    if "function" not in values or len(limits) != 1:
        raise SettingsError(f"{key} needs function, and a limit: either above or below")
    (side, limit) = next(iter(limits.items()))
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise SettingsError(f"{key}.{side} is {limit!r}: it has to be a number")
    texts = {text_key: values[text_key] for text_key in CHECK_KEYS if text_key in values and text_key not in limits}
    for text_key, text in texts.items():
        require(isinstance(text, str), f"{key}.{text_key}", text, "has to be a text")
    return CustomCheck(name=name, limit=float(limit), is_above=side == "above", **texts)


def expand_dotted_keys(values: Mapping[str, Any], checks: tuple[CustomCheck, ...]) -> dict[str, Any]:
    """`values` of [flags] where keys "custom.NAME.KEY", as on the command line, have changed `checks`."""
    dotted = {key: value for key, value in values.items() if key.startswith("custom.")}
    if not dotted:
        return dict(values)
    tables: dict[str, dict] = {check.name: check.to_toml_table() for check in checks}
    tables |= {name: dict(table) for name, table in values.get("custom", {}).items()}
    for dotted_key, value in dotted.items():
        name, _, key = dotted_key.removeprefix("custom.").partition(".")
        table = tables.setdefault(name, {})
        if key in ("above", "below"):  # one limit replaces the other
            table.pop("above", None)
            table.pop("below", None)
        table[key] = value
    return {key: value for key, value in values.items() if key not in dotted} | {"custom": tables}


def place_checks(checks: tuple[CustomCheck, ...], folder: Path) -> tuple[CustomCheck, ...]:
    """`checks` of a settings file in `folder`: modules are imported from there, or from a folder relative to it."""
    return tuple(replace(check, folder=os.path.abspath(folder / check.folder)) for check in checks)
