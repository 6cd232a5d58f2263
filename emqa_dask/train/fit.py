"""The training loop: AdamW, warm-up and cosine, checkpoints that resume to the same weights, the best kept as a model.

Every step seeds torch and its data from (seed, step), so nothing but weights and the optimiser's moments is state.
"""

import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask import models, networks, output_folders
from emqa_dask.number_ranges import check_integer, check_number
from emqa_dask.train import scores
from emqa_dask.train.augment import Crop
from emqa_dask.train.checkpoints import load_checkpoint, locate_checkpoint, save_checkpoint

BEST_BY = "image_f1_iou_0.5"


@dataclass(frozen=True)
class DetectorSchedule:
    """How long and how hard a network trains."""

    steps: int
    learning_rate: float = 6e-4
    weight_decay: float = 0.02
    warm_up: int = 100  # steps
    clip: float = 5.0  # norm of the gradient
    validate_every: int = 200  # steps
    checkpoint_minutes: float = 5.0
    seed: int = 0
    frozen: bool = False  # the backbone's body stays as it is
    bf16: bool = False  # forward pass in bfloat16 where torch holds it safe; weights and losses stay float32
    still_norms: bool = False  # batch normalisation keeps its statistics: few images, or a trained start

    def __post_init__(self):
        check_integer("steps", self.steps, 1)
        check_integer("validate_every", self.validate_every, 1)
        check_number("learning_rate", self.learning_rate, 0)

    def rate(self, step: int) -> float:
        """The learning rate of `step` (from 0): linear up, then half a cosine down to a hundredth."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def fit_detector(
    net,
    batches: Callable[[int], Iterator[list[Crop]]],
    out: Path,
    card: Mapping,
    schedule: DetectorSchedule,
    *,
    validation: Sequence[scores.GroundTruth] = (),
    device: str = "cpu",
    resume: bool = False,
    half: bool = False,
    say: Callable[[str], None] = print,
) -> dict:
    """Trains `net` and leaves the best one so far as the model directory `out`; returns its validation scores.

    `batches(first)` yields the crops of step `first`, `first + 1`, ...; the same for the same step, whenever asked.
    At each validation a network better than all before is written to `out` as `card` and its `[measured]`, weights
    (16 bits if `half`), training.csv and validation.csv; without validation images the last one is. Until it ends,
    `<out>.checkpoint` holds what `resume` starts from. Raises FloatingPointError where the loss is no number,
    FileNotFoundError with nothing to resume, and FileExistsError where either folder is not one of ours.
    """
    import torch

    out = Path(out)
    folder = locate_checkpoint(out)
    output_folders.check_folder(out, folder)
    net.to(device, memory_format=torch.channels_last)
    parameters = select_trainable(net, schedule.frozen)
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
    )
    history: dict[str, Any] = {"step": 0, "seconds": 0.0, "training": [], "validation": [], "best": None}
    if resume:
        output_folders.sweep(folder)
        if not (folder / "state.json").is_file():
            raise FileNotFoundError(f"{folder}: no checkpoint to resume from; start without resuming")
        history = load_checkpoint(folder, net, optimiser)
    saved = time.monotonic()
    durations = []
    for step, crops in zip(range(history["step"], schedule.steps), batches(history["step"])):
        began = time.monotonic()
        set_mode(net, schedule)
        torch.manual_seed(hash((schedule.seed, step)) % 2**63)
        rate = schedule.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=schedule.bf16):
            losses = net(*make_tensors(crops, device))
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss.item()}; lower the learning rate and resume")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimiser.step()
        durations = [*durations[-49:], time.monotonic() - began]
        history["seconds"] += durations[-1]
        row = {name: round(value.item(), 5) for name, value in {"loss": loss, **losses}.items()}
        row = {"step": step + 1, **row, "learning_rate": rate, "seconds": round(history["seconds"], 2)}
        history["training"].append(row)
        history["step"] = step + 1
        last = step + 1 == schedule.steps
        if (step + 1) % 10 == 0 or last:
            left = (schedule.steps - step - 1) * float(np.median(durations))
            recent = np.mean([r["loss"] for r in history["training"][-10:]])
            pace = f"{durations[-1]:.2f} s a step, {left / 60:.0f} min left"
            say(f"step {step + 1}/{schedule.steps}  loss {recent:.3f}  {pace}")
        if validation and ((step + 1) % schedule.validate_every == 0 or last):
            measured = {name: round(float(v), 4) for name, v in scores.evaluate_network(net, validation).items()}
            history["validation"].append({"step": step + 1, **measured})
            say("validation  " + "  ".join(f"{name} {value}" for name, value in measured.items()))
            if history["best"] is None or not measured[BEST_BY] < history["best"][BEST_BY]:
                history["best"] = {"step": step + 1, **measured}
                export_model(net, out, card, history, half=half)
        if last and not validation:
            export_model(net, out, card, history, half=half)
        if not last and time.monotonic() - saved > 60 * schedule.checkpoint_minutes:
            save_checkpoint(folder, net, optimiser, history)
            saved = time.monotonic()
    if out.exists():
        _complete(out, history)
    output_folders.remove_folder(folder)
    return history["best"] or {}


def select_trainable(net, frozen: bool) -> list:
    """The parameters that training moves; with `frozen` all but those of the backbone's body."""
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    for parameter in net.backbone.body.parameters():
        parameter.requires_grad_(not frozen)
    return [p for p in net.parameters() if p.requires_grad]


def set_mode(net, schedule: DetectorSchedule) -> None:
    """Training mode; batch normalisation of a frozen or trained start stays in evaluation, so its statistics stay."""
    import torch

    net.train()
    for module in net.backbone.body.modules() if schedule.frozen or schedule.still_norms else ():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def make_tensors(crops: Sequence[Crop], device: str) -> tuple[list, list]:
    """Images and targets as torchvision's detectors take them: boxes are x0, y0, x1, y1 there."""
    import torch

    images = [torch.from_numpy(crop.image)[None].to(device) for crop in crops]
    targets = [
        {
            "boxes": torch.from_numpy(np.ascontiguousarray(crop.boxes[:, [1, 0, 3, 2]])).to(device),
            "labels": torch.from_numpy(crop.labels).to(device),
            "masks": torch.from_numpy(crop.masks).to(device),
        }
        for crop in crops
    ]
    return images, targets


def export_model(net, out: Path, card: Mapping, history: Mapping, *, half: bool = False) -> None:
    """Writes the model directory `out`, whole or not at all."""
    best = {name: value for name, value in (history["best"] or {}).items() if not _is_nan(value)}
    measured = {**card.get("measured", {}), **({"validation": best} if best else {})}
    training = {**card.get("training", {}), "steps": history["step"]}
    with output_folders.write_folder(out) as fresh:
        networks.save_weights(net, fresh / "weights.safetensors", half=half)
        _write_tables(fresh, history)
        models.write_card(fresh, {**card, "training": training, "measured": measured})


def _complete(out: Path, history: Mapping) -> None:
    """Gives the best network's directory the tables of the whole training, and scores for which 0.5 is the best cut."""
    threshold = (history["best"] or {}).get("score_threshold", 0.5)
    card = models.load_card(out)
    card.pop("files")
    card["training"]["best_threshold_that_became_0.5"] = threshold
    with output_folders.write_folder(out) as fresh:
        networks.centre_scores(out / "weights.safetensors", fresh / "weights.safetensors", threshold)
        _write_tables(fresh, history)
        models.write_card(fresh, card)


def _write_tables(folder: Path, history: Mapping) -> None:
    for name in ("training", "validation"):
        if history[name]:
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(history[name][0]), lineterminator="\n")
                table.writeheader()
                table.writerows(history[name])


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)
