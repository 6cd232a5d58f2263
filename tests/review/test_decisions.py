"""Decisions of reviewers: stored whole, taken back, contradictory, and how far two reviewers agree."""

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from emqa_dask import tables
from emqa_dask.review.decisions import compute_agreement, compute_kappa, resolve, select_current
from emqa_dask.store import decisions as store

BOX = {"y0": 1.0, "x0": 2.0, "y1": 11.0, "x1": 12.0, "diameter_px": 10.0, "area_px": 78.0}
NUMBERS = itertools.count()


def make_decision(uri="a.tif", decision="accept", reviewer="ann", **values):
    time = f"2026-01-01T00:00:00.{next(NUMBERS):06d}+00:00"
    image = {"micrograph_id": "0" * 32, "uri": uri, "frame": 0, "pixel_sha256": "p"}
    return {**image, "detector": "log", "decision": decision, "reviewer": reviewer, "time": time, **values}


def make_table(*rows):
    rows = [{"decision_id": str(k), **row} for k, row in enumerate(rows)]
    return tables.conform(rows, tables.DECISIONS).to_pandas()


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path):
    return str(tmp_path / "ws") if request.param == "folder" else f"memory://{tmp_path.name}/ws"


def test_stored_decisions_read_back_as_they_were_made(root):
    made = [make_decision(objects=[BOX], comment="ragged µ"), make_decision("b.tif", "reject", objects=None)]
    ids = [store.write_decision(root, decision) for decision in made]
    table, damaged = store.read_decisions(root)
    assert (damaged, table["decision_id"].tolist()) == ([], ids)
    assert table["objects"][0].tolist() == [BOX]
    assert table["objects"][1] is None
    assert table["comment"][0] == "ragged µ"
    assert pd.isna(table["comment"][1])
    assert list(store.read_decisions(root, ids[:1])[0]["decision_id"]) == ids[1:]


def test_changed_file_of_a_decision_does_not_count(root):
    decision_id = store.write_decision(root, make_decision())
    uri = f"{root}/decisions/{decision_id}.json"
    store.files.write_bytes(uri, store.files.read_bytes(uri).replace(b"accept", b"reject"))
    table, damaged = store.read_decisions(root)
    assert table.empty
    assert list(table) == tables.DECISIONS.names
    assert damaged == [uri]


WRITER = """
import itertools, sys
from emqa_dask.store.decisions import write_decision
for k in itertools.count():
    print(write_decision(sys.argv[1], {"uri": "a.tif", "frame": k, "time": str(k)}), flush=True)
"""


def test_killed_writer_loses_no_acknowledged_decision(tmp_path):
    arguments = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline() for _ in range(25)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().splitlines(keepends=True)
    acknowledged = [line.strip() for line in acknowledged if line.endswith("\n")]
    table, damaged = store.read_decisions(str(tmp_path))
    assert damaged == []
    assert set(acknowledged) <= set(table["decision_id"])


def test_last_decision_of_each_reviewer_counts():
    rows = [make_decision(), make_decision(reviewer="bob"), make_decision(decision="reject")]
    current = select_current(make_table(*rows))
    assert dict(zip(current["reviewer"], current["decision"], strict=True)) == {"bob": "accept", "ann": "reject"}


def test_undone_decision_gives_way_to_the_one_before():
    rows = [make_decision(), make_decision(decision="reject"), make_decision(decision=None, undoes="1")]
    assert select_current(make_table(*rows))["decision_id"].tolist() == ["0"]


def test_nobody_takes_back_the_decision_of_another():
    rows = [make_decision(), make_decision(decision=None, undoes="0", reviewer="bob")]
    assert select_current(make_table(*rows))["decision_id"].tolist() == ["0"]


def test_order_of_files_has_no_influence():
    rows = [make_decision(f"{name}.tif", kind, who) for name in "ab" for kind in ("accept", "reject") for who in "xyz"]
    rows.append(make_decision("a.tif", None, "x", undoes="3"))
    table = make_table(*rows)
    expected = resolve(select_current(table))
    for seed in range(5):
        shuffled = table.sample(frac=1, random_state=seed)
        pd.testing.assert_frame_equal(resolve(select_current(shuffled)), expected)


def test_accept_and_reject_of_two_reviewers_contradict():
    rows = [make_decision(objects=[BOX]), make_decision(decision="reject", reviewer="bob")]
    (image,) = resolve(select_current(make_table(*rows))).to_dict("records")
    assert (image["decision"], image["objects"], image["reviewers"]) == ("contradictory", None, ("ann", "bob"))
    rows.append(make_decision(reviewer="bob"))
    assert resolve(select_current(make_table(*rows)))["decision"].tolist() == ["accept"]


def test_unsure_reviewer_leaves_the_decision_to_the_others():
    rows = [
        make_decision(objects=[BOX]),
        make_decision(decision="unsure", reviewer="bob"),
        make_decision("b", "unsure"),
    ]
    assert resolve(select_current(make_table(*rows)))["decision"].tolist() == ["accept", "unsure"]


def test_empty_table_has_no_decision_and_no_agreement():
    current = select_current(tables.empty(tables.DECISIONS))
    assert resolve(current).empty
    assert compute_agreement(current).empty


def test_kappa_equals_the_textbook_value():
    first = pd.Series(["yes"] * 25 + ["no"] * 25)  # Cohen's kappa of 20, 5, 10, 15 is 0.4
    second = pd.Series(["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15)
    assert compute_kappa(first, second) == pytest.approx(0.4)
    assert np.isnan(compute_kappa(first[:3], first[:3]))


def test_agreement_of_boxes_is_their_f1():
    far_box = BOX | {"y0": 100.0, "y1": 110.0}
    shifted_box = BOX | {"y0": 2.0, "y1": 12.0}  # IoU 9/11
    rows = [make_decision(objects=[BOX, far_box]), make_decision(objects=[shifted_box], reviewer="bob")]
    rows += [make_decision("b.tif", objects=[]), make_decision("b.tif", "reject", "bob")]
    (pair,) = compute_agreement(select_current(make_table(*rows))).to_dict("records")
    assert (pair["n_images"], pair["n_agreeing"], pair["n_boxed"]) == (2, 1, 1)
    assert pair["box_f1"] == pytest.approx(2 / 3)
