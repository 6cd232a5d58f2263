"""A model is a directory: card.toml + safetensors or skops files; load_card() verifies it, digest() names it."""

import hashlib
import tomllib
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"


def locate(name: str) -> Path:
    """The directory of model `name`: a path that exists, or the name of a model that ships with the package."""
    for path in (Path(name), BUNDLED / name):
        if (path / "card.toml").is_file():
            return path
    known = ", ".join(sorted(p.name for p in BUNDLED.iterdir() if p.is_dir())) if BUNDLED.is_dir() else "none"
    raise FileNotFoundError(f"no model {name!r}: neither a directory with a card.toml nor a bundled one ({known})")


def load_card(directory: Path) -> dict:
    """The model's card, after checking every file that it lists against its SHA-256."""
    card = tomllib.loads((directory / "card.toml").read_text(encoding="utf-8"))
    for name, expected in card.get("files", {}).items():
        found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{directory / name}: SHA-256 is {found[:12]}, the card says {expected[:12]}")
    return card


def digest(directory: Path) -> str:
    """SHA-256 of the model's card, which holds the SHA-256 of its files."""
    return hashlib.sha256((directory / "card.toml").read_bytes()).hexdigest()
