"""Photographs and drawings are told from micrographs by their content; overlays and shapes do not matter."""

from pathlib import Path

import cv2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.datasets
import torch

from emqa_dask.featurise import picture_kinds, picture_network
from emqa_dask.featurise.picture_kinds import (
    PROBABILITIES,
    SIDE_PX,
    draw_thumbnail,
    estimate_picture_kinds,
    make_thumbnail,
)
from emqa_dask.synthetic.faults import apply_fault
from emqa_dask.synthetic.profiles import make_sample

torch.set_num_threads(1)


def estimate_kinds(view):
    (kinds,) = estimate_picture_kinds([draw_thumbnail(view)])
    return kinds


def stretch(image):
    low, high = np.percentile(image, [0.5, 99.5])
    return ((image - low) / (high - low)).astype(np.float32)


def test_photograph_of_a_package_is_one():
    """Matplotlib's photograph, which the network was not fitted to."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    found = estimate_kinds(stretch(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))
    assert found["photograph_probability"] > 0.9
    assert found["drawing_probability"] < 0.1


def test_wide_and_narrow_photographs_stay_photographs():
    photograph = sklearn.datasets.load_sample_image("china.jpg")[..., 1]
    for part in (photograph, photograph[:, :300], photograph[100:330]):
        assert estimate_kinds(stretch(part))["photograph_probability"] > 0.8


@pytest.mark.parametrize("style", ["default", "dark_background", "ggplot"])
def test_plot_of_matplotlib_is_a_drawing(style):
    with plt.style.context(style):
        figure, axes = plt.subplots(1, 2, figsize=(7, 3.5))
        axes[0].plot(np.linspace(0, 9), np.sin(np.linspace(0, 9)), "o-", label="measured")
        axes[0].legend()
        axes[1].hist(np.random.default_rng(0).normal(size=300), bins=20)
        axes[1].set_xlabel("Diameter (nm)")
        figure.canvas.draw()
        grey = np.asarray(figure.canvas.buffer_rgba())[..., :3].mean(axis=2)
        plt.close(figure)
    assert estimate_kinds(stretch(grey))["drawing_probability"] > 0.9


@pytest.mark.parametrize("family", ["cavity-tem", "nanoparticle-tem", "atomic-stem", "sem-texture"])
def test_drawn_micrographs_with_overlays_stay_micrographs(family):
    rng = np.random.default_rng(4)
    image = make_sample(family, rng, (512, 512)).image
    for fault in (None, "scale_bar", "banner"):
        found = estimate_kinds(stretch(apply_fault(fault, image, rng) if fault else image))
        assert sum(found.values()) < 0.5, (fault, found)


@pytest.mark.parametrize("view", [np.zeros((95, 300), np.float32), np.full((128, 128), 0.5, np.float32)])
def test_small_and_flat_pictures_have_no_kind(view):
    found = estimate_kinds(view)
    assert list(found) == list(PROBABILITIES)
    assert np.isnan(list(found.values())).all()


def test_thumbnail_shows_the_whole_picture():
    """White left, black right half: so is the thumbnail, whatever the aspect."""
    view = np.zeros((128, 600), np.float32)
    view[:, :300] = 2.0
    thumbnail = make_thumbnail(view)
    assert thumbnail.shape == (SIDE_PX, SIDE_PX)
    np.testing.assert_allclose(thumbnail[:, :63], 1.0)
    np.testing.assert_allclose(thumbnail[:, 65:], 0.0)


def test_network_on_the_host_is_that_of_torch():
    rng = np.random.default_rng(0)
    smooth = [cv2.GaussianBlur(rng.random((SIDE_PX, SIDE_PX), np.float32), (0, 0), sigma) for sigma in (0.1, 1, 4)]
    thumbnails = np.stack([*smooth, np.zeros_like(smooth[0]), np.ones_like(smooth[0])])
    with torch.inference_mode():
        network = picture_kinds._load_network("cpu", torch.float32)
        expected = picture_kinds.compute_logits(network, torch.from_numpy(thumbnails[:, None])).numpy()
    logits = picture_network.compute_logits(picture_kinds._load_host_network(), thumbnails)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)
