"""The page of an image in a real browser: what it draws and says, from a run of the pipeline, without any request."""

import http.server
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.pipeline.commands.triage import run
from emqa_dask.settings import Settings, replace
from emqa_dask.synthetic.profiles import make_sample
from tests.accessibility import list_serious_faults

CHROMIUM = Path("/usr/bin/chromium")
TIMEOUT_MS = 120_000  # busy machines draw slowly
SIZE = (700, 900)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM} (Debian package chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Folder of a report on two images, recorded one after the other, and their rows of triage."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "archive").mkdir()
    for k, name in enumerate(["b<script>1", "a 2"]):
        image = make_sample("cavity-tem", np.random.default_rng(k), shape=SIZE).image
        image = (60000 * (image - image.min()) / np.ptp(image)).astype(np.uint16)
        date = f"2026:01:0{k + 1} 10:00:00"
        tifffile.imwrite(folder / "archive" / f"{name}.tif", image, datetime=date)
    changes = {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}, "report": {"pictures": "full"}}
    root = folder / "ws"
    run(str(folder / "archive"), str(root), replace(Settings(), changes), say=lambda text: None)
    return root / "report", pd.read_parquet(root / "triage.parquet").dropna(subset="micrograph_id")


def find_row(report, text):
    rows = report[1]
    return rows[rows["uri"].str.contains(text, regex=False)].iloc[0]


def find_address(row):
    return f"#{row['partition']}/{row['micrograph_id']}"


def wait_until(page, expression):
    """Polls from outside: the page's policy forbids what playwright's own function for this evaluates."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


@pytest.fixture
def opened(browser, report):
    """The page of the first image; at the end nothing was complained about, and all came from the folder."""
    page = browser.new_context(viewport={"width": 1300, "height": 900}).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    complaints = []
    requests = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((report[0] / "micrograph.html").as_uri() + find_address(find_row(report, "script")))
    page.wait_for_selector("#content:not([hidden])")
    yield page
    assert complaints == []
    outside = [url for url in requests if not url.startswith((report[0].as_uri(), "data:image/jpeg"))]
    assert outside == []
    page.close()


def test_page_has_verdict_and_numbers_of_its_image(report, opened):
    row = find_row(report, "script")
    assert opened.inner_text("#name") == "b<script>1.tif"
    assert row["verdict"] in opened.inner_text("#verdict .badge").lower().replace(" ", "_")
    assert opened.inner_text("#explanation") == row["explanation"].strip()
    assert row["micrograph_id"] in opened.inner_text("#provenance")
    assert "Detector\nlog\n" in opened.inner_text("#numbers")
    assert f"{SIZE[0]} × {SIZE[1]} px" in opened.inner_text("#numbers")
    assert f"{row['n_detections']:.0f} with a score" in opened.inner_text("#predictions").replace(",", "")


def test_axe_finds_no_serious_fault(opened):
    opened.evaluate("new Promise((done) => setTimeout(done, 500))")
    assert list_serious_faults(opened) == []


def test_slider_map_and_keys_change_the_drawing(opened):
    opened.evaluate("new Promise((done) => setTimeout(done, 500))")
    n_all = opened.evaluate("views[0].boxes.length")
    opened.fill("#floor", "0.9")
    label = opened.get_attribute(".view canvas", "aria-label")
    n_strong = opened.evaluate("views[0].boxes.filter((box) => box[4] >= 0.9 - 1e-4).length")
    assert f"{n_strong} detections of log" in label
    assert n_strong < n_all
    opened.select_option("#quantity", "noise")
    assert opened.locator("#map-table td").count() == 16
    scale = opened.evaluate("camera.scale")
    opened.focus(".view canvas")
    opened.keyboard.press("+")
    assert opened.evaluate("camera.scale") == pytest.approx(1.25 * scale)
    x = opened.evaluate("camera.x")
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate("camera.x") > x
    opened.keyboard.press("0")
    assert opened.evaluate("camera.scale") == pytest.approx(scale)


def test_tiles_of_the_finest_level_are_loaded_on_demand(report, opened):
    def list_loaded():
        return opened.evaluate("[...pictures.keys()].filter((name) => name.includes('/0/'))")

    opened.click("#fit")
    opened.evaluate("zoom(0.1)")
    opened.evaluate("pictures.clear(); new Promise((done) => setTimeout(done, 300))")
    assert list_loaded() == []
    opened.click("#full")
    wait_until(opened, "[...pictures.keys()].some((name) => name.includes('/0/'))")
    folder = report[0] / "pictures" / find_row(report, "script")["micrograph_id"]
    assert {path.relative_to(folder).as_posix() for path in folder.glob("*/*.jpg")} == {
        *("0/0_0.jpg", "0/0_1.jpg", "0/1_0.jpg", "0/1_1.jpg", "1/0_0.jpg"),
    }


def test_neighbour_in_time_is_opened_by_its_link(report, opened):
    assert opened.is_hidden("#previous")
    opened.click("#next")
    wait_until(opened, "document.getElementById('name').textContent === 'a 2.tif'")
    assert find_row(report, "a 2")["micrograph_id"] in opened.inner_text("#provenance")
    assert opened.is_hidden("#next")


@pytest.mark.parametrize("address", ["", "#../../x/0", "#absent/00", "#%E0%A4%A/1", "#a/b/c"])
def test_address_without_an_image_says_so(browser, report, address):
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto((report[0] / "micrograph.html").as_uri() + address)
    wait_until(page, "document.getElementById('message').textContent.length > 30")
    assert page.is_hidden("#content")
    assert "report" in page.inner_text("#message") or "Choose one" in page.inner_text("#message")
    page.close()


def test_page_works_from_a_server(browser, report):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(report[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(f"http://127.0.0.1:{server.server_port}/micrograph.html{find_address(find_row(report, 'a 2'))}")
    page.wait_for_selector("#content:not([hidden])")
    assert page.inner_text("#name") == "a 2.tif"
    page.close()
    server.shutdown()
    server.server_close()


def test_masks_are_decoded_as_pycocotools_does(browser, report):
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((SIZE[0], SIZE[1]), np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mask[(y - 300) ** 2 + (x - 400) ** 2 < 90**2] = 1
    mask[:, 899] = 1
    mask[690:, 898] = 1
    counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto((report[0] / "micrograph.html").as_uri() + find_address(find_row(report, "a 2")))
    page.wait_for_selector("#content:not([hidden])")
    runs = page.evaluate("(counts) => decodeMask(counts)", counts)
    decoded = np.zeros_like(mask)
    for column, first_row, n in runs:
        decoded[first_row : first_row + n, column] += 1
    np.testing.assert_array_equal(decoded, mask)
    page.close()
