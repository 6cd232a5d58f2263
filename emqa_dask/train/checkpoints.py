"""What an interrupted training goes on from: weights, moments and history, in a folder beside the model directory."""

import json
from collections.abc import Mapping
from pathlib import Path

from emqa_dask import models, networks, output_folders


def locate_checkpoint(out: str | Path) -> Path:
    """The folder beside the model directory `out` that a training goes on from."""
    return Path(f"{out}.checkpoint")


def save_checkpoint(folder: Path, net, optimiser, history: Mapping) -> None:
    """Weights, the optimiser's moments and the history, all or nothing."""
    with output_folders.write_folder(folder) as fresh:
        networks.save_weights(net, fresh / "weights.safetensors")
        save_moments(optimiser, fresh / "optimiser.safetensors")
        (fresh / "state.json").write_text(json.dumps(history), encoding="utf-8")
        models.write_card(fresh, {"task": "checkpoint of a training"})


def load_checkpoint(folder: Path, net, optimiser) -> dict:
    """Fills the network and the optimiser from `save_checkpoint`; returns the history. ModelError for a damaged one."""
    models.load_card(folder)
    with models.blame(folder):
        networks.load_weights(net, folder / "weights.safetensors")
        load_moments(optimiser, folder / "optimiser.safetensors")
        return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def save_moments(optimiser, path: Path) -> None:
    """The state of every parameter of a torch optimiser as safetensors."""
    from safetensors.torch import save_file

    moments = {
        f"{number}.{name}": value.detach().cpu().contiguous()
        for number, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }
    save_file(moments, str(path))


def load_moments(optimiser, path: Path) -> None:
    """Fills a torch optimiser from `save_moments`."""
    from safetensors.torch import load_file

    state: dict = {}
    for key, value in load_file(str(path)).items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
