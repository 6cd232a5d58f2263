"""A model is a directory: card.toml + safetensors or skops files; write_card(), load_card() verifies it, digest()."""

import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"
CONTENT = BUNDLED / "content"  # the model of classify.content


class ModelError(ValueError):
    """A model that is damaged, incomplete or cannot be loaded here: no image is to blame for it."""


def locate(name: str) -> Path:
    """The directory of model `name`: a path that exists, or the name of a model that ships with the package."""
    for path in (Path(name), BUNDLED / name):
        if (path / "card.toml").is_file():
            return path
    known = ", ".join(sorted(p.name for p in BUNDLED.iterdir() if p.is_dir())) if BUNDLED.is_dir() else "none"
    raise FileNotFoundError(f"no model {name!r}: neither a directory with a card.toml nor a bundled one ({known})")


def read_card(directory: Path) -> dict:
    """The model's card as it stands; ValueError when it is not TOML. Its files are not looked at, see load_card()."""
    try:
        return tomllib.loads((directory / "card.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{directory / 'card.toml'}: not valid TOML: {error}") from error


def check_file(directory: Path, name: str, card: Mapping) -> Path:
    """The path of the model's file `name`; ValueError where it is not what the card says, FileNotFoundError without."""
    found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    expected = card.get("files", {}).get(name)
    if expected is None:
        raise ValueError(f"{directory / 'card.toml'}: has no SHA-256 of {name}")
    if found != expected:
        raise ValueError(f"{directory / name}: SHA-256 is {found[:12]}, the card says {expected[:12]}")
    return directory / name


def load_card(directory: Path) -> dict:
    """The model's card, after checking every file that it lists against its SHA-256."""
    card = read_card(directory)
    for name in card.get("files", {}):
        check_file(directory, name, card)
    return card


def digest(directory: Path) -> str:
    """SHA-256 of the model's card, which holds the SHA-256 of its files."""
    return hashlib.sha256((directory / "card.toml").read_bytes()).hexdigest()


def what_for(name: str) -> tuple[str, float]:
    """The detector and the score floor that a model of F1 is for, from its card, once its files are seen to be whole.

    ValueError for a changed file, and for the card of another model.
    """
    directory = locate(name)
    return _what_for(directory, digest(directory))


@functools.lru_cache(maxsize=8)
def _what_for(directory: Path, digest: str) -> tuple[str, float]:
    card = load_card(directory)
    for kind in ("judge", "forest"):
        if kind in card:
            return card[kind]["detector"], card[kind]["score_floor"]
    raise ValueError(f"{directory / 'card.toml'}: neither the card of a judge nor of a forest")


def write_card(directory: Path, card: Mapping[str, object]) -> None:
    """Writes `card` (strings, numbers, flags, lists of them, and tables of these) as card.toml.

    Its table `files` is made here: every other file of the directory with its SHA-256. Raises ValueError for NaN.
    """
    names = sorted(p.name for p in directory.iterdir() if p.is_file() and p.name != "card.toml")
    files = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    (directory / "card.toml").write_text("\n".join(_toml({**card, "files": files})) + "\n", encoding="utf-8")


def _toml(table: Mapping[str, object], path: tuple[str, ...] = ()) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {json.dumps(value, ensure_ascii=False, allow_nan=False)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = (*path, key)
            lines += ["", f"[{'.'.join(map(_key, inner))}]", *_toml(value, inner)]
    return lines


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
