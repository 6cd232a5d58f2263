"""Tables of pages that are one file, and the style of these pages."""

from collections.abc import Iterable, Sequence
from html import escape

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """:root{color-scheme:light dark;background:#fff;color:#111}a{color:#0645ad}
@media(prefers-color-scheme:dark){:root{background:#121212;color:#eee}a{color:#9ab4ff}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
table{border-collapse:collapse;margin:1rem 0;overflow-wrap:normal}
td,th{padding:.2rem .8rem;border-bottom:1px solid #8884;text-align:right}
td:first-child,th:first-child{text-align:left}svg,img{max-width:100%}.scroll,pre{overflow-x:auto}"""
PAGE_END = "</main></body></html>"


def render_head(title: str, style: str = STYLE) -> str:
    """The start of a page, up to its content, which PAGE_END ends; it loads nothing."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{CONTENT_POLICY}"><style>{style}</style></head><body><main>'
    )


def render_table(title: str, heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of texts, which scrolls where it is wider than the page, also by keyboard; readers hear its `title`."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
    return f"{region}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def render_preformatted(text: str) -> str:
    """Text as it is, which scrolls where a line is wider than the page, also by keyboard."""
    return f'<pre tabindex="0">{escape(text)}</pre>'
