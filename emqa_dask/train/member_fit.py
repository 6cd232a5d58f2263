"""One classifier: Adam with a halving rate, flips, early stop, and checkpoints that resume to the same weights.

Every epoch seeds torch and its data from (seed, epoch), so weights, moments and the best so far are all of the state.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, models, networks, output_folders
from emqa_dask.number_ranges import check_integer, check_number
from emqa_dask.train.checkpoints import load_moments, save_moments


@dataclass(frozen=True)
class MemberSchedule:
    """How long and how hard a member trains; the defaults are the published ones (Zhang et al.)."""

    epochs: int = 200
    learning_rate: float = 1e-3
    halve_every: int = 50  # epochs
    weight_decay: float = 5e-4
    batch: int = 64
    patience: int = 100  # epochs without a lower validation loss
    flip: bool = True  # left and right, at random
    precision: str = "float32"  # of the steps; bfloat16 is up to three times as fast where hardware has it

    def __post_init__(self):
        for name in ("epochs", "halve_every", "batch", "patience"):
            check_integer(name, getattr(self, name), 1)
        check_number("learning_rate", self.learning_rate, 0)
        check_number("weight_decay", self.weight_decay, -1e-300)
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}: float32 or bfloat16")


def fit_member(
    architecture: Mapping,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    x_held: NDArray[np.float32],
    y_held: NDArray[np.int64],
    checkpoint: Path,
    *,
    schedule: MemberSchedule,
    seed: int,
    device: str = "cpu",
    checkpoint_minutes: float = 2.0,
    say: Callable[[str], None] = print,
) -> tuple:
    """The network of the lowest validation loss (without held-out rows the last one), and its record.

    `x` (n, size, size) in [0, 1], `y` (n,). Goes on from `checkpoint` where that is a folder; the last one stays there.
    The record: seed, epochs, best_epoch, training_loss, validation_loss, seconds. Raises FloatingPointError where the
    loss is no number.
    """
    import torch

    torch.manual_seed(seed)
    net = classifiers.build_classifier(architecture).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    state = {"epoch": 0, "best_epoch": 0, "best_loss": None, "training_loss": None, "seconds": 0.0}
    best: dict = {}
    output_folders.check_folder(checkpoint)
    output_folders.sweep(checkpoint)
    if (checkpoint / "state.json").is_file():
        state, best = _load(checkpoint, net, optimiser)
    channels = architecture["channels"]
    saved = time.monotonic()
    truth = torch.from_numpy(np.ascontiguousarray(y)).to(device)
    while state["epoch"] < schedule.epochs and state["epoch"] - state["best_epoch"] < schedule.patience:
        began = time.monotonic()
        epoch = state["epoch"]
        rng = np.random.default_rng([seed, epoch])
        torch.manual_seed(int(rng.integers(2**62)))
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * 0.5 ** (epoch // schedule.halve_every)
        net.train()
        losses = []
        for rows in _batches(rng.permutation(len(x)), schedule.batch):
            chosen = x[np.sort(rows)]
            if schedule.flip:
                is_flipped = rng.random(len(rows)) < 0.5
                chosen = np.where(is_flipped[:, None, None], chosen[:, :, ::-1], chosen)
            images = _tensor(chosen, channels, device)
            with torch.autocast(device, torch.bfloat16, enabled=schedule.precision == "bfloat16"):
                logits = net(images)
            loss = torch.nn.functional.cross_entropy(logits.float(), truth[np.sort(rows)])
            if not torch.isfinite(loss):
                raise FloatingPointError(f"epoch {epoch + 1}: the loss is {loss.item()}; lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        state |= {"epoch": epoch + 1, "training_loss": float(np.mean(losses))}
        found = _loss(predict_softmax(net, x_held, device), y_held) if len(y_held) else None
        if found is None or state["best_loss"] is None or found < state["best_loss"]:
            state |= {"best_epoch": epoch + 1, "best_loss": found}
            best = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        state["seconds"] += time.monotonic() - began
        if time.monotonic() - saved >= 60 * checkpoint_minutes:
            _save(checkpoint, net, optimiser, state, best)
            saved = time.monotonic()
        text = "" if found is None else f"  validation {found:.3f} (best {state['best_loss']:.3f})"
        say(f"epoch {epoch + 1}/{schedule.epochs}  loss {state['training_loss']:.3f}{text}")
    net.load_state_dict(best)
    record = {
        "seed": seed,
        "epochs": state["epoch"],
        "best_epoch": state["best_epoch"],
        "training_loss": round(state["training_loss"], 5),
        "seconds": round(state["seconds"], 1),
    }
    return net.eval(), record


def predict_softmax(net, x: NDArray[np.float32], device: str, batch: int = 256) -> NDArray[np.float32]:
    """Probabilities (n, classes) of windows (n, size, size), without dropout unless `set_dropout_pass` set it."""
    import torch

    net.eval()
    channels = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
    with torch.inference_mode():
        found = [
            net(_tensor(x[start : start + batch], channels, device)).softmax(dim=1).cpu().numpy()
            for start in range(0, len(x), batch)
        ]
    return np.concatenate(found)


def digest_arrays(stack: NDArray, y: NDArray) -> str:
    """SHA-256 over the bytes of windows and classes."""
    found = hashlib.sha256(np.ascontiguousarray(stack).data)
    found.update(np.ascontiguousarray(y).data)
    return found.hexdigest()


def _batches(rows: NDArray, size: int) -> list[NDArray]:
    """Batches of `size`; a last one of a single row joins the one before: batch normalisation needs two."""
    found = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [np.concatenate(found[-2:])]
    return found


def _tensor(stack: NDArray, channels: int, device: str):
    import torch

    images = torch.from_numpy(np.array(stack, np.float32)[:, None]).to(device)
    return images.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)


def _loss(p: NDArray, y: NDArray) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean())


def _save(checkpoint: Path, net, optimiser, state: Mapping, best: Mapping) -> None:
    """Weights, moments, the best weights and the state, all or nothing."""
    from safetensors.torch import save_file

    with output_folders.write_folder(checkpoint) as fresh:
        networks.save_weights(net, fresh / "weights.safetensors")
        save_file({name: t.cpu().contiguous() for name, t in best.items()}, str(fresh / "best.safetensors"))
        save_moments(optimiser, fresh / "optimiser.safetensors")
        (fresh / "state.json").write_text(json.dumps(state), encoding="utf-8")
        models.write_card(fresh, {"task": "checkpoint of a training"})


def _load(checkpoint: Path, net, optimiser) -> tuple[dict, dict]:
    from safetensors.torch import load_file

    networks.load_weights(net, checkpoint / "weights.safetensors")
    load_moments(optimiser, checkpoint / "optimiser.safetensors")
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state, load_file(str(checkpoint / "best.safetensors"))
