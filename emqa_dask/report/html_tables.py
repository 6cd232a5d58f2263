"""Tables of pages that are one file, and the style of these pages."""

from collections.abc import Iterable, Sequence
from html import escape

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;border-bottom:1px solid #8884;text-align:right}
td:first-child,th:first-child{text-align:left}svg,img{max-width:100%}.scroll{overflow-x:auto}
:root{color-scheme:light dark}"""


def render_head(title: str, style: str = STYLE) -> str:
    """The start of a page, up to the body; it loads nothing."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{CONTENT_POLICY}"><style>{style}</style></head><body>'
    )


def render_table(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of texts, which scrolls where it is wider than the page."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
