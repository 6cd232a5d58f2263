"""Settings: frozen records, one per stage, from one TOML file and a template; unknown keys are refused; digest()."""

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tomli_w

from emqa_dask.settings.custom_checks import CustomCheck, expand_dotted_keys, parse_custom_checks, place_checks
from emqa_dask.settings.detect_windows import DetectWindows, parse_detect_windows, place_window_files
from emqa_dask.settings.flags import Flags
from emqa_dask.settings.renamed_keys import RENAMED_KEYS as RENAMED_KEYS
from emqa_dask.settings.renamed_keys import refuse_renamed_keys
from emqa_dask.settings.rules import SettingsError, check_values, shorten
from emqa_dask.settings.schedulers import Run, SchedulerSections
from emqa_dask.settings.stages import (
    Archive,
    Classify,
    Cohort,
    Detect,
    Featurise,
    Measure,
    Predict,
    Report,
    Store,
    Triage,
)

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Settings(SchedulerSections):
    """All settings of a run: a frozen record of one record per section.

    Parameters
    ----------
    archive, store, detect, classify, featurise, predict, measure, flags, triage, report, run : records
        The sections of a settings file, each with its keys as attributes.
    local, cuda, slurm, pbs, lsf, sge, htcondor, kubernetes : records
        The sections of the schedulers.
    cohorts : tuple of Cohort
        Micrographs with settings of the section detect of their own; the first entry that has a micrograph counts.

    Examples
    --------
    >>> settings = emqa_dask.load_settings(template="cavity-tem")
    >>> settings.detect.threshold
    0.2
    >>> run = dataclasses.replace(settings.run, workers=4)
    >>> settings = dataclasses.replace(settings, run=run)
    """

    archive: Archive = field(default_factory=Archive)
    store: Store = field(default_factory=Store)
    detect: Detect = field(default_factory=Detect)
    classify: Classify = field(default_factory=Classify)
    featurise: Featurise = field(default_factory=Featurise)
    predict: Predict = field(default_factory=Predict)
    measure: Measure = field(default_factory=Measure)
    flags: Flags = field(default_factory=Flags)
    triage: Triage = field(default_factory=Triage)
    report: Report = field(default_factory=Report)
    run: Run = field(default_factory=Run)
    cohorts: tuple[Cohort, ...] = ()  # the first one that has a micrograph says how it is searched

    def check(self) -> "Settings":
        for name in SECTIONS:
            _check(name, getattr(self, name))
        for cohort in self.cohorts:
            check_values(cohort, "cohorts")
            _check("detect", cohort.merge_detect_settings(self.detect))
        return self

    def resolve_detect_settings(
        self, uri: str, instrument: str | None, magnification: float, nm_per_pixel: float = math.nan
    ) -> Detect:
        """The settings of [detect] for one micrograph, sizes in px; `nm_per_pixel` NaN: the pixel size is unknown."""
        cohort = self.find_cohort(uri, instrument, magnification)
        detect_settings = self.detect if cohort is None else cohort.merge_detect_settings(self.detect)
        return detect_settings.with_pixel_size(nm_per_pixel)

    def resolve_detect_windows(self, uri: str, instrument: str | None, magnification: float) -> DetectWindows:
        """The windows of one micrograph that have settings of their own, from its cohort; none for most."""
        cohort = self.find_cohort(uri, instrument, magnification)
        return () if cohort is None else cohort.windows

    def find_cohort(self, uri: str, instrument: str | None, magnification: float) -> Cohort | None:
        """The cohort of one micrograph; None where it belongs to none."""
        return next((candidate for candidate in self.cohorts if candidate.has(uri, instrument, magnification)), None)


class Section(Protocol):
    """A record of settings."""

    def check(self) -> None:
        """Raises SettingsError for values that do not fit together."""


def _check(section: str, record: Section) -> None:
    check_values(record, section)
    record.check()


SECTIONS = (
    *(name for name in Settings.__annotations__ if name != "cohorts"),
    *(section.name for section in dataclasses.fields(SchedulerSections)),
)


def _hint(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def _coerce(value: object, annotation: object, key: str) -> Any:
    if annotation == tuple[CustomCheck, ...]:
        return parse_custom_checks(value, key)
    if annotation == DetectWindows:
        return parse_detect_windows(value, key)
    origin = typing.get_origin(annotation)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise SettingsError(f"{key} is {shorten(value)}: it has to be a list of strings")
        return tuple(value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise SettingsError(f"{key} is {shorten(value)}: that is too large") from None
    if (
        not isinstance(annotation, types.UnionType | type)
        or not isinstance(value, annotation)
        or (isinstance(value, bool) and annotation is not bool)
    ):
        raise SettingsError(
            f"{key} is {shorten(value)}: it has to be of type {getattr(annotation, '__name__', annotation)}"
        )
    return value


def replace(settings: Settings, changes: dict[str, dict[str, object]], source: str = "settings") -> Settings:
    """`settings` with `changes` ({section: {key: value}}).

    Raises SettingsError, which names `source`, for a setting that does not exist (any more) or cannot have its value.
    """
    refuse_renamed_keys(changes, source)
    updates = {}
    for section, values in changes.items():
        if section == "cohorts":
            continue
        if section not in SECTIONS:
            raise SettingsError(f"{source}: unknown section [{section}]{_hint(section, list(SECTIONS))}")
        if not isinstance(values, dict):
            raise SettingsError(f"{source}: [{section}] has to be a table of settings")
        record = getattr(settings, section)
        values = expand_dotted_keys(values, record.custom) if section == "flags" else values
        hints = _field_types(type(record))
        for key in values:
            if key not in hints:
                raise SettingsError(f"{source}: unknown setting {section}.{key}{_hint(key, list(hints))}")
        coerced = {k: _coerce(v, hints[k], f"{source}: {section}.{k}") for k, v in values.items()}
        updates[section] = dataclasses.replace(record, **coerced)
    try:
        if "cohorts" in changes:
            common = updates.get("detect", settings.detect)
            _check("detect", common)
            updates["cohorts"] = _cohorts(changes["cohorts"], common, source)
        return dataclasses.replace(settings, **updates).check()
    except SettingsError as error:
        raise error if str(error).startswith(source) else SettingsError(f"{source}: {error}") from error


def _field_types(record: type) -> dict[str, object]:
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def _cohorts(tables: object, common: Detect, source: str) -> tuple[Cohort, ...]:
    """The [[cohorts]] of a settings file; SettingsError for what is not there, or cannot be."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError("[[cohorts]] has to be a list of tables")
    selector_types = {name: hint for name, hint in _field_types(Cohort).items() if name != "changes"}
    hints = _field_types(Detect) | selector_types
    for key in ("detectors", "precision"):  # the same for a whole run
        del hints[key]
    cohorts = []
    for table in tables:
        for key in table:
            if key not in hints:
                raise SettingsError(f"unknown setting cohorts.{key}{_hint(key, list(hints))}")
        values = {key: _coerce(value, hints[key], f"{source}: cohorts.{key}") for key, value in sorted(table.items())}
        changes = tuple((key, value) for key, value in values.items() if key not in selector_types)
        cohorts.append(Cohort(**{key: values[key] for key in selector_types if key in values}, changes=changes))
        check_values(cohorts[-1], "cohorts")
        _check("detect", cohorts[-1].merge_detect_settings(common))
    return tuple(cohorts)


def template_names() -> list[str]:
    """Names of the templates that ship with the package."""
    return sorted(path.stem for path in TEMPLATES.glob("*.toml"))


def load_settings(path: str | Path | None = None, template: str | None = None) -> Settings:
    """Settings from the defaults, then a template, then a TOML file; the later ones count.

    Parameters
    ----------
    path : str or Path, optional
        A TOML file with sections and keys as in the settings.toml of a workspace.
    template : str, optional
        Name of a template that ships with the package, for example "cavity-tem".

    Returns
    -------
    Settings
        Checked settings.

    Raises
    ------
    SettingsError
        For an unknown template, section or key, and for a value that is not allowed; the message names the source.
    """
    settings = Settings().check()
    if template is not None:
        if template not in template_names():
            raise SettingsError(f"unknown template {template!r}{_hint(template, template_names())}")
        settings = replace(settings, _read_toml(TEMPLATES / f"{template}.toml"), f"template {template}")
    if path is not None:
        settings = replace(settings, place_window_files(_read_toml(Path(path)), Path(path).parent), str(path))
        checks = place_checks(settings.flags.custom, Path(path).parent)
        settings = dataclasses.replace(settings, flags=dataclasses.replace(settings.flags, custom=checks))
    return settings


def parse(text: str | bytes, source: str) -> Settings:
    """Settings from TOML `text`, as dump() writes it; `source` is named in errors."""
    return replace(Settings(), _parse_toml(text, source), source)


def _parse_toml(text: str | bytes, source: str) -> dict:
    try:
        return tomllib.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{source}: not valid TOML: byte {error.start} is no UTF-8; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # also of a number with too many digits, and of brackets in brackets
        raise SettingsError(f"{source}: not valid TOML: {error}; correct it there") from error


def _read_toml(path: Path) -> dict:
    try:
        return _parse_toml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file") from None
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"{path}: cannot be read as a settings file: {reason}; give another file") from error


def dump(settings: Settings) -> str:
    """`settings` as TOML text that load_settings() reads back."""
    texts = [tomli_w.dumps({section: _to_toml_table(getattr(settings, section))}) for section in SECTIONS]
    texts += [dump_cohort(cohort) for cohort in settings.cohorts]
    return "\n".join(texts)


def dump_cohort(cohort: Cohort, windows_file: str = "") -> str:
    """A cohort as TOML text; its windows by their content, or, where it is given, by `windows_file`."""
    table = cohort.to_toml_table()
    if windows_file and cohort.windows:
        table["windows"] = windows_file
    return f"[[cohorts]]\n{tomli_w.dumps(table)}"


def _to_toml_table(record: Any) -> dict[str, object]:
    """The keys of a section; custom checks are tables by their names."""
    values = dataclasses.asdict(record)
    if values.pop("custom", ()):
        values["custom"] = {check.name: check.to_toml_table() for check in record.custom}
    return values


def digest(*parts: object) -> str:
    """8 hex digits that name settings records, model digests and upstream digests together, in order."""
    json_parts = [
        dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part
        for part in parts
    ]
    text = json.dumps(json_parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
