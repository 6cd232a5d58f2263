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

TEMPLATES = Path(__file__).parent / "templates"


class SettingsError(ValueError):
    """A setting that does not exist or has a value that it cannot have."""


@dataclass(frozen=True)
class Archive:
    exclude: tuple[str, ...] = ()  # glob patterns on the archive-relative URI
    max_megapixels: float = 256.0  # larger images get a row that says so: a guard against decompression bombs
    nm_per_pixel: float = 0.0  # pixel size for files whose header has none; 0 = unknown
    files_per_task: int = 32

    def check(self):
        _require(self.max_megapixels > 0, "archive.max_megapixels", self.max_megapixels, "has to be above 0")
        _require(self.nm_per_pixel >= 0, "archive.nm_per_pixel", self.nm_per_pixel, "cannot be negative")
        _require(self.files_per_task >= 1, "archive.files_per_task", self.files_per_task, "has to be at least 1")


@dataclass(frozen=True)
class Store:
    shard_mib: float = 128.0  # upper bound of a shard's uncompressed size
    shard_length: int = 0  # micrographs per shard; 0 = chosen from the size of the archive
    compression: str = "auto"  # zstd for 8-bit pixels, bit-shuffled LZ4 for wider ones; or zstd, or none
    compression_level: int = 1  # of zstd
    thumbnail_px: int = 256

    def check(self):
        _require(self.shard_mib > 0, "store.shard_mib", self.shard_mib, "has to be above 0")
        _require(self.shard_length >= 0, "store.shard_length", self.shard_length, "cannot be negative")
        known = ("auto", "zstd", "none")
        _require(self.compression in known, "store.compression", self.compression, "is 'auto', 'zstd' or 'none'")
        level = self.compression_level
        _require(1 <= level <= 22, "store.compression_level", level, "has to be in 1...22")
        _require(32 <= self.thumbnail_px <= 1024, "store.thumbnail_px", self.thumbnail_px, "has to be in 32...1024")


@dataclass(frozen=True)
class Detect:
    detector: str = "log"
    polarity: str = "auto"  # bright, dark, both, or auto: the one that answers more strongly in the image
    min_sigma: float = 3.0  # px; smaller scales find grain; a disk of radius r answers at sigma = r / sqrt(2)
    max_sigma: float = 20.0  # px
    num_sigma: int = 10
    log_scale: bool = True
    threshold: float = 0.15  # of the scale-normalised response on the normalised image
    overlap: float = 0.5
    exclude_border: int = 0  # px
    low_percentile: float = 1.0  # robust normalisation: these percentiles become 0 and 1
    high_percentile: float = 99.0
    max_detections: int = 5000  # the strongest are kept; the cap is recorded
    device: str = "cpu"

    def check(self):
        _require(self.detector == "log", "detect.detector", self.detector, "is 'log'")
        _require(
            self.polarity in ("auto", "bright", "dark", "both"),
            "detect.polarity",
            self.polarity,
            "is auto, bright, dark or both",
        )
        _require(
            0 < self.min_sigma <= self.max_sigma, "detect.min_sigma", self.min_sigma, "has to be in (0, max_sigma]"
        )
        _require(self.num_sigma >= 1, "detect.num_sigma", self.num_sigma, "has to be at least 1")
        _require(0 <= self.overlap <= 1, "detect.overlap", self.overlap, "has to be in 0...1")
        _require(self.exclude_border >= 0, "detect.exclude_border", self.exclude_border, "cannot be negative")
        low, high = self.low_percentile, self.high_percentile
        _require(
            0 <= low < high <= 100, "detect.low_percentile", low, "has to be below high_percentile, both in 0...100"
        )
        _require(self.device in ("cpu", "cuda"), "detect.device", self.device, "is 'cpu' or 'cuda'")


@dataclass(frozen=True)
class Featurise:
    score_floor: float = 0.1  # detections below it do not count as evidence

    def check(self):
        _require(0 <= self.score_floor < 1, "featurise.score_floor", self.score_floor, "has to be in [0, 1)")


@dataclass(frozen=True)
class Predict:
    forest: str = "log-synthetic"  # a model directory, or the name of a bundled one

    def check(self):
        _require(bool(self.forest), "predict.forest", self.forest, "names a model directory or a bundled model")


@dataclass(frozen=True)
class Report:
    trust_f1: float = 0.5  # lower end of the predicted F1 from which an image is trusted; the paper calls 0.5 good
    max_ood_distance: float = 1.0  # in units of the training images' 99th percentile
    max_rows: int = 1000  # rows with pictures in the page; triage.parquet and triage.csv hold all

    def check(self):
        _require(0 <= self.trust_f1 <= 1, "report.trust_f1", self.trust_f1, "has to be in 0...1")
        _require(self.max_ood_distance > 0, "report.max_ood_distance", self.max_ood_distance, "has to be above 0")
        _require(self.max_rows >= 1, "report.max_rows", self.max_rows, "has to be at least 1")


@dataclass(frozen=True)
class Run:
    scheduler: str = "local"  # local, or in-process
    workers: int = 0  # 0 = one per core
    threads_per_worker: int = 1
    tasks_per_worker: int = 3  # futures in flight per worker

    def check(self):
        _require(self.scheduler in ("local", "in-process"), "run.scheduler", self.scheduler, "is local or in-process")
        _require(self.workers >= 0, "run.workers", self.workers, "cannot be negative")
        _require(
            self.threads_per_worker >= 1, "run.threads_per_worker", self.threads_per_worker, "has to be at least 1"
        )
        _require(self.tasks_per_worker >= 1, "run.tasks_per_worker", self.tasks_per_worker, "has to be at least 1")


@dataclass(frozen=True)
class Settings:
    archive: Archive = field(default_factory=Archive)
    store: Store = field(default_factory=Store)
    detect: Detect = field(default_factory=Detect)
    featurise: Featurise = field(default_factory=Featurise)
    predict: Predict = field(default_factory=Predict)
    report: Report = field(default_factory=Report)
    run: Run = field(default_factory=Run)

    def check(self) -> "Settings":
        for section in dataclasses.fields(self):
            getattr(self, section.name).check()
        return self


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(f"{key} is {value!r}: it {rule}")


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
    sections = {f.name: f.type for f in dataclasses.fields(Settings)}
    updates = {}
    for section, values in changes.items():
        if section not in sections:
            raise SettingsError(f"{source}: unknown section [{section}]{_hint(section, list(sections))}")
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
        return dataclasses.replace(settings, **updates).check()
    except SettingsError as error:
        raise error if str(error).startswith(source) else SettingsError(f"{source}: {error}") from error


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
    for section in dataclasses.fields(settings):
        lines.append(f"[{section.name}]")
        record = getattr(settings, section.name)
        for key in dataclasses.fields(record):
            value = getattr(record, key.name)
            lines.append(f"{key.name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
        lines.append("")
    return "\n".join(lines)


def digest(*parts: object) -> str:
    """8 hex digits that name settings records, model digests and upstream digests together, in order."""
    plain = [dataclasses.asdict(p) if dataclasses.is_dataclass(p) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
