"""The measured figures as tables, from results.toml: claim, value, n, script and arguments, commit, machine, date."""

import tomllib
from pathlib import Path

from docs.generate.markdown import code, escape, list_table

SOURCE = Path(__file__).parents[1] / "results.toml"
COLUMNS = ("claim", "value", "n", "script", "commit", "machine", "date")


def list_results() -> list[dict[str, str]]:
    """Every figure with the facts of its topic filled in: topic and the fields of COLUMNS."""
    document = tomllib.loads(SOURCE.read_text())
    found = []
    for topic in document["topics"]:
        shared = {"topic": topic["name"], **{key: topic[key] for key in COLUMNS if key in topic}}
        found += [shared | figure for figure in topic["figures"]]
    machines = document["machines"]
    return [figure | {"machine": machines[figure["machine"]]} for figure in found]


def render_page() -> str:
    """A section per topic: its text, then a table of its figures."""
    figures = list_results()
    parts = []
    for topic in tomllib.loads(SOURCE.read_text())["topics"]:
        rows = [_row(figure) for figure in figures if figure["topic"] == topic["name"]]
        table = list_table(COLUMNS, rows, "results", "24 14 14 22 8 10 8")
        parts.append(f"## {topic['name']}\n\n{topic.get('text', '').strip()}\n\n{table}")
    return "\n".join(parts)


def _row(figure: dict[str, str]) -> list[str]:
    return [
        code(figure[key]) if key in ("script", "commit") and figure[key] != "unknown" else escape(figure[key])
        for key in COLUMNS
    ]
