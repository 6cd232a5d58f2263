"""Fits one classifier: Adam, random flips, early stop; the network of the lowest validation loss is kept."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, output_folders
from emqa_dask.train.checkpoints import Training, has_checkpoint, load_checkpoint
from emqa_dask.train.loop import run_training_rounds, take_optimiser_step
from emqa_dask.train.schedules import MemberSchedule

if TYPE_CHECKING:
    import torch

EVALUATION_BATCH = 256  # windows that go through the network at once when nothing is learnt
MIN_PROBABILITY = 1e-12  # keeps the logarithm of a probability finite


class LabelledWindows(NamedTuple):
    """Windows and their classes."""

    windows: NDArray[np.float32]  # (n, size, size), in [0, 1]
    classes: NDArray[np.int64]  # (n,): places in the list of classes


def fit_member(
    architecture: Mapping,
    training_data: LabelledWindows,
    validation_data: LabelledWindows,
    checkpoint: Path,
    *,
    schedule: MemberSchedule,
    seed: int,
    device: str = "cpu",
    checkpoint_minutes: float = 2.0,
    say: Callable[[str], None] = print,
) -> tuple["torch.nn.Module", dict]:
    """The network of the lowest validation loss (without validation data the last one) and its record.

    Resumes from the folder `checkpoint` if it exists; the last checkpoint stays there. The record has seed, epochs,
    best_epoch, training_loss and seconds. Raises FloatingPointError where the loss is not finite.
    """
    import torch

    torch.manual_seed(seed)
    net = classifiers.build_classifier(architecture).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    training = Training(net, optimiser)
    output_folders.check_folder(checkpoint)
    if has_checkpoint(checkpoint):
        load_checkpoint(checkpoint, training)
    truth = torch.from_numpy(np.ascontiguousarray(training_data.classes)).to(device)
    rounds = MemberRounds(training, schedule, training_data, truth, validation_data, architecture["channels"], seed)
    run_training_rounds(
        training, schedule, rounds.train_epoch, checkpoint, checkpoint_minutes=checkpoint_minutes, say=say
    )
    net.load_state_dict(training.best_weights)
    progress = training.progress
    record = {
        "seed": seed,
        "epochs": progress.n_rounds,
        "best_epoch": progress.best_round,
        "training_loss": round(progress.training[-1]["loss"], 5),
        "seconds": round(progress.seconds, 1),
    }
    return net.eval(), record


@dataclass
class MemberRounds:
    """Epochs of a classifier's training and their validations."""

    training: Training
    schedule: MemberSchedule
    data: LabelledWindows
    truth: "torch.Tensor"  # classes of `data` on the device
    validation: LabelledWindows
    n_channels: int
    seed: int

    def train_epoch(self, k: int) -> str:
        """Trains epoch `k`, validates, keeps the best weights, and returns a message."""
        start_s = time.monotonic()
        progress = self.training.progress
        loss = self._update_weights(k)
        progress.n_rounds = k + 1
        progress.training.append({"epoch": k + 1, "loss": loss})
        text = self._validate() if len(self.validation.classes) else ""
        if not text:
            self._keep_weights(None)
        progress.seconds += time.monotonic() - start_s
        return f"epoch {k + 1}/{self.schedule.epochs}  loss {loss:.3f}{text}"

    def _update_weights(self, k: int) -> float:
        """Mean loss of one pass over the windows."""
        import torch

        rng = np.random.default_rng([self.seed, k])
        torch.manual_seed(int(rng.integers(2**62)))
        self.training.net.train()
        losses = []
        for rows in _split_batches(rng.permutation(len(self.data.windows)), self.schedule.batch):
            loss = self._compute_loss(np.sort(rows), rng)
            take_optimiser_step(self.training, loss, f"epoch {k + 1}")
            losses.append(loss.item())
        return float(np.mean(losses))

    def _compute_loss(self, rows: NDArray, rng: np.random.Generator) -> "torch.Tensor":
        """Cross entropy of a batch of windows, some of them mirrored."""
        import torch

        windows = self.data.windows[rows]
        if self.schedule.flip:
            is_flipped = rng.random(len(rows)) < 0.5
            windows = np.where(is_flipped[:, None, None], windows[:, :, ::-1], windows)
        device = self.truth.device
        images = _make_tensor(windows, self.n_channels, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.schedule.precision == "bfloat16"):
            logits = self.training.net(images)
        return torch.nn.functional.cross_entropy(logits.float(), self.truth[rows])

    def _validate(self) -> str:
        """A text with the validation loss; a loss below all earlier ones keeps the weights."""
        progress = self.training.progress
        p = predict_softmax(self.training.net, self.validation.windows, self.truth.device)
        loss = _compute_mean_nll(p, self.validation.classes)
        if progress.best is None or loss < progress.best["loss"]:
            self._keep_weights(loss)
        return f"  validation {loss:.3f} (best {progress.best['loss']:.3f})"

    def _keep_weights(self, loss: float | None) -> None:
        progress = self.training.progress
        progress.best_round = progress.n_rounds
        progress.best = {"epoch": progress.n_rounds, "loss": loss}
        state = self.training.net.state_dict()
        self.training.best_weights = {name: tensor.detach().clone() for name, tensor in state.items()}


def predict_softmax(net: "torch.nn.Module", windows: NDArray[np.float32], device: object) -> NDArray[np.float32]:
    """Probabilities (n, classes) of windows (n, size, size), without dropout unless `set_dropout_pass` set it."""
    import torch

    net.eval()
    n_channels = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
    probabilities = []
    with torch.inference_mode():
        for start in range(0, len(windows), EVALUATION_BATCH):
            images = _make_tensor(windows[start : start + EVALUATION_BATCH], n_channels, device)
            probabilities.append(net(images).softmax(dim=1).cpu().numpy())
    return np.concatenate(probabilities)


def _split_batches(rows: NDArray, size: int) -> list[NDArray]:
    """Batches of `size`; a last batch of one row joins the one before, since batch normalisation needs two rows."""
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _make_tensor(windows: NDArray, n_channels: int, device: object) -> "torch.Tensor":
    """Windows (n, size, size) as a float32 tensor (n, channels, size, size)."""
    import torch

    images = torch.from_numpy(np.array(windows, np.float32)[:, None]).to(device)
    return images.expand(-1, n_channels, -1, -1).contiguous(memory_format=torch.channels_last)


def _compute_mean_nll(p: NDArray, y: NDArray) -> float:
    """Mean negative log likelihood of classes y (n,) under probabilities p (n, classes), nats."""
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], MIN_PROBABILITY)).mean())
