"""Images that a detector trains on: read and normalised once, split, cut into crops."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from emqa_dask.train import augment, scores
from emqa_dask.train.coco import LabelledImage

MAX_CACHED_PX = 1 << 28  # normalised pixels kept in memory, 1 GB of float32
SPLIT_STREAM = 0x5B117  # keeps the random numbers of the split apart from those of the crops

Read = Callable[[Path], np.ndarray]
Normalise = Callable[[np.ndarray, float, float], np.ndarray]


@dataclass(frozen=True)
class CropOptions:
    """How crops are drawn."""

    size_px: int = 256
    n_crops: int = 4  # in a step
    scales: tuple[float, float] = (0.5, 2.0)  # range of random enlargement


def read_grey_image(path: Path) -> np.ndarray:
    """An image file as OpenCV reads it, colours as grey: 2-D, in its own dtype. ValueError where it cannot be read."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path}: OpenCV cannot read this image")
    if image.ndim == 3:
        code = cv2.COLOR_BGRA2GRAY if image.shape[2] == 4 else cv2.COLOR_BGR2GRAY
        image = cv2.cvtColor(image, code)
    return image


def split_images(n: int, validation_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the images to train on and of those held back: at least one of two or more, if the share is not 0."""
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(n)
    n_held_back = min(max(1, round(validation_share * n)), n - 1) if validation_share > 0 else 0
    return sorted(order[n_held_back:].tolist()), sorted(order[:n_held_back].tolist())


@dataclass
class DetectorImages:
    """The images of a training, normalised; those that fit into `MAX_CACHED_PX` are kept."""

    rows: Sequence[LabelledImage]
    read: Read
    normalise: Normalise
    percentiles: tuple[float, float]
    load: Callable[[int], np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        largest_px = max(row.shape[0] * row.shape[1] for row in self.rows)
        self.load = functools.lru_cache(maxsize=max(4, MAX_CACHED_PX // largest_px))(self._read_image)

    def _read_image(self, k: int) -> np.ndarray:
        """The normalised image `k`; ValueError where its shape is not the one that its set states."""
        row = self.rows[k]
        image = self.read(row.path)
        if image.shape != row.shape:
            raise ValueError(f"{row.path}: {image.shape} px, its set says {row.shape} (height, width)")
        return self.normalise(image, *self.percentiles)

    def check(self) -> None:
        """Reads every image, so that an unreadable one is found before the training."""
        for k in range(len(self.rows)):
            self.load(k)

    def make_truth(self, k: int) -> scores.GroundTruth:
        """Image `k` with its objects, for a validation."""
        return scores.GroundTruth(self.load(k), self.rows[k].masks, self.rows[k].labels)


def draw_batches(
    images: DetectorImages,
    image_indices: Sequence[int],
    architecture: Mapping,
    options: CropOptions,
    seed: int,
    first_step: int,
) -> Iterator[list[augment.Crop]]:
    """Crops of step `first_step` and all following ones, from the images `image_indices`.

    The crops of a step depend on (seed, step) only.
    """
    step = first_step
    while True:
        rng = np.random.default_rng([seed, step])
        yield [
            _draw_crop(images, int(k), architecture, options, rng) for k in rng.choice(image_indices, options.n_crops)
        ]
        step += 1


def _draw_crop(
    images: DetectorImages, k: int, architecture: Mapping, options: CropOptions, rng: np.random.Generator
) -> augment.Crop:
    row = images.rows[k]
    enlargement = compute_enlargement(row.shape, architecture)
    scales = (options.scales[0] * enlargement, options.scales[1] * enlargement)
    return augment.draw_crop(images.load(k), row.masks, row.labels, rng, size=options.size_px, scales=scales)


def compute_enlargement(shape: tuple[int, int], architecture: Mapping) -> float:
    """Factor by which torchvision's detector enlarges an image of `shape` before it looks for objects."""
    if not architecture["min_size"]:
        return 1.0
    return min(architecture["min_size"] / min(shape), (architecture["max_size"] or np.inf) / max(shape))


def count_steps_per_epoch(rows: Sequence[LabelledImage], image_indices: Sequence[int], options: CropOptions) -> int:
    """Steps that draw as many crops as the images have room for, from 20 to 500."""
    n_crops = sum(max(1, rows[k].shape[0] * rows[k].shape[1] // options.size_px**2) for k in image_indices)
    return max(20, min(500, n_crops // options.n_crops))
