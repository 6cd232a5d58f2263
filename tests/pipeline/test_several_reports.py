"""One report of several workspaces has the rows of all, and leaves the workspaces as they are."""

import json
import re
from pathlib import Path

import pytest

from emqa_dask import tables
from emqa_dask.pipeline.commands.report import report
from emqa_dask.pipeline.commands.report_several import report_several
from emqa_dask.store import marker, parts, stored_settings
from emqa_dask.store.layout import Workspace
from tests.pipeline.test_report import SETTINGS, facts, make_workspace


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two workspaces with verdicts."""
    folder = tmp_path_factory.mktemp("facility")
    made = [str(folder / name) for name in ("monday.emqa", "tuesday.emqa")]
    for seed, root in enumerate(made):
        failures = make_workspace(root, seed=seed)
        marker.write_marker(root, "/archive")
        stored_settings.write_settings(root, SETTINGS)
        assert report(Workspace(root), "/archive", SETTINGS, facts(failures))
    return made


def read_data(index: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', index.read_text())[1])


def test_rows_of_all_workspaces_are_in_one_report(roots, tmp_path):
    before = {path: path.stat().st_mtime_ns for root in roots for path in Path(root).rglob("*")}
    lines = []
    assert report_several(roots, str(tmp_path / "all"), lines.append) == 0
    data = read_data(tmp_path / "all" / "index.html")
    counts = [len(parts.load_table(Workspace(root).triage, tables.TRIAGE)) for root in roots]
    assert data["n"] == sum(counts)
    assert [(own["name"], own["n"]) for own in data["workspaces"]] == [("monday", counts[0]), ("tuesday", counts[1])]
    for root, own in zip(roots, data["workspaces"]):
        assert (tmp_path / "all" / own["report"]).resolve() == (Path(root) / "report" / "index.html").resolve()
    assert f"{sum(counts):,} rows of 2 workspaces" in lines[0]
    assert {path: path.stat().st_mtime_ns for root in roots for path in Path(root).rglob("*")} == before
    pictured = [len(json.loads(p.read_text()[17:-3])["rows"]) for p in (tmp_path / "all" / "thumbnails").iterdir()]
    assert sum(pictured) == len(data["pictures"]["rows"]) >= 20


def test_a_second_report_replaces_the_first(roots, tmp_path):
    out = tmp_path / "all"
    report_several(roots, str(out), print)
    report_several(roots[:1], str(out), print)
    n = len(parts.load_table(Workspace(roots[0]).triage, tables.TRIAGE))
    assert read_data(out / "index.html")["n"] == n
    assert len(list((out / "details").iterdir())) == -(-n // 256)


def test_other_folders_are_refused(roots, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="give --out a new folder"):
        report_several(roots, str(tmp_path), print)
    with pytest.raises(ValueError, match="is not the folder of a report"):
        report_several(roots, roots[0], print)
