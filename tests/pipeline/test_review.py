"""Plan, page and decisions on a whole run: what is drawn and stored, and what calibrate and estimate make of it."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emqa_dask
from emqa_dask.cli import main
from emqa_dask.measure.estimation import Design, estimate_ratio
from emqa_dask.measure.estimation_design import PROBABILITIES
from emqa_dask.pipeline.commands.calibrate import calibrate
from emqa_dask.pipeline.commands.estimate import estimate
from emqa_dask.pipeline.commands.review_plan import number_clusters, plan_review
from emqa_dask.pipeline.commands.status import status
from emqa_dask.pipeline.commands.train_detector import read_image, train_detector
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.integrity import verify
from emqa_dask.pipeline.workspace.moving import take_over_workspace
from emqa_dask.pipeline.workspace.review_desk import ReviewDesk
from emqa_dask.pipeline.workspace.review_queue import encode_pixels
from emqa_dask.pipeline.workspace.reviewed_set import write_reviewed_set
from emqa_dask.results.run import open_run
from emqa_dask.review.server import RequestError
from emqa_dask.settings import Settings, replace
from emqa_dask.store import decisions, stored_settings
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.archive import synthesise
from emqa_dask.train.coco import read_coco_sets
from emqa_dask.train.detector import DetectorOptions

SETTINGS = {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}}


def ignore(_):
    """For what a run says."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review") / "archive"
    synthesise(folder, "demo", n=30, seed=7, shape=(160, 192))
    return folder


@pytest.fixture(scope="module")
def triaged(archive):
    """A workspace with a plan of 12 images."""
    root = archive.parent / "ws"
    run(str(archive), str(root), replace(Settings(), SETTINGS), say=ignore)
    plan_review(str(root), stored_settings.read_settings(str(root)), budget=12, say=ignore)
    return str(root)


@pytest.fixture
def root(triaged, tmp_path):
    """A copy of this workspace."""
    return str(shutil.copytree(triaged, tmp_path / "ws"))


def open_desk(root, reviewer="ann"):
    return ReviewDesk(Workspace(root), stored_settings.read_settings(root), reviewer)


def list_ids(desk):
    return [image["id"] for image in desk.list_images({}).content["images"]]


def decide(desk, key, decision="accept", reviewer="ann", objects=None, comment=""):
    values = {"id": key, "decision": decision, "reviewer": reviewer, "objects": objects, "comment": comment}
    return desk.decide(values).content["decision_id"]


def read_decisions(root):
    table, damaged = decisions.read_decisions(root)
    assert damaged == []
    return table


def test_plan_has_every_covered_image_and_draws_some(triaged):
    plan = pd.read_parquet(f"{triaged}/review_plan.parquet")
    triage = pd.read_parquet(f"{triaged}/triage.parquet")
    covered = triage[triage["verdict"].isin(["trust", "review"])]
    assert set(plan["micrograph_id"]) == set(covered["micrograph_id"])
    assert (plan["review_probability"] > 0).all()
    drawn = plan[plan["position"].notna()]
    assert drawn["position"].tolist() == list(range(1, 13))
    table = pd.read_csv(f"{triaged}/review_plan.csv", encoding="utf-8-sig")
    assert table["uri"].tolist() == drawn["uri"].tolist()
    assert table["review_probability"].tolist() == pytest.approx(drawn["review_probability"].tolist())
    assert len(open_run(triaged).review_plan) == len(plan)


def test_same_plan_for_the_same_seed(triaged, root):
    before = pd.read_parquet(f"{triaged}/review_plan.parquet")
    settings = stored_settings.read_settings(root)
    for seed, is_equal in ((0, True), (1, False)):
        plan_review(root, settings, budget=12, seed=seed, say=ignore)
        assert pd.read_parquet(f"{root}/review_plan.parquet").equals(before) == is_equal


def test_copies_are_one_cluster_with_their_original():
    names = ["a.tif", "b.tif", "c (frame 1)", "d.tif", "e.tif"]
    images = pd.DataFrame({"micrograph_id": list("01234"), "uri": names, "frame": 0})
    images.loc[2, ["uri", "frame"]] = ["c", 1]
    texts = ["the same pixels as a.tif", "nearly the same as c (frame 1): 91 % agreement (limit 50 %)", "of other"]
    flags = ["duplicate", "near_duplicate", "blur"]
    table = pd.DataFrame({"micrograph_id": ["1", "3", "4"], "flag": flags, "text": texts})
    groups = pd.DataFrame({"group": [], "micrograph_id": []})
    assert number_clusters(images, table, groups).tolist() == [0, 0, 1, 1, 2]
    groups = pd.DataFrame({"group": [7, 7, 9, 9], "micrograph_id": ["0", "4", "2", "not covered"]})
    assert number_clusters(images, table, groups).tolist() == [0, 1, 2, 3, 0]


def test_queue_is_the_plan_or_the_uncertain_images(root):
    plan = pd.read_parquet(f"{root}/review_plan.parquet")
    assert list_ids(open_desk(root)) == plan["micrograph_id"][:12].tolist()
    os.unlink(f"{root}/review_plan.parquet")
    triage = pd.read_parquet(f"{root}/triage.parquet")
    ids = list_ids(open_desk(root))
    assert set(ids) == set(triage.loc[triage["verdict"] == "review", "micrograph_id"])


def test_page_gets_the_stored_pixels_and_detections(triaged):
    desk = open_desk(triaged)
    opened = open_run(triaged)
    for image in desk.list_images({}).content["images"][:4]:
        pixels = opened.image(image["uri"], image["frame"])
        window = {"id": image["id"], "y0": "3", "x0": "5", "y1": str(image["height"]), "x1": "90", "step": "2"}
        answer = desk.read_pixels(window)
        codes = np.frombuffer(answer.content, "<u2").reshape(-1, int(answer.headers["X-Width"]))
        expected = pixels[3:, 5:90][::2, ::2]
        if pixels.dtype.kind == "u":
            assert np.array_equal(codes, expected)
        else:
            assert np.corrcoef(codes.ravel(), expected.ravel())[0, 1] > 0.999999
        triage = opened.read_table("triage", ["n_detections"], [("micrograph_id", "==", image["id"])]).compute()
        assert len(desk.list_objects({"id": image["id"]}).content["detections"]) == triage["n_detections"].iloc[0]


def test_codes_keep_the_order_of_values_that_are_not_finite():
    pixels = encode_pixels(np.array([[-1.0, np.nan, np.inf], [0.0, 1.0, 3.0]]), -1.0, 3.0)
    assert pixels.codes.tolist() == [[0, 0, 65535], [16384, 32768, 65535]]


@pytest.mark.parametrize(
    "values",
    [
        {"id": "../../etc/passwd"},
        {"decision": "maybe"},
        {"reviewer": ""},
        {"reviewer": "a\nb"},
        {"objects": [99999]},
        {"objects": [[0, 0, 1]]},
        {"objects": [[0, 0, 1e9, 5]]},
        {"objects": [[5, 5, 4, 9]]},
        {"objects": [[0, 0, float("nan"), 1]]},
        {"objects": "all"},
        {"comment": 7},
    ],
)
def test_faulty_decision_is_refused_and_not_stored(triaged, values):
    desk = open_desk(triaged)
    good = {"id": list_ids(desk)[0], "decision": "accept", "reviewer": "ann", "objects": None, "comment": ""}
    with pytest.raises(RequestError):
        desk.decide(good | values)
    assert read_decisions(triaged).empty


def test_window_outside_the_image_is_refused(triaged):
    desk = open_desk(triaged)
    window = {"id": list_ids(desk)[0], "y0": "0", "x0": "0", "y1": "161", "x1": "10", "step": "1"}
    for change in ({}, {"y1": "0"}, {"y0": "-1", "y1": "5"}, {"step": "0", "y1": "5"}, {"x0": "b"}):
        with pytest.raises(RequestError):
            desk.read_pixels(window | change)


def test_accepted_detections_are_stored_with_image_and_probability(root):
    desk = open_desk(root)
    image = desk.list_images({}).content["images"][0]
    decide(desk, image["id"], comment="clear")
    (row,) = read_decisions(root).to_dict("records")
    plan = pd.read_parquet(f"{root}/review_plan.parquet").iloc[0]
    assert row["review_probability"] == plan["review_probability"]
    assert row["plan_id"] == plan["plan_id"]
    assert (row["reviewer"], row["detector"], row["comment"]) == ("ann", "log", "clear")
    boxes = [[entry[name] for name in ("y0", "x0", "y1", "x1")] for entry in row["objects"]]
    assert boxes == desk.list_objects({"id": image["id"]}).content["detections"]
    assert desk.list_states({}).content == {image["id"]: {"ann": "accept"}}


def test_corrected_objects_come_back(root):
    desk = open_desk(root)
    key = next(k for k in list_ids(desk) if len(desk.list_objects({"id": k}).content["detections"]) > 1)
    first = desk.list_objects({"id": key}).content["detections"][0]
    decide(desk, key, objects=[0, [1, 2, 30.5, 40]])
    expected = [{"box": first, "k": 0}, {"box": [1, 2, 30.5, 40], "k": None}]
    assert open_desk(root).list_objects({"id": key}).content["objects"] == {"ann": expected}
    entries = read_decisions(root)["objects"][0]
    assert entries[0]["diameter_px"] > 0
    assert entries[1]["diameter_px"] is None


def test_undo_takes_back_the_last_decision_of_the_reviewer(root):
    desk = open_desk(root)
    ids = list_ids(desk)
    decide(desk, ids[0])
    decide(desk, ids[1], "reject")
    decide(desk, ids[1], reviewer="bob")
    assert desk.undo({"reviewer": "ann"}).content["id"] == ids[1]
    assert open_desk(root).list_states({}).content == {ids[0]: {"ann": "accept"}, ids[1]: {"bob": "accept"}}
    desk.undo({"reviewer": "ann"})
    with pytest.raises(RequestError, match="no decision to take back"):
        desk.undo({"reviewer": "ann"})
    assert len(read_decisions(root)) == 5


def test_two_servers_see_the_decisions_of_each_other(root):
    desks = open_desk(root), open_desk(root, "bob")
    key = list_ids(desks[0])[0]
    decide(desks[0], key)
    decide(desks[1], key, "reject", "bob")
    for desk in desks:
        assert desk.list_states({}).content == {key: {"ann": "accept", "bob": "reject"}}


def test_clock_set_back_does_not_change_the_last_decision(root, monkeypatch):
    from emqa_dask.pipeline.workspace import review_desk

    class Clock(review_desk.datetime):
        @classmethod
        def now(cls, zone):
            return cls(2001, 1, 1, tzinfo=zone)

    desk = open_desk(root)
    key = list_ids(desk)[0]
    decide(desk, key)
    monkeypatch.setattr(review_desk, "datetime", Clock)
    decide(desk, key, "reject")
    assert desk.list_states({}).content == {key: {"ann": "reject"}}


def review_all(root, factor=1, **kinds):
    """Decides all images of the plan: `kinds` by position; the others are accepted with `factor` copies of each box."""
    desk = open_desk(root)
    for position, key in enumerate(list_ids(desk)):
        n_detections = len(desk.list_objects({"id": key}).content["detections"])
        decide(desk, key, kinds.get(f"k{position}", "accept"), objects=[*range(n_detections)] * factor)


def test_estimate_uses_the_probabilities_of_the_plan(root):
    review_all(root, factor=2, k3="reject", k5="unsure")
    lines = []
    assert estimate(root, "reviewed", stored_settings.read_settings(root), say=lines.append) == 0
    table = pd.read_parquet(f"{root}/estimates.parquet").set_index("quantity")
    plan = pd.read_parquet(f"{root}/review_plan.parquet")
    measured = open_run(root).read_table("measurements", ["micrograph_id", "label", "n_corrected"]).compute()
    measured = measured[measured["label"].isna()].set_index("micrograph_id")["n_corrected"]
    predicted = measured[plan["micrograph_id"]].to_numpy(float)
    positions = np.delete(np.arange(12), 5)
    true = 2 * predicted[positions] * (positions != 3)
    probabilities = plan["review_probability"].to_numpy()[positions] * 11 / 12
    design = Design(len(plan), positions, probabilities, np.zeros(11, int))
    expected = estimate_ratio(
        design, np.column_stack([true, np.ones(11)]), np.column_stack([predicted, np.ones(len(plan))])
    )
    row = table.loc["n_objects"]
    assert row["estimate"] == pytest.approx(len(plan) * expected.value)
    assert row["low"] == pytest.approx(len(plan) * expected.low)
    assert (row["assumption"], row["n_labels"]) == (PROBABILITIES, 11)
    assert any("1 are rejected" in line for line in lines)
    assert any("11 of 12 images of the plan" in line for line in lines)


def test_f1_of_accepted_detections_is_one(root):
    review_all(root)
    estimate(root, "reviewed", stored_settings.read_settings(root), say=ignore)
    table = pd.read_parquet(f"{root}/estimates.parquet").set_index("quantity")
    assert table.loc[["mean_f1", "trusted_share"], "labels_alone"].tolist() == pytest.approx([1, 1])


def test_decisions_without_a_plan_give_no_estimate(root):
    review_all(root)
    os.unlink(f"{root}/review_plan.parquet")
    with pytest.raises(ValueError, match="no plan"):
        estimate(root, "reviewed", stored_settings.read_settings(root), say=ignore)


def test_calibrate_uses_the_decisions(root):
    with pytest.raises(ValueError, match="no decisions"):
        calibrate(root, "reviewed", stored_settings.read_settings(root), say=ignore)
    review_all(root, k2="reject")
    lines = []
    assert calibrate(root, ["reviewed"], stored_settings.read_settings(root), say=lines.append) == 0
    assert any(line.startswith("11 labelled micrographs") for line in lines)
    assert stored_settings.read_settings(root).predict.models


def test_contradictions_are_listed_and_do_not_count(root):
    review_all(root)
    desk = open_desk(root)
    key = list_ids(desk)[4]
    decide(desk, key, "reject", "bob")
    lines = []
    estimate(root, "reviewed", stored_settings.read_settings(root), say=lines.append)
    uri = desk.list_images({}).content["images"][4]["uri"]
    assert any("contradict" in line and uri in line for line in lines)
    assert any("11 of 12 images of the plan" in line for line in lines)


def test_accepted_images_are_a_set_for_training(root, tmp_path):
    review_all(root, k0="reject", k1="unsure")
    desk = open_desk(root)
    ids = list_ids(desk)
    decide(desk, ids[2], objects=[[5, 6, 5, 6]])
    path, folder = write_reviewed_set(root, tmp_path, ignore)
    images, classes = read_coco_sets([(Path(path), Path(folder))])
    assert classes == ["object"]
    assert sorted(image.path.stem for image in images) == sorted(ids[3:])
    rows = desk.list_images({}).content["images"]
    by_id = {row["id"]: row for row in rows}
    for image in images:
        row = by_id[image.path.stem]
        assert np.array_equal(read_image(image.path), open_run(root).image(row["uri"], row["frame"]))
        boxes = np.array(desk.list_objects({"id": row["id"]}).content["detections"]).reshape(-1, 4)
        assert len(image.masks) == len(boxes)


def test_detector_trained_on_accepted_images_triages_their_archive(archive, root, tmp_path):
    """Through the command line: --reviewed gives a detector that a triage names in the rows of all micrographs."""
    review_all(root)
    model = str(tmp_path / "own")
    options = ["--start", "cavity-tem", "--frozen", "--steps", "2", "--seed", "3"]
    assert main(["train", "detector", "--reviewed", root, *options, "--out", model]) == 0
    again = str(tmp_path / "again")
    assert main(["triage", str(archive), "--workspace", again, "--detector", model, "--scheduler", "in-process"]) == 0
    rows = open_run(again).triage.compute()
    assert set(rows["uri"]) == set(open_run(root).triage["uri"].compute())
    assert set(rows["detector"].dropna()) == {"own"}
    assert rows["n_detections"].sum() > 0


def test_training_without_any_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to learn from"):
        train_detector([], str(tmp_path / "model"), DetectorOptions(), ignore)


def test_status_and_report_tell_the_agreement_of_reviewers(root):
    desk = open_desk(root)
    for position, key in enumerate(list_ids(desk)[:4]):
        decide(desk, key)
        decide(desk, key, "reject" if position == 3 else "accept", "bob")
    lines = []
    status(root, lines.append)
    text = "\n".join(lines)
    assert emqa_dask.report_verdicts(root) is not None
    page = Path(root, "report", "index.html").read_text()
    section = re.search(r'<section id="review".*?</section>', page, re.DOTALL)[0]
    cells = re.findall(r"<td.*?>(.*?)</td>", section)
    assert cells[:5] == ["<bdi>ann</bdi>", "4", "4", "0", "0"]
    assert cells[-4:] == ["4", "75 %", "0.00", "1.00"]
    assert "1 image<" in section
    assert "ann has decided on 4 images: 4 accept" in text
    assert "ann and bob agree on 3 of 4 images, Cohen's kappa 0.00, F1 of their boxes 1.00 on 3 images" in text


def test_decisions_survive_moving_a_new_run_and_verify(root, archive, tmp_path):
    source = shutil.copytree(archive, tmp_path / "archive")
    review_all(root)
    before = read_decisions(root)
    moved = str(tmp_path / "elsewhere")
    shutil.move(root, moved)
    rows = pd.read_parquet(f"{moved}/review_plan.parquet")
    uris = rows["uri"][:2].tolist()
    synthesise(tmp_path / "more", "demo", n=3, seed=8, shape=(160, 192))
    shutil.copytree(tmp_path / "more", source / "more")
    target = source / uris[0]
    target.write_bytes(next(p for p in (tmp_path / "more").rglob("*.*") if p.is_file()).read_bytes())
    settings = replace(stored_settings.read_settings(moved), {"detect": {"threshold": 0.2}})
    take_over_workspace(moved, str(archive), [str(source)], ignore)
    run(str(source), moved, settings, say=ignore)
    assert verify(moved, ignore) == 0
    assert read_decisions(moved).equals(before)
    lines = []
    estimate(moved, "reviewed", stored_settings.read_settings(moved), say=lines.append)
    assert any("changed since the decision" in line and uris[0] in line for line in lines)


def test_verify_puts_damaged_decisions_aside(root):
    review_all(root)
    decision_id = read_decisions(root)["decision_id"][0]
    path = Path(root, "decisions", f"{decision_id}.json")
    path.write_text(path.read_text().replace("ann", "eve"))
    lines = []
    assert verify(root, lines.append) == 2
    assert any(decision_id in line and "decide again" in line for line in lines)
    assert len(read_decisions(root)) == 11
