"""Trains a Mask R-CNN from COCO JSON and images, from random weights or a model directory, into a model directory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from emqa_dask import networks, output_folders
from emqa_dask.number_ranges import check_fraction, check_integer, check_number, check_seed
from emqa_dask.train import coco
from emqa_dask.train.checkpoints import locate_checkpoint
from emqa_dask.train.detector_data import (
    CropOptions,
    DetectorImages,
    Normalise,
    Read,
    count_steps_per_epoch,
    draw_batches,
    read_grey_image,
    split_images,
)
from emqa_dask.train.detector_export import ModelTarget
from emqa_dask.train.detector_fit import fit_detector
from emqa_dask.train.detector_start import Learner, load_start
from emqa_dask.train.schedules import DetectorSchedule

ARCHITECTURE = {
    "backbone": "resnet18",
    "fpn_channels": 64,
    "n_classes": 1,
    "anchor_sizes": [[8, 11], [16, 23], [32, 45], [64, 90], [128, 181]],
    "aspect_ratios": [0.5, 1.0, 2.0],
    "min_size": 0,
    "max_size": 0,
    "image_mean": [0.5],
    "image_std": [0.25],
    "box_channels": 256,
    "mask_channels": [64, 64, 64, 64],
    "score_floor": 0.05,
    "nms_iou": 0.5,
    "max_detections": 1000,
}
INPUT = {"low_percentile": 1.0, "high_percentile": 99.0}
# Random weights need many steps at a high rate; a trained start needs few at a low rate, else it forgets.
N_STEPS_FROM_RANDOM = 3000
N_STEPS_FROM_MODEL = 600
LEARNING_RATE_FROM_RANDOM = 6e-4
LEARNING_RATE_FROM_MODEL = 1e-4
MAX_WARM_UP_STEPS = 100


@dataclass(frozen=True)
class DetectorOptions:
    """How a detector is trained; None: a default that depends on `start` or on the images."""

    start: Path | None = None  # model directory to fine-tune
    is_backbone_frozen: bool = False
    n_steps: int | None = None
    learning_rate: float | None = None
    crops: CropOptions = field(default_factory=CropOptions)
    validation_share: float = 0.2  # of the images; held back
    validation_interval: int | None = None  # steps
    checkpoint_minutes: float = 5.0
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"  # of the forward pass
    resume: bool = False
    architecture: Mapping[str, Any] | None = None  # changes of ARCHITECTURE, for random weights only
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.n_steps is not None:
            check_integer("steps", self.n_steps, 1)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, 0)
        check_fraction("validation", self.validation_share)
        check_seed("seed", self.seed)

    def make_schedule(self, steps_per_epoch: int) -> DetectorSchedule:
        """The schedule with the defaults filled in."""
        is_fine_tuning = self.start is not None
        n_steps = self.n_steps or (N_STEPS_FROM_MODEL if is_fine_tuning else N_STEPS_FROM_RANDOM)
        rate = self.learning_rate or (LEARNING_RATE_FROM_MODEL if is_fine_tuning else LEARNING_RATE_FROM_RANDOM)
        return DetectorSchedule(
            n_steps=n_steps,
            learning_rate=rate,
            n_warm_up_steps=min(MAX_WARM_UP_STEPS, n_steps // 10),
            validation_interval=steps_per_epoch if self.validation_interval is None else self.validation_interval,
            checkpoint_minutes=self.checkpoint_minutes,
            seed=self.seed,
            precision=self.precision,
            is_backbone_frozen=self.is_backbone_frozen,
            has_frozen_norms=is_fine_tuning,
        )


def train_detector(
    sets: Sequence[tuple[Path, Path]],
    out: Path,
    options: DetectorOptions,
    *,
    normalise: Normalise,
    read: Read = read_grey_image,
    say: Callable[[str], None] = print,
) -> dict:
    """Validation scores of the best network that was trained on `sets`, each (COCO file, folder of its images).

    `read(path)` returns a 2-D image; `normalise(image, low, high)` maps these percentiles to 0 and 1. Fine-tuning
    keeps the statistics of batch normalisation, and starts the last layers anew when the number of classes differs. A
    part of the images is held back and evaluated at every validation. The best network becomes `out`, which is
    replaced as a whole or left alone. `<out>.checkpoint` stays until the training ends; resuming from it gives the
    weights of a training that nothing interrupted. Errors name the file: see `coco.read_coco_sets`; also for images
    that cannot be read or have another size than their set states, and a start of another family, architecture or
    with other weights than its card's. FileExistsError where `out` or its checkpoint is not from a training.
    """
    import torch

    out = Path(out)
    output_folders.check_folder(out, locate_checkpoint(out))
    torch.manual_seed(options.seed)
    rows, classes = coco.read_coco_sets(sets)
    learner = _make_learner(options, classes)
    model_card = learner.card
    percentiles = (model_card["input"]["low_percentile"], model_card["input"]["high_percentile"])
    images = DetectorImages(rows, read, normalise, percentiles)
    images.check()
    training_images, validation_images = split_images(len(rows), options.validation_share, options.seed)
    schedule = options.make_schedule(count_steps_per_epoch(rows, training_images, options.crops))
    model_card["training"] |= {
        "sets": [Path(file).name for file, _ in sets],
        **_describe_images(rows, training_images, validation_images),
        **_describe_options(options, schedule),
    }
    model_card |= {"name": out.name, "licence": options.licence}
    interval = schedule.validation_interval
    say(f"{len(training_images)} images to learn from, {len(validation_images)} held back, {interval} steps an epoch")
    return fit_detector(
        learner.net,
        partial(draw_batches, images, training_images, learner.input_size, options.crops, options.seed),
        ModelTarget(out, model_card, texts=learner.texts, background=learner.background),
        schedule,
        validation=[images.make_truth(k) for k in validation_images],
        device=options.device,
        resume=options.resume,
        say=say,
        prepare=learner.prepare,
        make_rounds=learner.make_rounds,
    )


def _describe_images(
    rows: Sequence[coco.LabelledImage], training_images: Sequence[int], held_back: Sequence[int]
) -> dict:
    """Entries of the card's [training] on the images."""
    return {
        "images": len(training_images),
        "objects": sum(len(rows[k].masks) for k in training_images),
        "masks_that_are_ellipses_of_boxes": sum(row.n_ellipses for row in rows),
        "crowds_left_out": sum(row.n_crowds for row in rows),
        "held_back": sorted(rows[k].path.name for k in held_back),
    }


def _describe_options(options: DetectorOptions, schedule: DetectorSchedule) -> dict:
    """Entries of the card's [training] on the options."""
    return {
        "seed": options.seed,
        "learning_rate": schedule.learning_rate,
        "crop_px": options.crops.size_px,
        "crops_per_step": options.crops.n_crops,
        "frozen_backbone": options.is_backbone_frozen,
    }


def _make_learner(options: DetectorOptions, classes: list[str]) -> Learner:
    """The network to train."""
    model_card = {
        "name": "",
        "task": "instance segmentation",
        "family": "torchvision",
        "classes": classes,
        "licence": "",
        "input": dict(INPUT),
        "training": {"made_by": "emqa train detector", "cohort": "given by COCO files"},
        "matching": {"iou_threshold": 0.1, "rule": "greedy"},
    }
    if options.start is not None:
        if options.architecture is not None:
            raise ValueError("an architecture can be chosen only for a network that starts from random weights")
        return load_start(options.start, model_card, options.device, options.precision)
    architecture_settings = {**(options.architecture or {}), "n_classes": len(classes)}
    architecture = networks.complete_architecture({**ARCHITECTURE, **architecture_settings})
    net = networks.build_detector(architecture)
    return Learner(net, {**model_card, "architecture": architecture}, architecture)
