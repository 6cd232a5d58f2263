import tomllib

import numpy as np
import pytest
import torch

from emqa_dask import classifiers, load_ensemble, models, networks, tables
from emqa_dask.classify import Ensemble, make_probability_rows
from emqa_dask.classify import ensemble as ensembles
from emqa_dask.classify.evaluation import EVALUATION_METHODS, make_evaluator


def nets_of(model):
    card = models.load_model_card(model)
    found = []
    for file in card["ensemble"]["members"]:
        net = classifiers.build_classifier(card["architecture"] | {"dropout": 0.0})
        networks.load_weights(net, model / file)
        found.append(net)
    return found


@pytest.mark.parametrize("way", EVALUATION_METHODS)
def test_members_together_say_what_each_says_alone(model, way):
    nets = nets_of(model)
    x = torch.rand(3, 1, 16, 16)
    with torch.inference_mode():
        logits, embeddings = make_evaluator(nets, way)(x)
        for k, net in enumerate(nets):
            torch.testing.assert_close(logits[k], net(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(embeddings[k], net.body(x), rtol=1e-4, atol=1e-5)
    assert len({tuple(row[0].tolist()) for row in logits}) == len(nets)


def test_vmap_joins_torchvision_networks_and_grouping_refuses_others():
    nets = []
    for seed in range(2):
        torch.manual_seed(seed)
        nets.append(classifiers.build_classifier({"backbone": "shufflenet_v2_x0_5", "n_classes": 2}))
    x = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        logits, _ = make_evaluator(nets, "vmap")(x)
        for k, net in enumerate(nets):
            torch.testing.assert_close(logits[k], net(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="vmap"):
        make_evaluator(nets, "grouped")


def test_an_ensemble_of_an_image_is_a_distribution_per_member(model, images):
    p = load_ensemble(model).predict_probabilities(images)
    assert p.shape == (4, 4, 3)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=2), 1, atol=1e-5)
    assert load_ensemble(model).predict_probabilities([]).shape == (4, 0, 3)


def test_probabilities_do_not_depend_on_order_or_batch(model, images):
    for method in ("ensemble", "dropout", "softmax"):
        ensemble = load_ensemble(model, method=method)
        p = ensemble.predict_probabilities(images)
        np.testing.assert_allclose(ensemble.predict_probabilities(images[::-1])[:, ::-1], p, atol=1e-6)
        alone = np.concatenate([ensemble.predict_probabilities([image]) for image in images], axis=1)
        np.testing.assert_allclose(alone, p, atol=1e-6)


def test_bfloat16_says_nearly_the_same(model, images):
    exact, fast = (
        load_ensemble(model, precision=name).predict_probabilities(images) for name in ("float32", "bfloat16")
    )
    assert fast.dtype == exact.dtype
    np.testing.assert_allclose(fast.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(fast, exact, atol=0.03)
    with pytest.raises(ValueError, match="precision is 'int8'"):
        load_ensemble(model, precision="int8")


def test_members_in_another_order_are_the_same_ensemble(tmp_path, images, write_ensemble):
    one = load_ensemble(write_ensemble(tmp_path / "one", seeds=[0, 1, 2])).predict_probabilities(images)
    other = load_ensemble(write_ensemble(tmp_path / "other", seeds=[2, 0, 1])).predict_probabilities(images)
    np.testing.assert_allclose(other, one[[2, 0, 1]], atol=1e-6)


def test_gain_and_offset_of_an_image_change_nothing(model, images):
    ensemble = load_ensemble(model)
    counts = [(image * 100).astype(np.uint16) for image in images]
    p = ensemble.predict_probabilities(counts)
    q = ensemble.predict_probabilities([3.0 * image.astype(float) - 7 for image in counts])
    np.testing.assert_allclose(p, q, atol=1e-4)


def test_dropout_repeats_and_its_passes_differ(tmp_path, images, write_ensemble):
    folder = write_ensemble(tmp_path / "one", n=1, method="dropout")
    ensemble = load_ensemble(folder)
    p = ensemble.predict_probabilities(images)
    assert p.shape == (5, 4, 3)
    np.testing.assert_array_equal(ensemble.predict_probabilities(images), p)
    assert np.ptp(p, axis=0).max() > 0.01
    softmax = load_ensemble(folder, method="softmax").predict_probabilities(images)
    assert softmax.shape == (1, 4, 3)
    np.testing.assert_array_equal(load_ensemble(folder, method="softmax").predict_probabilities(images), softmax)
    other = write_ensemble(tmp_path / "other", n=1, method="dropout", seed=4)
    assert np.abs(load_ensemble(other).predict_probabilities(images) - p).max() > 0.01


def test_the_map_of_a_constant_image_is_constant(model):
    ensemble = load_ensemble(model)
    (found,) = ensemble.classify_images([np.full((45, 30), 7, np.uint8)])
    assert found.window_probabilities.shape == (4, 5, 3, 3)
    assert np.ptp(found.window_probabilities, axis=(1, 2)).max() < 1e-6
    np.testing.assert_allclose(found.probabilities, found.window_probabilities[:, 0, 0], atol=1e-6)
    assert found.window_boxes[0, 0].tolist() == [0, 0, 16, 16]
    assert found.window_boxes[-1, -1].tolist() == [29, 14, 45, 30]


def test_equal_pixels_give_equal_probabilities_at_any_position(model):
    rng = np.random.default_rng(1)
    tile = rng.random((16, 16)).astype(np.float32)
    (found,) = load_ensemble(model).classify_images([np.tile(tile, (2, 3))])
    np.testing.assert_allclose(
        found.window_probabilities[:, ::2, ::2],
        found.window_probabilities[:, :1, :1].repeat(2, 1).repeat(3, 2),
        atol=1e-5,
    )
    assert np.abs(found.window_probabilities[:, 1, 1] - found.window_probabilities[:, 0, 0]).max() > 1e-6


@pytest.mark.parametrize("fault", ["gone", "cut short", "another"])
def test_missing_or_corrupt_members_are_omitted_and_reported(model, images, fault):
    whole = load_ensemble(model).predict_probabilities(images)
    file = model / "member_01.safetensors"
    if fault == "gone":
        file.unlink()
    else:
        file.write_bytes(
            file.read_bytes()[:-64] if fault == "cut short" else (model / "member_02.safetensors").read_bytes()
        )
    ensemble = load_ensemble(model)
    assert ensemble.n_members == 3
    assert ensemble.member_summary.startswith("3 of 4 members; member_01.safetensors: ")
    np.testing.assert_allclose(ensemble.predict_probabilities(images), whole[[0, 2, 3]], atol=1e-6)


def test_weights_with_valid_checksum_and_wrong_shape_are_omitted(model):
    (model / "member_00.safetensors").write_bytes(b"no safetensors")
    table = tomllib.loads((model / "card.toml").read_text())
    table.pop("files")
    models.write_model_card(model, table)
    assert load_ensemble(model).member_summary.startswith("3 of 4 members; member_00.safetensors: ")


def test_members_keep_their_numbers_when_one_is_lost(model, images):
    assert load_ensemble(model).member_numbers == (0, 1, 2, 3)
    whole = load_ensemble(model).classify_images(images)
    (model / "member_01.safetensors").unlink()
    ensemble = load_ensemble(model)
    assert ensemble.member_numbers == (0, 2, 3)
    rows = make_probability_rows(
        ["w", "x", "y", "z"],
        ensemble.classify_images(images),
        "four",
        member_numbers=ensemble.member_numbers,
        n_embedded=3,
    )
    assert rows["member"].tolist() == [0, 2, 3] * 4
    np.testing.assert_array_equal(rows["embedding"][1], whole[0].embeddings[2])
    assert rows["embedding"][2] is None


def test_too_few_members_are_refused(tmp_path, model, write_ensemble):
    for k in range(3):
        (model / f"member_{k:02d}.safetensors").unlink()
    with pytest.raises(ValueError, match="1 of 4 members can be used, at least 2"):
        load_ensemble(model)
    strict = write_ensemble(tmp_path / "strict", min_members=4)
    (strict / "member_03.safetensors").unlink()
    with pytest.raises(ValueError, match=r"3 of 4 .* at least 4 .*member_03.safetensors: it is not there"):
        load_ensemble(strict)


def test_other_classes_and_images_below_a_window_are_refused(model):
    with pytest.raises(ValueError, match=r"not on the card: \['d'\], missing: \['c'\]"):
        load_ensemble(model, classes=["a", "b", "d"])
    with pytest.raises(ValueError, match="order differs"):
        load_ensemble(model, classes=["b", "a", "c"])
    ensemble = load_ensemble(model, classes=["a", "b", "c"])
    assert ensemble.explain_refusal((16, 16)) == ""
    assert "15 x 40 px, smaller than the classifier's window of 16 px" in ensemble.explain_refusal((15, 40))
    with pytest.raises(ValueError, match="image 1: the image is 8 x 8 px"):
        ensemble.predict_probabilities([np.zeros((16, 16)), np.zeros((8, 8))])
    with pytest.raises(ValueError, match="image 0: an image of shape"):
        ensemble.predict_probabilities([np.zeros((16, 16, 3))])
    with pytest.raises(FileNotFoundError, match="no model"):
        load_ensemble(model / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "instance segmentation"}, "not the card of a classifier"),
        ({"classes": ["a", "b"]}, "2 classes, .*n_classes is 3"),
        ({"input": {"size": 16}}, "size_px is needed"),
        ({"ensemble": {"method": "vote", "members": ["x"]}}, "method is 'vote'"),
        ({"ensemble": {"method": "softmax", "members": ["x", "y"]}}, "2 files for method 'softmax'"),
        ({"architecture": {"n_classes": 3, "depth": 12}}, "depth is 12"),
    ],
)
def test_what_a_card_has_wrong_is_named(model, change, said):
    table = models.load_model_card(model)
    table.pop("files")
    models.write_model_card(model, {**table, **change})
    with pytest.raises(ValueError, match=f"card.toml: .*{said}"):
        load_ensemble(model)


def test_rows_hold_every_members_probabilities(model, images):
    ensemble = load_ensemble(model)
    examined = ensemble.classify_images(images)
    rows = make_probability_rows(["w", "x", "y", "z"], examined, "four", n_embedded=1)
    back = tables.conform(rows, tables.PROBABILITIES).to_pandas()
    p = np.stack(back["probabilities"]).reshape(4, 4, 3).transpose(1, 0, 2)
    np.testing.assert_array_equal(p, ensemble.predict_probabilities(images))
    assert back["embedding"].notna().tolist() == [True, False, False, False] * 4
    assert tables.conform(make_probability_rows([], [], "four"), tables.PROBABILITIES).num_rows == 0


def test_one_network_too_many_ways_to_be_wrong(model):
    with pytest.raises(ValueError, match="way 'all'"):
        make_evaluator(nets_of(model), "all")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        load_ensemble(model, "tpu")
    with pytest.raises(ValueError, match=r"\(n, 16, 16\)"):
        load_ensemble(model).predict_windows(np.zeros((2, 8, 8), np.float32))
    assert isinstance(load_ensemble(model), Ensemble)
    assert load_ensemble(model) is load_ensemble(model)


def test_large_images_give_the_same_result_in_parts(model, images, monkeypatch):
    whole = load_ensemble(model).classify_images(images)
    monkeypatch.setitem(ensembles.BATCH_WINDOWS, "cpu", 3)
    for one, other in zip(load_ensemble(model).classify_images(images), whole):
        for a, b in zip(one, other):
            np.testing.assert_allclose(a, b, atol=1e-5)
