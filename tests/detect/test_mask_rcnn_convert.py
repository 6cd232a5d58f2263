"""Checkpoints to model directories: the same network after, nothing run, nothing half-written."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from emqa_dask import models, networks
from emqa_dask.detect.mask_rcnn import convert, load_detector
from tests.detect.conftest import SMALL
from tests.detect.test_mask_rcnn import assert_plain, plain

ABOUT = {"name": "mine", "classes": ["cavity", "void"]}


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


@pytest.mark.parametrize("layout", ["plain", "model", "parallel"])
def test_an_imported_checkpoint_is_the_same_network(small_model, scenes, tmp_path, layout):
    net = small_model[1]
    state = net.state_dict()
    if layout == "parallel":
        state = {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save({"model": state, "epoch": 3} if layout != "plain" else state, tmp_path / "a.pth")
    card = {"licence": "MIT", "input": {"tile_px": 1024}, "training": {"cohort": "ours"}}
    convert.import_torchvision(
        tmp_path / "a.pth", without(SMALL, "n_classes"), tmp_path / "m", **ABOUT, model_card=card
    )
    detector = load_detector(tmp_path / "m")
    assert_plain(detector.detect(scenes[:1])[0], plain(net, scenes[0]))
    assert (detector.card.name, detector.card.tile_px, detector.card.low_percentile) == ("mine", 1024, 1.0)
    assert models.load_model_card(tmp_path / "m")["training"] == {"cohort": "ours"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "m"]


def test_a_pickle_of_arrays_is_read_without_running_anything(small_model, tmp_path):
    arrays = {key: value.numpy() for key, value in small_model[1].state_dict().items()}
    for protocol in (2, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": OrderedDict(arrays), "__author__": "us"}, protocol))
        found = convert.read_checkpoint(tmp_path / "a.pkl")
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[key].numpy(), value) for key, value in arrays.items())


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    mark = tmp_path / "mark"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {"a": Runs(mark)}}))
    else:
        torch.save({"model": {"a": Runs(mark)}}, path)
    with pytest.raises(ValueError, match="not a checkpoint of tensors alone"):
        convert.import_torchvision(path, SMALL, tmp_path / "m", **ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (b"", "not a checkpoint of tensors alone"),
        (b"junk that is no pickle", "not a checkpoint of tensors alone"),
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        ({"blobs": {"conv1_w": np.zeros(3)}}, "a Caffe2 model"),
        ({"model": {"a": "text"}}, "'a' is str, not a tensor"),
        ({"model": {"a": np.array([None])}}, "'a' is ndarray, not a tensor"),
        ({"model": {"a": np.zeros(3)}}, r"of another architecture: \d+ missing"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, held, said):
    path = tmp_path / "a.pkl"
    path.write_bytes(held if isinstance(held, bytes) else pickle.dumps(held))
    with pytest.raises(ValueError, match=said) as raised:
        convert.import_torchvision(path, SMALL, tmp_path / "m", **ABOUT)
    assert str(path) in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pkl"]


def test_other_architectures_and_existing_directories_are_named(small_model, tmp_path):
    torch.save(small_model[1].state_dict(), tmp_path / "a.pth")
    for change in ({"fpn_channels": 24}, {"backbone": "resnet34"}, {"mask_channels": [16, 16]}):
        with pytest.raises(ValueError, match="of another architecture"):
            convert.import_torchvision(tmp_path / "a.pth", SMALL | change, tmp_path / "m", **ABOUT)
    with pytest.raises(ValueError, match="unknown"):
        convert.import_torchvision(tmp_path / "a.pth", SMALL | {"depth": 3}, tmp_path / "m", **ABOUT)
    with pytest.raises(FileNotFoundError):
        convert.import_torchvision(tmp_path / "none.pth", SMALL, tmp_path / "m", **ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    (tmp_path / "m").mkdir()
    with pytest.raises(FileExistsError, match="give another name"):
        convert.import_torchvision(tmp_path / "a.pth", SMALL, tmp_path / "m", **ABOUT)
    assert not list((tmp_path / "m").iterdir())


def test_safetensors_are_taken_too(small_model, tmp_path):
    networks.save_weights(small_model[1], tmp_path / "a.safetensors")
    convert.import_torchvision(tmp_path / "a.safetensors", SMALL, tmp_path / "m", **ABOUT)
    assert load_detector(tmp_path / "m").card.classes == ("cavity", "void")
