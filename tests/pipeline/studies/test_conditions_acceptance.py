"""What emqa study conditions promises on small drawn archives: held-out points, ranks of images, advice on dose."""

import pytest

from benchmarks.studies import conditions
from emqa_dask.synthetic.archive import synthesise

SEED = 11
N_IMAGES = 40
GRID = [
    *("--dose", 50, 120, 300, 700, 1700, 4000, 10_000),
    *("--defocus", -400, -130, 130, 400),
    *("--pixel-size", 0.08, 0.13, 0.2),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Workspaces of an archive to calibrate on, of one with mixed conditions, and of the same at twice the dose."""
    folder = tmp_path_factory.mktemp("conditions")
    for name, seed, factor in (("train", SEED, 1.0), ("mixed", SEED + 1, 1.0), ("twice", SEED + 1, 2.0)):
        archive = folder / name
        synthesise(archive, conditions.PROFILE, n=N_IMAGES, seed=seed, shape=(256, 256), faults=(), dose_factor=factor)
    conditions.triage_archives(folder, 6, SEED, GRID)
    return folder


def test_held_out_points_of_the_grid_are_predicted(folder):
    figures = conditions.read_held_out(folder)
    assert figures["n_points"] == 84
    assert figures["held_out_spearman"] >= 0.85
    assert figures["held_out_mae"] <= 0.08


def test_an_archive_of_mixed_conditions_is_ranked(folder):
    figures, _ = conditions.compare_archives(folder)
    assert figures["n_known"] >= 30
    assert figures["spearman"] >= 0.7


def test_advice_is_what_twice_the_dose_gives(folder):
    _, advice = conditions.compare_archives(folder)
    assert advice["n_images"].min() >= 30
    assert advice["obtained_share"].max() > 0.1  # that no advice at all would miss by more
    error = advice["advised_share"] - advice["obtained_share"]
    assert error.abs().max() <= 0.1
