"""How the reviewed images of a group can be taken to be selected, by their probabilities or by their sessions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.measure.estimation import Design, define_simple_design, define_stratified_design

PROBABILITIES = "the review probabilities are as stated"
RANDOM_IMAGES = "the labelled images are a simple random sample of the group"
RANDOM_IN_SESSIONS = "the labelled images are a simple random sample of each session"
ALL_IMAGES = "all images of the group are labelled"
MIN_CHANCE = 0.02  # of a random sample to be spread over the sessions as unevenly; below it the sample is not random
N_DRAWS = 2000  # random samples from which this chance is counted


class Selection(NamedTuple):
    """A design with what it assumes; without a design, the reason why the group has no estimate."""

    design: Design | None
    assumption: str = ""
    reason: str = ""


def choose_selection(
    sessions: NDArray[np.int64], reviewed: NDArray[np.int64], probabilities: NDArray[np.float64] | None = None
) -> Selection:
    """The selection of the images `reviewed` (n,) of a group with the sessions (N,) of its images.

    With review probabilities (n,) these decide. Without them the labelled images are a random sample of the group,
    unless their distribution over the sessions contradicts it. Then they are a random sample of each session, if each
    session has two; otherwise labels say nothing about the sessions without labels, and there is no design.
    """
    if not len(reviewed):
        return Selection(None, reason="no labelled image")
    if len(reviewed) == len(sessions):
        return Selection(define_simple_design(len(sessions), reviewed), ALL_IMAGES)
    if len(reviewed) == 1:
        return Selection(None, reason="one labelled image is too few for an interval")
    if probabilities is not None:
        design = Design(len(sessions), reviewed, probabilities, np.zeros(len(reviewed), np.int64))
        return Selection(design, PROBABILITIES)
    numbers = np.unique(sessions, return_inverse=True)[1]
    if compute_chance(numbers, reviewed) >= MIN_CHANCE:
        return Selection(define_simple_design(len(sessions), reviewed), RANDOM_IMAGES)
    try:
        return Selection(define_stratified_design(numbers, reviewed), RANDOM_IN_SESSIONS)
    except ValueError:
        n_sessions = len(np.unique(numbers))
        n_labelled = len(np.unique(numbers[reviewed]))
        reason = f"labels of {n_labelled} of {n_sessions} sessions, and not a random sample of the images"
        if n_labelled == n_sessions:
            reason = "the labels are no random sample of the images, and a session has only one"
        return Selection(None, reason=reason)


def compute_chance(sessions: NDArray[np.int64], reviewed: NDArray[np.int64]) -> float:
    """Chance that a simple random sample has numbers per session at least as far from the expected ones (chi square).

    sessions: (N,) numbers from 0 on. Computed from N_DRAWS random samples, which are the same in each call.
    """
    n_images = np.bincount(sessions)
    n_reviewed = np.bincount(sessions[reviewed], minlength=len(n_images))
    expected = n_images * len(reviewed) / len(sessions)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_hypergeometric(n_images, len(reviewed), N_DRAWS, method="marginals")
    distances = ((draws - expected) ** 2 / expected).sum(axis=1)
    distance = ((n_reviewed - expected) ** 2 / expected).sum()
    return float((1 + (distances >= distance - 1e-9).sum()) / (N_DRAWS + 1))
