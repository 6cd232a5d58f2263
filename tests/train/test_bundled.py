"""The bundled cavity detector: intact, small, and better than a blob filter on images that no training saw."""

import numpy as np
import pytest
import torch

from emqa_dask import models, networks
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.normalise import normalise
from emqa_dask.settings import load_settings
from emqa_dask.synthetic import cavities
from emqa_dask.train import scores

torch.set_num_threads(1)
CLEAR = {"contrast": 0.9, "background": 0.5, "exposure": {"dose_e_per_px": 800.0}}


@pytest.fixture(scope="module")
def bundled():
    folder = models.locate_model("cavity-tem")
    card = models.load_model_card(folder)
    net = networks.build_detector(card["architecture"])
    networks.load_weights(net, folder / "weights.safetensors")
    return folder, card, net


def test_it_is_small_and_its_card_says_what_it_is(bundled):
    folder, card, net = bundled
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30e6
    assert card["task"] == "instance segmentation"
    assert card["classes"] == ["cavity"]
    assert {"low_percentile", "high_percentile"} == set(card["input"])
    assert card["measured"]["unseen"]["n_objects"] > 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in net.state_dict().values())


@pytest.mark.parametrize("defocus", ["over", "under"])
def test_it_finds_clear_cavities_better_than_a_blob_filter(bundled, defocus):
    _, card, net = bundled
    truths = []
    blobs = []
    for seed in range(2):
        rng = np.random.default_rng([4_711, seed])
        sample = cavities.draw_cavities(rng, (256, 256), defocus=defocus, n=15, median_radius_px=9.0, **CLEAR)
        truths.append(scores.GroundTruth(normalise(sample.image, *card["input"].values()), sample.masks, [1] * 99))
        table = detect_image(sample.image, load_settings(template="cavity-tem").detect)
        blobs.append(
            scores.Detections(table[["y0", "x0", "y1", "x1"]].to_numpy(float), table["score"].to_numpy(), [], [])
        )
    found = [scores.detect_objects(net, truth.image, masks=False) for truth in truths]
    threshold = card["measured"]["validation"]["score_threshold"]
    f1 = scores.compute_f1(scores.count_matches(found, truths, 0.5, threshold)).mean()
    log = scores.compute_f1(scores.count_matches(blobs, truths, 0.5, scores.select_threshold(blobs, truths))).mean()
    assert f1 > 0.7
    assert f1 > log
