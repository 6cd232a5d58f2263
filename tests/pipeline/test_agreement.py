"""Agreement of detectors: a reason for review."""

import shutil

import pandas as pd
import pytest

from emqa_dask.cli import main
from emqa_dask.store.layout import Workspace


@pytest.fixture(scope="module")
def two(small_archive, tmp_path_factory):
    """Workspace of a run with the LoG and a network."""
    root = tmp_path_factory.mktemp("agreement") / "ws"
    options = ["--detector", "log", "--detector", "cavity-tem", "--scheduler", "in-process"]
    assert main(["triage", str(small_archive), "--workspace", str(root), *options]) == 0
    return root


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "ws")


def read_triage(root) -> pd.DataFrame:
    return pd.read_parquet(Workspace(str(root)).triage)


def test_rescoring_reviews_images_below_the_limit_of_agreement(copy, capsys):
    before = read_triage(copy)
    assert not before["reasons"].map(lambda codes: "detectors_disagree" in codes).any()
    known = before["detector_agreement"].dropna().sort_values()
    limit = float(known.iloc[len(known) // 2])
    assert known.iloc[0] < limit <= known.iloc[-1]
    assert main(["rescore", str(copy), "--set", f"triage.min_agreement={limit!r}"]) == 0
    rows = read_triage(copy)
    has_reason = rows["reasons"].map(lambda codes: "detectors_disagree" in codes)
    is_junk = rows["verdict"].isin(["junk", "unknown"])
    assert has_reason.tolist() == (rows["detector_agreement"].lt(limit) & ~is_junk).tolist()
    assert has_reason.any()
    assert not rows.loc[has_reason, "verdict"].eq("trust").any()
    capsys.readouterr()
    assert main(["list", str(copy), "--verdict", "review", "--reason", "detectors_disagree"]) == 0
    listed = capsys.readouterr().out.splitlines()
    expected = rows.loc[has_reason & rows["verdict"].eq("review"), "uri"].unique()
    assert sorted(path.rpartition("/")[2] for path in listed) == sorted(uri.rpartition("/")[2] for uri in expected)


@pytest.mark.parametrize("detectors", [["log"], ["auto"]])
def test_a_limit_of_agreement_needs_two_detectors(small_archive, tmp_path, capsys, detectors):
    options = [text for name in detectors for text in ("--detector", name)]
    workspace = tmp_path / "ws"
    command = ["triage", str(small_archive), "--workspace", str(workspace), "--set", "triage.min_agreement=0.3"]
    assert main([*command, *options]) == 1
    assert "triage.min_agreement is 0.3: it needs two detectors" in capsys.readouterr().err
    assert not workspace.exists()
