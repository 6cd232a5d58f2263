"""How long and how hard networks train: schedules of detectors and of ensemble members."""

import math
from dataclasses import dataclass

from emqa_dask.number_ranges import check_integer, check_number

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class DetectorSchedule:
    """Schedule of a detector: AdamW, linear warm-up, then half a cosine. A round is a step."""

    n_steps: int
    learning_rate: float = 6e-4
    weight_decay: float = 0.02
    n_warm_up_steps: int = 100
    max_gradient_norm: float = 5.0
    validation_interval: int = 200  # steps
    checkpoint_minutes: float = 5.0
    seed: int = 0
    precision: str = "float32"  # of the forward pass; weights and losses are always float32
    is_backbone_frozen: bool = False  # the weights of the backbone's body stay
    has_frozen_norms: bool = False  # batch normalisation keeps its statistics: few images, or a trained start

    def __post_init__(self) -> None:
        check_integer("steps", self.n_steps, 1)
        check_integer("validation_interval", self.validation_interval, 1)
        check_number("learning_rate", self.learning_rate, 0)
        check_precision(self.precision)

    @property
    def n_rounds(self) -> int:
        """Steps."""
        return self.n_steps

    @property
    def max_rounds_without_gain(self) -> int:
        """More than all steps: a detector trains to the end."""
        return self.n_steps + 1

    def compute_rate(self, k: int) -> float:
        """Learning rate of step `k` (from 0): linear up, then half a cosine down to a hundredth."""
        if k < self.n_warm_up_steps:
            return self.learning_rate * (k + 1) / self.n_warm_up_steps
        decay_fraction = (k - self.n_warm_up_steps) / max(1, self.n_steps - self.n_warm_up_steps)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(decay_fraction, 1.0))))


@dataclass(frozen=True)
class MemberSchedule:
    """Schedule of an ensemble member: Adam, a halving rate, early stop. A round is an epoch.

    The defaults are the published ones (Zhang et al.). The field names are keys of the card's [training].
    """

    epochs: int = 200
    learning_rate: float = 1e-3
    halve_every: int = 50  # epochs
    weight_decay: float = 5e-4
    batch: int = 64  # windows
    patience: int = 100  # epochs without a lower validation loss
    flip: bool = True  # left and right, at random
    precision: str = "float32"  # of the forward pass; bfloat16 is up to three times as fast where hardware has it

    def __post_init__(self) -> None:
        for name in ("epochs", "halve_every", "batch", "patience"):
            check_integer(name, getattr(self, name), 1)
        check_number("learning_rate", self.learning_rate, 0)
        check_number("weight_decay", self.weight_decay, -1e-300)
        check_precision(self.precision)

    @property
    def n_rounds(self) -> int:
        """Epochs at most."""
        return self.epochs

    @property
    def max_rounds_without_gain(self) -> int:
        """Epochs without a lower validation loss."""
        return self.patience

    def compute_rate(self, k: int) -> float:
        """Learning rate of epoch `k` (from 0)."""
        return self.learning_rate * 0.5 ** (k // self.halve_every)


def check_precision(precision: str) -> None:
    """Raises ValueError for another precision than `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: float32 or bfloat16")
