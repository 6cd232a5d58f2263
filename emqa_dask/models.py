"""A model is a directory: card.toml + safetensors or skops files; write_model_card(), load_model_card() verifies it."""

import contextlib
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from emqa_dask import checksummed_text

BUNDLED = Path(__file__).parent / "bundled"
CONTENT_MODEL = BUNDLED / "content"  # the model of classify.content
PICTURE_MODEL = BUNDLED / "picture-kinds"  # the model of featurise.picture_kinds
OBJECT_MODEL = BUNDLED / "object-kinds"  # the model of classify.object_kinds


class ModelError(ValueError):
    """A model that is damaged, incomplete or cannot be loaded here: no image is to blame for it."""


class ModelNotFound(ModelError, FileNotFoundError):
    """A model, or a file of it, that is not there."""


class MissingPackage(ModelError, ImportError):
    """A model that needs a package which is not installed here."""


def locate_model(name: str) -> Path:
    """The directory of model `name`: a path that exists, or the name of a model that ships with the package."""
    for path in (Path(name), BUNDLED / name):
        if (path / "card.toml").is_file():
            return path
    bundled = ", ".join(sorted(p.name for p in BUNDLED.iterdir() if p.is_dir())) if BUNDLED.is_dir() else "none"
    raise ModelNotFound(f"no model {name!r}: neither a directory with a card.toml nor a bundled one ({bundled})")


def verify_models(names: Iterable[str | Path]) -> None:
    """Raises ModelError, naming the file and the remedy, unless the models `names` are as their cards say.

    Reads every file once (a second for 2 GB): to be called once a run, before any work.
    """
    for name in names:
        load_model_card(locate_model(str(name)))


def read_model_card(directory: Path) -> dict:
    """The model's card; ModelError when it is not TOML, or was changed since it was written.

    A card without a checksum, as others may write it, is taken as it is. load_model_card() looks at the files, too.
    """
    path = directory / "card.toml"
    try:
        data = path.read_bytes()
        if checksummed_text.has_checksum(data) and checksummed_text.strip_checksum(data) is None:
            raise ModelError(
                f"{path}: was changed or damaged since it was written (its last line has its SHA-256): "
                f"{describe_remedy(directory)}; delete its last line if the change was meant"
            )
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid TOML: {error}; {describe_remedy(directory)}") from error
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} is not there: {describe_remedy(directory)}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): {describe_remedy(directory)}") from error


def check_file(directory: Path, name: str, model_card: Mapping) -> Path:
    """The path of the model's file `name`; ModelError where it is not there or not what the card says."""
    listed = model_card.get("files", {})
    if not isinstance(listed, Mapping) or name not in listed:
        raise ModelError(f"{directory / 'card.toml'}: has no SHA-256 of {name}; {describe_remedy(directory)}")
    try:
        actual = hash_file(directory / name)
    except FileNotFoundError as error:
        card_path = directory / "card.toml"
        raise ModelNotFound(
            f"{card_path} lists {name}, which is not there ({directory / name}): {describe_remedy(directory)}"
        ) from error
    except OSError as error:
        raise ModelError(
            f"{directory / name} cannot be read ({error.strerror}): {describe_remedy(directory)}"
        ) from error
    if actual != listed[name]:
        problem = f"SHA-256 is {actual[:12]}, the card says {str(listed[name])[:12]}"
        raise ModelError(
            f"{directory / name}: {problem}: the file was changed or damaged; {describe_remedy(directory)}"
        )
    return directory / name


def hash_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_remedy(directory: Path) -> str:
    """What to do about a model that is damaged."""
    if Path(directory).absolute().is_relative_to(BUNDLED.absolute()):
        return "reinstall emqa_dask"
    return "restore it from a copy, or train or import the model again"


@contextlib.contextmanager
def blame_model(directory: Path) -> Iterator[None]:
    """Whatever goes wrong in the block, in which a model is loaded, is a ModelError that names the model's directory.

    Libraries end in errors of any kind over what is no model of theirs.
    """
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except ImportError as error:
        raise MissingPackage(f"{directory}: {error}") from error
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        text = str(error) if str(directory) in str(error) else f"{directory}: it cannot be loaded: {kind}{error}"
        raise ModelError(
            text if describe_remedy(directory) in text else f"{text}; {describe_remedy(directory)}"
        ) from error


def load_model_card(directory: Path) -> dict:
    """The model's card, after checking every file that it lists against its SHA-256."""
    model_card = read_model_card(directory)
    for name in model_card.get("files", {}):
        check_file(directory, name, model_card)
    return model_card


def digest_model_card(directory: Path) -> str:
    """SHA-256 of the model's card, which holds the SHA-256 of its files."""
    try:
        return hash_file(directory / "card.toml")
    except FileNotFoundError as error:
        raise ModelNotFound(f"{directory / 'card.toml'} is not there: {describe_remedy(directory)}") from error


def read_detector_and_floor(name: str) -> tuple[str, float]:
    """The detector and the score floor of a quality model or forest, from its card, after its files were checked.

    ModelError for a changed file, and for the card of another model.
    """
    directory = locate_model(name)
    return _read_detector_and_floor(directory, digest_model_card(directory))


def read_agreement_detectors(name: str) -> tuple[str, ...]:
    """Detectors whose agreement with its own a quality model looks at, in the alphabet's order; none for most."""
    directory = locate_model(name)
    return _read_agreement_detectors(directory, digest_model_card(directory))


@functools.lru_cache(maxsize=8)
def _read_agreement_detectors(directory: Path, digest: str) -> tuple[str, ...]:
    quality_table = read_model_card(directory).get("quality_model", {})
    return tuple(quality_table.get("agreement_detectors", ()))


@functools.lru_cache(maxsize=8)
def _read_detector_and_floor(directory: Path, digest: str) -> tuple[str, float]:
    model_card = load_model_card(directory)
    for kind in ("quality_model", "forest"):
        if kind in model_card:
            with blame_model(directory):
                return str(model_card[kind]["detector"]), float(model_card[kind]["score_floor"])
    if "judge" in model_card:
        raise ModelError(f"{directory / 'card.toml'}: of a model that emqa_dask 0.1 made: run `emqa calibrate` again")
    raise ModelError(f"{directory / 'card.toml'}: neither the card of a quality model nor of a forest")


def write_model_card(directory: Path, model_card: Mapping[str, object]) -> None:
    """Writes `model_card` (strings, numbers, flags, lists of them, and tables of these) as card.toml.

    Its table `files` is made here: every other file of the directory with its SHA-256. Raises ValueError for NaN.
    """
    names = sorted(p.name for p in directory.iterdir() if p.is_file() and p.name != "card.toml")
    files = {name: hash_file(directory / name) for name in names}
    text = "\n".join(_format_table({**model_card, "files": files})) + "\n"
    (directory / "card.toml").write_bytes(checksummed_text.add_checksum(text))


def _format_table(table: Mapping[str, object], path: tuple[str, ...] = ()) -> list[str]:
    scalar_entries = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [
        f"{_format_key(key)} = {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in scalar_entries.items()
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            table_path = (*path, key)
            lines += ["", f"[{'.'.join(map(_format_key, table_path))}]", *_format_table(value, table_path)]
    return lines


def _format_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
