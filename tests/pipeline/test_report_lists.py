"""What the report lists of other tables: copies, drift alarms, and image statistics over time."""

import html
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from emqa_dask import tables
from emqa_dask.pipeline.commands.report import report
from emqa_dask.pipeline.commands.report_copies_list import list_copies
from emqa_dask.pipeline.workspace.sampled_statistics import sample_statistics
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.report import f1_figures
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from tests.pipeline.test_report import SETTINGS, facts, make_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with verdicts and two drift alarms."""
    root = str(tmp_path_factory.mktemp("lists") / "ws")
    failures = make_workspace(root)
    times = ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"]
    alarms = pd.DataFrame({"session": ["<old>", "new"], "time": times, "statistic": "noise_floor", "value": 8.25})
    alarms = alarms.assign(threshold=6.9, n_images=1234, first_uri="a.tif", last_uri="b.tif")
    parts.write_table(Workspace(root).alarms, alarms, tables.ALARMS)
    assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    return Workspace(root)


def read_page(workspace: Workspace, section: str) -> str:
    with open(workspace.report_page, encoding="utf-8") as stream:
        return re.search(rf'<section id="{section}".*?</section>', stream.read(), re.S)[0]


def test_flagged_copies_are_listed_with_their_original(workspace):
    triage = parts.load_table(workspace.triage, tables.TRIAGE)
    flags = parts.load_table(workspace.flags, tables.FLAGS)
    flags = flags[flags["flag"].isin(["duplicate", "near_duplicate"])]
    page = html.unescape(read_page(workspace, "copies"))
    uris = triage.set_index("micrograph_id")["uri"]
    originals = re.findall(r"<tr><td><bdi>(.*?)</bdi></td>", page)
    assert len(flags) > 10
    for row in flags.itertuples():
        kind = "identical" if row.flag == "duplicate" else "near"
        text = f"{kind}, agreement {100 * row.value:.0f} %"
        assert f'<bdi>{uris[row.micrograph_id]}</bdi> <span class="muted">{text}</span>'.replace("\n", "\\n") in page
    assert len(originals) == len(set(originals)) > 3
    assert all(not name.endswith(" %)") for name in originals)


def test_groups_of_copies_are_listed_with_scale_and_shift(workspace):
    triage = parts.load_table(workspace.triage, tables.TRIAGE).dropna(subset="micrograph_id")
    ids = triage["micrograph_id"].tolist()[:3]
    groups = pd.DataFrame({"group": 0, "micrograph_id": ids, "original_id": ids[0]})
    groups = groups.assign(
        kind=[None, "near", "shifted"], agreement=[1.0, 0.97, 0.8], scale=[1.0, 1.0, 2.0], shift_y_px=[0, 0, -12.0],
        shift_x_px=[0, 0, 40.0],
    )  # fmt: skip
    parts.write_table(workspace.duplicate_groups, groups, tables.DUPLICATE_GROUPS)
    try:
        copies = list_copies([workspace], Counter())
    finally:
        parts.files.remove_file(workspace.duplicate_groups)
    uris = triage["uri"].tolist()
    assert copies.n == copies.n_listed == 2
    assert copies.groups == [
        (uris[0], [(uris[1], "near, agreement 97 %"),
                   (uris[2], "shifted, agreement 80 %, scale 2, shifted by -12, 40 px (y, x)")])
    ]  # fmt: skip


def test_alarms_are_listed_the_latest_first(workspace):
    page = read_page(workspace, "alarms")
    assert re.findall(r"<tr><td><bdi>(.*?)</bdi>", page) == ["new", "&lt;old&gt;"]
    assert "8.25 (6.9)" in page
    assert "1,234" in page


def test_statistics_of_all_partitions_are_sampled_without_a_classifier(workspace):
    triage = parts.load_table(workspace.triage, tables.TRIAGE)
    folder = list_run_folders(SETTINGS)["features"]
    features = parts.read_table(workspace.uri, folder, tables.FEATURES)
    sample = sample_statistics(workspace, SETTINGS, triage["partition"].dropna().unique())
    expected = triage.merge(features, on="micrograph_id").sort_values("uri", kind="stable")
    assert sample["uri"].tolist() == expected["uri"].tolist()
    np.testing.assert_array_equal(sample["noise_floor"], expected["noise_floor"])
    page = read_page(workspace, "trends")
    for title in ("Predicted F1", "Noise floor", "Detail cpp", "Contrast"):
        assert f"<b>{title}</b>" in page
    assert f"the {len(sample):,} images" in page


def test_risk_and_coverage_are_those_of_the_surest_images():
    f1 = np.array([0.9, 0.5, 0.7, np.nan])
    line, svg = f1_figures.draw_risk_coverage(
        f1, np.array([0.9, 0.2, 0.8, np.nan]), np.array([True, False, True, False])
    )
    assert line == "trust: 67 % of 3 rated images, 1 − F1 predicted 0.20; all: 0.30"
    assert "0.10 for the surest image, 0.30 for all" in svg
    assert f1_figures.draw_risk_coverage(f1 * np.nan, f1, f1 > 0)[1] == ""


def test_intervals_are_means_of_images_with_neighbouring_f1():
    f1 = np.repeat([0.2, 0.8], 50)
    line, svg = f1_figures.draw_f1_intervals(f1, f1 - 0.1, f1 + 0.1)
    assert line == "mean 0.50, mean width of the interval 0.20; 100 images"
    assert svg.count("0.20 (0.10 to 0.30)") == svg.count("0.80 (0.70 to 0.90)") == 25
