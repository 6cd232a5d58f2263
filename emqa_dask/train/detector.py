"""Trains a Mask R-CNN from COCO JSON and images, from nothing or from a model directory, into a model directory."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from emqa_dask import models, networks, output_folders
from emqa_dask.number_ranges import check_fraction, check_integer, check_number, check_seed
from emqa_dask.train import augment, coco, fit, scores
from emqa_dask.train.checkpoints import locate_checkpoint

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
# Of nothing: long and fast. From a model: short and gently, or what it knows is lost.
STEPS = (3000, 600)
LEARNING_RATE = (6e-4, 1e-4)
# The last layers, which belong to the classes.
HEADS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
CACHED_PX = 1 << 28  # normalised pixels kept between crops: 1 GB


def read_grey_image(path: Path) -> np.ndarray:
    """An image file as OpenCV reads it, colours to grey: 2-D, its own dtype. Raises ValueError where it cannot."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path}: OpenCV cannot read this image")
    if image.ndim == 3:
        way = cv2.COLOR_BGRA2GRAY if image.shape[2] == 4 else cv2.COLOR_BGR2GRAY
        image = cv2.cvtColor(image, way)
    return image


def train_detector(
    sets: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    normalise: Callable[[np.ndarray, float, float], np.ndarray],
    read: Callable[[Path], np.ndarray] = read_grey_image,
    start: Path | None = None,
    frozen: bool = False,
    steps: int | None = None,
    learning_rate: float | None = None,
    crop_px: int = 256,
    crops: int = 4,
    scales: tuple[float, float] = (0.5, 2.0),
    validation: float = 0.2,
    validate_every: int | None = None,
    checkpoint_minutes: float = 5.0,
    seed: int = 0,
    device: str = "cpu",
    bf16: bool = False,
    resume: bool = False,
    architecture: Mapping | None = None,
    licence: str = "not stated",
    say: Callable[[str], None] = print,
) -> dict:
    """Trains on `sets`, each (COCO file, folder of its images), and returns the scores on the images held back.

    `read(path)` gives a 2-D image, `normalise(image, low, high)` brings those percentiles to 0 and 1. `start` is a
    model directory to fine-tune, `frozen` keeps its backbone (batch normalisation keeps its statistics in either case);
    its last layers start anew when the number of classes differs. A share `validation` of the images (at least one, of
    two or more) is held back and measured every `validate_every` steps (an epoch: as many crops as the images have room
    for). The best network is `out`, replaced as a whole or left alone; `<out>.checkpoint` is there to `resume` until
    training ends, and gives the weights of a training that nothing stopped.
    Errors name the file: see `coco.read_coco_sets`; unreadable images and those of another size than their set says;
    a `start` of another family or architecture, or with other weights than its card's; FileExistsError where `out` or
    its checkpoint is there and not what a training has left.
    """
    import torch

    out = Path(out)
    if steps is not None:
        check_integer("steps", steps, 1)
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, 0)
    check_fraction("validation", validation)
    check_seed("seed", seed)
    output_folders.check_folder(out, locate_checkpoint(out))
    torch.manual_seed(seed)
    pictures, classes = coco.read_coco_sets(sets)
    net, card = _begin(start, classes, architecture)
    full = card["architecture"]
    scale = card["input"]

    @functools.lru_cache(maxsize=max(4, CACHED_PX // max(p.shape[0] * p.shape[1] for p in pictures)))
    def image_of(k: int) -> np.ndarray:
        image = read(pictures[k].path)
        if image.shape != pictures[k].shape:
            raise ValueError(f"{pictures[k].path}: {image.shape} px, its set says {pictures[k].shape} (height, width)")
        return normalise(image, scale["low_percentile"], scale["high_percentile"])

    for k in range(len(pictures)):
        image_of(k)  # what cannot be read is found now, not after hours
    learnt, held = _split(len(pictures), validation, seed)
    room = sum(max(1, pictures[k].shape[0] * pictures[k].shape[1] // crop_px**2) for k in learnt)
    epoch = max(20, min(500, room // crops))
    steps = STEPS[start is not None] if steps is None else steps
    schedule = fit.DetectorSchedule(
        steps=steps,
        learning_rate=LEARNING_RATE[start is not None] if learning_rate is None else learning_rate,
        warm_up=min(100, steps // 10),
        validate_every=epoch if validate_every is None else validate_every,
        checkpoint_minutes=checkpoint_minutes,
        seed=seed,
        frozen=frozen,
        bf16=bf16,
        still_norms=start is not None,
    )

    def batches(first: int) -> Iterator[list[augment.Crop]]:
        for step in range(first, schedule.steps):
            rng = np.random.default_rng([seed, step])
            chosen = rng.choice(learnt, crops)
            yield [
                augment.draw_crop(
                    image_of(int(k)),
                    pictures[k].masks,
                    pictures[k].labels,
                    rng,
                    size=crop_px,
                    scales=tuple(s * _input_scale(pictures[k].shape, full) for s in scales),
                )
                for k in chosen
            ]

    truths = [scores.GroundTruth(image_of(k), pictures[k].masks, pictures[k].labels) for k in held]
    card["training"] |= {
        "sets": [Path(file).name for file, _ in sets],
        "images": len(learnt),
        "objects": sum(len(pictures[k].masks) for k in learnt),
        "masks_that_are_ellipses_of_boxes": sum(p.n_ellipses for p in pictures),
        "crowds_left_out": sum(p.n_crowds for p in pictures),
        "held_back": sorted(pictures[k].path.name for k in held),
        "seed": seed,
        "learning_rate": schedule.learning_rate,
        "crop_px": crop_px,
        "crops_per_step": crops,
        "frozen_backbone": frozen,
    }
    card |= {"name": out.name, "licence": licence}
    say(f"{len(learnt)} images to learn from, {len(held)} held back, {schedule.validate_every} steps an epoch")
    return fit.fit_detector(net, batches, out, card, schedule, validation=truths, device=device, resume=resume, say=say)


def _begin(start: Path | None, classes: list[str], architecture: Mapping | None) -> tuple:
    """The network to train, and the first part of its card."""
    card = {
        "name": "",
        "task": "instance segmentation",
        "family": "torchvision",
        "classes": classes,
        "licence": "",
        "input": dict(INPUT),
        "training": {"made_by": "emqa train detector", "cohort": "given by COCO files"},
        "matching": {"iou_threshold": 0.1, "rule": "greedy"},
    }
    if start is None:
        full = networks.complete_architecture({**ARCHITECTURE, **(architecture or {}), "n_classes": len(classes)})
        return networks.build_detector(full), {**card, "architecture": full}
    if architecture is not None:
        raise ValueError("an architecture can be chosen only for a network that starts from nothing")
    start = models.locate(str(start))
    known = models.load_card(start)
    if known.get("task") != card["task"] or known.get("family") != card["family"]:
        raise ValueError(
            f"{start}: {known.get('family')} for {known.get('task')!r}: only torchvision detectors train here"
        )
    with models.blame(start):
        full = networks.complete_architecture({**known["architecture"], "n_classes": len(classes)})
        net = networks.build_detector(full)
        skip = HEADS if known["architecture"]["n_classes"] != len(classes) else ()
        networks.load_weights(net, start / "weights.safetensors", skip=skip)
    card["training"] |= {"started_from": known["name"], "started_from_digest": models.digest(start)}
    return net, {**card, "architecture": full, "input": dict(known["input"])}


def _split(n: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the pictures to learn from, and of those held back."""
    order = np.random.default_rng([seed, 0x5B117]).permutation(n)
    n_held = min(max(1, round(share * n)), n - 1) if share > 0 else 0
    return sorted(order[n_held:].tolist()), sorted(order[:n_held].tolist())


def _input_scale(shape: tuple[int, int], architecture: Mapping) -> float:
    """What the network enlarges an image of `shape` by before it looks, as torchvision does it."""
    if not architecture["min_size"]:
        return 1.0
    return min(architecture["min_size"] / min(shape), (architecture["max_size"] or np.inf) / max(shape))
