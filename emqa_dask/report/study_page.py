"""The page of a study: its text, figures, tables and settings, one file that loads nothing."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd

from emqa_dask.report.formatting import escape_invisible
from emqa_dask.report.html_tables import PAGE_END, STYLE, render_head, render_preformatted, render_table

MAX_ROWS = 60  # of a table on the page; its file has all
FIGURE_STYLE = "figure{margin:1.5rem 0}figure img{background:#fff}figcaption{max-width:45rem}"


class PageTable(NamedTuple):
    """A table with its caption; `name`.csv lies beside the page."""

    name: str
    caption: str
    rows: pd.DataFrame


class PageFigure(NamedTuple):
    """A figure with its caption; `name`.svg lies beside the page."""

    name: str
    caption: str
    png: bytes


def render_study_page(
    title: str,
    paragraphs: Sequence[str],
    summary: Mapping[str, Any],
    tables: Sequence[PageTable],
    figures: Sequence[PageFigure],
) -> str:
    """HTML of a study, with its figures inside."""
    parts = [render_head(title, STYLE + FIGURE_STYLE), f"<h1>{escape(title)}</h1>"]
    parts += [f"<p>{escape(escape_invisible(text))}</p>" for text in paragraphs]
    parts.append("<h2>Figures</h2>")
    parts += [_render_figure(figure) for figure in figures]
    parts.append("<h2>Tables</h2>")
    parts += [_render_table(table) for table in tables]
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    parts.append(f"<h2>Summary</h2>{render_preformatted(text)}{PAGE_END}")
    return "".join(parts)


def _render_figure(figure: PageFigure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    return (
        f'<figure id="{escape(figure.name)}"><img alt="{escape(figure.caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(figure.caption)} "
        f'<a href="{quote(figure.name)}.svg">{escape(figure.name)}.svg</a></figcaption></figure>'
    )


def _render_table(table: PageTable) -> str:
    link = f'<a href="{quote(table.name)}.csv">{escape(table.name)}.csv</a>'
    rows = ([_format_cell(value) for value in row] for row in table.rows[:MAX_ROWS].itertuples(index=False))
    n_hidden = len(table.rows) - MAX_ROWS
    note = f" The first {MAX_ROWS} of {len(table.rows):,} rows." if n_hidden > 0 else ""
    heads = [str(name).replace("_", " ") for name in table.rows]
    return f"<h3>{escape(table.caption)}</h3>{render_table(table.caption, heads, rows)}<p>{link}{note}</p>"


def _format_cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return escape_invisible(value)
