"""The page of the review in a real browser: decisions by key, boxes by mouse, a killed server, no foreign request."""

import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from emqa_dask.pipeline.commands.calibrate import calibrate
from emqa_dask.pipeline.commands.estimate import estimate
from emqa_dask.pipeline.commands.review_plan import plan_review
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.settings import Settings, replace
from emqa_dask.store import decisions, stored_settings
from emqa_dask.synthetic.archive import synthesise
from tests.accessibility import list_serious_faults

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM} (Debian package chromium)"),
]
N_IMAGES = 50
WAIT_MS = 120_000  # a machine that others use
SETTINGS = {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A workspace with a plan of 50 images."""
    folder = tmp_path_factory.mktemp("page")
    synthesise(folder / "archive", "demo", n=75, seed=5, shape=(256, 320))
    root = str(folder / "ws")
    run(str(folder / "archive"), root, replace(Settings(), SETTINGS), say=lambda text: None)
    plan_review(root, stored_settings.read_settings(root), budget=N_IMAGES, say=lambda text: None)
    return root


@pytest.fixture(scope="module")
def server(root):
    """A process with the server, and its address."""
    command = [sys.executable, "-m", "emqa_dask", "review", "serve", root, "--reviewer", "ann"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stdout if line.startswith("open "))
        yield process, re.search(r"http://\S+", line)[0]
        process.kill()
        process.stdout.close()


@pytest.fixture(scope="module")
def page(server):
    """The page; its requests and complaints are checked at the end."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    address = server[1].partition("?")[0]
    requests = []
    complaints = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda r: requests.append(r.url))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(server[1], wait_until="commit")
        page.wait_for_selector("canvas[data-shown]")
        yield page
        browser.close()
    assert [url for url in requests if not url.startswith((address, "data:"))] == []
    assert complaints == []


def read_shown(page):
    return page.get_attribute("#view", "data-shown")


def wait_for_next(page, shown):
    page.wait_for_function("id => document.getElementById('view').dataset.shown !== id", arg=shown)


def locate(page, y, x):
    """Screen coordinates of a place in the image."""
    frame = page.locator("#view").bounding_box()
    view = page.evaluate("() => view")
    return frame["x"] + x * view["scale"] + view["x"], frame["y"] + y * view["scale"] + view["y"]


def drag(page, start, stop):
    page.mouse.move(*locate(page, *start))
    page.mouse.down()
    page.mouse.move(*locate(page, *stop), steps=4)
    page.mouse.up()


def read_decided(root):
    table, damaged = decisions.read_decisions(root)
    assert damaged == []
    return table


def test_token_leaves_the_address_of_the_page(page):
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""
    assert "0 of 50 decided" in page.inner_text("#progress")


def test_axe_finds_no_serious_fault(page):
    assert list_serious_faults(page) == []


def test_boxes_are_drawn_moved_deleted_and_points_added(page, root):
    key = read_shown(page)
    n_detections = page.evaluate("() => objects.length")
    page.keyboard.press("b")
    drag(page, (180, 20), (220, 70))
    page.keyboard.press("m")
    drag(page, (200, 45), (210, 65))
    box = page.evaluate("() => objects.at(-1).box")
    assert box == pytest.approx([190, 40, 230, 90], abs=1.5)
    drag(page, (230, 90), (240, 110))
    assert page.evaluate("() => objects.at(-1).box") == pytest.approx([190, 40, 240, 110], abs=1.5)
    page.keyboard.press("p")
    page.mouse.click(*locate(page, 12, 300))
    assert page.evaluate("() => objects.length") == n_detections + 2
    page.keyboard.press("Delete")
    page.keyboard.press("Control+z")
    assert page.evaluate("() => objects.length") == n_detections + 2
    page.keyboard.press("Control+z")
    assert page.evaluate("() => objects.length") == n_detections + 1
    page.keyboard.press("c")
    page.keyboard.type("moved a box")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    wait_for_next(page, key)
    (row,) = read_decided(root).to_dict("records")
    assert (row["micrograph_id"], row["comment"], row["reviewer"]) == (key, "moved a box", "ann")
    assert len(row["objects"]) == n_detections + 1
    corners = [row["objects"][-1][name] for name in ("y0", "x0", "y1", "x1")]
    assert corners == pytest.approx([190, 40, 240, 110], abs=1.5)
    page.keyboard.press("z")
    page.wait_for_function("id => document.getElementById('view').dataset.shown === id", arg=key)
    assert page.evaluate("() => objects.length") == n_detections


def test_contrast_and_zoom_change_the_picture(page):
    read = (
        "() => { const c = document.getElementById('view'); return c.toDataURL().length + c.toDataURL().slice(-200) }"
    )
    plain = page.evaluate(read)
    page.evaluate(
        "() => { const e = document.getElementById('gamma'); e.value = 60; e.dispatchEvent(new Event('input')) }"
    )
    bright = page.evaluate(read)
    page.keyboard.press("1")
    assert len({plain, bright, page.evaluate(read)}) == 3
    assert page.evaluate("() => view.scale") == 1
    page.keyboard.press("0")


# Time from a key to the picture of the next image, by the clock of the page.
STOPWATCH = """() => {
    window.durations = [];
    let pressed = 0;
    document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
    new MutationObserver(() => requestAnimationFrame(() => window.durations.push((performance.now() - pressed) / 1000)))
        .observe(document.getElementById('view'), { attributeFilter: ['data-shown'] });
}"""


def test_fifty_decisions_by_key_survive_a_killed_server(page, server, root):
    page.evaluate(STOPWATCH)
    acknowledged = {}
    for number in range(N_IMAGES):
        key = read_shown(page)
        page.keyboard.press("r" if number % 10 == 9 else "a")
        if number < N_IMAGES - 1:
            wait_for_next(page, key)
        else:
            page.wait_for_function("() => document.getElementById('message').textContent.startsWith('All')")
        acknowledged[key] = "reject" if number % 10 == 9 else "accept"
    seconds = page.evaluate("window.durations")
    process = server[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"{N_IMAGES} decisions: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s an image")
    rows = read_decided(root).drop_duplicates("micrograph_id", keep="last")
    assert dict(zip(rows["micrograph_id"], rows["decision"], strict=True)) == acknowledged
    page.keyboard.press("ArrowRight")
    page.keyboard.press("u")
    assert len(read_decided(root).query("decision == 'unsure'")) == 0


def test_calibrate_and_estimate_use_the_decisions(root):
    settings = stored_settings.read_settings(root)
    lines = []
    assert estimate(root, "reviewed", settings, say=lines.append) == 0
    table = pd.read_parquet(f"{root}/estimates.parquet").set_index("quantity")
    assert table.loc["n_objects", "n_labels"] == N_IMAGES
    assert table.loc["n_objects", "low"] > 0
    assert calibrate(root, "reviewed", settings, say=lines.append) == 0
    assert any(line.startswith("45 labelled micrographs") for line in lines)
