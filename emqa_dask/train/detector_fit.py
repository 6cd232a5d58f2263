"""Fits a Mask R-CNN to batches of crops: AdamW, gradient clipping, validation; the best network becomes a model."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emqa_dask import output_folders
from emqa_dask.train import scores
from emqa_dask.train.augment import Crop
from emqa_dask.train.checkpoints import Training, has_checkpoint, load_checkpoint, locate_checkpoint
from emqa_dask.train.detector_export import ModelTarget, complete_model, export_model
from emqa_dask.train.loop import run_training_rounds, take_optimiser_step
from emqa_dask.train.schedules import DetectorSchedule

if TYPE_CHECKING:
    import torch

SELECTION_SCORE = "image_f1_iou_0.5"  # the network with the highest value is kept
MESSAGE_INTERVAL = 10  # steps
N_TIMED_STEPS = 50  # the remaining time follows from the median of the last ones


def fit_detector(
    net: "torch.nn.Module",
    draw_batches: Callable[[int], Iterator[list[Crop]]],
    target: ModelTarget,
    schedule: DetectorSchedule,
    *,
    validation: Sequence[scores.GroundTruth] = (),
    device: str = "cpu",
    resume: bool = False,
    say: Callable[[str], None] = print,
    prepare: Callable[["torch.nn.Module", DetectorSchedule], "torch.optim.Optimizer"] | None = None,
    make_rounds: Callable[..., "DetectorRounds"] | None = None,
) -> dict:
    """Validation scores of the best network, which is written to `target`; {} without validation images.

    `draw_batches(first)` yields the crops of step `first`, `first + 1`, ...; a step always has the same crops. A
    network that validates better than all before is written as a model directory with its scores, training.csv and
    validation.csv; without validation images the last network is. Until the training ends, `<target>.checkpoint` holds
    what `resume` starts from. `prepare` makes the optimiser and `make_rounds` the steps of networks that are not
    torchvision's. Raises FloatingPointError where the loss is not finite, FileNotFoundError without a
    checkpoint to resume from, and FileExistsError where either folder was not written by a training.
    """
    import torch

    checkpoint = locate_checkpoint(target.folder)
    output_folders.check_folder(target.folder, checkpoint)
    net.to(device, memory_format=torch.channels_last)
    training = Training(net, (prepare or make_optimiser)(net, schedule))
    if resume:
        _resume(checkpoint, training)
    batches = draw_batches(training.progress.n_rounds)
    rounds = (make_rounds or DetectorRounds)(training, schedule, target, batches, validation, device, say)
    minutes = schedule.checkpoint_minutes
    run_training_rounds(training, schedule, rounds.train_step, checkpoint, checkpoint_minutes=minutes, say=say)
    if target.folder.exists():
        complete_model(target, training.progress)
    output_folders.remove_folder(checkpoint)
    return training.progress.best or {}


def _resume(checkpoint: Path, training: Training) -> None:
    """Fills `training` from the checkpoint; FileNotFoundError where there is none."""
    if not has_checkpoint(checkpoint):
        raise FileNotFoundError(f"{checkpoint}: no checkpoint to resume from; start without resuming")
    load_checkpoint(checkpoint, training)


@dataclass
class DetectorRounds:
    """Steps of a detector's training and its validations."""

    training: Training
    schedule: DetectorSchedule
    target: ModelTarget
    batches: Iterator[list[Crop]]
    validation: Sequence[scores.GroundTruth]
    device: str
    say: Callable[[str], None]
    durations_s: list[float] = field(default_factory=list)  # of the last steps

    def train_step(self, k: int) -> str:
        """Trains step `k`, validates where it is due, and returns a message every `MESSAGE_INTERVAL` steps."""
        crops = next(self.batches)
        start_s = time.monotonic()
        losses = self.update_weights(k, crops)
        self._record(k, losses, time.monotonic() - start_s)
        is_last = k + 1 == self.schedule.n_steps
        if self.validation and ((k + 1) % self.schedule.validation_interval == 0 or is_last):
            self._validate()
        if is_last and not self.validation:
            export_model(self.training.net, self.target, self.training.progress)
        return self._describe_progress() if (k + 1) % MESSAGE_INTERVAL == 0 or is_last else ""

    def update_weights(self, k: int, crops: Sequence[Crop]) -> dict[str, float]:
        """Takes one step and returns its losses, their sum first."""
        import torch

        set_training_mode(self.training.net, self.schedule)
        torch.manual_seed(hash((self.schedule.seed, k)) % 2**63)
        losses = compute_losses(self.training.net, *make_tensors(crops, self.device), self.schedule.precision)
        loss = sum(losses.values())
        take_optimiser_step(self.training, loss, f"step {k + 1}", max_gradient_norm=self.schedule.max_gradient_norm)
        return {name: value.item() for name, value in {"loss": loss, **losses}.items()}

    def detect(self, net: "torch.nn.Module", image: np.ndarray) -> scores.Detections:
        """Detections of the network, in evaluation mode, on a normalised image."""
        return scores.detect_objects(net, image)

    def _record(self, k: int, losses: dict[str, float], duration_s: float) -> None:
        """Adds the row of step `k` to the progress."""
        progress = self.training.progress
        self.durations_s = [*self.durations_s[1 - N_TIMED_STEPS :], duration_s]
        progress.seconds += duration_s
        progress.n_rounds = k + 1
        values = {name: round(value, 5) for name, value in losses.items()}
        times = {"learning_rate": self.schedule.compute_rate(k), "seconds": round(progress.seconds, 2)}
        progress.training.append({"step": k + 1, **values, **times})

    def _validate(self) -> None:
        """Evaluates the network on the validation images, and writes it as a model if no earlier one was better."""
        progress = self.training.progress
        validation_scores = scores.evaluate_network(self.training.net, self.validation, detect=self.detect)
        row = {name: round(float(value), 4) for name, value in validation_scores.items()}
        self.say("validation  " + "  ".join(f"{name} {value}" for name, value in row.items()))
        row = {"step": progress.n_rounds, **row}
        progress.validation.append(row)
        if progress.best is None or not row[SELECTION_SCORE] < progress.best[SELECTION_SCORE]:
            progress.best = row
            progress.best_round = progress.n_rounds
            export_model(self.training.net, self.target, progress)

    def _describe_progress(self) -> str:
        progress = self.training.progress
        n_left = self.schedule.n_steps - progress.n_rounds
        minutes_left = n_left * float(np.median(self.durations_s)) / 60
        loss = np.mean([row["loss"] for row in progress.training[-MESSAGE_INTERVAL:]])
        pace = f"{self.durations_s[-1]:.2f} s a step, {minutes_left:.0f} min left"
        return f"step {progress.n_rounds}/{self.schedule.n_steps}  loss {loss:.3f}  {pace}"


def make_optimiser(net: "torch.nn.Module", schedule: DetectorSchedule) -> "torch.optim.Optimizer":
    """AdamW on the trainable parameters; weight decay applies to matrices and kernels only."""
    import torch

    parameters = select_trainable(net, schedule.is_backbone_frozen)
    weight_decay_parameters = [parameter for parameter in parameters if parameter.ndim > 1]
    other_parameters = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": weight_decay_parameters, "weight_decay": schedule.weight_decay},
        {"params": other_parameters, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def select_trainable(net: "torch.nn.Module", is_backbone_frozen: bool) -> list["torch.nn.Parameter"]:
    """The parameters that training changes: all, or all but those of the frozen backbone's body."""
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    for parameter in net.backbone.body.parameters():
        parameter.requires_grad_(not is_backbone_frozen)
    return [p for p in net.parameters() if p.requires_grad]


def compute_losses(
    net: "torch.nn.Module", images: list["torch.Tensor"], targets: list[dict], precision: str
) -> dict[str, "torch.Tensor"]:
    """Losses of a Mask R-CNN in training mode; in bfloat16 the backbone alone.

    Anchors and proposals take the precision of the feature maps: bfloat16 would round boxes to 2 px at 384 px, and make
    some of them so narrow that their loss is not finite.
    """
    import torch

    batch, targets = net.transform(images, targets)
    with torch.autocast(batch.tensors.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features = net.backbone(batch.tensors)
    features = {level: values.float() for level, values in features.items()}
    proposals, proposal_losses = net.rpn(batch, features, targets)
    _, object_losses = net.roi_heads(features, proposals, batch.image_sizes, targets)
    return {**object_losses, **proposal_losses}


def set_training_mode(net: "torch.nn.Module", schedule: DetectorSchedule) -> None:
    """Sets training mode; where the schedule keeps statistics, the backbone's norms stay in evaluation mode."""
    import torch

    net.train()
    if schedule.is_backbone_frozen or schedule.has_frozen_norms:
        for module in net.backbone.body.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


def make_tensors(crops: Sequence[Crop], device: str) -> tuple[list, list]:
    """Images and targets as torchvision's detectors take them: their boxes are x0, y0, x1, y1."""
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
