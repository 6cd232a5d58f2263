"""Laws of the page: nothing in it comes from elsewhere, no name becomes markup, and no row or number is lost."""

import base64
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.report import figures, row_pages, triage_counts
from emqa_dask.report.formatting import escape_invisible
from emqa_dask.report.overlays import MAX_BOXES
from emqa_dask.report.triage_counts import Overview, choose_rows, drop_never_chosen, select_keys
from emqa_dask.settings import Settings, Triage, dump
from emqa_dask.triage.rules import CLASSIFIER_CODES, RULES
from tests.archive_tables import COHORTS, KINDS_OF_COHORTS, decide_archive, maps_of
from tests.operations import count_calls

EVIL = "<script>window.hacked=1</script>"


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tags = []
        self.raw = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style") and self.cdata_elem:
            self.raw.append((self.tags[-1], data))


def read_calls(report: dict[str, str], folder: str) -> list[dict]:
    """What the scripts of a folder hand to the page, in the order of their names."""
    scripts = [report[name] for name in sorted(report) if name.startswith(f"{folder}/")]
    return [json.loads(re.fullmatch(r"emqa\.\w+\((.*)\);\n", script, re.S)[1]) for script in scripts]


def read_rows(report: dict[str, str]) -> dict:
    """Columns of all rows as numpy reads them from the data pages, and what the page's script gets."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', report["index.html"])[1])
    columns = {name: [] for name in (*data["columns"], "uri")}
    for number, rows in enumerate(read_calls(report, "rows")):
        assert rows["first"] == number * data["page_rows"]
        for name, (kind, values) in rows["columns"].items():
            assert kind == data["columns"][name]
            is_same = isinstance(values, int)
            column = [values] * rows["n"] if is_same else np.frombuffer(base64.b64decode(values), f"<{kind}").tolist()
            columns[name] += column
        previous = ""
        shared = np.frombuffer(base64.b64decode(rows["shared"]), "<u2")
        for n_shared, end in zip(shared, rows["uris"], strict=True):
            units = previous.encode("utf-16-le", "surrogatepass")[: 2 * n_shared]
            previous = units.decode("utf-16-le", "surrogatepass") + end
            columns["uri"].append(previous)
    for number, rows in enumerate(read_calls(report, "details")):
        assert rows.pop("first") == number * data["detail_rows"]
        for name, values in rows.items():
            columns.setdefault(name, []).extend(values)
    for name in ("f1", "low", "high", "f1_probability", "probability"):
        columns[name] = [np.nan if k == 65535 else k / 10_000 for k in columns.get(name, [])]
    pictures = {
        row: {name: values[k] for name, values in part.items()}
        for part in read_calls(report, "thumbnails")
        for k, row in enumerate(part["rows"])
    }
    assert list(pictures) == data["pictures"]["rows"]
    columns["reason"] = columns.pop("reasons")
    return data | columns | {"kinds": set(data["columns"]) - {"reasons"}, "pictures": pictures}


@pytest.fixture(scope="module")
def inputs(archive, pictures):
    given_ = archive(120, 1)
    return {
        "triage": decide_archive(**given_, settings=Triage()),
        **pictures(given_["micrographs"], given_["features"]),
        "facts": {
            "archive": f"/data/{EVIL}",
            "workspace": f"/ws/{EVIL}.emqa",
            "command": f"emqa triage '{EVIL}'",
            "started": 1.79e9,
            "n_files": 120,
            "n_bytes": 3 << 30,
            "wall_s": 63.9,
            "n_workers": 2,
            "seconds": {"ingest": 3.2, EVIL: 4000.0},
            "n_megapixels": 128.0,
            "peak_memory_bytes": 3 << 29,
            "gpu_percent": 64.2,
            "versions": {"numpy": "2.4", EVIL: EVIL},
            "settings": dump(Settings()) + EVIL,
            "models": {"r2": 0.71, "name": EVIL},
            "failures": pd.DataFrame([{"uri": EVIL, "stage": "detect", "kind": "error", "error": EVIL,
                                       "traceback": f"Traceback:\n{EVIL}", "attempts": 2}]),
            "host": {EVIL: EVIL},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(inputs, render):
    return render(**inputs, settings=Triage())


@pytest.fixture(scope="module")
def page(report):
    return report["index.html"]


def test_no_name_becomes_markup(page, inputs):
    elements = Elements(page)
    scripts = [a.get("src") for tag, a in elements.tags if tag == "script"]
    assert scripts == [None, "rows.js", "table.js", "view.js"]
    assert all(a["src"].startswith("data:image/jpeg;base64,") for tag, a in elements.tags if tag == "img")
    assert not [name for _, a in elements.tags for name in a if name.startswith("on") or name == "style"]
    assert "hacked" not in re.sub(r"<script type=.*?</script>", "", page, flags=re.S).replace(
        html.escape(EVIL), ""
    ).replace("&lt;/script&gt;&lt;img src=x onerror=window.hacked=1&gt;", "")
    assert html.escape(EVIL) in page


def test_nothing_is_loaded_from_elsewhere(report, page):
    for tag, attributes in Elements(page).tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "video", "audio")
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:image/jpeg;base64,")) or address in report
    for name, text in report.items():
        if not name.startswith("details/"):  # texts of the archive
            assert not re.search(
                r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|import\(|WebSocket|https?:(?!//www.w3)", text
            )


def test_the_policy_allows_files_of_the_folder_only(page):
    elements = Elements(page)
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert {source for rule in policy.split("; ") for source in rule.split(" ")[1:]} == {
        "'none'",
        "'self'",
        "data:",
        "file:",
    }
    assert [a.get("type") for (_, a), _ in elements.raw] == ["application/json"]  # no script or style of its own


def test_data_pages_hold_every_row(report, inputs):
    data = read_rows(report)
    triage = inputs["triage"]
    assert data["uri"] == triage["uri"].tolist()
    assert [data["verdicts"][v][0] for v in data["verdict"]] == triage["verdict"].tolist()
    lists = [[data["codes"][k][0] for k in ks] for ks in data["reasons"]]
    reasons = [lists[k] for k in data["reason"]]
    assert reasons == triage["reasons"].tolist()
    for name, column in (("f1", "predicted_f1"), ("low", "predicted_f1_low"), ("f1_probability", "f1_probability")):
        assert data[name] == pytest.approx(triage[column], abs=1e-4, nan_ok=True)
    for name, column in (("distance", "ood_distance"), ("nm", "nm_per_pixel"), ("n", "n_detections")):
        assert data[name] == pytest.approx(triage[column].to_numpy(float, na_value=np.nan), rel=1e-6, nan_ok=True)
    for name in ("session", "instrument", "format"):
        names = [data["names"][name][k] or None for k in data[name]]
        assert names == triage[name].astype(object).where(triage[name].notna(), None).tolist()
    minutes = pd.to_datetime(triage["acquired"]).to_numpy().astype("datetime64[m]").astype(int)
    assert data["minute"] == np.where(triage["acquired"].isna(), -(2**31), minutes).tolist()
    assert data["text"] == [escape_invisible(text) for text in triage["explanation"]]
    assert data["id"] == triage["micrograph_id"].astype(object).where(triage["micrograph_id"].notna(), None).tolist()
    assert data["because"] == triage["because"].astype(object).where(triage["because"].notna(), None).tolist()
    assert {len(data[name]) for name in (*data["kinds"], "uri", "text", "partition", "height", "stacked")} == {
        len(triage)
    }
    thumbnails = inputs["thumbnails"].set_index("micrograph_id")["jpeg"]
    assert sorted(data["pictures"]) == np.flatnonzero(triage["micrograph_id"].notna()).tolist()
    for row, picture in data["pictures"].items():
        assert base64.b64decode(picture["jpeg"]) == thumbnails[data["id"][row]]


@given(
    uris=st.lists(st.text(st.characters(codec=None, exclude_categories=["Cs"], exclude_characters="\0"), max_size=9))
)
def test_uris_come_back_from_what_they_share(uris):
    ends, shared = row_pages.encode_fronts(sorted(uris))
    previous = b""
    for end, n_shared, uri in zip(ends, shared, sorted(uris), strict=True):
        previous = previous[: 2 * n_shared] + end.encode("utf-16-le")
        assert previous.decode("utf-16-le") == uri


def test_pages_of_many_rows_continue_one_another(render, archive, monkeypatch):
    triage = decide_archive(**archive(100, 3), settings=Triage())
    monkeypatch.setattr(row_pages, "PAGE_ROWS", 32)
    monkeypatch.setattr(row_pages, "DETAIL_ROWS", 8)
    nothing = [tables.empty(schema) for schema in (tables.DETECTIONS, tables.THUMBNAILS)]
    data = read_rows(render(triage, *nothing, {}, Triage(), n_batch=7))
    assert data["uri"] == triage["uri"].tolist()
    assert data["n_pages"] == -(-len(triage) // 32)
    assert [data["verdicts"][v][0] for v in data["verdict"]] == triage["verdict"].tolist()


def test_groups_count_every_row(report, inputs):
    text = report["index.html"]
    triage = inputs["triage"]
    section = re.search(r'<section id="groups".*?</section>', text, re.S)[0]
    for session, rows in triage.groupby("session"):
        line = re.search(rf"<bdi>{re.escape(session)}</bdi>.*?</tr>", section, re.S)[0]
        numbers = [int(n) for n in re.findall(r'<td class="number">(\d+)</td>', line)]
        assert numbers == [len(rows), *(rows["verdict"].eq(verdict).sum() for verdict in tables.VERDICTS)]
    days = triage["acquired"].dropna().str.slice(0, 7)
    for month, n in days.value_counts().items():
        assert re.search(rf'data-from="{month}-01"[^>]*>{month}</button></th><td class="number">{n}</td>', section)


def test_the_strongest_detections_that_count_are_drawn_where_they_are(render, archive):
    n = MAX_BOXES + 50
    height = 1000
    width = 3000
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (n, 2)) * [height - 40, width - 40]
    rows = pd.DataFrame(np.hstack([corner, corner + 30]), columns=["y0", "x0", "y1", "x1"])
    detections = rows.assign(score=rng.uniform(size=n), micrograph_id="a" * 32)
    for counted in (n, 20):
        triage = tables.empty(tables.TRIAGE).reindex([0]).assign(
            micrograph_id="a" * 32, uri="a.tif", frame=0, verdict="trust", status="ok", explanation="", reasons=[[]],
            n_detections=counted, height_px=height, width_px=width,
        )  # fmt: skip
        thumbnails = pd.DataFrame({"micrograph_id": ["a" * 32], "jpeg": [b"jpeg"]})
        boxes = read_rows(render(triage, detections, thumbnails, {}, Triage()))["pictures"][0]["boxes"]
        drawn = np.frombuffer(base64.b64decode(boxes), "<u2").reshape(-1, 5) / 65535
        expected = detections.sort_values("score", ascending=False).head(min(counted, MAX_BOXES))
        expected = expected[["y0", "x0", "y1", "x1", "score"]].to_numpy()
        np.testing.assert_allclose(drawn * [height, width, height, width, 1], expected, atol=width / 65535)


def test_a_maps_cells_cover_what_was_looked_at_once(render, archive, section, classifications):
    given = archive(30, 4)
    answers = classifications(given["micrographs"], 4)
    triage = decide_archive(**given, settings=Triage(), classifications=answers)
    regions = maps_of(given["micrographs"])
    thumbnails = given["micrographs"][["micrograph_id"]].assign(jpeg=b"jpeg")
    report = render(
        triage,
        tables.empty(tables.DETECTIONS),
        thumbnails,
        {},
        Triage(),
        classes=section(triage, answers),
        regions=regions,
    )
    data = read_rows(report)
    maps = {data["id"][row]: picture["maps"] for row, picture in data["pictures"].items() if picture["maps"]}
    assert set(maps) == set(regions["micrograph_id"])
    cells = next(np.frombuffer(base64.b64decode(m), "<u2").reshape(3, 4, 5) / 65535 for m in maps.values())
    np.testing.assert_allclose(cells[..., 4], np.tile(np.arange(4) / 4, (3, 1)), atol=1e-4)
    y0, x0, y1, x1 = np.moveaxis(cells[..., :4], -1, 0)
    assert ((y1 - y0) * (x1 - x0)).sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(y1[:-1], y0[1:])
    np.testing.assert_array_equal(x1[:, :-1], x0[:, 1:])


def test_every_part_says_its_numbers(page, inputs):
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    counts = inputs["triage"]["verdict"].value_counts()
    for verdict, count in counts.items():
        assert re.search(rf'data-verdict="{verdict}".*?<b>{count}</b>', page, re.S)
    for rule in RULES:
        assert (rule.meaning in text) == (rule.code not in CLASSIFIER_CODES)
    assert "3.0 GiB" in text
    assert "63.9 s on 2 workers, " in text
    assert "1 h 6 min" in text
    assert "25 ms/megapixel" in text
    assert (
        "2 megapixels/s; the largest worker took 1.5 GiB; GPUs were busy for 64 % of the time of their tasks." in text
    )
    assert "trust_f1 = 0.5" in text


@pytest.fixture(scope="module")
def classified(archive, classifications, section, render):
    """(triage, section, report) of an archive with a classifier."""
    given_ = archive(120, 1)
    answers = classifications(given_["micrographs"], 1)
    triage = decide_archive(**given_, settings=Triage(), classifications=answers)
    found = section(triage, answers)
    nothing = [tables.empty(schema) for schema in (tables.DETECTIONS, tables.THUMBNAILS)]
    return triage, found, render(triage, *nothing, {}, Triage(), classes=found)


def test_an_archive_without_a_classifier_shows_no_trace_of_one(report, page):
    data = read_rows(report)
    assert not {"class", "entropy", "shift"} & data["kinds"]
    assert not set(CLASSIFIER_CODES) & {code for code, _, _ in data["codes"]}
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S).split('<section id="run"')[0]  # has the settings
    for trace in ("classes", "lassifier", "entropy", "hift", "Drift of", 'data-sort="p"'):
        assert trace not in body
    assert '<link rel="stylesheet" href="cards.css" media="(max-width: 1180px)">' in page


def test_every_cohort_has_its_kind_of_shift(classified):
    page = classified[2]["index.html"]
    for name, kind in zip(COHORTS, KINDS_OF_COHORTS):
        rows = re.findall(rf"<td><bdi>{re.escape(html.escape(name))}</bdi></td>.*?</tr>", page)
        cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", rows[-1])]
        assert cells[4] == {None: "–", "new_class": "new class"}.get(kind, kind)


def test_the_table_gets_what_a_classifier_says(classified):
    triage, _, report = classified
    data = read_rows(report)
    classes = triage["predicted_class"]
    assert [data["names"]["class"][k] or None for k in data["class"]] == classes.where(classes.notna(), None).tolist()
    shifts = triage["shift"].str.replace("_", " ").fillna("")
    assert [data["names"]["shift"][k] for k in data["shift"]] == shifts.tolist()
    for key, column in (("probability", "class_probability"), ("entropy", "predictive_entropy_nats"),
                        ("mutual", "mutual_information_nats"), ("shift_score", "shift_score")):  # fmt: skip
        values = [np.nan if v is None else v for v in data[key]]
        assert values == pytest.approx(triage[column], abs=1e-4, nan_ok=True)
    lists = [[data["codes"][k][0] for k in ks] for ks in data["reasons"]]
    assert [lists[k] for k in data["reason"]] == triage["reasons"].tolist()


def test_the_section_says_its_numbers_and_no_name_becomes_markup(classified):
    _, section, report = classified
    page = report["index.html"]
    own = re.search(r'<section id="classes".*?</section>', page, re.S)[0]
    for name, n in section.classes:
        assert re.search(rf"<bdi>{re.escape(html.escape(escape_invisible(name)))}</bdi></th>.*?>{n}</td>", own)
    for kind, n in section.shifts.items():
        assert re.search(rf'<th scope="row">{kind.replace("_", " ")}</th><td class="number">{n}</td>', own)
    for line in section.cohorts:
        cells = re.search(
            rf"<bdi>{re.escape(html.escape(line.cohort))}</bdi></td><td class=\"number\">{line.n}</td>", own
        )
        assert cells
    first = own[own.index("Drift of whole cohorts") :]
    assert first.index("drifted") < first.index(html.escape(section.drifts["cohort"][1]))
    assert "+0.70" in first
    assert "Against the classifier&#39;s held-out images" in first
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for rule in RULES:
        assert rule.meaning in text
    elements = Elements(page)
    assert not [name for _, a in elements.tags for name in a if name.startswith("on") or name == "style"]
    assert own.count("<svg") == len(section.classes) + 3 + len(section.cohorts)


def test_a_section_without_drift_time_and_classes_is_one(render, classified):
    triage, section, _ = classified
    nothing = [tables.empty(schema) for schema in (tables.DETECTIONS, tables.THUMBNAILS)]
    bare = section._replace(
        classes=(), n_classified=0, shifts=dict.fromkeys(tables.SHIFTS, 0), entropy_limit_nats=np.nan,
        drifts=section.drifts[:0], n_drifted=0, quantity=None, times=None,
    )  # fmt: skip
    unknown = triage.assign(predicted_class=None, predictive_entropy_nats=np.nan, shift_score=np.nan, shift=None)
    page = render(unknown, *nothing, {}, Triage(), classes=bare)["index.html"]
    assert "No micrograph was given a class" in page
    assert "Drift of whole cohorts" not in page
    assert "over time" not in page


def test_long_lists_are_cut_and_say_so(render, classified):
    triage, section, _ = classified
    nothing = [tables.empty(schema) for schema in (tables.DETECTIONS, tables.THUMBNAILS)]
    many = section._replace(
        classes=tuple((f"class {k:02d}", 100 - k) for k in range(40)),
        cohorts=tuple(section.cohorts[0]._replace(cohort=f"cohort {k:02d}") for k in range(99)),
        drifts=pd.concat([section.drifts] * 20, ignore_index=True),
    )
    page = render(triage, *nothing, {}, Triage(), classes=many)["index.html"]
    assert "class 29<" in page
    assert "class 30<" not in page
    assert f"Further classes: {sum(100 - k for k in range(30, 40))} micrographs." in page
    assert "The largest 60 of 99." in page
    assert "cohort 59<" in page
    assert "cohort 60<" not in page
    assert "The first 60 of 100." in page


@pytest.mark.parametrize(("settings_limit", "shown"), [(0.0, "limit 0.8<"), (0.6, "limit 0.6<")])
def test_the_entropys_limit_is_that_which_counts(render, classified, settings_limit, shown):
    triage, section, _ = classified
    nothing = [tables.empty(schema) for schema in (tables.DETECTIONS, tables.THUMBNAILS)]
    page = render(triage, *nothing, {}, Triage(max_entropy_nats=settings_limit), classes=section)["index.html"]
    own = re.search(r'<section id="classes".*?</section>', page, re.S)[0]
    assert re.findall(r"limit [\d.]+<", own) == [shown, "limit 1<"]


def test_without_anything_there_is_a_page(render):
    report = render(
        *(tables.empty(schema) for schema in (tables.TRIAGE, tables.DETECTIONS, tables.THUMBNAILS)), {}, Triage()
    )
    data = read_rows(report)
    assert data["uri"] == []
    assert data["n_pages"] == 0
    assert "All 0 rows" in report["index.html"]


@given(seed=st.integers(0, 1000), max_rows=st.integers(5, 80))
@settings(max_examples=25, deadline=None)
def test_a_balanced_choice(archive, seed, max_rows):
    triage = decide_archive(**archive(60, seed % 5), settings=Triage())
    shown = choose_rows(select_keys(triage), max_rows)
    assert len(shown) == min(max_rows, len(triage))
    pd.testing.assert_frame_equal(select_keys(triage.loc[shown.index]), shown)
    there = triage["verdict"].value_counts()
    here = shown["verdict"].value_counts()
    share = max_rows // len(tables.VERDICTS)
    assert all(here.get(v, 0) >= min(n, share) for v, n in there.items())
    shuffled = choose_rows(select_keys(triage.sample(frac=1, random_state=seed)), max_rows)
    assert sorted(shuffled.index) == sorted(shown.index)


@given(seed=st.integers(0, 1000), max_rows=st.integers(1, 80), n_batch=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_an_overview_of_batches_is_that_of_the_whole(archive, seed, max_rows, n_batch):
    triage = decide_archive(**archive(60, seed % 5), settings=Triage())
    whole = Overview(max_rows)
    parts = Overview(max_rows)
    whole.add(triage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triage_counts, "MAX_CANDIDATE_ROWS", 20)
        for k in range(0, len(triage), n_batch):
            parts.add(triage[k : k + n_batch])
    np.testing.assert_array_equal(parts.choose_shown_rows(), whole.choose_shown_rows())
    np.testing.assert_array_equal(parts.choose_shown_rows(), np.sort(choose_rows(select_keys(triage), max_rows).index))
    np.testing.assert_array_equal(parts.verdict_codes, whole.verdict_codes)
    for name in ("verdicts", "statuses", "reasons", "listed", "n_listed", "n_rows", "n_micrographs"):
        assert getattr(parts, name) == getattr(whole, name)
    assert parts.verdicts == triage["verdict"].value_counts().to_dict()
    assert len(drop_never_chosen(select_keys(triage), max_rows)) <= len(triage)


def test_the_page_says_how_many_of_how_many(inputs, render):
    report = render(**inputs, settings=Triage(), max_rows=25)
    data = read_rows(report)
    assert len(data["uri"]) == len(inputs["triage"])
    assert 20 < len(data["pictures"]) < 60  # the choice, and the galleries
    assert f"{len(data['pictures'])} of them, a balanced choice" in report["index.html"]


@given(text=st.text(st.characters(codec=None, exclude_categories=[]), max_size=30))
def test_what_cannot_be_seen_is_written_out(text):
    shown = escape_invisible(text)
    assert shown.encode().decode() == shown  # no lone surrogate is left
    assert not re.search(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)
    if text.isascii() and text.isprintable():
        assert shown == text


@given(
    values=st.lists(st.floats(0, 1e9) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-300]), max_size=40),
    axis=st.sampled_from([figures._linear_axis, figures._log_axis]),
)
def test_a_histogram_counts_every_known_value_once(values, axis):
    values, verdicts = np.array(values, float), np.arange(len(values)) % len(tables.VERDICTS)
    svg = figures.draw_histogram(values, verdicts, axis, 1.0, "a <label>")
    titles = re.findall(r"<title>[^<]*: ([\d,]+) \((.*?)\)</title>", svg)
    assert sum(int(n.replace(",", "")) for n, _ in titles) == np.isfinite(values).sum()
    assert all(float(h) >= 0 for h in re.findall(r'height="([-\d.]+)"', svg))
    assert "<label>" not in svg


def test_a_row_of_the_page_costs_few_calls(archive, pictures, render):
    given_ = archive(800, 2)
    drawn = pictures(given_["micrographs"][:200], given_["features"][:200])
    triage = decide_archive(**given_, settings=Triage())
    assert len(triage) >= 1000
    ids = triage["micrograph_id"].dropna().to_numpy()
    many = pd.concat([drawn["thumbnails"]] * (len(ids) // 200 + 1)).head(len(ids)).assign(micrograph_id=ids)
    boxes = drawn["detections"].sample(200_000, replace=True, random_state=0)
    boxes = boxes.assign(micrograph_id=np.resize(ids, len(boxes)))
    report, n_calls = count_calls(render, triage, boxes, many, {}, Triage(), n_batch=8192)  # as a run has them
    assert n_calls < 1000 * len(triage)  # some 500, for 160 boxes a row
    assert len(read_rows(report)["uri"]) == len(triage)
