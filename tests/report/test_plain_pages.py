"""Pages of studies and of measurements of scaling in a real browser: one file each, narrow screens, keyboards."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emqa_dask.report.bench_page import render_bench_page
from emqa_dask.report.study_page import PageFigure, PageTable, render_study_page
from tests.accessibility import list_serious_faults

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM} (Debian package chromium)"),
]


def render_study():
    png = io.BytesIO()
    Image.fromarray(np.zeros((300, 900), np.uint8)).save(png, "png")
    columns = {f"mean_absolute_error_{k}": np.linspace(0, 1, 80) for k in range(12)}
    long_name = "figure07_of_one_kind_whose_name_is_long_and_has_no_place_for_a_break_of_the_line"
    table = PageTable("errors", "Errors of <each> split", pd.DataFrame({"split": ["a"] * 80, **columns}))
    summary = {"study": "emqa study f1", "settings": "x" * 300}
    figures = [PageFigure(long_name, "A figure", png.getvalue())]
    return render_study_page("emqa study f1", ["A paragraph."], summary, [table], figures)


def render_bench():
    group = {"images_per_s": 2.0, "megapixels_per_s": 2.0, "n_images": 40, "seconds": 20.0, "peak_memory_mib": 900.0}
    group["gpu_percent"] = None
    group |= {"stage_ms_per_megapixel": {"detect": 40.0, "featurise": 20.0}, "scaling": "strong"}
    ends = {"efficiency": 1.0, "efficiency_low": None, "efficiency_high": None}
    more = {"efficiency": 0.9, "efficiency_low": 0.8, "efficiency_high": 1.0}
    summary = {
        "groups": [{**group, "workers": 1, **ends}, {**group, "workers": 2, **more}],
        "law": {"start_s": 1.0, "shared_s": 0.001, "io_s": 0.0, "compute_s": 0.5, "error": 0.02},
        "n_images": 100_000,
        "predictions": [{"workers": 8, "hours": 2.0, "price": None}],
    }
    document = {"summary": summary, "source": "/data", "scheduler": "local", "settings": "[run]\n" + "x" * 300}
    return render_bench_page(document | {"machine": {"cpu": "a CPU"}, "versions": {"dask": "1"}})


@pytest.mark.parametrize("render", [render_study, render_bench])
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_page_fits_loads_nothing_and_is_accessible(browser, tmp_path, render, width, scheme):
    (tmp_path / "page.html").write_text(render(), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert list_serious_faults(page) == []
    assert [url for url in requests if not url.startswith((tmp_path.as_uri(), "data:"))] == []
    assert complaints == []
    context.close()
