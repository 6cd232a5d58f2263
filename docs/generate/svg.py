"""Parts of a drawing as SVG text: boxes with lines of text, arrows, and the whole with its style."""

from html import escape

LINE_PX = 18  # distance of text lines
SMALL_CHARACTER_PX = 7.0  # mean width of a character of small text
# The colours are those of the theme, light or dark, when the drawing is part of a page.
STYLE = """
.box { fill: var(--pst-color-surface, #f4f5f7); stroke: var(--pst-color-border, #9aa0a6); stroke-width: 1.2; }
.band { fill: none; stroke: var(--pst-color-border, #9aa0a6); stroke-width: 1; stroke-dasharray: 5 4; }
.arrow { fill: none; stroke: var(--pst-color-text-muted, #5f6368); stroke-width: 1.5; }
.head { fill: var(--pst-color-text-muted, #5f6368); }
text { font-family: var(--pst-font-family-base, sans-serif); font-size: 13px;
  fill: var(--pst-color-text-base, #202124); }
.name { font-weight: 600; font-size: 15px; }
.small { font-size: 12px; fill: var(--pst-color-text-muted, #5f6368); }
""".strip()


def write_text(x: float, y: float, text: str, css_class: str = "", anchor: str = "start") -> str:
    """One line of text whose baseline starts (or is centred) at x, y."""
    return f'<text x="{x:g}" y="{y:g}" class="{css_class}" text-anchor="{anchor}">{escape(text)}</text>'


def draw_box(x: float, y: float, width: float, height: float, name: str, lines: list[str]) -> str:
    """A box with a name and small lines of text beneath it."""
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="box"/>']
    parts.append(write_text(x + 10, y + 22, name, "name"))
    parts += [write_text(x + 10, y + 22 + LINE_PX * n, line, "small") for n, line in enumerate(lines, 1)]
    return "\n".join(parts)


def box_height(lines: list[str]) -> float:
    """Height of a box with a name and `lines`, px."""
    return 34 + LINE_PX * len(lines)


def count_characters(box_width: float) -> int:
    """Characters of small text that fit into a line of a box."""
    return int((box_width - 20) / SMALL_CHARACTER_PX)


def draw_arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """An arrow from the lower edge of one box down to the upper edge of another."""
    middle = (y0 + y1) / 2
    curve = f"M{x0:g},{y0:g} C{x0:g},{middle:g} {x1:g},{middle:g} {x1:g},{y1 - 6:g}"
    return f'<path d="{curve}" class="arrow" marker-end="url(#head)"/>'


def draw_frame(width: float, height: float, title: str, parts: list[str]) -> str:
    """The whole drawing; `title` is what a screen reader says."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">'
    marker = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" class="head"/></marker></defs>'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", marker, *parts, "</svg>", ""])
