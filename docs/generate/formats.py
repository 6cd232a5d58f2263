"""The formats that are read, as tables, from formats.toml: what is read, by which library, proved by which test."""

import tomllib
from pathlib import Path

from docs.generate.markdown import code, escape, list_table

SOURCE = Path(__file__).parents[1] / "formats.toml"
COLUMNS = ("format", "suffixes", "images", "pixel size", "conditions", "library", "tests")


def list_formats() -> list[dict[str, str]]:
    """Every format with its family and the fields of COLUMNS; fields that a format has not are empty."""
    families = tomllib.loads(SOURCE.read_text())["families"]
    return [{"family": family["name"]} | entry for family in families for entry in family["formats"]]


def list_tests(entry: dict[str, str]) -> list[str]:
    """Node ids of the tests that prove what is said of a format: "tests/archive/test_mrc.py::test_modes"."""
    return str(entry["tests"]).split()


def render_page() -> str:
    """A section per family: its text, then a table of its formats."""
    entries = list_formats()
    sections = []
    for family in tomllib.loads(SOURCE.read_text())["families"]:
        rows = [_make_row(entry) for entry in entries if entry["family"] == family["name"]]
        table = list_table(COLUMNS, rows, "formats", "12 10 24 18 14 8 14")
        sections.append(f"## {family['name']}\n\n{family.get('text', '').strip()}\n\n{table}")
    return "\n".join(sections)


def _make_row(entry: dict[str, str]) -> list[str]:
    cells = [escape(entry.get(name, "")) for name in COLUMNS if name != "tests"]
    return [*cells, ", ".join(code(node.rpartition("::")[2]) for node in list_tests(entry))]
