"""The report as one HTML page that needs nothing but itself: render()."""

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from emqa_dask.report import section
from emqa_dask.report.classes import ClassifierSection
from emqa_dask.report.figures import distributions
from emqa_dask.report.overview import Overview
from emqa_dask.report.words import date, figure, label, seconds, size, value, visible
from emqa_dask.settings import Triage
from emqa_dask.tables import VERDICTS

MAX_DRAWN = 300  # detections drawn per image, the strongest: more hides the image and weighs down the page
FEW_DRAWN = 60  # of these in the table's small pictures
MAX_FAILURES = 60  # of the stages, listed one by one with their tracebacks
LABELS = {"trust": "Trust", "review": "Review", "out_of_domain": "Out of domain", "junk": "Junk", "unknown": "Unknown"}
NEXT = {
    "trust": "Use the detections. Spot-check a few images before you publish numbers from them.",
    "review": "A person should look before the detections are used. Start with the most frequent reason.",
    "out_of_domain": "Unlike what the model has learnt: no predicted F1 counts here. Label a few and calibrate.",
    "junk": "Leave these out of any measurement. They are not images of a sample that one could count in.",
    "unknown": "No verdict was possible: {failed:,} failed, {skipped:,} hold no micrograph, {removed:,} have left the "
    "archive. See the list below.",
}


def render(
    overview: Overview,
    column: Callable[[str], NDArray],
    shown: pd.DataFrame,
    boxes: Mapping[str, str],
    pictures: Mapping[str, bytes],
    facts: dict,
    settings: Triage,
    rules: Sequence,
    classes: ClassifierSection | None = None,
    maps: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The page's HTML, piece by piece: counts, figures and failures of all rows, and a table of those in `shown`.

    `overview` and `column` (see figures.distributions) tell of all rows; `shown` has rows of tables.TRIAGE; `boxes`
    (see drawn()) and `pictures` (JPEG) are those of `shown`, by micrograph_id, where there are any. `facts`, all of it
    optional: archive, workspace, command, started (s since the epoch, or text), n_files, n_bytes, seconds (stage -> s),
    versions (name -> version), settings (TOML text), forest (name -> figure), failures (tables.FAILURES); any other
    entry is shown as it is. Every text is escaped, and the page's policy lets it load nothing and run nothing but its
    own script. `rules` are those that verdicts follow, each with code, verdict and meaning. `classes` adds what a
    classifier says: a section, columns of the table, and `maps` of its entropy (see mapped()) by micrograph_id; None
    leaves no trace of it.
    No rows give a page that says so.
    """
    css, cards, js = (
        files("emqa_dask.report").joinpath(name).read_text("utf-8") for name in ("page.css", "cards.css", "page.js")
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emqa_dask.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    outcome = {status: overview.statuses[status] for status in ("failed", "skipped", "removed")}
    environment.filters.update(visible=visible, seconds=seconds, bytes=size, value=value, label=label, figure=figure)
    return environment.get_template("page.html.j2").generate(
        css=Markup(css),
        cards=Markup(cards),
        js=Markup(js),
        policy="default-src 'none'; img-src data:; "
        f"style-src '{_hash(css)}' '{_hash(cards)}'; script-src '{_hash(js)}'; "
        "base-uri 'none'; form-action 'none'",
        data=_island(_rows(shown, boxes, pictures, rules) | (_of_classes(shown, maps or {}) if classes else {})),
        verdicts=[
            {
                "name": v,
                "label": LABELS[v],
                "next": NEXT[v].format(**outcome),
                "n": overview.verdicts[v],
                "share": overview.verdicts[v] / max(overview.n_rows, 1),
            }
            for v in VERDICTS
        ],
        reasons=_reasons(overview.reasons, rules),
        figures=distributions(column, overview.verdict_codes, settings),
        classes=section.contents(classes, column, overview.verdict_codes, settings) if classes else None,
        rules=rules,
        labels={**LABELS, "note": "No change"},
        n_rows=overview.n_rows,
        n_shown=len(shown),
        n_micrographs=overview.n_micrographs,
        n_max_drawn=MAX_DRAWN,
        n_few_drawn=FEW_DRAWN,
        lists=[{"title": t, "n": n, "rows": overview.listed[t]} for t, n in overview.n_listed.items() if n],
        failures=_failures(facts.get("failures")),
        retry=shlex.join(["emqa", "retry", str(facts.get("workspace") or "WORKSPACE"), "--failed"]),
        facts=dict.fromkeys(_PLACED) | facts,
        more={k: v for k, v in facts.items() if k not in _PLACED},
        started=date(facts.get("started")),
        limits=settings,
    )


_PLACED = (
    *("archive", "workspace", "command", "started", "n_files", "n_bytes", "seconds"),
    *("versions", "settings", "models", "failures"),
)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _island(data: dict) -> Markup:
    """JSON in which no character can end or open an HTML element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _rows(shown: pd.DataFrame, boxes: Mapping[str, str], pictures: Mapping[str, bytes], rules: Sequence) -> dict:
    """The table's columns as lists; pictures as base64, None where there is none."""
    codes = {rule.code: k for k, rule in enumerate(rules)}

    def numbers(column: str, digits: int) -> list:
        return section.numbers(shown[column], digits)

    def whole(column: str) -> list:
        return [None if v is pd.NA else int(v) for v in shown[column].astype("Int64")]

    ids = shown["micrograph_id"].astype(object).where(shown["micrograph_id"].notna(), None)
    return {
        "few": FEW_DRAWN,
        "verdicts": [[v, LABELS[v]] for v in VERDICTS],
        "codes": [[rule.code, rule.meaning, label(rule.code)] for rule in rules],
        "uri": shown["uri"].map(visible).tolist(),
        "frame": shown["frame"].tolist(),
        "stacked": shown["uri"].isin(shown.loc[shown["frame"].gt(0), "uri"]).astype(int).tolist(),
        "verdict": pd.Categorical(shown["verdict"], VERDICTS).codes.tolist(),
        "reasons": [[codes[c] for c in reasons] for reasons in shown["reasons"]],
        "text": shown["explanation"].map(visible).tolist(),
        "n": whole("n_detections"),
        "f1": numbers("predicted_f1", 4),
        "low": numbers("predicted_f1_low", 4),
        "high": numbers("predicted_f1_high", 4),
        "precision": numbers("predicted_precision", 4),
        "recall": numbers("predicted_recall", 4),
        "detector": shown["detector"].map(visible).tolist(),
        "detector_agreement": numbers("detector_agreement", 4),
        "far": numbers("ood_distance", 4),
        "nm": numbers("nm_per_pixel", 6),
        "source": shown["nm_per_pixel_source"].map(visible).tolist(),
        "height": whole("height_px"),
        "width": whole("width_px"),
        "format": shown["format"].map(visible).tolist(),
        "defocus": numbers("defocus_nm", 1),
        "id": ids.tolist(),
        "jpeg": [base64.b64encode(pictures[i]).decode() if i in pictures else None for i in ids],
        "boxes": [boxes.get(i) for i in ids],
    }


def _of_classes(shown: pd.DataFrame, maps: Mapping[str, str]) -> dict:
    return section.columns(shown) | {"maps": [maps.get(i) for i in shown["micrograph_id"].astype(object)]}


def mapped(shown: pd.DataFrame, regions: pd.DataFrame, most_nats: float) -> dict[str, str]:
    """Each image's map of predictive entropy: base64 of uint16 as in drawn(), with entropy over `most_nats` for score.

    `regions` (tables.REGIONS) are those of some images of `shown`. Windows overlap; a window's cell ends half-way to
    its neighbours' middles, so that cells cover what was looked at once.
    """
    sizes = shown.dropna(subset="micrograph_id").set_index("micrograph_id")[["height_px", "width_px"]].astype(float)
    found = {}
    for row in regions[regions["micrograph_id"].isin(sizes.index)].itertuples():
        height, width = sizes.loc[row.micrograph_id]
        y, x = _edges(row.y0, row.height_px, height), _edges(row.x0, row.width_px, width)
        entropy = np.reshape(row.predictive_entropy_nats, (len(y) - 1, len(x) - 1)) / most_nats
        cells = [np.broadcast_to(part, entropy.shape) for part in (y[:-1, None], x[:-1], y[1:, None], x[1:], entropy)]
        packed = np.stack(cells, axis=-1).reshape(-1, 5)
        found[row.micrograph_id] = base64.b64encode(_packed(packed).tobytes()).decode()
    return found


def _edges(starts: NDArray, length: float, side: float) -> NDArray[np.float64]:
    starts = np.asarray(starts, float)
    middles = starts + length / 2
    return np.array([starts[0], *(middles[1:] + middles[:-1]) / 2, starts[-1] + length]) / side


def _packed(fractions: NDArray) -> NDArray[np.uint16]:
    return np.round(np.clip(np.nan_to_num(fractions), 0, 1) * 65535).astype("<u2")


def drawn(shown: pd.DataFrame, detections: pd.DataFrame) -> dict[str, str]:
    """The strongest detections of each image: base64 of uint16, y0, x0, y1, x1 as fractions of its size, and score.

    `shown` has rows of tables.TRIAGE, `detections` (tables.DETECTIONS) all those of some of these images.
    """
    sizes = shown.dropna(subset="micrograph_id").set_index("micrograph_id")
    sizes = sizes[["height_px", "width_px", "n_detections"]].astype(float)
    rows = detections[detections["micrograph_id"].isin(sizes.index)]
    rows = rows.sort_values(["micrograph_id", "score"], ascending=[True, False], kind="stable")
    # Evidence is kept from below the score floor; the strongest n_detections are those that count.
    most = sizes["n_detections"].fillna(MAX_DRAWN).clip(upper=MAX_DRAWN).reindex(rows["micrograph_id"]).to_numpy()
    rows = rows[rows.groupby("micrograph_id").cumcount().to_numpy() < most]
    height, width = sizes[["height_px", "width_px"]].reindex(rows["micrograph_id"]).to_numpy().T
    values = rows[["y0", "x0", "y1", "x1", "score"]].to_numpy(float)
    values = values / np.stack([height, width, height, width, np.ones(len(rows))], axis=1)
    packed = _packed(values)
    names, starts = np.unique(rows["micrograph_id"].to_numpy(object).astype(str), return_index=True)
    cuts = np.split(packed, starts[1:]) if len(names) else []
    return {name: base64.b64encode(cut.tobytes()).decode() for name, cut in zip(names, cuts, strict=True)}


def _reasons(counts: Mapping[str, int], rules: Sequence) -> list[dict]:
    """Every reason that occurs, the most frequent first."""
    found = [(counts[rule.code], rule) for rule in rules if counts[rule.code]]
    most = max((n for n, _ in found), default=1)
    return [
        {"code": r.code, "label": label(r.code), "verdict": r.verdict, "meaning": r.meaning, "n": n, "share": n / most}
        for n, r in sorted(found, key=lambda pair: -pair[0])
    ]


def _failures(failures: pd.DataFrame | None) -> dict:
    failures = pd.DataFrame() if failures is None else failures
    return {"n": len(failures), "rows": failures.head(MAX_FAILURES).to_dict("records")}
