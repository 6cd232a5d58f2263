"""Checkpoints of a training: weights, the optimiser's moments and the progress, beside the model directory."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emqa_dask import models, networks, output_folders

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"
BEST_WEIGHTS = "best.safetensors"
OPTIMISER_STATE = "optimiser.safetensors"
PROGRESS = "state.json"


@dataclass
class Progress:
    """How far a training has come. A round is a step of a detector or an epoch of a classifier."""

    n_rounds: int = 0  # finished
    best_round: int = 0  # number of the best round, from 1; 0: none yet
    best: dict[str, Any] | None = None  # scores of the best round
    seconds: float = 0.0  # spent in rounds
    training: list[dict[str, Any]] = field(default_factory=list)  # a row for each round
    validation: list[dict[str, Any]] = field(default_factory=list)  # a row for each validation


@dataclass
class Training:
    """A network in training with all its state, which is what a checkpoint stores."""

    net: "torch.nn.Module"
    optimiser: "torch.optim.Optimizer"
    progress: Progress = field(default_factory=Progress)
    best_weights: dict[str, "torch.Tensor"] = field(default_factory=dict)  # empty where the best network is on disk


def locate_checkpoint(out: str | Path) -> Path:
    """The folder beside the model directory `out` that holds the checkpoint."""
    return Path(f"{out}.checkpoint")


def has_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds a checkpoint. A folder that a killed process left half-written is removed first."""
    output_folders.restore_interrupted(folder)
    return (folder / PROGRESS).is_file()


def save_checkpoint(folder: Path, training: Training) -> None:
    """Writes the state of `training` to `folder`, all or nothing."""
    from safetensors.torch import save_file

    with output_folders.write_folder(folder) as fresh:
        networks.save_weights(training.net, fresh / WEIGHTS)
        _save_optimiser_state(training.optimiser, fresh / OPTIMISER_STATE)
        if training.best_weights:
            best = {name: tensor.cpu().contiguous() for name, tensor in training.best_weights.items()}
            save_file(best, str(fresh / BEST_WEIGHTS))
        (fresh / PROGRESS).write_text(json.dumps(asdict(training.progress)), encoding="utf-8")
        models.write_model_card(fresh, {"task": "checkpoint of a training"})


def load_checkpoint(folder: Path, training: Training) -> None:
    """Fills `training` from what `save_checkpoint` wrote; ModelError for a damaged checkpoint."""
    from safetensors.torch import load_file

    models.load_model_card(folder)
    with models.blame_model(folder):
        networks.load_weights(training.net, folder / WEIGHTS)
        _load_optimiser_state(training.optimiser, folder / OPTIMISER_STATE)
        training.progress = Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
        if (folder / BEST_WEIGHTS).is_file():
            training.best_weights = load_file(str(folder / BEST_WEIGHTS))


def _save_optimiser_state(optimiser: "torch.optim.Optimizer", path: Path) -> None:
    """Writes the state of every parameter of the optimiser as safetensors."""
    from safetensors.torch import save_file

    arrays = {
        f"{number}.{name}": value.detach().cpu().contiguous()
        for number, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }
    save_file(arrays, str(path))


def _load_optimiser_state(optimiser: "torch.optim.Optimizer", path: Path) -> None:
    """Fills the optimiser from what `_save_optimiser_state` wrote."""
    from safetensors.torch import load_file

    state: dict = {}
    for key, value in load_file(str(path)).items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
