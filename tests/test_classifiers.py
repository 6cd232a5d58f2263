import numpy as np
import pytest
import torch

from emqa_dask import windows
from emqa_dask.classifiers import build_classifier, complete_architecture, set_dropout_pass


def test_the_wide_resnet_has_the_published_number_of_parameters():
    net = build_classifier({"n_classes": 30})
    assert sum(p.numel() for p in net.parameters()) == 693_966
    with torch.inference_mode():
        logits, embedding = net(torch.rand(2, 1, 64, 64), embedding=True)
    assert logits.shape == (2, 30)
    assert embedding.shape == (2, 128)
    strides = [m.conv1.stride[0] for m in net.body if hasattr(m, "conv1")]
    assert strides == [1, 1, 2, 1, 2, 1]


def test_dropout_adds_no_parameters_and_does_nothing_unless_asked():
    torch.manual_seed(0)
    plain = build_classifier({"n_classes": 3})
    wet = build_classifier({"n_classes": 3, "dropout": 0.3})
    wet.load_state_dict(plain.state_dict())
    x = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        dry = plain(x)
        torch.testing.assert_close(wet(x), dry)
        set_dropout_pass(wet, 5, 1)
        first = wet(x)
        again = wet(x)
        alone = wet(x[1:])
        set_dropout_pass(wet, 5, 2)
        second = wet(x)
        set_dropout_pass(wet, None)
        torch.testing.assert_close(wet(x), dry)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(first[1:], alone, rtol=1e-4, atol=1e-5)
    assert (first - dry).abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small", "squeezenet1_0", "no_such_net"])
def test_a_backbone_of_torchvision_stands_beside_it(backbone):
    told = {"backbone": backbone, "n_classes": 4, "dropout": 0.2}
    if backbone in ("squeezenet1_0", "no_such_net"):
        with pytest.raises(ValueError, match=f"backbone is '{backbone}'"):
            build_classifier(told)
        return
    torch.manual_seed(0)
    net = build_classifier(told).train()
    for module in net.modules():  # one batch's statistics, or a deep random network says nothing
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.inference_mode():
        x = torch.rand(2, 1, 64, 64)
        net(x)
        net.eval()
        logits, embedding = net(x, embedding=True)
        torch.testing.assert_close(net.head(embedding), logits)
        assert logits.shape == (2, 4)
        set_dropout_pass(net, 0, 0)
        assert (net(x) - logits).abs().max() > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_classes": 1}, "n_classes is 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"depth": 12}, "depth is 12"),
        ({"channels": 0}, "channels is 0"),
        ({"width": 3}, r"unknown \['width'\]"),
    ],
)
def test_an_architecture_that_makes_no_sense_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        complete_architecture({"n_classes": 3, **change})
    with pytest.raises(ValueError, match=r"missing \['n_classes'\]"):
        complete_architecture({})


def test_windows_cover_every_pixel_and_hold_the_images():
    view = windows.WindowSettings(16, stride_px=10)
    rng = np.random.default_rng(0)
    pixels = rng.random((37, 16), dtype=np.float32)
    grid = windows.compute_corners(pixels.shape, view)
    assert grid[:, 0].tolist() == [[0, 0], [10, 0], [20, 0], [21, 0]]
    assert grid.shape[1] == 1
    for corner in grid[:, 0]:
        np.testing.assert_array_equal(windows.cut_window(pixels, corner, view), pixels[corner[0] : corner[0] + 16])


def test_preparing_bounds_any_image_and_ignores_scale():
    view = windows.WindowSettings(8)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (20, 30)).astype(np.uint8)
    out = windows.normalise_image(image, view)
    assert out.dtype == np.float32
    assert (out.min(), out.max()) == (0, 1)
    np.testing.assert_allclose(windows.normalise_image(image.astype(np.uint32) * 10_000_019 + 7, view), out, atol=1e-6)
    holed = image.astype(np.float64)
    holed[3, 4] = np.nan
    holed[5, 6] = np.inf
    assert np.isfinite(windows.normalise_image(holed, view)).all()
    for flat in (np.full((9, 9), 3), np.full((9, 9), np.nan), np.zeros((9, 9), bool)):
        assert not windows.normalise_image(flat, view).any()
    with pytest.raises(ValueError, match="complex128: real numbers"):
        windows.normalise_image(np.zeros((9, 9), complex), view)


def test_a_whole_image_shrinks_to_the_window_in_proportion():
    view = windows.WindowSettings(16, whole=True)
    image = np.kron(np.arange(4), np.ones((64, 32)))  # 64 x 128 px, brighter to the right
    out = windows.normalise_image(image, view)
    assert out.shape == (16, 32)
    np.testing.assert_allclose(out[:, ::8], np.tile(np.arange(4) / 3, (16, 1)), atol=1e-6)
    assert "smaller" in windows.explain_refusal((15, 99), view)


@pytest.mark.parametrize(
    "bad", [{"size_px": 4}, {"size_px": 16, "low_percentile": 99.9}, {"size_px": 16, "stride_px": 17}]
)
def test_a_view_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match=r"\[input\]"):
        windows.WindowSettings(**bad)
