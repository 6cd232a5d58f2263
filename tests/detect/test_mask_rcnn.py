"""The detector: the plain torchvision model's results, whatever the batch, the order, the dtype or the size."""

import shutil

import numpy as np
import pandas as pd
import pytest

import emqa_dask
from emqa_dask import models, networks, tables
from emqa_dask.detect.mask_rcnn import detector_card as cards
from emqa_dask.detect.mask_rcnn import load_detector
from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.detect.mask_rcnn.detections_table import COLUMNS
from emqa_dask.detect.mask_rcnn.detector import Detector
from emqa_dask.detect.mask_rcnn.speed import fold_batch_norms, make_planar, replace_by_products
from emqa_dask.detect.normalise import normalise
from tests.detect.conftest import SMALL, spread, write_model

BOX = ["y0", "x0", "y1", "x1"]
TEXT = ("label", "detector", "mask_rle")


def differing_pixels(a, b, shape):
    return [int((mk.decode(x, shape) != mk.decode(y, shape)).sum()) for x, y in zip(a["mask_rle"], b["mask_rle"])]


def assert_same(a, b, shape, atol=1e-4):
    """Equal rows up to rounding; a pixel whose probability is 0.5 may then go either way."""
    assert len(a) == len(b)
    assert list(a["label"]) == list(b["label"])
    np.testing.assert_allclose(a[[*BOX, "score"]], b[[*BOX, "score"]], rtol=0, atol=atol)
    assert max(differing_pixels(a, b, shape), default=0) <= 1
    assert a.attrs == b.attrs


def plain(net, image):
    """What torchvision's model by itself gives for the normalised image."""
    import torch

    with torch.inference_mode():
        (found,) = net(
            [torch.from_numpy(normalise(image, 1.0, 99.0))[None].expand(len(net.transform.image_mean), -1, -1)]
        )
    return {key: value.numpy() for key, value in found.items()}


def assert_plain(rows, found):
    assert len(rows) == len(found["scores"]) > 10
    np.testing.assert_allclose(rows["score"], found["scores"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(rows[["x0", "y0", "x1", "y1"]], found["boxes"], rtol=0, atol=1e-4)
    assert list(rows["label"]) == [["cavity", "void"][k - 1] for k in found["labels"]]
    for rle, mask in zip(rows["mask_rle"], found["masks"][:, 0], strict=True):
        pasted = mk.decode(rle, mask.shape)
        assert (pasted != (mask > 0.5)).sum() <= ((mask > 0.4999) & (mask < 0.5001)).sum()


def test_rows_are_those_of_the_plain_torchvision_model(small_model, scenes):
    folder, net = small_model
    for image, rows in zip(scenes, emqa_dask.load_detector(folder).detect(scenes), strict=True):
        assert_plain(rows, plain(net, image))


def test_scaled_input_in_three_channels_too(tmp_path, scenes):
    three = {"image_mean": [0.4, 0.45, 0.5], "image_std": [0.2, 0.25, 0.3], "min_size": 96, "max_size": 200}
    net = write_model(tmp_path / "m", SMALL | three)
    image = scenes[0]
    assert_plain(load_detector(tmp_path / "m").detect([image])[0], plain(net, image))


def test_rows_fit_the_table(small_model, scenes):
    rows = load_detector(small_model[0]).detect(scenes[:1], nm_per_pixel=0.5)[0]
    height, width = scenes[0].shape
    assert list(rows.columns) == COLUMNS
    assert tables.conform(rows.assign(micrograph_id="0" * 32), tables.DETECTIONS).num_rows == len(rows) > 10
    assert rows["score"].is_monotonic_decreasing
    assert rows["score"].between(0.05, 1).all()
    assert set(rows["detector"]) == {"small"}
    assert (rows[BOX] >= 0).all(axis=None)
    assert (rows[["y1", "x1"]].to_numpy() <= [height, width]).all()
    np.testing.assert_allclose(rows["diameter_nm"], 0.5 * rows["diameter_px"])
    masks = [mk.decode(rle, (height, width)) for rle in rows["mask_rle"]]
    np.testing.assert_array_equal(rows["area_px"], [mask.sum() for mask in masks])
    filled = rows["area_px"] > 0
    assert filled.any()
    assert (rows["circularity"][filled] >= 1).all()
    assert rows["circularity"].isna().equals(~filled)
    assert rows["sigma_px"].isna().all()


def test_order_and_batch_size_change_nothing(small_model, scenes):
    detector = load_detector(small_model[0])
    alone = [detector.detect([image])[0] for image in scenes]
    for batch_px in (1, 128 * 160, 3 * 128 * 160, 1 << 24):
        detector.batch_px = batch_px
        for order in (range(8), [5, 2, 7, 0, 1, 6, 3, 4]):
            for k, rows in zip(order, detector.detect([scenes[k] for k in order]), strict=True):
                assert_same(rows, alone[k], scenes[k].shape)


def test_threads_beside_the_network_change_nothing(small_model, scenes):
    import torch

    detector = load_detector(small_model[0])
    expected = detector.detect(scenes)
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        detector.batch_px = 1
        found = detector.detect(scenes)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n)
    for a, b, image in zip(found, expected, scenes, strict=True):
        assert_same(a, b, image.shape)


@pytest.mark.parametrize("said", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 bytes")])
def test_batches_are_halved_when_memory_runs_out(small_model, scenes, said):
    loaded = load_detector(small_model[0])
    expected = loaded.detect(scenes)
    sizes = []
    most = 1

    def predict(images):
        sizes.append(len(images))
        if len(images) > most:
            raise said
        return loaded._network.predict_objects(images)

    detector = Detector(loaded.card, loaded._network._replace(predict_objects=predict), "cpu")
    detector.batch_px = 4 * 144 * 128
    for a, b, image in zip(detector.detect(scenes), expected, scenes, strict=True):
        assert_same(a, b, image.shape)
    assert sizes[:3] == [3, 1, 2]
    detector.detect(scenes)
    assert sizes[-8:] == [1] * 8  # it stays so
    most = 0
    with pytest.raises(MemoryError, match="128 x 160 px alone"):
        detector.detect(scenes)


def test_other_errors_are_not_taken_for_memory(small_model, scenes):
    loaded = load_detector(small_model[0])

    def predict(images):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Detector(loaded.card, loaded._network._replace(predict_objects=predict), "cpu").detect(scenes)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.uint32, np.float16, np.float32, np.float64])
def test_every_dtype(small_model, scenes, dtype):
    image = (scenes[0] // 200).astype(dtype) if dtype is not bool else scenes[0] > 20000
    kept = image.copy()
    image.setflags(write=False)
    detector = load_detector(small_model[0])
    rows = detector.detect([image])[0]
    assert len(rows) > 5
    assert_same(rows, detector.detect([kept.astype(np.float64)])[0], image.shape, atol=1e-3)
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("shape", [(0, 0), (0, 9), (1, 1), (1, 2), (1, 300), (300, 1), (3, 3), (33, 31)])
def test_every_size(small_model, tmp_path, shape):
    write_model(tmp_path / "scaled", SMALL | {"min_size": 64, "max_size": 128})
    image = np.random.default_rng(0).uniform(0, 100, shape)
    for folder in (small_model[0], tmp_path / "scaled"):
        rows = load_detector(folder).detect([image])[0]
        assert list(rows.columns) == COLUMNS
        assert (rows[["y1", "x1"]].to_numpy() <= shape).all()


def test_empty_results_have_the_dtypes_of_full_ones(small_model, scenes):
    detector = load_detector(small_model[0])
    nothing = [np.zeros((64, 64)), np.full((40, 40), 7, np.uint16), np.full((64, 64), np.nan), np.zeros((0, 5))]
    full, *empty = detector.detect([scenes[0], *nothing])
    for rows in empty:
        assert len(rows) == 0
        assert list(rows.columns) == COLUMNS
        assert rows.attrs == {"is_capped": False}
        numeric = [c for c in COLUMNS if c not in TEXT]
        assert (rows.dtypes[numeric] == full.dtypes[numeric]).all()
        assert tables.conform(rows, tables.DETECTIONS).num_rows == 0
    assert detector.detect([]) == []


def test_lost_pixels_take_the_median(small_model, scenes):
    detector = load_detector(small_model[0])
    image = scenes[0].astype(np.float32)
    holes = image.copy()
    holes[40:44, 50:54] = np.nan
    holes[0, 0] = np.inf
    filled = np.where(np.isfinite(holes), holes, np.median(holes[np.isfinite(holes)]))
    assert_same(*detector.detect([holes, filled]), image.shape, atol=1e-2)


def test_only_two_dimensional_real_images(small_model):
    for image in (np.zeros((4, 4, 3)), np.zeros(4), np.zeros((4, 4), complex)):
        with pytest.raises(ValueError, match="two-dimensional real"):
            load_detector(small_model[0]).detect([image])


def test_pixel_sizes_of_each_image(small_model, scenes):
    found = load_detector(small_model[0]).detect(scenes[:3], nm_per_pixel=[0.1, np.nan, 2.0])
    for rows, nm in zip(found, [0.1, np.nan, 2.0], strict=True):
        np.testing.assert_allclose(rows["diameter_nm"], nm * rows["diameter_px"])
    assert load_detector(small_model[0]).detect(scenes[:1])[0]["diameter_nm"].isna().all()


def test_the_cap_is_recorded_and_the_floor_kept(tmp_path, scenes):
    for n, floor in ((5, 0.05), (1000, 0.3)):
        folder = tmp_path / f"{n}"
        write_model(folder, SMALL | {"max_detections": n, "score_floor": floor})
        rows = load_detector(folder).detect(scenes[:1])[0]
        assert rows.attrs["is_capped"] is (n == 5)
        assert len(rows) == 5 if n == 5 else len(rows) > 0
        assert (rows["score"] >= floor).all()


def test_16_bits_change_little(small_model, scenes):
    exact, short = (load_detector(small_model[0], precision=p).detect(scenes[:2]) for p in ("float32", "bfloat16"))
    for a, b in zip(exact, short, strict=True):
        assert not a["score"].equals(b["score"])
        assert b.dtypes.equals(a.dtypes)
        np.testing.assert_allclose(a["score"][:5], b["score"][:5], atol=0.15)


def test_batch_norms_are_folded_and_the_function_stays():
    import torch

    net = spread(networks.build_detector(SMALL))
    x = torch.randn(2, 1, 96, 64)
    with torch.inference_mode():
        before = net.backbone(x)
        assert fold_batch_norms(net) == 20
        after = net.backbone(x)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))
    assert fold_batch_norms(net) == 0


def test_one_by_one_convolutions_are_the_same_as_products():
    import torch

    net = networks.build_detector(SMALL)
    net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 1, 96, 64)
    with torch.inference_mode():
        before = net.backbone(x)
        assert replace_by_products(net) == 4 + 2 + 1  # four levels of the pyramid, objectness and boxes, mask logits
        after = net.backbone(x)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))
        assert torch.equal(make_planar(value), value.contiguous())
        assert make_planar(value).is_contiguous()


def test_norms_in_training_are_left():
    assert fold_batch_norms(networks.build_detector(SMALL).train()) == 0


def test_a_model_is_loaded_again_only_after_a_change(small_model, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(small_model[0], folder)
    first = load_detector(folder)
    assert load_detector(str(folder)) is first
    assert load_detector(folder, precision="bfloat16") is not first
    assert load_detector(folder, precision="auto") is first
    given = {k: v for k, v in models.load_model_card(folder).items() if k != "files"}
    models.write_model_card(folder, given | {"name": "other"})
    assert load_detector(folder).card.name == "other"


def _changed(folder, **changes):
    given = {k: v for k, v in models.load_model_card(folder).items() if k != "files"}
    models.write_model_card(folder, {k: v for k, v in (given | changes).items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "yolo"}, "family 'yolo'"),
        ({"task": "classification"}, "not the card of a Mask R-CNN"),
        ({"classes": None}, "lacks classes"),
        ({"architecture": None}, "lacks architecture"),
        ({"classes": ["one"]}, "classes has 1 names"),
        ({"input": {"low_percentile": 99.0, "high_percentile": 1.0}}, "percentiles are 99.0 and 1.0"),
        ({"input": {"tile_px": 200, "halo_px": 100}}, "tile_px is 200"),
        ({"family": "detectron2"}, "lacks config.yaml"),
        ({"architecture": SMALL | {"fpn_channels": 24}}, "another architecture than the card's"),
        ({"architecture": SMALL | {"backbone": "vgg"}}, "backbone is 'vgg'"),
    ],
)
def test_wrong_cards_are_named(small_model, tmp_path, changes, said):
    folder = tmp_path / "m"
    shutil.copytree(small_model[0], folder)
    _changed(folder, **changes)
    with pytest.raises(ValueError, match=said):
        load_detector(folder)


def test_changed_weights_pickles_and_missing_files_are_named(small_model, tmp_path):
    import torch

    folder = tmp_path / "m"
    shutil.copytree(small_model[0], folder)
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")
    with pytest.raises(ValueError, match="SHA-256"):
        load_detector(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors, which is not there"):
        load_detector(folder)
    torch.save({"a": torch.zeros(1)}, folder / "model.pth")
    for path in (folder, folder / "model.pth"):
        with pytest.raises(ValueError, match=r"is a pickle.*emqa import detector"):
            load_detector(path)
    with pytest.raises(FileNotFoundError, match="no model"):
        load_detector(tmp_path / "none")


def test_devices_and_precisions(small_model):
    import torch

    with pytest.raises(ValueError, match="device is 'tpu'"):
        load_detector(small_model[0], device="tpu")
    with pytest.raises(ValueError, match="precision is 'int8'"):
        load_detector(small_model[0], precision="int8")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no usable GPU"):
            load_detector(small_model[0], device="cuda")


def test_the_bundled_names_are_known():
    with pytest.raises(ValueError, match="not the card of a Mask R-CNN"):
        cards.read_detector_card("log-synthetic")


def test_tables_of_images_can_be_put_together(small_model, scenes):
    found = load_detector(small_model[0]).detect([scenes[0], np.zeros((9, 9))])
    assert len(pd.concat(found, ignore_index=True)) == len(found[0])


def test_embedding_is_the_mean_and_deviation_of_the_feature_maps(small_model, scenes):
    import torch

    folder, net = small_model
    detector = load_detector(folder)
    detector.batch_px = 1 << 24
    results = detector.examine([*scenes, np.zeros((9, 9))])
    assert results[-1].embedding.shape == (0,)
    for image, result in zip(scenes, results):
        pixels = torch.from_numpy(normalise(image, 1.0, 99.0))[None]
        with torch.inference_mode():
            inputs, _ = net.transform([pixels])
            maps = [values[0].numpy() for values in net.backbone.body(inputs.tensors).values()]
        strides = [inputs.tensors.shape[-2] // values.shape[-2] for values in maps]
        parts = [  # without the padding
            values[:, : -(-image.shape[0] // stride), : -(-image.shape[1] // stride)]
            for values, stride in zip(maps, strides)
        ]
        expected = [part.mean(axis=(1, 2)) for part in parts] + [part.std(axis=(1, 2)) for part in parts]
        np.testing.assert_allclose(result.embedding, np.concatenate(expected), rtol=1e-3, atol=1e-4)
        assert result.embedding.dtype == np.float32


@pytest.mark.parametrize(
    ("f1", "precision"), [({}, "float32"), ({"bfloat16_f1": 0.97}, "float32"), ({"bfloat16_f1": 0.99}, "bfloat16")]
)
def test_16_bits_are_used_where_the_card_states_agreement(tmp_path, f1, precision):
    write_model(tmp_path / "model", SMALL, precision=f1)
    card = cards.read_detector_card(tmp_path / "model")
    assert card.select_precision("cuda") == precision
    assert card.select_precision("cpu") == "float32"


def test_an_agreement_that_is_no_share_is_refused(tmp_path):
    write_model(tmp_path / "model", SMALL, precision={"bfloat16_f1": 99.0})
    with pytest.raises(models.ModelError, match=r"bfloat16_f1 is 99\.0: it has to be within 0\.\.\.1"):
        cards.read_detector_card(tmp_path / "model")


@pytest.mark.parametrize("name", ["cavity-tem", "em-objects"])
def test_bundled_cards_state_the_agreement_in_16_bits(name):
    entries = models.read_model_card(models.locate_model(name))["precision"]
    assert entries["bfloat16_n_objects"] > 500
    assert entries["bfloat16_f1"] >= cards.MIN_BFLOAT16_F1
