"""The page of an image: one page for all of them, whose script loads the data of the image named behind # ."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2
from markupsafe import Markup

from emqa_dask.report.formatting import escape_invisible, format_code, format_value
from emqa_dask.report.micrograph_data import MAX_DRAWN

ASSETS = ("page.css", "micrograph.css", "micrograph.js")  # that the page loads, beside data and pictures
# No request leaves the folder of the report; "file:" is for pages that are opened from a disk.
POLICY = (
    "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; script-src 'self' file:; base-uri 'none'; "
    "form-action 'none'"
)
SHOWN_FACTS = ("archive", "workspace", "command")
LABELS = {"trust": "Trust", "review": "Review", "out_of_domain": "Out of domain", "junk": "Junk", "unknown": "Unknown"}


def render_files(facts: Mapping, rules: Sequence) -> dict[str, bytes]:
    """The page and the files that it loads, by name.

    `facts`: those of page.render_page(), of which versions, settings and models are shown. `rules` are the rules of the
    verdicts, each with code and meaning.
    """
    assets = {name: files("emqa_dask.report").joinpath(name).read_bytes() for name in ASSETS}
    return {"micrograph.html": _render_page(facts, rules).encode()} | assets


def _render_page(facts: Mapping, rules: Sequence) -> str:
    data = {
        "verdicts": LABELS,
        "reasons": {rule.code: [format_code(rule.code), rule.meaning] for rule in rules},
        "max_drawn": MAX_DRAWN,
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emqa_dask.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(visible=escape_invisible, value=format_value)
    return environment.get_template("micrograph.html.j2").render(
        policy=POLICY,
        data=_embed_json(data),
        facts=[(name.capitalize(), facts[name]) for name in SHOWN_FACTS if facts.get(name)],
        versions=facts.get("versions") or {},
        models=facts.get("models") or {},
        settings=facts.get("settings") or "",
    )


def _embed_json(data: dict) -> Markup:
    """JSON without any character that could end or open an HTML element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
