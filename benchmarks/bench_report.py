"""The report of synthetic verdicts on 10^5 (or 10^6) images: time and memory of its making, and times in a browser.

The tables are synthetic: names, sessions, dates, verdicts, reasons and explanations as long as real ones. The report is
made by the code that `emqa report` runs after the verdicts. Chromium opens it from the disk and measures the time until
the first rows can be filtered, the time until all rows are loaded, and medians of 20 filters, sorts and searches.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

CHROMIUM = "/usr/bin/chromium"
ROWS_PER_BATCH = 8192
N_SESSIONS = 400
N_REPEATS = 20  # filters, sorts and searches, of which the median counts
REASONS = (("low_predicted_f1",), ("blur", "low_predicted_f1"), ("near_duplicate",), ("drift", "blur", "charging"), ())
FEATURES = ("scores", "diameters", "distances of neighbours", "numbers", "sizes", "overlaps", "noise", "sharpness")
SENTENCES = ("It lies outside the domain.", "The image is charged.", "The beam drifted.", "", "It is empty.")
SORTS = ("f1_probability", "n", "distance", "nm", "reasons", "verdict")


def make_rows(first: int, n: int) -> pd.DataFrame:
    """`n` rows of tables.TRIAGE from position `first`, by URI."""
    from emqa_dask import tables

    rng = np.random.default_rng(first)
    numbers = np.arange(first, first + n)
    session = numbers * N_SESSIONS // 10**6
    f1 = rng.beta(6, 2, n)
    reasons = rng.integers(0, len(REASONS), n)
    verdicts = np.array(["review", "review", "junk", "out_of_domain", "trust"], object)[reasons]
    days = pd.Timestamp("2019-01-01") + pd.to_timedelta(numbers * 90, unit="s")
    rows = pd.DataFrame({"micrograph_id": [f"{k * 2654435761 % 2**64:032x}" for k in numbers.tolist()]})
    rows["uri"] = [f"{s:03d} microscope/sample {k // 500:05d}/image_{k:07d}.tif" for s, k in zip(session, numbers)]
    rows = rows.reindex(columns=tables.TRIAGE.names).assign(
        frame=0, status="ok", verdict=verdicts, reasons=[list(REASONS[k]) for k in reasons], detector="log",
        explanation=[f"Predicted F1 is {v:.2f} ({v - 0.1:.2f} to {v + 0.1:.2f}). It is at least 0.5 with a probability "
                     f"of {v:.2f}; trust asks for 0.9. The image is less sharp than {k % 97} % of the others. "
                     f"{SENTENCES[k % 5]} {SENTENCES[k // 5 % 5]}" for v, k in zip(f1, numbers)],
        n_detections=rng.integers(0, 900, n), predicted_f1=f1, predicted_f1_low=np.maximum(f1 - 0.1, 0),
        predicted_f1_high=np.minimum(f1 + 0.1, 1), f1_probability=np.clip(f1, 0.01, 0.99),
        because=_make_reasons(rng, numbers),
        ood_distance=rng.lognormal(-0.8, 0.6, n), nm_per_pixel=rng.choice([0.31, 0.5, 1.2], n), height_px=2048,
        session=[f"{s:03d} microscope, Themis, 94000x" for s in session], width_px=2048, format="TIFF",
        instrument=rng.choice(["Themis", "Talos", "JEM-2100F"], n), magnification=rng.choice([5e4, 94e3], n),
        acquired=days.strftime("%Y-%m-%dT%H:%M:%S"), voltage_kv=200.0,
        partition=[f"stack-{k // 32:08d}" for k in numbers],
    )  # fmt: skip
    return rows


def _make_reasons(rng: np.random.Generator, numbers: np.ndarray) -> list[str]:
    """Two reasons of the predicted F1 of each row: 128 different texts apart from their numbers."""
    pairs = rng.integers(0, len(FEATURES), (len(numbers), 2)).tolist()
    verbs = rng.choice(["lowers", "raises"], len(numbers)).tolist()
    return [
        f"{k % 90} % of the {FEATURES[a]} are below 0.3 (usually 5 %): {verb} predicted F1 by 0.1; {k % 9} % of the "
        f"{FEATURES[b]} are above 0.{k % 10} (usually 1 %): raises the predicted F1 by 0.{k % 13}"
        for k, (a, b), verb in zip(numbers.tolist(), pairs, verbs)
    ]


def write_triage(root: str, n: int) -> None:
    """triage.parquet of `n` rows in the workspace `root`."""
    from emqa_dask import tables
    from emqa_dask.store import parts
    from emqa_dask.store.layout import Workspace

    with parts.open_table_writer(Workspace(root).triage, tables.TRIAGE) as write:
        for first in range(0, n, ROWS_PER_BATCH):
            write(make_rows(first, min(ROWS_PER_BATCH, n - first)))


def build(root: str) -> dict:
    """Seconds and peak memory of the making of the report of the workspace `root`, in this process."""
    from emqa_dask import tables
    from emqa_dask.pipeline.commands.report import describe_workspace
    from emqa_dask.pipeline.commands.report_page import ReportPages, Source
    from emqa_dask.settings import Settings
    from emqa_dask.store import parts
    from emqa_dask.store.layout import Workspace

    workspace = Workspace(root)
    imports_mib = read_peak_mib()
    start_s = time.perf_counter()
    pages = ReportPages(workspace.report_folder, "benchmark", 1000, has_classes=False)
    for rows in parts.iterate_arrow_tables(workspace.triage, tables.TRIAGE):
        pages.add(rows)
    summary = describe_workspace(workspace, "/archive", pages.overview.n_rows)
    pages.write_index([Source(workspace, Settings(), summary)], {"archive": "/archive"})
    return {"build_s": time.perf_counter() - start_s, "imports_mib": imports_mib, "peak_mib": read_peak_mib()}


def read_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASURE = """async ([sorts, repeats]) => {
  const time = (act) => { const start = performance.now(); act(); return performance.now() - start; };
  const words = ["image_0000042", "sharp", "blur", "jem-2100f", "neighbours"];
  const filters = [{ verdict: "review" }, { verdict: "junk" }, { reason: "blur" }, { reason: "charging" }];
  const times = { sort: [], filter: [], search: [] };
  for (let k = 0; k < repeats; k++) {
    sortedOrders.clear(); // no order is known before
    times.sort.push(time(() => changeTable({ ...NO_FILTERS, sort: sorts[k % sorts.length], up: k % 2 === 0 })));
    times.filter.push(time(() => changeTable({ ...NO_FILTERS, ...filters[k % filters.length] })));
    times.search.push(time(() => changeTable({ ...NO_FILTERS, q: words[k % words.length] })));
  }
  return times;
}"""


# Playwright's own waiting evaluates text, which the page's policy forbids.
WAIT = """async () => {{
  const hasTexts = () => Boolean(document.querySelector("#rows .text")?.textContent);
  while (!({condition})) await new Promise((resolve) => setTimeout(resolve, 5));
}}"""


def measure_browser(index: Path) -> dict:
    """Seconds until the table is filled and until all rows are loaded, and median milliseconds of what is done then."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(600_000)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        start_s = time.perf_counter()
        page.goto(index.as_uri(), wait_until="commit")
        page.evaluate(WAIT.format(condition="typeof order !== 'undefined' && order.length && hasTexts()"))
        usable_s = time.perf_counter() - start_s
        page.evaluate("loadAllRows(() => {})")
        page.evaluate(WAIT.format(condition="isComplete()"))
        loaded_s = time.perf_counter() - start_s
        times = page.evaluate(MEASURE, [list(SORTS), N_REPEATS])
        heap_mib = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
        browser.close()
    external = [url for url in requests if not url.startswith(("file:", "data:"))]
    medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    return {"usable_s": usable_s, "loaded_s": loaded_s, "heap_mib": heap_mib, "n_external": len(external)} | medians


def measure_size(folder: Path) -> dict:
    """Megabytes of what the page loads first, and of the whole folder; number of files."""
    first = [folder / name for name in ("index.html", "page.css", "cards.css", "rows.js", "table.js", "view.js")]
    first.append(folder / "rows" / "00000.js")
    every = [path for path in folder.rglob("*") if path.is_file()]
    sizes = (sum(path.stat().st_size for path in paths) / 1e6 for paths in (first, every))
    return dict(zip(("index_mb", "folder_mb"), sizes)) | {"n_files": len(every)}


def bench(n: int, root: str) -> dict:
    """All figures for `n` rows."""
    write_triage(root, n)
    command = [sys.executable, "-m", "benchmarks.bench_report", "--build", root]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    folder = Path(root) / "report"
    return {"n": n} | json.loads(process.stdout) | measure_size(folder) | measure_browser(folder / "index.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", metavar="N", type=int, nargs="+", default=[100_000], help="say 1000000 for the largest"
    )
    parser.add_argument("--json", metavar="OUT", help="write the figures there, too")
    parser.add_argument("--keep", metavar="FOLDER", help="leave the workspace there")
    parser.add_argument("--build", metavar="WS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.build)))
        return
    rows = []
    for n in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(bench(n, options.keep or folder))
        print(", ".join(f"{name} {value:,.4g}" for name, value in rows[-1].items()), flush=True)
    if options.json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
        Path(options.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
