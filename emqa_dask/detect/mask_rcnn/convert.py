"""Checkpoints made into model directories, once and on purpose: a .pth or .pkl is opened without running its code."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emqa_dask import detectron2_models, models, networks, output_folders
from emqa_dask.detect.mask_rcnn.detector_card import CONFIG, MAX_DETECTIONS, SCORE_FLOOR, TASK, WEIGHTS

if TYPE_CHECKING:
    import torch

# All that a pickle of numpy arrays in plain containers asks for, in numpy 1 and 2.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in (
        ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))),
}  # fmt: skip
# What detectron2's older checkpoints store beside the weights: constants that its config gives.
_CONSTANTS = ("pixel_mean", "pixel_std")


def import_torchvision(
    checkpoint: str | Path,
    architecture: Mapping[str, object],
    out: str | Path,
    *,
    name: str,
    classes: Sequence[str],
    model_card: Mapping[str, object] | None = None,
) -> None:
    """A model directory `out` from a torchvision Mask R-CNN's .pth (or .safetensors).

    `architecture` as networks.build() takes it; `model_card` is what else the card says (input, training, matching,
    licence). The checkpoint is a state dict, or holds one as `model`, `state_dict` or `model_state_dict`. Raises
    ValueError for a checkpoint that holds more than tensors, or those of another architecture, and FileExistsError
    where `out` exists; nothing is left behind then.
    """
    output_folders.check_free(out)
    net = networks.build_detector({"n_classes": len(classes), **architecture})

    def fill(folder: Path) -> None:
        _load_state(net, read_checkpoint(Path(checkpoint)), Path(checkpoint))
        networks.save_weights(net, folder / WEIGHTS)

    architecture = {"n_classes": len(classes), **architecture}
    _write_folder(
        Path(out), fill, _make_card(name, "torchvision", classes, {**(model_card or {}), "architecture": architecture})
    )


def import_detectron2(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    name: str,
    classes: Sequence[str],
    model_card: Mapping[str, object] | None = None,
) -> None:
    """A model directory `out` from detectron2's config.yaml and checkpoint (.pth, or .pkl of numpy arrays).

    The config may build on others (`_BASE_`, local files); what is written is complete. `model_card` may have a table
    `architecture` with `score_floor` and `max_detections`, which stand above the config's. Raises as
    import_torchvision(), and ImportError without detectron2.
    """
    output_folders.check_free(out)
    config_limits = {
        "score_floor": SCORE_FLOOR,
        "max_detections": MAX_DETECTIONS,
        **(model_card or {}).get("architecture", {}),
    }

    def fill(folder: Path) -> None:
        (folder / CONFIG).write_text(detectron2_models.complete_config(Path(config), len(classes)), encoding="utf-8")
        model, _ = detectron2_models.build(
            folder / CONFIG, config_limits["score_floor"], config_limits["max_detections"], "cpu"
        )
        state = read_checkpoint(Path(checkpoint))
        state = {key: tensor for key, tensor in state.items() if key not in _CONSTANTS and "cell_anchors" not in key}
        _load_state(model, state, Path(checkpoint))
        networks.save_weights(model, folder / WEIGHTS)

    _write_folder(
        Path(out), fill, _make_card(name, "detectron2", classes, {**(model_card or {}), "architecture": config_limits})
    )


def read_checkpoint(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of a .pth, .pkl or .safetensors by name. ValueError when it holds, or asks for, anything more."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(str(path))
        elif path.suffix in (".pkl", ".pickle"):
            with path.open("rb") as file:
                content = _Arrays(file, encoding="latin1").load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can end in any
        raise ValueError(f"{path}: not a checkpoint of tensors alone: {str(error).splitlines()[0]}") from error
    if isinstance(content, Mapping) and "blobs" in content:
        raise ValueError(f"{path}: a Caffe2 model: load it with detectron2's DetectionCheckpointer and save it as .pth")
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: holds no state dict, neither by itself nor as model, state_dict or model_state_dict")
    tensors = {}
    for key, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: {key!r} is {type(value).__name__}, not a tensor")
        tensors[str(key).removeprefix("module.")] = value
    return tensors


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays in dicts, lists and tuples; asks for anything else and it ends."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only numpy arrays are taken from a pickle")
        return super().find_class(module, name)


def _load_state(net: "torch.nn.Module", state: "dict[str, torch.Tensor]", path: Path) -> None:
    """Strictly, but for counters of training batches; names of older versions as the library knows them."""
    try:
        missing, unexpected = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first_errors = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ValueError(f"{path}: its weights are of another architecture: {first_errors}") from error
    faulty_keys = {"missing": missing, "unexpected": unexpected}
    faulty_keys = {
        status: [key for key in keys if not key.endswith("num_batches_tracked")] for status, keys in faulty_keys.items()
    }
    mismatches = [f"{len(keys)} {status} ({', '.join(keys[:3])})" for status, keys in faulty_keys.items() if keys]
    if mismatches:
        raise ValueError(f"{path}: its weights are of another architecture: {'; '.join(mismatches)}")


def _make_card(name: str, family: str, classes: Sequence[str], optional_entries: Mapping[str, object]) -> dict:
    input_table = {"low_percentile": 1.0, "high_percentile": 99.0, **optional_entries.get("input", {})}
    return {
        "name": name,
        "task": TASK,
        "family": family,
        "classes": list(classes),
        **optional_entries,
        "input": input_table,
    }


def _write_folder(out: Path, fill: Callable[[Path], None], model_card: Mapping[str, object]) -> None:
    """The directory as a whole or not at all."""
    output_folders.check_free(out)
    with output_folders.write_folder(out) as folder:
        fill(folder)
        models.write_model_card(folder, model_card)
