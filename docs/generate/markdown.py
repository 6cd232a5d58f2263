"""Markdown that MyST reads: escaped text, tables and definition lists."""

import re
from collections.abc import Iterable, Sequence

SPECIAL = re.compile(r"([\\*_<>\[\]{}$|#~])")


def escape(text: str) -> str:
    """`text` as Markdown that shows it unchanged; parts between backticks stay code."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(part if part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in parts)


def code(text: str) -> str:
    """`text` as inline code."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def code_block(text: str, language: str = "text") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def list_table(header: Sequence[str], rows: Iterable[Sequence[str]], css_class: str = "", widths: str = "auto") -> str:
    """A table whose cells are Markdown; `widths` are those of the directive list-table."""
    lines = [":::{list-table}", ":header-rows: 1", f":widths: {widths}"]
    if css_class:
        lines.append(f":class: {css_class}")
    lines.append("")
    for row in [header, *rows]:
        for number, cell in enumerate(row):
            prefix = "* - " if number == 0 else "  - "
            text = cell.strip().replace("\n", "\n    ")
            lines.append(f"{prefix}{text}")
    return "\n".join([*lines, ":::", ""])
