"""Hyperparameters that a search proposes: inside the space, reproducible, better than chance."""

import numpy as np

from emqa_dask.tune.hyperparameters import LEARNING_RATE, WEIGHT_DECAY, WIDEN, propose_hyperparameters

FIRST = {"learning_rate": 1e-3, "weight_decay": 5e-4, "flip": True, "widen": 2}


def compute_loss(trial):
    """A bowl about a learning rate of 3e-4 without mirroring."""
    rate = np.log10(trial["learning_rate"] / 3e-4)
    decay = np.log10(trial["weight_decay"] / 1e-4)
    return rate**2 + 0.1 * decay**2 + 0.3 * trial["flip"]


def search(n, seed):
    trials = [FIRST]
    while len(trials) < n:
        losses = [compute_loss(trial) for trial in trials]
        trials += propose_hyperparameters(trials, losses, 1, has_width=True, seed=seed)
    return trials


def test_chosen_trials_are_better_than_those_of_the_latin_hypercube():
    losses = [compute_loss(trial) for trial in search(12, 0)]
    assert np.median(losses[7:]) < 0.8 * np.median(losses[:7])


def test_proposals_lie_in_the_space_and_repeat():
    sets = propose_hyperparameters([FIRST], [0.5], 3, has_width=True, seed=1)
    assert sets == propose_hyperparameters([FIRST], [0.5], 3, has_width=True, seed=1)
    assert len({tuple(row.values()) for row in sets}) == 3
    for row in sets:
        assert LEARNING_RATE[0] <= row["learning_rate"] <= LEARNING_RATE[1]
        assert WEIGHT_DECAY[0] <= row["weight_decay"] <= WEIGHT_DECAY[1]
        assert row["widen"] in range(WIDEN[0], WIDEN[1] + 1)
        assert type(row["flip"]) is bool


def test_a_failed_trial_counts_as_the_worst():
    trials = [FIRST, FIRST | {"learning_rate": 1e-2}, FIRST | {"learning_rate": 3e-4}]
    assert propose_hyperparameters(trials, [0.5, np.inf, 0.4], 1, has_width=True) == propose_hyperparameters(
        trials, [0.5, 0.5, 0.4], 1, has_width=True
    )
    assert "widen" not in propose_hyperparameters([], [], 1, has_width=False)[0]
