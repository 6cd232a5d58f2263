"""The bundled network of contents: whole, small, and told by what is in a window rather than by how it was recorded."""

import numpy as np
import pytest
import torch

from emqa_dask import models
from emqa_dask.classify import content, load_ensemble
from emqa_dask.synthetic.conditions import reacquire
from emqa_dask.synthetic.contents import CONTENTS, draw_crop
from emqa_dask.synthetic.foreign import FOREIGN, make_foreign_image

torch.set_num_threads(1)


def windows(seed, pictures):
    """Of each picture a window under other conditions."""
    rng = np.random.default_rng(seed)
    return np.stack([np.clip(reacquire(rng, draw_crop(rng, picture, 0.5)), 0, 1) for picture in pictures])


def pictures(seed, n):
    """n pictures (128, 128) of each content, 0 to 1."""
    found = []
    for k, make in enumerate(CONTENTS.values()):
        for j in range(n):
            made = make(np.random.default_rng([seed, k, j]), (128, 128)).astype(np.float32)
            low, high = np.percentile(made, [0.5, 99.5])
            found.append(np.clip((made - low) / (high - low), 0, 1).astype(np.float32))
    return found


def test_the_model_is_small_complete_and_has_measured_figures():
    folder = models.CONTENT_MODEL
    card = models.load_model_card(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2e6
    assert set(card["families"]["foreign"]) == set(FOREIGN) < set(card["families"]["names"])
    assert card["measured"]["n"] > 0


def test_windows_of_a_picture_match_across_recording_conditions():
    drawn = pictures(0, 3)
    a, b = (content.embed_windows(windows(seed, drawn))[0] for seed in (1, 2))
    assert a.shape == (len(drawn), 128)
    a, b = ((e - a.mean(axis=0)) / (a.std(axis=0) + 1e-6) for e in (a, b))
    a, b = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (a, b))
    assert ((a @ b.T).argmax(axis=1) == np.arange(len(drawn))).mean() > 0.25  # by chance 0.03


# Not element maps: in a window their few counts look like noise. Their emptiness gives them away, in the statistics.
@pytest.mark.parametrize("kind", ["photograph", "plot", "diffraction"])
def test_pictures_that_are_no_micrographs_have_higher_odds(kind):
    micrographs = content.embed_windows(windows(3, pictures(1, 4)))[1]
    rng = np.random.default_rng(4)
    others = [make_foreign_image(kind, rng, (64, 64)).astype(np.float32) / 255 for _ in range(12)]
    others = np.stack([picture if picture.ndim == 2 else picture.mean(axis=2) for picture in others])
    assert (content.embed_windows(others)[1][:, None] > micrographs).mean() > 0.8


def test_grey_levels_do_not_count():
    some = windows(5, pictures(2, 1))
    np.testing.assert_allclose(
        content.embed_windows(0.3 + 0.2 * some)[0], content.embed_windows(some)[0], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_windows_without_contrast_and_no_windows_are_no_obstacle(value):
    found, odds = content.embed_windows(np.full((3, 64, 64), value, np.float32))
    assert np.isfinite(found).all()
    assert np.isfinite(odds).all()
    assert content.embed_windows(np.zeros((0, 64, 64), np.float32))[0].shape == (0, 128)


def test_batches_change_nothing(monkeypatch):
    some = windows(6, pictures(3, 1))
    whole = content.embed_windows(some)
    monkeypatch.setattr(content, "BATCH_PX", 5 * 64 * 64)
    for a, b in zip(content.embed_windows(some), whole):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_an_image_has_the_mean_over_its_windows(model):
    image = np.tile(np.random.default_rng(7).random((16, 16)).astype(np.float32), (2, 3))
    ensemble = load_ensemble(model)
    alone, tiled = ensemble.classify_images([image[:16, :16], image])
    grid = np.stack([image[y : y + 16, x : x + 16] for y in (0, 8, 16) for x in (0, 8, 16, 24, 32)])
    embeddings, odds = content.embed_windows(
        np.clip((grid - np.percentile(image, 0.5)) / np.ptp(np.percentile(image, [0.5, 99.5])), 0, 1)
    )
    np.testing.assert_allclose(tiled.content, embeddings.mean(axis=0), rtol=1e-3, atol=1e-3)
    assert tiled.foreign_log_odds == pytest.approx(odds.mean(), abs=1e-3)
    assert not np.allclose(alone.content, tiled.content, atol=1e-3)
