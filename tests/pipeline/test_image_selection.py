"""Detections of selected micrographs: of some of a partition, of one detector of several, above the floor."""

import numpy as np
import pyarrow as pa
import pytest

from emqa_dask.pipeline.workspace.image_selection import _select_objects

OBJECTS = pa.table(
    {
        "micrograph_id": ["a", "a", "b", "b", "c"],
        "detector": ["log", "net", "log", "log", "log"],
        "score": [0.9, 0.8, 0.7, 0.05, 0.6],
        "x_px": [0.0, 1.0, 2.0, 3.0, 4.0],
    }
)


@pytest.mark.parametrize(
    ("ids", "detectors", "places", "images", "numbers"),
    [
        (["a", "b", "c"], ["log", "log", "log"], [0, 2, 4], [0, 1, 2], [0, 0, 0]),
        (["c"], ["log"], [4], [0], [0]),  # all of the selected ones count, others of the partition do not
        (["c", "a"], ["log", "net"], [4, 1], [0, 1], [0, 1]),
        (["b"], ["net"], [], [], []),
        (["d"], ["log"], [], [], []),
    ],
)
def test_objects_are_those_of_the_images_and_their_detectors(ids, detectors, places, images, numbers):
    selected = _select_objects(OBJECTS, pa.chunked_array([ids]), np.array(detectors, object), 0.1)
    assert selected["x_px"].to_pylist() == places
    assert selected["image"].to_pylist() == images
    assert selected["object"].to_pylist() == numbers


def test_all_objects_stay_as_they_are():
    objects = OBJECTS.filter(pa.array([True, False, True, False, True]))
    ids = pa.chunked_array([["a", "b", "c"]])
    selected = _select_objects(objects, ids, np.array(["log"] * 3, object), 0.1)
    assert selected["x_px"].to_pylist() == [0, 2, 4]
