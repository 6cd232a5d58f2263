"""The page of the report. Its rows are in data pages, which a script of the report's folder loads."""

import base64
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

import jinja2
import pandas as pd
from markupsafe import Markup

from emqa_dask.report import f1_figures, sample_section
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
from emqa_dask.report.galleries import Gallery
from emqa_dask.report.group_counts import GROUPED, MAX_GROUPS
from emqa_dask.report.overlays import MAX_BOXES, MAX_BOXES_IN_TABLE
from emqa_dask.report.page_content import PageContent
from emqa_dask.report.triage_counts import Overview
from emqa_dask.tables import VERDICTS

MAX_FAILURES = 60  # failures of stages that are listed with their tracebacks
MAX_ALARMS = 40  # alarms that are listed, the latest
MAX_OPTIONS = 1000  # names that can be chosen in a filter
LABELS = {"trust": "Trust", "review": "Review", "out_of_domain": "Out of domain", "junk": "Junk", "unknown": "Unknown"}
ADVICE = {
    "trust": "Use the detections. Spot-check a few images before you publish numbers from them.",
    "review": "A person should check these images before the detections are used. Start with the most frequent reason.",
    "out_of_domain": "Unlike the training images, so the predicted F1 is not valid. Label a few and calibrate.",
    "junk": "Leave these images out of any measurement: objects of the sample cannot be counted in them.",
    "unknown": "No verdict is possible: {failed:,} failed, {skipped:,} contain no micrograph, {removed:,} are no "
    "longer in the archive. See the list below.",
}
ASSETS = ("page.css", "cards.css", "rows.js", "table.js", "view.js")  # files that the page loads, beside data pages
# No request leaves the folder of the report; "file:" is for pages that are opened from a disk.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'self' file:; script-src 'self' file:; base-uri 'none'; "
    "form-action 'none'"
)


def render_page(content: PageContent) -> Iterator[str]:
    """HTML of the page, piece by piece.

    `facts`, all of them optional: archive, workspace, command, started (s since the epoch, or text), n_files, n_bytes,
    wall_s, n_workers, seconds (stage -> s of all workers), n_megapixels, peak_memory_bytes (of the largest worker),
    gpu_percent (mean utilisation; None: not measured),
    versions (name -> version), settings (TOML text), models (name -> figure), failures (tables.FAILURES); any other
    entry is shown as it is. `rules` are the rules of the verdicts, each with code, verdict and meaning. Every text is
    escaped, and the page's policy lets it load files of
    its own folder only. Without rows the page says that there are none.
    """
    overview = content.overview
    facts = content.facts
    settings = content.settings
    section = None
    if content.classes:
        section = fill_section(content.classes, content.read_column, overview.verdict_codes, settings)
    return _load_template().generate(
        policy=POLICY,
        data=_embed_json(_describe_data(content)),
        verdicts=_list_verdicts(overview),
        reasons=_list_reasons(overview.reasons, content.rules),
        figures=_draw_figures(content),
        galleries=[_fill_gallery(gallery, content.jpegs) for gallery in content.galleries],
        groups=_list_groups(content),
        options=_list_options(content),
        periods=content.groups.list_periods(),
        trends=content.trends,
        n_sampled=content.n_sampled,
        copies=content.copies,
        alarms=content.alarms.head(MAX_ALARMS).to_dict("records"),
        n_alarms=len(content.alarms),
        classes=section,
        samples=sample_section.fill_section(content.samples),
        review=content.review,
        rules=content.rules,
        labels={**LABELS, "note": "No change"},
        n_rows=overview.n_rows,
        n_pictured=len(content.picture_rows),
        n_micrographs=overview.n_micrographs,
        n_max_drawn=MAX_BOXES,
        n_few_drawn=MAX_BOXES_IN_TABLE,
        first_rows=_list_first_rows(content.first_rows),
        workspaces=content.workspaces,
        lists=[{"title": t, "n": n, "rows": overview.listed[t]} for t, n in overview.n_listed.items() if n],
        failures=_list_failures(facts.get("failures")),
        retry=shlex.join(["emqa", "retry", str(facts.get("workspace") or "WORKSPACE"), "--failed"]),
        facts=dict.fromkeys(PLACED_FACTS) | dict(facts),
        more={name: value for name, value in facts.items() if name not in PLACED_FACTS},
        started=format_date(facts.get("started")),
        limits=settings,
    )


def read_assets() -> dict[str, bytes]:
    """The files of the page by name."""
    return {name: files("emqa_dask.report").joinpath(name).read_bytes() for name in ASSETS}


def _describe_data(content: PageContent) -> dict:
    """What the page's script reads."""
    names = [own._asdict() | {"name": escape_invisible(own.name)} for own in content.workspaces]
    return content.row_data | {
        "few": MAX_BOXES_IN_TABLE,
        "verdicts": [[verdict, LABELS[verdict]] for verdict in VERDICTS],
        "codes": [[rule.code, rule.meaning, format_code(rule.code)] for rule in content.rules],
        "trust_f1": content.settings.trust_f1,
        "trust_probability": content.settings.trust_probability,
        "workspaces": names,
        "pictures": {"rows": list(map(int, content.picture_rows)), "per_file": content.pictures_per_file},
    }


def _list_first_rows(rows: pd.DataFrame) -> list[dict]:
    """Cells of the rows that are read without a script; numbers are NaN where they are unknown."""
    numbers = rows[["n_detections", "predicted_f1", "ood_distance", "nm_per_pixel"]].astype(float)
    return rows[["uri", "verdict", "explanation", "predicted_class"]].join(numbers).to_dict("records")


def _draw_figures(content: PageContent) -> list[dict]:
    """Title, line of numbers and SVG of the distributions."""
    codes = content.overview.verdict_codes
    drawings = draw_distributions(content.read_column, codes, content.settings)
    f1, low, high = (content.read_column(f"predicted_f1{end}") for end in ("", "_low", "_high"))
    intervals = f1_figures.draw_f1_intervals(f1, low, high)
    is_trusted = codes == VERDICTS.index("trust")
    risk = f1_figures.draw_risk_coverage(f1, content.read_column("f1_probability"), is_trusted)
    for title, (line, svg) in (("Predicted F1 with its interval", intervals), ("Predicted risk and coverage", risk)):
        drawings.append({"title": title, "line": line, "svg": svg})
    return drawings


def _fill_gallery(gallery: Gallery, jpegs: Mapping[str, bytes]) -> dict:
    images = []
    for row, image in zip(gallery.rows.index, gallery.rows.to_dict("records")):
        jpeg = jpegs.get(image["micrograph_id"])
        encoded = base64.b64encode(jpeg).decode() if jpeg else None
        name = image["uri"].rpartition("/")[2]
        images.append(image | {"row": row, "value": abs(image["value"]), "name": name, "jpeg": encoded})
    return {"title": gallery.title, "criterion": gallery.criterion, "images": images}


def _list_groups(content: PageContent) -> list[dict]:
    """Title, number and largest groups of each kind."""
    groups = []
    for name in GROUPED:
        lines = content.groups.list_groups(name, content.row_data["names"][name])
        groups.append({"name": name, "title": name.capitalize(), "n": len(lines), "lines": lines[:MAX_GROUPS]})
    periods = content.groups.list_periods()
    groups.insert(1, {"name": "date", "title": "Date", "n": len(periods), "lines": periods})
    return [group for group in groups if len(group["lines"]) > (group["name"] != "session")]


def _list_options(content: PageContent) -> dict[str, list[str]]:
    """Names that each filter offers; none where there is nothing to choose."""
    row_names = content.row_data["names"]
    options: dict[str, list[str]] = {"date": [], "class": [], "shift": []}
    for name in set(row_names) - {"format"}:
        names = sorted(row_names[name])
        if name in GROUPED:  # the largest groups
            names = [line.name for line in content.groups.list_groups(name, row_names[name])]
        if name == "magnification":
            names = sorted(names, key=lambda text: float(text or 0))
        options[name] = names[:MAX_OPTIONS] if len(names) > 1 else []
    return options


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
    *("archive", "workspace", "command", "started", "n_files", "n_bytes", "wall_s", "n_workers", "seconds"),
    *("n_megapixels", "peak_memory_bytes", "gpu_percent", "versions", "settings", "models", "failures"),
)


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
