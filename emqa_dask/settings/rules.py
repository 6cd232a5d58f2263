"""What every settings record checks itself with: the range of each number, and what a text may hold."""

import typing
import unicodedata

LONGEST_TEXT = 4096  # characters: the longest path that Linux takes
LONGEST_LIST = 1000


class SettingsError(ValueError):
    """A setting that does not exist or has a value that it cannot have."""


def require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(f"{key} is {shorten(value)}: it {rule}")


def shorten(value: object) -> str:
    """`value` as Python writes it, at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_values(record: object, section: str) -> None:
    """SettingsError for a number of `record` outside its Range, NaN and infinity, and for a text that no file can hold.

    RANGES of a settings record has the Range of every whole and every real number in it.
    """
    for name, limits in getattr(record, "RANGES", {}).items():
        value = getattr(record, name)
        require(limits.contains(value), f"{section}.{name}", value, f"has to be {limits}")
    for name, hint in typing.get_type_hints(type(record)).items():
        value = getattr(record, name)
        if hint is str:
            _check_text(f"{section}.{name}", value)
        elif hint == tuple[str, ...]:
            require(len(value) <= LONGEST_LIST, f"{section}.{name}", value, f"has at most {LONGEST_LIST} entries")
            require(all(value), f"{section}.{name}", value, "has an empty entry")
            for text in value:
                _check_text(f"{section}.{name}", text)


def _check_text(key: str, text: str) -> None:
    require(len(text) <= LONGEST_TEXT, key, text, f"has {len(text):,} characters: at most {LONGEST_TEXT:,}")
    has_controls = any(unicodedata.category(c) in ("Cc", "Cs") for c in text if c != "\t")
    require(not has_controls, key, text, "holds a line break, another control character or a byte that is no UTF-8")
