"""The bundled detector of objects: a class per object, and boxes at an IoU of 0.5, on images that no training saw."""

import numpy as np
import pytest
import torch

from emqa_dask import boxes, load_detector, models
from emqa_dask.synthetic import cavities, particles

torch.set_num_threads(1)
CLEAR = {"dose_e_per_px": 1000.0}


def draw_cavities(rng):
    choices = {"contrast": 0.9, "background": 0.4, "exposure": CLEAR, "facet": False}
    return cavities.draw_cavities(rng, (320, 320), defocus="over", n=15, median_radius_px=10.0, **choices)


def draw_particles(rng):
    choices = {"contrast": 2.0, "blur_px": 0.8, "exposure": CLEAR, "support": "carbon"}
    return particles.draw_particles(rng, (320, 320), mode="bf", n=15, median_radius_px=12.0, **choices)


@pytest.mark.parametrize(("name", "draw"), [("cavity", draw_cavities), ("particle", draw_particles)])
def test_it_finds_and_names_clear_objects(name, draw):
    detector = load_detector("em-objects")
    samples = [draw(np.random.default_rng([5_813, seed])) for seed in range(4)]
    f1_scores = []
    names = []
    for sample, detections in zip(samples, detector.detect([sample.image for sample in samples])):
        confident = detections[detections["score"] >= 0.5]
        corners = confident[["y0", "x0", "y1", "x1"]].to_numpy(float)
        f1_scores.append(boxes.match_boxes(corners, sample.boxes, 0.5).f1)
        names.append(confident["label"].mode()[0])
    assert np.mean(f1_scores) > 0.7
    assert names.count(name) >= 3  # a void and a particle can look alike


def test_its_card_names_classes_sources_and_licences():
    folder = models.locate_model("em-objects")
    card = models.load_model_card(folder)
    assert card["classes"] == ["cavity", "particle", "loop"]
    assert any("Apache License 2.0" in notice for notice in card["notices"])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
