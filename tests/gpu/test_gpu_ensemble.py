"""On a GPU an ensemble says what it says on a CPU, members together or one by one, and a member trains there."""

import numpy as np
import pytest
import torch

from emqa_dask import classifiers, load_ensemble, models, networks
from emqa_dask.classify import content
from emqa_dask.classify.evaluation import EVALUATION_METHODS, make_evaluator
from emqa_dask.train import ensemble
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.windows import WindowSettings

pytestmark = pytest.mark.gpu
SMALL = {"depth": 10, "widen": 1, "n_classes": 2, "dropout": 0.3}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    files = [f"member_{k:02d}.safetensors" for k in range(3)]
    for k, file in enumerate(files):
        torch.manual_seed(k)
        networks.save_weights(classifiers.build_classifier(SMALL), folder / file)
    card = {"name": "m", "task": "classification", "classes": ["a", "b"], "architecture": SMALL}
    ensemble = {"method": "ensemble", "members": files, "passes": 4}
    models.write_model_card(folder, {**card, "input": {"size_px": 16}, "ensemble": ensemble})
    return folder


@pytest.mark.parametrize("method", ["ensemble", "dropout", "softmax"])
def test_an_ensemble_says_the_same_on_both_devices(model, method):
    images = [np.random.default_rng(k).random((40, 24 + k)) for k in range(5)]
    there = load_ensemble(model, "cuda", method=method).predict_probabilities(images)
    np.testing.assert_allclose(there, load_ensemble(model, method=method).predict_probabilities(images), atol=2e-3)


@pytest.mark.parametrize(("n", "side"), [(300, 64), (3, 224)])
def test_window_probabilities_are_equal_on_both_devices(n, side):
    windows = np.random.default_rng(n).random((n, side, side), np.float32).cumsum(axis=2) % 1
    for there, here in zip(content.embed_windows(windows, "cuda"), content.embed_windows(windows)):
        np.testing.assert_allclose(there, here, atol=2e-2)  # convolutions may run in TF32


@pytest.mark.parametrize("more", [{}, {"depth": 16, "widen": 2}])
@pytest.mark.parametrize(("n", "side"), [(4, 16), (300, 64)])  # cuDNN chooses the layout by size
@pytest.mark.parametrize("way", EVALUATION_METHODS)
def test_members_together_say_what_each_says_alone(way, n, side, more):
    nets = [classifiers.build_classifier(SMALL | {"dropout": 0.0} | more).cuda() for _ in range(3)]
    x = torch.rand(n, 1, side, side, device="cuda")
    with torch.inference_mode():
        found = make_evaluator(nets, way)(x)[0]
        for logits, net in zip(found, nets):
            torch.testing.assert_close(logits, net(x), rtol=1e-2, atol=2e-3)


def test_a_member_trains_and_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    stack = np.clip(rng.normal(0.5 + 0.2 * (y - 0.5)[:, None, None], 0.1, (60, 16, 16)), 0, 1)
    split = np.repeat(["train", "validation", "test"], 20)
    architecture = {"depth": 10, "widen": 1}
    schedule = MemberSchedule(epochs=3, batch=8)
    options = EnsembleOptions(WindowSettings(16), n_members=1, architecture=architecture, schedule=schedule)
    prepare_training(tmp_path / "m", TrainingSet.from_arrays(stack, y, split, ["dark", "bright"]), options)

    def stop(line):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        ensemble.train_member(tmp_path / "m", 0, device="cuda", say=stop, checkpoint_minutes=0)
    assert ensemble.train_member(tmp_path / "m", 0, device="cuda", say=print)["epochs"] == 3
    ensemble.join_members(tmp_path / "m", lambda p, y: {"n": len(y)})
    assert load_ensemble(tmp_path / "m", "cuda").predict_probabilities(list(stack)).shape == (1, 60, 2)
