"""The reasons of a verdict, from the rules: code, verdict and meaning, most important first."""

from docs.generate.markdown import escape, list_table
from emqa_dask import tables
from emqa_dask.triage.rules import RULES


def render_page() -> str:
    """A table per verdict, and one of the notes that leave a verdict unchanged."""
    parts = []
    for verdict in (*tables.VERDICTS, "note"):
        rows = [(f"`{rule.code}`", escape(rule.meaning)) for rule in RULES if rule.verdict == verdict]
        if rows:
            parts.append(f"## `{verdict}`\n\n" + list_table(("reason", "meaning"), rows, "reasons"))
    return "\n".join(parts)
