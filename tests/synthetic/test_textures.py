"""SEM textures: a lot is what its images share, and lots differ."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from emqa_dask.synthetic import particles, textures


def test_a_lot_is_deterministic_and_no_two_of_many_are_alike():
    lots = [tuple(textures.lot_parameters(lot).values()) for lot in range(200)]
    assert lots == [tuple(textures.lot_parameters(lot).values()) for lot in range(200)]
    assert len(set(lots)) == 200


def test_grains_have_the_size_of_their_lot_in_seen_and_unseen_lots():
    lots = [*range(4), *range(100, 106)]
    asked = [textures.lot_parameters(lot)["radius_um"] for lot in lots]
    seen = []
    for lot in lots:
        sample = textures.make(np.random.default_rng(lot), (384, 384), lot=lot)
        areas = [crop.sum() * sample.nm_per_pixel**2 for _, _, crop in sample.masks]
        seen.append(np.sqrt(np.median(areas) / np.pi))
    assert spearmanr(asked, seen).statistic > 0.9


def test_masks_are_visible_parts_and_so_never_overlap():
    sample = textures.make(np.random.default_rng(1), (256, 256), lot=3)
    count = np.zeros((256, 256), int)
    for y0, x0, crop in sample.masks:
        count[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] += crop
    assert count.max() == 1
    assert sample.meta["lot"] == 3


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="-1"):
        textures.make(np.random.default_rng(0), (64, 64), lot=-1)
    with pytest.raises(ValueError, match="'sem'"):
        particles.make(np.random.default_rng(0), (64, 64), mode="sem")


@pytest.mark.parametrize(("mode", "sign"), [("haadf", 1), ("bf", -1)])
@pytest.mark.parametrize("support", ["oxide", "carbon"])
def test_particles_are_bright_in_dark_field_and_dark_in_bright_field(mode, sign, support):
    clean = {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}
    sample = particles.make(
        np.random.default_rng(7), (256, 256), mode=mode, support=support, n=12, median_radius_px=7, sigma_log=0.1,
        contrast=3.0, blur_px=0.5, dtype="float32", exposure=clean,
    )  # fmt: skip
    contrasts = []
    for y0, x0, crop in sample.masks:
        patch = sample.image[max(0, y0 - 4) : y0 + crop.shape[0] + 4, max(0, x0 - 4) : x0 + crop.shape[1] + 4]
        centre = sample.image[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]][crop]
        contrasts.append(sign * (np.median(centre) - np.median(patch)))
    assert len(contrasts) > 3
    assert np.mean(np.array(contrasts) > 0) > 0.8
