"""SEM textures: a lot is what its images share, and lots differ."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from emqa_dask.synthetic import textures


def test_lots_are_deterministic_and_all_different():
    lots = [tuple(textures.draw_lot_parameters(lot).values()) for lot in range(200)]
    assert lots == [tuple(textures.draw_lot_parameters(lot).values()) for lot in range(200)]
    assert len(set(lots)) == 200


def test_grains_have_the_size_of_their_lot():
    lots = [*range(4), *range(100, 106)]
    asked = [textures.draw_lot_parameters(lot)["radius_um"] for lot in lots]
    seen = []
    for lot in lots:
        sample = textures.draw_texture(np.random.default_rng(lot), (384, 384), lot=lot)
        areas = [crop.sum() * sample.nm_per_pixel**2 for _, _, crop in sample.masks]
        seen.append(np.sqrt(np.median(areas) / np.pi))
    assert spearmanr(asked, seen).statistic > 0.9


def test_masks_are_visible_parts_and_so_never_overlap():
    sample = textures.draw_texture(np.random.default_rng(1), (256, 256), lot=3)
    count = np.zeros((256, 256), int)
    for y0, x0, crop in sample.masks:
        count[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] += crop
    assert count.max() == 1
    assert sample.meta["lot"] == 3


def test_a_given_acquisition_does_not_change_the_powder():
    exposure = {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}

    def taken(**settings):
        rng = np.random.default_rng(7)
        return textures.draw_texture(rng, (128, 128), lot=5, dtype="float32", exposure=exposure, **settings)

    sharp = taken(blur_px=0.4)
    soft = taken(blur_px=3.0)
    turned = taken(blur_px=0.4, side_rad=0.0)
    for other in (soft, turned):
        assert [crop.sum() for _, _, crop in other.masks] == [crop.sum() for _, _, crop in sharp.masks]
        assert other.nm_per_pixel == sharp.nm_per_pixel
        assert not np.array_equal(other.image, sharp.image)
    assert soft.meta["blur_px"] == 3.0
    steepness = [np.abs(np.diff(s.image / s.image.mean(), axis=0)).mean() for s in (soft, sharp)]
    assert steepness[0] < 0.5 * steepness[1]


def test_a_negative_lot_is_refused():
    with pytest.raises(ValueError, match="-1"):
        textures.draw_texture(np.random.default_rng(0), (64, 64), lot=-1)
