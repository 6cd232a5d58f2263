"""A model directory of a small random ensemble."""

import numpy as np
import pytest
import torch

from emqa_dask import classifiers, models, networks

SMALL = {"depth": 10, "widen": 1, "n_classes": 3, "dropout": 0.3}


def write_ensemble(folder, n=4, seeds=None, method="ensemble", **ensemble):
    folder.mkdir()
    files = []
    for k, seed in enumerate(seeds or range(n)):
        torch.manual_seed(seed)
        net = classifiers.build_classifier(SMALL)
        for module in net.modules():  # or every member would say nearly the same
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
        net.head.weight.data *= 4
        files.append(f"member_{k:02d}.safetensors")
        networks.save_weights(net, folder / files[-1])
    told = {"method": method, "members": files, "passes": 5, "seed": 3, **ensemble}
    card = {"name": folder.name, "task": "classification", "classes": ["a", "b", "c"], "architecture": SMALL}
    models.write_model_card(folder, {**card, "input": {"size_px": 16, "stride_px": 8}, "ensemble": told})
    return folder


@pytest.fixture(name="write_ensemble")
def _write_ensemble():
    return write_ensemble


@pytest.fixture
def model(tmp_path):
    return write_ensemble(tmp_path / "four")


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.normal(100, 20, shape).astype(np.float32) for shape in ((16, 16), (40, 33), (16, 24), (24, 24))]
