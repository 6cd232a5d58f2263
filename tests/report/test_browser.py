"""The page in a real browser: it loads nothing, complains about nothing, and its table does what its controls say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import tables
from emqa_dask.report import row_pages
from emqa_dask.report.formatting import escape_invisible
from emqa_dask.settings import Settings, Triage, dump
from tests.accessibility import list_serious_faults
from tests.archive_tables import decide_archive, maps_of, write_report

CHROMIUM = Path("/usr/bin/chromium")
TIMEOUT_MS = 180_000  # of each step; tests run beside others
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM} (Debian package chromium)"),
]


@pytest.fixture(scope="module")
def triage_and_file(archive, pictures, render, tmp_path_factory):
    given = archive(220, 4)
    triage = decide_archive(**given, settings=Triage())
    facts = {"archive": "/data/<session> 7", "settings": dump(Settings()), "seconds": {"detect": 3.0}, "n_files": 220}
    report = render(triage, facts=facts, settings=Triage(), **pictures(given["micrographs"], given["features"]))
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder)
    return triage, folder / "index.html"


@pytest.fixture(scope="module")
def classified_file(archive, pictures, classifications, section, render, tmp_path_factory):
    given = archive(160, 4)
    answers = classifications(given["micrographs"], 4)
    triage = decide_archive(**given, settings=Triage(), classifications=answers)
    some = pictures(given["micrographs"], given["features"])
    regions = maps_of(given["micrographs"])
    report = render(triage, facts={}, settings=Triage(), classes=section(triage, answers), regions=regions, **some)
    folder = tmp_path_factory.mktemp("classified")
    write_report(report, folder)
    return folder / "index.html"


@pytest.fixture
def opened(browser, triage_and_file, request):
    """A page at the width of the test's parameter; what it asks for and complains about is checked at the end."""
    yield from watched(browser, triage_and_file[1].as_uri(), *getattr(request, "param", (1400, "light")))


@pytest.fixture
def classified(browser, classified_file, request):
    """As `opened`, of an archive with a classifier."""
    yield from watched(browser, classified_file.as_uri(), *getattr(request, "param", (1400, "light")))


def watched(browser, url, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    requests = []
    complaints = []
    page.on("request", lambda r: requests.append(r.url))
    page.on("console", lambda m: complaints.append(m.text))
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.goto(url)
    page.evaluate(READY)
    yield page
    context.close()
    folder = url.rpartition("/")[0]
    assert [r for r in requests if not r.startswith((f"{folder}/", "data:", "blob:"))] == []
    assert complaints == []


# All rows are loaded, and the details and pictures of those in view are shown.
READY = """async () => {
    const wait = () => new Promise((resolve) => setTimeout(resolve, 20));
    while (!isComplete() || byId('table').getAttribute('aria-busy') !== 'false') await wait();
}"""


LOADED = """async () => {
    while (byId('table').getAttribute('aria-busy') !== 'false') await new Promise((resolve) => setTimeout(resolve, 20));
    await Promise.all([...document.images].map((image) => image.decode()));
    for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
}"""


INK = """() => [...document.querySelectorAll('canvas')].map((canvas) => {
        const copy = document.createElement('canvas');
        copy.width = copy.height = 300;
        const pen = copy.getContext('2d', { willReadFrequently: true });
        pen.drawImage(canvas, 0, 0);
        return pen.getImageData(0, 0, 300, 300).data.filter((v) => v > 0).length;
    }).reduce((a, b) => a + b)"""


def column(page, name: str) -> list[str]:
    page.evaluate(READY)
    index = page.evaluate(
        "k => [...document.querySelectorAll('#table thead th')].findIndex(t => t.dataset.sort === k)", name
    )
    cells = page.locator(f"#rows tr > td:nth-child({index + 1})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


def total(page) -> int:
    words = page.locator("#count").inner_text().split(",")[0].split(" ")
    return int(words[words.index("of") + 1]) if "of" in words else 0


@pytest.mark.parametrize(
    "opened", [(1400, "light"), (1000, "dark"), (400, "light"), (400, "dark")], indirect=True, ids=str
)
def test_nothing_overflows_and_every_picture_is_whole(opened):
    check_layout(opened)


@pytest.mark.parametrize(
    "classified", [(1400, "light"), (1379, "light"), (900, "dark"), (400, "light")], indirect=True, ids=str
)
def test_nothing_overflows_with_a_classifiers_columns(classified):
    check_layout(classified)
    is_table = classified.evaluate("getComputedStyle(document.querySelector('#table thead')).display !== 'none'")
    assert is_table == (classified.viewport_size["width"] == 1400)
    lines = """[...document.querySelectorAll('.panel td.number, .shift')].filter((e) => {
        const range = document.createRange();
        range.selectNodeContents(e);
        return range.getBoundingClientRect().height > 24;
    }).map((e) => e.textContent)"""
    assert classified.evaluate(lines) == []  # no number and no kind of shift is broken
    out = """[...document.querySelectorAll('#rows .badge, #rows .ends, #table th button')].filter((e) => {
        const edge = e.closest('td') ? e.closest('td').getBoundingClientRect().right - 8 : Infinity;
        return e.scrollWidth > e.clientWidth || window.innerWidth > 1379 && e.getBoundingClientRect().right > edge;
    }).map((e) => e.textContent)"""
    assert classified.evaluate(out) == []  # nothing lies on its neighbour
    if is_table:
        narrowest = "Math.min(...[...document.querySelectorAll('#table thead th')].map((e) => e.clientWidth))"
        assert classified.evaluate(narrowest) >= 50
        assert classified.evaluate("document.querySelector('#table .c-why').clientWidth") >= 150


def test_a_classifiers_columns_sort_and_are_searched(classified):
    classified.select_option("#size", "250")
    for key in ("p", "entropy"):
        for direction in ("ascending", "descending"):
            classified.locator(f"th[data-sort={key}] button").click()
            values = [float(text) for text in column(classified, key) if text != "–"]
            assert len(values) > 50
            assert values == sorted(values, reverse=direction == "descending")
    classified.locator("th[data-sort=class] button").click()
    names = [name for name in column(classified, "class") if name != "–"]
    assert names == sorted(names)
    assert len(set(names)) == 4
    classified.locator("th[data-sort=shift] button").click()
    scores = [float(text.split(" ")[1]) for text in classified.locator("#rows .c-shift .ends").all_inner_texts()]
    assert scores == sorted(scores)
    assert "-0.00" not in classified.locator("#rows").inner_text()
    before = total(classified)
    classified.fill("#search", "equiaxed")
    classified.get_by_text("filtered from").wait_for()
    assert 0 < total(classified) < before
    assert set(column(classified, "class")) == {"equiaxed grains"}


def test_the_larger_view_shows_the_class(classified, opened):
    classified.evaluate("openView(order.find((i) => className(i) && value('entropy', i) !== null))")
    told = classified.locator("#view-numbers").inner_text()
    for words in ("Class", "Probability", "Predictive entropy, nats", "mutual information", "Shift", "limit 1"):
        assert words in told
    opened.evaluate("openView(order.find((i) => value('f1', i) !== null))")
    assert "Class" not in opened.locator("#view-numbers").inner_text()
    assert opened.locator("#classes, th[data-sort=class]").count() == 0


def check_layout(opened):
    opened.evaluate(LOADED)
    assert opened.evaluate("document.images.length") > 20
    assert opened.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    opened.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.evaluate("window.hacked") is None
    wide = opened.evaluate(
        """[...document.querySelectorAll('main *')]
        .filter(e => !e.closest('.scroll, pre, .unseen, [hidden]'))
        .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
        .map(e => e.className)"""
    )
    assert wide == []


def test_headers_sort_and_unknown_numbers_stay_last(opened):
    opened.select_option("#size", "250")
    for key in ("n", "f1_probability", "distance", "nm"):
        header = opened.locator(f"th[data-sort={key}]")
        for direction in ("ascending", "descending"):
            header.locator("button").click()
            assert header.get_attribute("aria-sort") == direction
            assert opened.locator("th[aria-sort]").count() == 1
            # Predicted F1 is sorted by the probability, which ends the last line of its cell.
            last_lines = opened.locator("#rows .f1 > :last-child").all_inner_texts()
            texts = last_lines if key == "f1_probability" else column(opened, key)
            values = [float(text.split(" ")[-1].replace(",", "")) for text in texts if text != "–"]
            assert "–" not in texts[: len(values)]
            assert len(values) > 50
            assert values == sorted(values, reverse=direction == "descending")


def test_cards_reasons_and_lists_filter(opened, triage_and_file):
    triage, _ = triage_and_file
    assert total(opened) == len(triage)
    opened.click(".card.junk")
    assert total(opened) == triage["verdict"].eq("junk").sum()
    assert set(column(opened, "verdict")) == {"Junk"}
    assert opened.locator(".card.junk").get_attribute("aria-pressed") == "true"
    opened.click(".card.junk")
    assert total(opened) == len(triage)
    opened.click("[data-reason=low_predicted_f1]")
    has_reason = triage["reasons"].map(lambda codes: "low_predicted_f1" in codes)
    assert total(opened) == has_reason.sum()
    opened.select_option("#verdict", "review")
    assert total(opened) == (has_reason & triage["verdict"].eq("review")).sum()
    opened.click("#clear")
    assert total(opened) == len(triage)


def test_search_finds_names_with_markup_and_says_when_nothing_matches(opened):
    opened.fill("#search", "onerror=window.hacked")
    opened.get_by_text("filtered from").wait_for()
    names = opened.locator("#rows .name").all_inner_texts()
    assert names
    assert all(name == "script><img src=x onerror=window.hacked=1>.png" for name in names)
    opened.fill("#search", "no such thing")
    opened.wait_for_selector("#empty:not([hidden])")
    opened.click("#clear-2")
    assert total(opened) > 100
    assert opened.evaluate("window.hacked") is None


def test_search_finds_words_of_explanations(opened, triage_and_file):
    triage, _ = triage_and_file
    is_found = triage["explanation"].str.contains("asks")
    assert 0 < is_found.sum() < len(triage)
    opened.fill("#search", "ASKS probability")
    opened.get_by_text("filtered from").wait_for()
    assert total(opened) == is_found.sum()
    opened.click("#clear")


def test_pages_turn(opened, triage_and_file):
    triage, _ = triage_and_file
    first = column(opened, "uri")
    opened.click("#next")
    assert opened.locator("#count").inner_text().startswith("51 to 100 of")
    assert column(opened, "uri") != first
    opened.click("#previous")
    assert column(opened, "uri") == first
    assert opened.locator("#previous").is_disabled()
    assert opened.locator("#rows tr").count() == min(50, len(triage))


def test_the_larger_view_opens_by_keyboard_and_steps(opened):
    opened.locator("#rows .name").nth(1).focus()
    opened.keyboard.press("Enter")
    assert opened.locator("#view").is_visible()
    name = opened.locator("#view-where").inner_text()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#view-where").inner_text() != name
    opened.keyboard.press("ArrowLeft")
    assert opened.locator("#view-where").inner_text() == name
    assert "Predicted F1" in opened.locator("#view-numbers").inner_text()
    opened.keyboard.press("Escape")
    assert not opened.locator("#view").is_visible()
    assert opened.evaluate("document.activeElement.className") == "name"


def test_boxes_are_drawn_by_score_and_can_be_hidden(opened):
    ink = INK
    opened.evaluate(LOADED)
    drawn = opened.evaluate(ink)
    assert drawn > 1000
    opened.evaluate("byId('floor').value = 0.8; byId('floor').dispatchEvent(new Event('input'))")
    assert 0 < opened.evaluate(ink) < drawn / 2
    opened.uncheck("#overlay")
    assert opened.evaluate(ink) == 0
    opened.check("#overlay")
    opened.evaluate("byId('floor').value = 0; byId('floor').dispatchEvent(new Event('input'))")
    assert opened.evaluate(ink) == drawn


def test_entropy_maps_are_laid_over_the_pictures_when_asked_for(classified):
    classified.evaluate(LOADED)
    boxes = classified.evaluate(INK)
    classified.check("#map")
    both = classified.evaluate(INK)
    classified.uncheck("#overlay")
    maps = classified.evaluate(INK)
    assert both >= maps > boxes > 0
    assert classified.is_checked("#view-map")
    classified.uncheck("#map")
    assert classified.evaluate(INK) == 0


def test_the_larger_view_keeps_the_shape_of_every_image(opened):
    opened.set_viewport_size({"width": 1200, "height": 600})
    opened.evaluate("loadDetails([...order])")
    for sign in ("===", "<"):
        has_shape = f"detail('height', i) > 9 && detail('height', i) {sign} detail('width', i)"
        opened.evaluate(f"openView(order.find((i) => pictureFiles.has(i) && {has_shape}))")
        opened.evaluate(LOADED)
        shown, natural = opened.evaluate(
            """() => [document.querySelector('#view-picture img')].flatMap(
            (i) => [i.clientWidth / i.clientHeight, i.naturalWidth / i.naturalHeight])"""
        )
        assert shown == pytest.approx(natural, rel=0.01)
        assert opened.evaluate("document.querySelector('#view-picture img').clientHeight <= 0.7 * innerHeight + 1")
        opened.keyboard.press("Escape")


def test_a_box_lies_on_its_object(opened):
    """The brightest pixels of the picture are inside the boxes: overlay and picture share one geometry."""
    opened.evaluate("Promise.all([loadDetails([...order]), loadPictures([...order])])")
    is_wide = "pictures.get(i)?.boxes && detail('height', i) < detail('width', i) && value('n', i) > 100"
    opened.evaluate(f"openView(order.find((i) => {is_wide}))")
    opened.evaluate(LOADED)
    inside, outside = opened.evaluate(
        """() => {
        const [image, over] = document.querySelectorAll('#view-picture img, #view-picture canvas');
        const [here, there] = [image, over].map((e) => e.getBoundingClientRect());
        if (['x', 'y', 'width', 'height'].some((k) => Math.abs(here[k] - there[k]) > 0.5)) throw new Error('misplaced');
        const copy = document.createElement('canvas'), pen = copy.getContext('2d');
        copy.width = over.width; copy.height = over.height;
        pen.drawImage(image, 0, 0, over.width, over.height);
        const grey = pen.getImageData(0, 0, over.width, over.height).data;
        const raw = viewBytes(pictures.get(Number(over.dataset.row)).boxes), sums = [[0, 0], [0, 0]];
        const boxes = Array.from({ length: raw.byteLength / 10 },
            (_, b) => [0, 2, 4, 6].map((k) => raw.getUint16(10 * b + k, true) / 65535));
        for (let y = 0; y < over.height; y += 4) for (let x = 0; x < over.width; x += 4) {
            const [v, u] = [y / over.height, x / over.width];
            const k = boxes.some(([y0, x0, y1, x1]) => v > y0 && v < y1 && u > x0 && u < x1) ? 0 : 1;
            sums[k][0] += grey[4 * (y * over.width + x)];
            sums[k][1] += 1;
        }
        return sums.map(([s, n]) => s / n);
    }"""
    )
    assert inside > outside + 15


def test_filters_and_order_are_in_the_address(opened, triage_and_file, browser):
    triage, _ = triage_and_file
    session = triage["session"].dropna().iloc[0]
    opened.select_option("select[data-filter=session]", label=session)
    opened.select_option("#verdict", "review")
    opened.locator("th[data-sort=n] button").click()
    opened.locator("th[data-sort=n] button").click()
    selected = triage[triage["session"].eq(session) & triage["verdict"].eq("review")]
    assert total(opened) == len(selected)
    names = column(opened, "uri")
    address = opened.evaluate("location.href")
    assert "sort=n" in address
    assert "down=1" in address
    page = browser.new_page()
    page.goto(address)
    page.evaluate(READY)
    assert column(page, "uri") == names
    page.close()
    opened.go_back()


def test_paths_are_copied_and_rows_saved(opened, triage_and_file, tmp_path):
    triage, _ = triage_and_file
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.click(".card.junk")
    junk = triage[triage["verdict"].eq("junk")]
    opened.click("#copy")
    opened.get_by_text("paths were copied").wait_for()
    text = opened.evaluate("navigator.clipboard.readText()")
    assert text == "".join(f"/data/{uri}\n" for uri in junk["uri"].drop_duplicates())
    with opened.expect_download() as download:
        opened.click("#download")
    download.value.save_as(tmp_path / "rows.csv")
    rows = pd.read_csv(
        tmp_path / "rows.csv", encoding="utf-8-sig", keep_default_na=False, na_values={"predicted_f1": ""}
    )
    assert rows["uri"].str.removeprefix("'").tolist() == junk["uri"].tolist()
    assert rows["frame"].tolist() == junk["frame"].tolist()
    np.testing.assert_allclose(rows["predicted_f1"], junk["predicted_f1"], atol=1e-4)
    assert not rows["uri"].str.startswith("=").any()


def test_dates_and_groups_filter(opened, triage_and_file):
    triage, _ = triage_and_file
    opened.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    session = triage["session"].dropna().iloc[-1]
    opened.locator("#groups button", has_text=session).click()
    assert total(opened) == triage["session"].eq(session).sum()
    opened.click("#clear")
    opened.locator("#groups button", has_text="2021-03").first.click()
    assert total(opened) == triage["acquired"].str.startswith("2021-03").fillna(False).sum()
    assert opened.input_value("#from") == "2021-03-01"


def test_a_gallery_opens_its_image(opened, triage_and_file):
    triage, _ = triage_and_file
    worst = triage[triage["verdict"].isin(["trust", "review", "out_of_domain"])]["predicted_f1"].idxmin()
    opened.locator("#galleries .gallery button").first.click()
    opened.wait_for_selector("#view[open]")
    opened.get_by_text(triage["micrograph_id"][worst]).wait_for()
    link = opened.get_attribute("#view-page", "href")
    assert link == f"micrograph.html#{triage['partition'][worst]}/{triage['micrograph_id'][worst]}"


def test_the_page_is_read_without_a_script(browser, triage_and_file):
    triage, path = triage_and_file
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#rows tr").count() == 25
    assert (
        page.locator("#rows tr").nth(3).locator("td").nth(1).inner_text().strip().lower().replace(" ", "_")
        == triage["verdict"].iloc[3]
    )
    assert "need JavaScript" in page.locator("noscript").inner_text()
    context.close()


def test_further_rows_are_loaded_when_they_are_needed(browser, archive, render, tmp_path, monkeypatch):
    monkeypatch.setattr(row_pages, "PAGE_ROWS", 64)
    monkeypatch.setattr(row_pages, "DETAIL_ROWS", 16)
    monkeypatch.setattr(row_pages, "EAGER_ROWS", 0)
    triage = decide_archive(**archive(220, 4), settings=Triage())
    nothing = [tables.empty(schema) for schema in (tables.DETECTIONS, tables.THUMBNAILS)]
    write_report(render(triage, *nothing, {}, Triage()), tmp_path)
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto((tmp_path / "index.html").as_uri())
    page.locator("#rows .name").first.wait_for()
    page.wait_for_selector("#table[aria-busy=false]")
    assert page.evaluate("nLoadedPages") == 1
    assert page.locator("#count").inner_text() == f"1 to 50 of {len(triage)}"
    page.locator("th[data-sort=n] button").click()
    page.evaluate(READY)
    counts = [float(text.replace(",", "")) for text in column(page, "n") if text != "–"]
    assert counts == sorted(triage["n_detections"].dropna())[: len(counts)]
    assert (
        page.evaluate("Array.from(order, rawUri)")
        == triage.sort_values("n_detections", kind="stable", na_position="last")["uri"].tolist()
    )
    page.goto((tmp_path / "index.html").as_uri() + "#page=3")
    page.reload()
    page.evaluate(READY)
    assert page.locator("#count").inner_text() == f"151 to 200 of {len(triage)}"
    assert page.locator("#rows .text").first.inner_text() == escape_invisible(triage["explanation"].iloc[150])
    page.close()


@pytest.mark.parametrize("opened", [(1400, "light"), (400, "dark")], indirect=True, ids=["light", "dark"])
def test_axe_finds_no_serious_fault(opened):
    assert list_serious_faults(opened) == []
