"""The study of paper D on synthetic lots: its images, the order of its trainings, and a small run from end to end."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import lot_images, lots, lots_training, lots_verdicts
from emqa_dask.train import ensemble

SMALL = (
    "--seeds 0 1 --lots 3 --fields 4 1 1 --photographs 8 --cohort 8 --lot-members 2 --curve-members 1 "
    "--shares 0.25 0.5 --lot-epochs 1 --batch 8"
)


def options(out: Path, text: str = SMALL) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path)
    lots.add_options(parser)
    return parser.parse_args(["--out", str(out), "--data", str(out / "absent"), *text.split()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs into one folder: without time, when one seed has two networks, and to the end."""
    given = options(tmp_path_factory.mktemp("lots"))
    hurried = options(given.out, f"{SMALL} --minutes 0")
    found = [lots.study(hurried)]
    for name in ("dropout", "ensemble"):
        ensemble.train_member(given.out / "lots/seed_0" / name, 0, say=lambda line: None)
    return given, [*found, lots.study(hurried), lots.study(given)]


@pytest.fixture(scope="module")
def run(runs):
    return runs[0], runs[1][-1]


def test_each_field_has_one_split_and_lots_are_balanced():
    own, split = lot_images.own(3, 4, (3, 1, 2))
    for field in np.unique(own.source):
        assert len(set(split[own.source == field])) == len(set(own.lot[own.source == field])) == 1
    for name, fields in (("train", 3), ("validation", 1), ("test", 2)):
        assert np.all(np.bincount(own.lot[split == name]) == 4 * fields)
    assert own.windows.shape[1:] == (64, 64)
    assert own.windows.min() == 0
    assert own.windows.max() == 1


def test_every_seed_draws_fields_of_its_own():
    one, same, other = (lot_images.draw([0, 1], 2, lot_images.OWN, (seed, 0)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.windows, same.windows)
    for a in (one, other):
        flat = np.concatenate([one.windows, other.windows]).reshape(-1, 64 * 64) if a is other else a.windows
        assert len(np.unique(flat.reshape(-1, 64 * 64), axis=0)) == len(flat)


def test_what_is_changed_is_the_acquisition_alone():
    for settings in lot_images.CHANGED.values():
        is_changed = [value != usual for value, usual in zip(settings, lot_images.OWN)]
        assert sum(is_changed) == 1
        usual, changed = (lot_images.draw([5], 1, used, (0, 0)).windows for used in (lot_images.OWN, settings))
        assert not np.array_equal(usual, changed)
        assert np.corrcoef(usual.ravel(), changed.ravel())[0, 1] > 0.8  # the same field of view


def test_unseen_lots_and_photographs_belong_to_no_known_lot(tmp_path):
    parts = lot_images.foreign_parts(0, 3, 4, 5, tmp_path)
    assert set(parts["unseen"].lot) == {3, 4}
    assert set(parts["photographs"].lot) == {-1}
    assert len(parts["photographs"].windows) == 5
    assert "cifar10" not in parts


def test_shares_of_training_fields_are_nested_with_every_lot():
    own, split = lot_images.own(3, 4, (3, 1, 2))
    some = [lots_training.of_share(own, split, share) for share in (0.1, 0.67, 1.0)]
    np.testing.assert_array_equal(some[2], split == "train")
    for less, more, fields in zip(some, some[1:], (1, 2)):
        assert np.all(more[less])
        assert np.all(np.bincount(own.lot[less]) == 4 * fields)


def test_a_study_without_time_is_continued_by_a_later_run(runs):
    _, (nothing, little, whole) = runs
    assert nothing["seeds"] == {}
    assert "--minutes" in lots_verdicts.tables(nothing)
    assert {seed: part["members"] for seed, part in little["seeds"].items()} == {"0": 1}
    assert {seed: part["members"] for seed, part in whole["seeds"].items()} == {"0": 2, "1": 2}
    for method in ("softmax", "dropout"):  # the same networks as before
        assert whole["seeds"]["0"]["methods"][method] == little["seeds"]["0"]["methods"][method]


def test_a_little_time_makes_smaller_ensembles_of_all_seeds():
    given = options(Path("out"), f"{SMALL} --lot-members 4 --curve-members 2")
    turns = [(plan, k) for plan in lots_training.plans(given) for k in range(plan.members)]
    turns.sort(key=lambda turn: lots_training.rank(*turn, given.curve_members))
    names = [(plan.name, k) for plan, k in turns]
    whole = [
        (f"seed_{seed}/{name}", k) for seed in (0, 1) for name, k in (("dropout", 0), ("ensemble", 0), ("ensemble", 1))
    ]
    assert names[:6] == whole
    assert all(plan.share < 1 and plan.seed == 0 for plan, _ in turns[6:12])
    assert names[12:] == [(f"seed_{seed}/ensemble", k) for k in (2, 3) for seed in (0, 1)]


def test_the_study_measures_every_method_and_writes_figures(run):
    given, found = run
    assert set(found["seeds"]) == {"0", "1"}
    for seed in found["seeds"].values():
        assert seed["members"] == 2
        for row in seed["methods"].values():
            assert {
                "accuracy",
                "nll",
                "ece",
                "ece_equal_mass",
                "risk_coverage_area",
                "error_at_90_percent_coverage",
            } <= set(row)
            assert {"auroc changed", "auroc changed: dose", "auroc unseen", "auroc photographs"} <= set(row)
            assert all(0 <= value <= 1 for key, value in row.items() if key.startswith(("auroc", "accuracy", "ece")))
    assert json.loads((given.out / "lots.json").read_text()) == json.loads(json.dumps(found))
    for name in ("entropy", "referral", "reliability", "learning_curve", "images"):
        assert (given.out / f"lots_{name}.png").stat().st_size > 5000


def test_softmax_is_one_member_and_the_ensemble_all(run):
    _, found = run
    for seed in found["seeds"].values():
        for method, members in (("softmax", "1"), ("ensemble", "2")):
            held = seed["by_members"][members]
            again = {key: seed["methods"][method][key] for key in held}
            assert again == pytest.approx(held, abs=2e-4)


def test_the_learning_curve_has_every_share_and_a_law(run):
    _, found = run
    for method, members in (("softmax", 1), ("dropout", 16), ("ensemble", 1)):
        points = found["learning_curve"][method]["points"]
        assert [row["labels"] for row in points] == [12, 24, 48]
        assert {row["members"] for row in points} == {members}
        assert {"accuracy", "confidence"} <= set(found["learning_curve"][method])


def test_a_second_run_trains_nothing_and_finds_the_same(run):
    given, found = run
    cards = sorted(given.out.rglob("card.toml"))
    assert len(cards) == 8
    before = [card.stat().st_mtime_ns for card in cards]
    assert lots.study(given) == found
    assert [card.stat().st_mtime_ns for card in cards] == before


def test_cohorts_differ_in_the_shape_of_their_entropies():
    def words(doubt):
        """Three classes; the kinds differ by how sure a classifier is of them."""
        found = {}
        for seed in range(3):
            rng = np.random.default_rng(seed)
            logits = {kind: rng.normal(0, scale, (160, 3)) for kind, scale in zip(lots.KINDS, doubt)}
            p = {kind: np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for kind, v in logits.items()}
            found[seed] = dict.fromkeys(lots.METHODS, p)
        return found

    given = options(Path("out"), "--lots 3")
    assert lots.shapes(words((20, 3, 1, 0.2)), given)["ensemble"]["told"] == 1
    assert lots.shapes(words((2, 2, 2, 2)), given)["ensemble"]["told"] < 0.5
    assert lots.shapes({}, given) == {}


def test_an_ordering_holds_in_the_mean_and_in_seeds():
    def seed(ensemble, softmax, dropout):
        rising = {f"entropy {kind}": k for k, kind in enumerate(("test", "changed", "unseen", "photographs"))}
        rows = {"ensemble": ensemble, "softmax": softmax, "dropout": dropout}
        keys = {"accuracy", "nll", "ece", "ece_equal_mass", "risk_coverage_area", "error_at_90_percent_coverage"}
        keys |= {"nll tempered", "ece tempered"}
        return {"methods": {name: dict.fromkeys(keys, value) | rising for name, value in rows.items()}}

    found = lots_verdicts.orderings({"0": seed(0.9, 0.8, 0.7), "1": seed(0.8, 0.85, 0.7)})
    by = {row["says"]: row for row in found}
    highest = by["the ensemble's accuracy is the highest"]
    assert (highest["holds"], highest["seeds"], highest["of"]) == (True, 1, 2)
    assert not by["the ensemble's ECE is the lowest, 20 equal bins"]["holds"]
    assert by["dropout's ECE is below softmax's"]["seeds"] == 2
    assert by["ensemble's mean entropy rises: test < changed < unseen < photographs"]["holds"]
    assert not any("photographs best" in says for says in by)  # not measured, not judged
