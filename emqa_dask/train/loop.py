"""The training loop that detectors and classifiers share: learning rate, early stop, checkpoints, messages.

A round is a step of a detector or an epoch of a classifier. Every round seeds torch and its data from (seed, round),
so that a training that resumes from a checkpoint ends at the same weights as one that nothing interrupted.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from emqa_dask.train.checkpoints import Progress, Training, save_checkpoint

if TYPE_CHECKING:
    import torch


class Schedule(Protocol):
    """How many rounds a network trains, and at which learning rate."""

    @property
    def n_rounds(self) -> int:
        """Rounds at most."""
        ...

    @property
    def max_rounds_without_gain(self) -> int:
        """Rounds without a better validation after which the training ends."""
        ...

    def compute_rate(self, k: int) -> float:
        """Learning rate of round `k`, from 0."""
        ...


def run_training_rounds(
    training: Training,
    schedule: Schedule,
    train_round: Callable[[int], str],
    checkpoint: Path,
    *,
    checkpoint_minutes: float,
    say: Callable[[str], None],
) -> None:
    """Trains the remaining rounds of `schedule`; writes `checkpoint` at most every `checkpoint_minutes`.

    `train_round(k)` trains round `k` and updates `training`. It returns a message, which is shown once the checkpoint
    is written; an empty message is not shown.
    """
    last_save_s = time.monotonic()
    while not is_finished(training.progress, schedule):
        k = training.progress.n_rounds
        for group in training.optimiser.param_groups:
            group["lr"] = schedule.compute_rate(k)
        message = train_round(k)
        is_due = time.monotonic() - last_save_s >= 60 * checkpoint_minutes
        if is_due and not is_finished(training.progress, schedule):
            save_checkpoint(checkpoint, training)
            last_save_s = time.monotonic()
        if message:
            say(message)


def is_finished(progress: Progress, schedule: Schedule) -> bool:
    """Whether all rounds are trained, or the last ones brought no gain."""
    n_without_gain = progress.n_rounds - progress.best_round
    return progress.n_rounds >= schedule.n_rounds or n_without_gain >= schedule.max_rounds_without_gain


def take_optimiser_step(
    training: Training, loss: "torch.Tensor", place: str, *, max_gradient_norm: float | None = None
) -> None:
    """Updates the weights by the gradient of `loss`.

    Raises FloatingPointError, naming `place` (as "step 3"), where the loss is not finite.
    """
    import torch

    if not torch.isfinite(loss):
        raise FloatingPointError(f"{place}: the loss is {loss.item()}; lower the learning rate and resume")
    training.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if max_gradient_norm is not None:
        torch.nn.utils.clip_grad_norm_(training.net.parameters(), max_gradient_norm)
    training.optimiser.step()
