"""The bundled ensemble `micrograph-kinds`: small, documented, and right on images that nothing was fitted to."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask import models
from emqa_dask.classify import load_ensemble
from emqa_dask.cli import main
from emqa_dask.synthetic import profiles
from emqa_dask.synthetic.foreign import make_foreign_image
from emqa_dask.uncertainty.classification import compute_entropy_limit
from emqa_dask.uncertainty.shift_files import read_shift_model

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "micrograph-kinds"
SEED = 88_000_101  # the fit drew from others
KIND_OF_PROFILE = {
    "cavity-tem": "cavities",
    "nanoparticle-tem": "particles",
    "atomic-stem": "lattice",
    "sem-texture": "surface",
}
IMAGES_PER_PROFILE = 4
FOREIGN = ("photograph", "plot")
SHAPE = (384, 448)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Rows of triage.parquet for drawn micrographs of each kind and for foreign pictures, by file name."""
    root = tmp_path_factory.mktemp("kinds")
    (root / "archive").mkdir()
    for name in KIND_OF_PROFILE:
        for k in range(IMAGES_PER_PROFILE):
            sample = profiles.make_sample(name, np.random.default_rng([SEED, k]), SHAPE, clear=True)
            tifffile.imwrite(root / "archive" / f"{name}_{k}.tif", sample.image)
    for name in FOREIGN:
        for k in range(IMAGES_PER_PROFILE):
            picture = make_foreign_image(name, np.random.default_rng([SEED, k]), SHAPE)
            tifffile.imwrite(root / "archive" / f"{name}_{k}.tif", picture)
    command = ["triage", root / "archive", "--workspace", root / "ws", "--classifier", NAME]
    assert main([*map(str, command), "--detector", "log", "--scheduler", "in-process"]) == 0
    rows = pd.read_parquet(root / "ws" / "triage.parquet").dropna(subset="predicted_class")
    return rows.set_index(rows["uri"].str.removesuffix(".tif"))


def test_the_model_is_small_and_whole():
    folder = models.locate_model(NAME)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    card = models.load_model_card(folder)
    ensemble = load_ensemble(NAME)
    assert ensemble.n_members == len(card["ensemble"]["members"]) == 5
    assert not ensemble.card.faults
    assert 0 < compute_entropy_limit(folder) < np.log(len(card["classes"]))


def test_its_card_names_its_images_and_its_figures():
    card = models.read_model_card(models.locate_model(NAME))
    assert all("MIT" in notice or "CC BY" in notice for notice in card["training"]["notices"])
    assert not {"uw_cavity", "uw_cavity_more"} & set(card["training"]["images"])  # without a licence
    assert card["judged"]["without_the_set"]["real_balanced_accuracy"] >= 0.7
    assert set(card["judged"]["entropy_auroc_of_a_new_kind"]) == set(card["classes"])
    assert card["judged"]["out_of_domain"]["photographs"] > 0.5
    assert {"accuracy", "ece", "temperature"} <= set(card["measured"]["test"])


def test_its_domain_was_fitted_to_this_version():
    model = read_shift_model(models.locate_model(NAME))
    assert model is not None
    assert model.kinds == ("none", "acquisition", "new_class", "unrelated")


def test_a_triage_tells_the_kinds_of_drawn_micrographs(answers):
    is_right = [
        answers.loc[name, "predicted_class"] == KIND_OF_PROFILE[name.rsplit("_", 1)[0]]
        for name in answers.index
        if name.rsplit("_", 1)[0] in KIND_OF_PROFILE
    ]
    assert len(is_right) == len(KIND_OF_PROFILE) * IMAGES_PER_PROFILE
    assert np.mean(is_right) >= 0.8
    assert answers["predictive_entropy_nats"].between(0, np.log(5)).all()


def test_foreign_pictures_are_out_of_the_domain_more_often(answers):
    is_foreign = answers.index.str.startswith(FOREIGN)
    is_flagged = answers["shift"].ne("none")
    assert is_flagged[is_foreign].mean() >= 0.75
    assert is_flagged[~is_foreign].mean() <= 0.25


def test_members_disagree_somewhere():
    images = [np.random.default_rng(k).normal(100, 30, (256, 256)).astype(np.float32) for k in range(2)]
    p = load_ensemble(NAME).predict_probabilities(images)
    np.testing.assert_allclose(p.sum(axis=2), 1, atol=1e-5)
    assert np.ptp(p, axis=0).max() > 0
