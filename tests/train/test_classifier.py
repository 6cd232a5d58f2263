import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from emqa_dask import load_ensemble, models
from emqa_dask.train import ensemble
from emqa_dask.train.class_labels import cut_windows, read_class_labels, split_groups
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.windows import WindowSettings

TINY = {"depth": 10, "widen": 1}
WINDOWS = WindowSettings(16)
CLASSES = ["bars", "rows"]


def gratings(n, seed=0):
    """Noisy images (n, 16, 16) of upright or level stripes, and which."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    along = np.arange(16)
    stack = np.empty((n, 16, 16), np.float32)
    for k in range(n):
        stripes = np.sin(2 * np.pi * along / rng.uniform(4, 6) + rng.uniform(0, 6))
        image = np.tile(stripes, (16, 1)) if y[k] == 0 else np.tile(stripes, (16, 1)).T
        stack[k] = 0.5 + 0.3 * image + rng.normal(0, 0.15, (16, 16))
    return np.clip(stack, 0, 1), y


def prepare(out, n=80, epochs=4, **options):
    stack, y = gratings(n)
    split = np.array(["train"] * (n - 40) + ["validation"] * 20 + ["test"] * 20)
    options = {"n_members": 2, "architecture": TINY, **options}
    options = {"schedule": MemberSchedule(epochs=epochs, batch=16, halve_every=3)} | options
    return prepare_training(out, TrainingSet.from_arrays(stack, y, split, CLASSES), EnsembleOptions(WINDOWS, **options))


def measure(p, y):
    return {"accuracy": float((p.mean(axis=0).argmax(axis=1) == y).mean()), "members": len(p)}


def silent(line):
    pass


def test_bfloat16_learns_it_too(tmp_path):
    prepare(
        tmp_path / "fast",
        n=200,
        epochs=6,
        schedule=MemberSchedule(epochs=6, batch=16, halve_every=3, precision="bfloat16"),
    )
    assert ensemble.train_member(tmp_path / "fast", 0, say=silent)["test_accuracy"] >= 0.9
    with pytest.raises(ValueError, match="float16"):
        MemberSchedule(precision="float16")


def test_an_ensemble_learns_separable_classes_and_becomes_a_model(tmp_path):
    out = tmp_path / "stripes"
    prepare(out, n=200, epochs=6, card_entries={"labels": "labels.csv"})
    assert ensemble.list_unfinished(out) == [0, 1]
    records = [ensemble.train_member(out, k, say=silent) for k in range(2)]
    assert ensemble.list_unfinished(out) == []
    card = ensemble.join_members(out, measure)
    assert card == {key: value for key, value in models.load_model_card(out).items() if key != "files"}
    assert card["measured"]["test"] == {"accuracy": pytest.approx(1, abs=0.1), "members": 2}
    assert card["members"]["seed"] == [0, 1]
    assert records[0]["test_nll"] != records[1]["test_nll"]
    assert not (tmp_path / "stripes.training").exists()
    loaded = load_ensemble(out, classes=CLASSES)
    stack, y = gratings(30, seed=9)
    p = loaded.predict_windows(stack)[0]
    assert (p.mean(axis=0).argmax(axis=1) == y).mean() > 0.9
    held = load_file(out / "held_out.safetensors")
    y = gratings(200)[1]
    np.testing.assert_array_equal(held["test.classes"], y[180:])
    np.testing.assert_allclose(held["test.probabilities"], loaded.predict_windows(gratings(200)[0][180:])[0], atol=1e-5)


def test_a_member_interrupted_at_any_epoch_ends_equal(tmp_path):
    prepare(tmp_path / "straight")
    prepare(tmp_path / "broken")
    record = ensemble.train_member(tmp_path / "straight", 1, say=silent)

    class Stop(Exception):
        pass

    for stop in ("epoch 1/", "epoch 3/"):

        def say(line, stop=stop):
            if stop in line:
                raise Stop

        with pytest.raises(Stop):
            ensemble.train_member(tmp_path / "broken", 1, say=say, checkpoint_minutes=0)
    lines = []
    again = ensemble.train_member(tmp_path / "broken", 1, say=lines.append, checkpoint_minutes=0)
    assert [line.split("/")[0] for line in lines] == ["member 1: epoch 4"]
    assert {**again, "seconds": 0} == {**record, "seconds": 0}
    one, other = (load_file(tmp_path / f"{n}.training/member_01/weights.safetensors") for n in ("straight", "broken"))
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def test_finished_members_are_not_repeated_and_unfinished_ones_block(tmp_path):
    out = tmp_path / "m"
    prepare(out, epochs=1)
    record = ensemble.train_member(out, 0, say=silent)
    weights = (tmp_path / "m.training/member_00/weights.safetensors").read_bytes()
    lines = []
    prepare(out, epochs=1)  # the same: goes on
    assert ensemble.train_member(out, 0, say=lines.append) == record
    assert lines == []
    assert (tmp_path / "m.training/member_00/weights.safetensors").read_bytes() == weights
    with pytest.raises(ValueError, match=r"members \[1\] of 2 are not finished"):
        ensemble.join_members(out, measure)
    with pytest.raises(ValueError, match="another schedule was begun here"):
        prepare(out, epochs=2)
    card = ensemble.join_members(out, measure, min_members=1)
    assert card["ensemble"]["members"] == ["member_00.safetensors"]
    with pytest.raises(FileNotFoundError, match="no training was prepared"):
        ensemble.train_member(out, 1)


def test_early_stop_keeps_the_best_epoch(tmp_path):
    out = tmp_path / "m"
    stack, _ = gratings(60)
    y = np.random.default_rng(0).integers(0, 2, 60)  # nothing to learn: validation gets worse soon
    split = np.array(["train"] * 30 + ["validation"] * 30)
    schedule = MemberSchedule(epochs=60, batch=16, patience=3, learning_rate=3e-3)
    options = EnsembleOptions(WINDOWS, n_members=1, architecture=TINY, schedule=schedule)
    prepare_training(out, TrainingSet.from_arrays(stack, y, split, CLASSES), options)
    record = ensemble.train_member(out, 0, say=silent)
    assert record["epochs"] == record["best_epoch"] + 3 < 60
    assert ensemble.join_members(out, measure)["measured"]["validation"]["members"] == 1


def test_passes_of_dropout_count_as_members(tmp_path):
    out = tmp_path / "m"
    with pytest.raises(ValueError, match=r"needs .* dropout above 0"):
        prepare(out, n_members=1, method="dropout")
    wet = {**TINY, "dropout": 0.3}
    prepare(out, epochs=1, n_members=1, method="dropout", n_passes=3, architecture=wet)
    ensemble.train_member(out, 0, say=silent)
    assert ensemble.join_members(out, measure)["measured"]["test"]["members"] == 3
    held = load_file(out / "held_out.safetensors")["test.probabilities"]
    np.testing.assert_allclose(held, load_ensemble(out).predict_windows(gratings(80)[0][60:])[0], atol=1e-5)


def test_what_is_no_training_set_is_refused(tmp_path):
    stack, y = gratings(10)
    training_set = TrainingSet.from_arrays(stack, y, ["train"] * 10, CLASSES)
    with pytest.raises(ValueError, match="training rows have"):
        prepare_training(tmp_path / "m", training_set._replace(classes=0 * y), EnsembleOptions(WINDOWS))
    with pytest.raises(ValueError, match=r"windows are \(n, 32, 32\)"):
        prepare_training(tmp_path / "m", training_set, EnsembleOptions(WindowSettings(32)))
    with pytest.raises(ValueError, match="3 members for method 'softmax'"):
        prepare_training(tmp_path / "m", training_set, EnsembleOptions(WINDOWS, n_members=3, method="softmax"))


def labels(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_read_as_they_stand(tmp_path):
    path = labels(tmp_path, "uri,label,split,extra\na.tif,1,train,x\nb/ö.tif, 2,train,y\nc.tif,2,test,z\n")
    table = read_class_labels(path, lambda uri: True)
    assert table.to_dict("list") == {
        "uri": ["a.tif", "b/ö.tif", "c.tif"],
        "label": ["1", "2", "2"],
        "split": ["train", "train", "test"],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uri,class\na,b\n", "lacks the column label"),
        ("", "no CSV"),
        ("uri,label\na,x\nb,x\n", r"1 class\(es\) in 2 rows"),
        ("uri,label\na,x\nlost,y\n", "line 3: there is no file 'lost'"),
        ("uri,label\na,x\nb,y\na,y\n", "line 4: 'a' occurs twice"),
        ("uri,label\na,x\nb,\n", "line 3: label is empty"),
        ("uri,label,split\na,x,train\nb,y,dev\n", "line 3: split is 'dev'"),
        ("uri,label,split\na,x,train\nb,y,test\n", "no image of split train has the class y"),
    ],
)
def test_labels_that_cannot_be_learnt_from_are_named(tmp_path, text, said):
    path = labels(tmp_path, text)
    with pytest.raises(ValueError, match=f"labels.csv: .*{said}"):
        read_class_labels(path, lambda uri: uri != "lost")


def test_a_split_keeps_groups_together_and_shares_every_class():
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b", "c"], 1000, p=[0.6, 0.3, 0.1])
    groups = rng.integers(0, 200, 1000)
    found = split_groups(y, groups, seed=1)
    for group in np.unique(groups):
        assert len(set(found[groups == group])) == 1
    for name in "abc":
        assert (found[y == name] == "train").mean() == pytest.approx(0.8, abs=0.06)
        assert (found[y == name] == "test").mean() == pytest.approx(0.1, abs=0.05)
    np.testing.assert_array_equal(found, split_groups(y, groups, seed=1))
    assert (found != split_groups(y, groups, seed=2)).any()
    single = split_groups(y)
    assert (single == "train").sum() == pytest.approx(800, abs=5)


def test_windows_know_their_image_and_small_images_are_named():
    rng = np.random.default_rng(0)
    images = [("a", rng.random((16, 16))), ("b", rng.random((64, 80))), ("c", rng.random((24, 16)))]
    stack, source = cut_windows(images, WINDOWS, max_per_image=5)
    assert stack.shape == (1 + 4 + 2, 16, 16)
    assert source.tolist() == [0, 1, 1, 1, 1, 2, 2]
    assert len(cut_windows(images, WINDOWS, max_per_image=1000)[0]) == 1 + 7 * 9 + 2
    with pytest.raises(ValueError, match=r"1 images .* d: the image is 8 x 90 px, smaller"):
        cut_windows([*images, ("d", rng.random((8, 90)))], WINDOWS)


def test_plans_are_plain_json(tmp_path):
    folder = prepare(tmp_path / "m")
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["n"] == {"train": 40, "validation": 20, "test": 20}
    assert plan["seeds"] == [0, 1]
