"""Settings: frozen records, one per stage, from one TOML file and a template; unknown keys are refused; digest()."""

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from emqa_dask.settings.rules import SettingsError
from emqa_dask.settings.schedulers import Cuda, Kubernetes, Local, Run, Slurm
from emqa_dask.settings.stages import Archive, Classify, Cohort, Detect, Featurise, Predict, Report, Store

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Settings:
    archive: Archive = field(default_factory=Archive)
    store: Store = field(default_factory=Store)
    detect: Detect = field(default_factory=Detect)
    classify: Classify = field(default_factory=Classify)
    featurise: Featurise = field(default_factory=Featurise)
    predict: Predict = field(default_factory=Predict)
    report: Report = field(default_factory=Report)
    run: Run = field(default_factory=Run)
    local: Local = field(default_factory=Local)
    cuda: Cuda = field(default_factory=Cuda)
    slurm: Slurm = field(default_factory=Slurm)
    kubernetes: Kubernetes = field(default_factory=Kubernetes)
    cohorts: tuple[Cohort, ...] = ()  # the first one that has a micrograph says how it is searched

    def check(self) -> "Settings":
        for name in SECTIONS:
            getattr(self, name).check()
        for cohort in self.cohorts:
            cohort.detect(self.detect).check()
        return self

    def detect_of(self, uri: str, instrument: str | None, magnification: float) -> Detect:
        """The settings of [detect] for one micrograph."""
        cohort = next((c for c in self.cohorts if c.has(uri, instrument, magnification)), None)
        return self.detect if cohort is None else cohort.detect(self.detect)


SECTIONS = tuple(section.name for section in dataclasses.fields(Settings) if section.name != "cohorts")


def _hint(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _coerce(value: object, annotation: object, key: str) -> object:
    origin = typing.get_origin(annotation)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise SettingsError(f"{key} is {value!r}: it has to be a list of strings")
        return tuple(value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        not isinstance(annotation, types.UnionType | type)
        or not isinstance(value, annotation)
        or (isinstance(value, bool) and annotation is not bool)
    ):
        raise SettingsError(f"{key} is {value!r}: it has to be of type {getattr(annotation, '__name__', annotation)}")
    return value


def replace(settings: Settings, changes: dict[str, dict[str, object]], source: str = "settings") -> Settings:
    """`settings` with `changes` ({section: {key: value}}); SettingsError names `source` and what does not exist."""
    updates = {}
    for section, values in changes.items():
        if section == "cohorts":
            continue
        if section not in SECTIONS:
            raise SettingsError(f"{source}: unknown section [{section}]{_hint(section, list(SECTIONS))}")
        if not isinstance(values, dict):
            raise SettingsError(f"{source}: [{section}] has to be a table of settings")
        record = getattr(settings, section)
        known = {f.name: f.type for f in dataclasses.fields(record)}
        for key in values:
            if key not in known:
                raise SettingsError(f"{source}: unknown setting {section}.{key}{_hint(key, list(known))}")
        hints = typing.get_type_hints(type(record))
        coerced = {k: _coerce(v, hints[k], f"{source}: {section}.{k}") for k, v in values.items()}
        updates[section] = dataclasses.replace(record, **coerced)
    try:
        if "cohorts" in changes:
            common = updates.get("detect", settings.detect)
            common.check()
            updates["cohorts"] = _cohorts(changes["cohorts"], common, source)
        return dataclasses.replace(settings, **updates).check()
    except SettingsError as error:
        raise error if str(error).startswith(source) else SettingsError(f"{source}: {error}") from error


def _cohorts(tables: object, common: Detect, source: str) -> tuple[Cohort, ...]:
    """The [[cohorts]] of a settings file; SettingsError for what is not there, or cannot be."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError("[[cohorts]] has to be a list of tables")
    matching = {name: hint for name, hint in typing.get_type_hints(Cohort).items() if name != "changes"}
    hints = typing.get_type_hints(Detect) | matching
    for key in ("device", "detectors", "precision"):  # the same for a whole run
        del hints[key]
    found = []
    for table in tables:
        for key in table:
            if key not in hints:
                raise SettingsError(f"unknown setting cohorts.{key}{_hint(key, list(hints))}")
        known = {key: _coerce(value, hints[key], f"{source}: cohorts.{key}") for key, value in sorted(table.items())}
        changes = tuple((key, value) for key, value in known.items() if key not in matching)
        found.append(Cohort(**{key: known[key] for key in matching if key in known}, changes=changes))
        found[-1].detect(common).check()
    return tuple(found)


def template_names() -> list[str]:
    """Names of the templates that ship with the package."""
    return sorted(path.stem for path in TEMPLATES.glob("*.toml"))


def load_settings(path: str | Path | None = None, template: str | None = None) -> Settings:
    """Defaults, then the template, then the TOML file at `path`; SettingsError says what is wrong and where."""
    settings = Settings().check()
    if template is not None:
        if template not in template_names():
            raise SettingsError(f"unknown template {template!r}{_hint(template, template_names())}")
        settings = replace(settings, _read_toml(TEMPLATES / f"{template}.toml"), f"template {template}")
    if path is not None:
        settings = replace(settings, _read_toml(Path(path)), str(path))
    return settings


def parse(text: str, source: str) -> Settings:
    """Settings from TOML `text`, as dump() writes it; `source` is named in errors."""
    try:
        return replace(Settings(), tomllib.loads(text), source)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: not valid TOML: {error}") from error


def _read_toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def dump(settings: Settings) -> str:
    """`settings` as TOML text that load_settings() reads back."""
    lines = []
    for section in SECTIONS:
        record = getattr(settings, section)
        lines += [f"[{section}]", *_lines({key.name: getattr(record, key.name) for key in dataclasses.fields(record)})]
    for cohort in settings.cohorts:
        lines += ["[[cohorts]]", *_lines(cohort.plain())]
    return "\n".join(lines)


def _lines(values: dict[str, object]) -> list[str]:
    return [f"{k} = {json.dumps(list(v) if isinstance(v, tuple) else v)}" for k, v in values.items()] + [""]


def digest(*parts: object) -> str:
    """8 hex digits that name settings records, model digests and upstream digests together, in order."""
    plain = [dataclasses.asdict(p) if dataclasses.is_dataclass(p) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
