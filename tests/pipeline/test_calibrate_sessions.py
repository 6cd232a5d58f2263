"""Calibration of a run with a detector for each session: each detector by the images that it searched."""

import json

import numpy as np
import pytest
import tifffile

from emqa_dask.pipeline.commands.calibrate import calibrate
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.labelled_micrographs import list_searched, read_labelled
from emqa_dask.settings import replace
from emqa_dask.store import stored_settings
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic import cavities, lattices

EXPOSURE = {"dose_e_per_px": 800.0, "mtf_sigma_px": 0.6}
VOIDS = {"median_radius_px": 9, "background": 0.15, "n": 12, "dtype": "uint16", "facet": False}


def draw(name, k):
    rng = np.random.default_rng([3, k])
    if name == "columns":
        return lattices.draw_lattice(rng, (192, 192), disorder=False, dtype="uint16", exposure=dict(EXPOSURE))
    return cavities.draw_cavities(rng, (192, 192), contrast=0.4 + 0.1 * k, exposure=dict(EXPOSURE), **VOIDS)


@pytest.fixture(scope="module")
def done(in_process, tmp_path_factory):
    """(workspace, file of labels, settings): eight images of voids and two of columns, all labelled."""
    folder = tmp_path_factory.mktemp("sessions")
    images, annotations = [], []
    for name, n in (("voids", 8), ("columns", 2)):
        (folder / "archive" / name).mkdir(parents=True)
        for k in range(n):
            sample = draw(name, k)
            uri = f"{name}/{k}.tif"
            tifffile.imwrite(folder / "archive" / uri, sample.image)
            images.append({"id": len(images) + 1, "file_name": uri, "height": 192, "width": 192})
            for y0, x0, y1, x1 in sample.boxes.tolist():
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": 1, "image_id": len(images)}
                annotations.append({"id": len(annotations) + 1, **box})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (folder / "labels.json").write_text(json.dumps(document))
    settings = replace(in_process, {"detect": {"detectors": ["auto"]}, "run": {"timeout_s": 900.0}})
    assert run(str(folder / "archive"), str(folder / "ws"), settings, say=lambda line: None) == 0
    return folder / "ws", str(folder / "labels.json"), settings


def test_labels_belong_to_the_detector_of_their_session(done):
    root, labels, settings = done
    workspace = Workspace(str(root))
    labelled = read_labelled(workspace, settings, [labels])
    searched = list_searched(workspace, labelled, settings)
    uris = dict(zip(labelled.rows["micrograph_id"], labelled.rows["uri"]))
    assert len(searched) == 10
    assert {uris[key].split("/")[0]: name for key, name in searched.items()} == {
        "voids": "em-objects",
        "columns": "log",
    }


def test_a_detector_is_fitted_by_its_own_images_alone(done):
    root, labels, settings = done
    lines: list[str] = []
    assert calibrate(str(root), labels, settings, say=lines.append) == 0
    text = "\n".join(lines)
    assert "were searched 8 by em-objects, 2 by log" in text
    assert "for the others give --detector log" in text
    assert "failed in the run" not in text
    stored = stored_settings.read_settings(str(root))
    assert stored.predict.models[0].endswith("models/em-objects")
    assert {"log-f1", "cavity-tem-f1"} <= set(stored.predict.models)
    assert "em-objects-f1" not in stored.predict.models
    assert stored.featurise.score_floor == settings.featurise.score_floor
    assert stored.triage.trust_probability == settings.triage.trust_probability


def test_a_detector_that_searched_nothing_is_refused(done):
    root, labels, settings = done
    with pytest.raises(ValueError, match=r"--detector cavity-tem: searched no labelled micrograph; .* 8 by em-objects"):
        calibrate(str(root), labels, settings, detectors=["cavity-tem"], say=lambda line: None)
