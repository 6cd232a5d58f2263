"""Ensembles whose members are heads on the features of the bundled network `picture-kinds`."""

import numpy as np
import pytest
import torch

from emqa_dask import classifiers, models, networks
from emqa_dask.classify import load_ensemble, object_kinds
from emqa_dask.cli import main

ARCHITECTURE = {"backbone": classifiers.PICTURE_BACKBONE, "n_classes": 3, "hidden": 8}


@pytest.fixture
def heads(tmp_path):
    """A model directory of three heads, and the heads."""
    nets = []
    for k in range(3):
        torch.manual_seed(k)
        nets.append(classifiers.build_classifier(ARCHITECTURE))
        networks.save_weights(nets[k], tmp_path / f"member_{k}.safetensors")
    members = [f"member_{k}.safetensors" for k in range(3)]
    card = {"name": "heads", "task": "classification", "classes": ["a", "b", "c"], "architecture": ARCHITECTURE}
    card |= {"input": {"size_px": 64, "stride_px": 64}, "ensemble": {"method": "ensemble", "members": members}}
    models.write_model_card(tmp_path, card | {"backbone_digest": models.digest_model_card(models.PICTURE_MODEL)})
    return tmp_path, nets


def test_members_classify_the_features_of_one_backbone(heads):
    folder, nets = heads
    stack = np.random.default_rng(0).random((20, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        features = classifiers.pool_picture_stages(object_kinds.load_backbone(), torch.from_numpy(stack)[:, None])
        expected = torch.stack([net(features).softmax(dim=1) for net in nets]).numpy()
    p, embeddings = load_ensemble(folder).predict_windows(stack)
    np.testing.assert_allclose(p, expected, atol=1e-5)
    assert embeddings.shape == (3, 20, 8)
    assert np.ptp(p, axis=0).max() > 0.01


def test_batches_of_the_backbone_change_nothing(heads, monkeypatch):
    stack = np.random.default_rng(1).random((5, 64, 64), dtype=np.float32)
    ensemble = load_ensemble(heads[0])
    together = ensemble.predict_windows(stack)
    monkeypatch.setattr(classifiers, "PICTURE_BATCH_PX", 2 * 64**2)
    for value, expected in zip(ensemble.predict_windows(stack), together):
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_heads_on_another_backbone_are_refused(heads):
    folder = heads[0]
    card = models.read_model_card(folder)
    models.write_model_card(folder, card | {"backbone_digest": "0" * 64})
    with pytest.raises(models.ModelError, match="another network picture-kinds"):
        load_ensemble(folder)


def test_an_architecture_without_units_is_refused():
    with pytest.raises(ValueError, match="hidden is 0, channels 1"):
        classifiers.build_classifier(ARCHITECTURE | {"hidden": 0})


def test_training_refuses_the_shared_backbone(tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("uri,label\n")
    command = ["train", "ensemble", labels, "--out", tmp_path / "out", "--backbone", classifiers.PICTURE_BACKBONE]
    assert main(list(map(str, command))) == 1
    assert "of bundled ensembles alone" in capsys.readouterr().err
