"""The detectron2 back end against detectron2's own DefaultPredictor, and against what its files may not do."""

import builtins
import warnings

import numpy as np
import pytest
import yaml

from emqa_dask import detectron2_models, models, networks
from emqa_dask.detect.mask_rcnn import convert, load_detector
from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.detect.normalise import normalise
from tests.detect.conftest import SMALL, spread, write_model

BASE = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TEST": 100,
            "POST_NMS_TOPK_TEST": 60,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 2},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "FC_DIM": 32, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 1,
            "CONV_DIM": 16,
            "POOLER_RESOLUTION": 14,
        },
    },
    "INPUT": {"MIN_SIZE_TEST": 150, "MAX_SIZE_TEST": 220},
}


@pytest.fixture(scope="module")
def detectron2():
    """The library: `make install-dev` puts its Python code into the environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("detectron2", reason="detectron2 is not installed (make install-dev)")
        import detectron2.data
        import detectron2.engine
        import detectron2.modeling
    return detectron2


@pytest.fixture(scope="module")
def imported(detectron2, tmp_path_factory):
    """(model directory, config.yaml with a _BASE_, checkpoint.pth) of a small network with random weights."""
    import torch

    folder = tmp_path_factory.mktemp("detectron2")
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    (folder / "config.yaml").write_text(yaml.safe_dump({"_BASE_": "base.yaml", "VERSION": 2}))
    (folder / "plain.yaml").write_text(yaml.safe_dump(BASE))
    model, _ = detectron2_models.build(folder / "plain.yaml", 0.05, 1000, "cpu")
    state = {**spread(model).state_dict(), "pixel_mean": torch.zeros(3, 1, 1)}
    torch.save({"model": state, "iteration": 7}, folder / "model.pth")
    convert.import_detectron2(
        folder / "config.yaml",
        folder / "model.pth",
        folder / "out" / "small",
        name="two",
        classes=["loop", "void"],
        model_card={"licence": "MIT"},
    )
    return folder / "out" / "small", folder / "config.yaml", folder / "model.pth"


def default_predictor(config, checkpoint):
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.MODEL.WEIGHTS = str(checkpoint)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    cfg.TEST.DETECTIONS_PER_IMAGE = 1000
    return DefaultPredictor(cfg)


@pytest.mark.filterwarnings("ignore")
def test_rows_are_those_of_the_default_predictor(imported, scenes):
    predictor = default_predictor(*imported[1:])
    found = load_detector(imported[0]).detect(scenes[:4])
    for image, rows in zip(scenes, found, strict=False):
        grey = detectron2_models.convert_to_uint8(normalise(image, 1.0, 99.0))
        expected = predictor(np.repeat(grey[..., None], 3, axis=2))["instances"]
        assert len(rows) == len(expected) > 5
        boxes = expected.pred_boxes.tensor.numpy()
        np.testing.assert_allclose(rows["score"], expected.scores.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(rows[["x0", "y0", "x1", "y1"]], boxes, rtol=0, atol=1e-4)
        assert list(rows["label"]) == [["loop", "void"][k] for k in expected.pred_classes]
        for rle, mask in zip(rows["mask_rle"], expected.pred_masks.numpy(), strict=True):
            assert (mk.decode(rle, mask.shape) != mask).sum() <= 1  # a probability of 0.5 to the last bit


def test_order_and_batch_size_change_nothing(imported, scenes):
    detector = load_detector(imported[0])
    alone = [detector.detect([image])[0] for image in scenes[:4]]
    detector.batch_px = 1 << 24
    for k, rows in zip([2, 0, 3, 1], detector.detect([scenes[k] for k in [2, 0, 3, 1]]), strict=True):
        np.testing.assert_allclose(rows[["y0", "x0", "y1", "x1", "score"]], alone[k][["y0", "x0", "y1", "x1", "score"]],
                                   rtol=0, atol=1e-4)  # fmt: skip


def test_every_batch_norm_is_folded_and_16_bits_run(imported, scenes):
    exact, short = (load_detector(imported[0], precision=p).detect(scenes[:1])[0] for p in ("float32", "bfloat16"))
    np.testing.assert_allclose(exact["score"][:3], short["score"][:3], atol=0.15)


def test_the_smallest_images_and_empty_ones(imported):
    detector = load_detector(imported[0])
    rng = np.random.default_rng(0)
    for shape in [(0, 3), (1, 1), (1, 700), (2, 3)]:
        rows = detector.detect([rng.uniform(0, 9, shape)])[0]
        assert (rows[["y1", "x1"]].to_numpy() <= shape).all()


@pytest.mark.parametrize("n", [1, 4, 30])
@pytest.mark.filterwarnings("ignore")
def test_pixels_are_those_that_detectron2_pastes(detectron2, n):
    import torch
    from detectron2.layers.mask_ops import paste_masks_in_image

    rng = np.random.default_rng(n)
    shape = (40, 50)
    corners = rng.uniform([0, 0], [50, 40], (n, 2, 2))
    boxes = torch.from_numpy(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)).float()
    masks = torch.from_numpy(rng.random((n, 28, 28))).float()
    expected = paste_masks_in_image(masks, boxes, shape, 0.5).numpy()
    for crop, image in zip(mk.paste_as_detectron2(masks, boxes, shape), expected, strict=True):
        pasted = np.zeros(shape, bool)
        pasted[crop.y0 : crop.y0 + crop.mask.shape[0], crop.x0 : crop.x0 + crop.mask.shape[1]] = crop.mask
        np.testing.assert_array_equal(pasted, image)


def test_weights_and_configs_that_do_not_belong_together_are_named(imported, tmp_path):
    _, config, checkpoint = imported
    about = {"name": "two", "classes": ["loop", "void"]}
    for key, value, said in (
        ("FPN", {"OUT_CHANNELS": 24}, "another architecture"),
        ("RESNETS", {"DEPTH": 34}, "another architecture: .* missing"),
        ("ROI_HEADS", {"NUM_CLASSES": 3}, "NUM_CLASSES is 3, 2 class names"),
        ("MASK_ON", False, "only a Mask R-CNN"),
        ("META_ARCHITECTURE", "RetinaNet", "only a Mask R-CNN"),
        ("NO_SUCH_KEY", 1, "not a detectron2 config"),
    ):
        changed = tmp_path / f"{key}.yaml"
        changed.write_text(yaml.safe_dump({"_BASE_": str(config.parent / "base.yaml"), "MODEL": {key: value}}))
        with pytest.raises(ValueError, match=said):
            convert.import_detectron2(changed, checkpoint, tmp_path / "out", **about)
    with pytest.raises(FileExistsError):
        convert.import_detectron2(config, checkpoint, imported[0], **about)
    with pytest.raises(FileNotFoundError):
        convert.import_detectron2(tmp_path / "none.yaml", checkpoint, tmp_path / "out", **about)
    assert not list(tmp_path.glob("*out*"))


def test_a_config_runs_no_code(imported, tmp_path):
    mark = tmp_path / "mark"
    code = f"MODEL: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.PosixPath ['{mark}']]\n"
    (tmp_path / "config.yaml").write_text(code)
    with pytest.raises(ValueError, match="not a detectron2 config"):
        detectron2_models.build(tmp_path / "config.yaml", 0.05, 10, "cpu")
    with pytest.raises(ValueError, match="not a detectron2 config"):
        convert.import_detectron2(tmp_path / "config.yaml", imported[2], tmp_path / "o", name="a", classes=["b"])
    assert not mark.exists()


def test_a_card_of_another_number_of_classes_is_named(imported, tmp_path):
    import shutil

    folder = tmp_path / "m"
    shutil.copytree(imported[0], folder)
    given = {k: v for k, v in models.load_model_card(folder).items() if k != "files"}
    models.write_model_card(folder, given | {"classes": ["one"]})
    with pytest.raises(ValueError, match="NUM_CLASSES is 2, the card names 1"):
        load_detector(folder)


def test_without_the_library_it_says_how_to_install_it(tmp_path, monkeypatch):
    net = write_model(tmp_path / "m", SMALL)
    (tmp_path / "m" / "config.yaml").write_text(yaml.safe_dump(BASE))
    given = {k: v for k, v in models.load_model_card(tmp_path / "m").items() if k != "files"}
    networks.save_weights(net, tmp_path / "m" / "weights.safetensors")
    models.write_model_card(tmp_path / "m", given | {"family": "detectron2"})
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install .*facebookresearch/detectron2"):
        load_detector(tmp_path / "m")
