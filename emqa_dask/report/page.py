"""The report as one HTML page that loads no other file."""

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files

import jinja2
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from emqa_dask.report import sample_section
from emqa_dask.report.classifier_counts import ClassifierSection
from emqa_dask.report.classifier_section import fill_section
from emqa_dask.report.figures import draw_distributions
from emqa_dask.report.formatting import (
    escape_invisible,
    format_bytes,
    format_code,
    format_date,
    format_duration,
    format_number,
    format_value,
)
from emqa_dask.report.overlays import MAX_BOXES, MAX_BOXES_IN_TABLE
from emqa_dask.report.table_columns import LABELS, list_class_columns_and_maps, list_columns, list_details
from emqa_dask.report.triage_counts import Overview
from emqa_dask.settings import Triage
from emqa_dask.tables import VERDICTS

MAX_FAILURES = 60  # failures of stages that are listed with their tracebacks
ADVICE = {
    "trust": "Use the detections. Spot-check a few images before you publish numbers from them.",
    "review": "A person should check these images before the detections are used. Start with the most frequent reason.",
    "out_of_domain": "Unlike the training images, so the predicted F1 is not valid. Label a few and calibrate.",
    "junk": "Leave these images out of any measurement: objects of the sample cannot be counted in them.",
    "unknown": "No verdict is possible: {failed:,} failed, {skipped:,} contain no micrograph, {removed:,} are no "
    "longer in the archive. See the list below.",
}


def render_page(
    overview: Overview,
    read_column: Callable[[str], NDArray],
    triage: pd.DataFrame,
    boxes: Mapping[str, str],
    jpegs: Mapping[str, bytes],
    facts: dict,
    settings: Triage,
    rules: Sequence,
    classes: ClassifierSection | None = None,
    maps: Mapping[str, str] | None = None,
    details: Mapping[str, Sequence] | None = None,
    samples: pd.DataFrame | None = None,
) -> Iterator[str]:
    """HTML of the page, piece by piece: counts, figures and failures of all rows, and a table of the rows in `triage`.

    `overview` and `read_column` (see figures.draw_distributions) describe all rows; `triage` has rows of tables.TRIAGE;
    `boxes` (see overlays.encode_boxes) and `jpegs` are those of `triage` by micrograph_id, as far as there are any.
    `facts`, all of them optional: archive, workspace, command, started (s since the epoch, or text), n_files, n_bytes,
    seconds (stage -> s), versions (name -> version), settings (TOML text), models (name -> figure), failures
    (tables.FAILURES); any other entry is shown as it is. `rules` are the rules of the verdicts, each with code, verdict
    and meaning. `classes` adds the results of a classifier: a section, columns of the table, and `maps` of its entropy
    by micrograph_id (see overlays.encode_entropy_maps). `details` are further pairs of label and text in the view of
    an image, by micrograph_id. `samples` (tables.SAMPLES) adds a section with the results of their trusted images.
    Every text is escaped, and the page's policy forbids it to load anything and to run any other script than its own.
    Without rows the page says that there are none.
    """
    sources = {name: files("emqa_dask.report").joinpath(name).read_text("utf-8") for name in _SOURCES}
    columns = list_columns(triage, boxes, jpegs, rules) | {"details": list_details(triage, details or {})}
    columns |= {name: getattr(settings, name) for name in ("trust_f1", "trust_probability")}
    section = None
    if classes:
        columns |= list_class_columns_and_maps(triage, maps or {})
        section = fill_section(classes, read_column, overview.verdict_codes, settings)
    return _load_template().generate(
        css=Markup(sources["page.css"]),
        cards=Markup(sources["cards.css"]),
        js=Markup(sources["page.js"]),
        policy=_make_policy(sources),
        data=_embed_json(columns),
        verdicts=_list_verdicts(overview),
        reasons=_list_reasons(overview.reasons, rules),
        figures=draw_distributions(read_column, overview.verdict_codes, settings),
        classes=section,
        samples=sample_section.fill_section(samples),
        rules=rules,
        labels={**LABELS, "note": "No change"},
        n_rows=overview.n_rows,
        n_shown=len(triage),
        n_micrographs=overview.n_micrographs,
        n_max_drawn=MAX_BOXES,
        n_few_drawn=MAX_BOXES_IN_TABLE,
        lists=[{"title": t, "n": n, "rows": overview.listed[t]} for t, n in overview.n_listed.items() if n],
        failures=_list_failures(facts.get("failures")),
        retry=shlex.join(["emqa", "retry", str(facts.get("workspace") or "WORKSPACE"), "--failed"]),
        facts=dict.fromkeys(PLACED_FACTS) | facts,
        more={name: value for name, value in facts.items() if name not in PLACED_FACTS},
        started=format_date(facts.get("started")),
        limits=settings,
    )


_SOURCES = ("page.css", "cards.css", "page.js")


def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emqa_dask.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        visible=escape_invisible,
        seconds=format_duration,
        bytes=format_bytes,
        value=format_value,
        label=format_code,
        figure=format_number,
    )
    return environment.get_template("page.html.j2")


def _make_policy(sources: Mapping[str, str]) -> str:
    """Content security policy that allows only the page's own styles and script."""
    css, cards, js = (_hash_source(sources[name]) for name in _SOURCES)
    return (
        f"default-src 'none'; img-src data:; style-src '{css}' '{cards}'; script-src '{js}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _list_verdicts(overview: Overview) -> list[dict]:
    """The cards with the number of images, their share and advice, one for each verdict."""
    outcomes = {status: overview.statuses[status] for status in ("failed", "skipped", "removed")}
    return [
        {
            "name": verdict,
            "label": LABELS[verdict],
            "next": ADVICE[verdict].format(**outcomes),
            "n": overview.verdicts[verdict],
            "share": overview.verdicts[verdict] / max(overview.n_rows, 1),
        }
        for verdict in VERDICTS
    ]


PLACED_FACTS = (
    *("archive", "workspace", "command", "started", "n_files", "n_bytes", "seconds"),
    *("versions", "settings", "models", "failures"),
)


def _hash_source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embed_json(data: dict) -> Markup:
    """JSON without any character that could end or open an HTML element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _list_reasons(counts: Mapping[str, int], rules: Sequence) -> list[dict]:
    """Every reason that occurs, the most frequent first."""
    occurring = [(counts[rule.code], rule) for rule in rules if counts[rule.code]]
    max_count = max((n for n, _ in occurring), default=1)
    return [
        {
            "code": rule.code,
            "label": format_code(rule.code),
            "verdict": rule.verdict,
            "meaning": rule.meaning,
            "n": n,
            "share": n / max_count,
        }
        for n, rule in sorted(occurring, key=lambda count_and_rule: -count_and_rule[0])
    ]


def _list_failures(failures: pd.DataFrame | None) -> dict:
    failures = pd.DataFrame() if failures is None else failures
    return {"n": len(failures), "rows": failures.head(MAX_FAILURES).to_dict("records")}
