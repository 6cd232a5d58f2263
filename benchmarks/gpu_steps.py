"""Steps of a triage on one device: time per megapixel, and its share of what memory and arithmetic would allow."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_log import SEARCH, sigmas_of
from emqa_dask import load_detector, load_ensemble
from emqa_dask.backend import to_device, to_host
from emqa_dask.detect import log_batch
from emqa_dask.detect.batch_intensity import compute_batch_limits
from emqa_dask.detect.blobs import find_blobs
from emqa_dask.detect.log import detect_images
from emqa_dask.detect.mask_rcnn import device_masks
from emqa_dask.detect.normalise import normalise
from emqa_dask.featurise.batch_parts import split_images
from emqa_dask.featurise.images import compute_features_of_parts, image_features
from emqa_dask.featurise.rings import measure_thon_rings
from emqa_dask.pipeline.tasks.device_step import DeviceWork, compute_on_device
from emqa_dask.settings import Detect
from emqa_dask.store.thumbnails import downsample_batch, encode_thumbnail, make_thumbnail

FLOAT_BYTES = 4
MASK_CELLS = 28
THUMBNAIL_PX = 256  # the default of store.thumbnail_px
N_OBJECTS = 100  # of an image of one megapixel, whose masks are pasted


class Limits(NamedTuple):
    """What the device reaches with nothing else to do."""

    memory_bytes_per_s: float  # read and written by a copy
    upload_bytes_per_s: float  # from pinned memory; NaN on a CPU
    operations_per_s: dict[str, float]  # of a matrix product in float32 (TF32 off) and bfloat16


class Step(NamedTuple):
    """A step, and the least that it has to move and compute."""

    call: Callable[[], object]
    megapixels: float
    n_bytes: float = 0.0  # read once and written once; 0: not a limit
    n_operations: float = 0.0  # 0: not a limit
    precision: str = "float32"
    is_upload: bool = False


def synchronise(device: str) -> None:
    """Wait for all work of the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def time_call(call: Callable[[], object], device: str, rounds: int) -> float:
    """Median seconds of `rounds` calls after one that compiles."""
    call()
    seconds = []
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def measure_limits(device: str, rounds: int, is_quick: bool) -> Limits:
    """Rates of a copy, an upload and matrix products on `device`."""
    n = 1 << (20 if is_quick or device == "cpu" else 28)
    source = torch.ones(n, device=device)
    target = torch.empty_like(source)
    memory = 2 * FLOAT_BYTES * n / time_call(lambda: target.copy_(source), device, rounds)
    upload = float("nan")
    if device == "cuda":
        pinned = torch.ones(n // 4).pin_memory()
        upload = FLOAT_BYTES * n / 4 / time_call(lambda: pinned.to(device, non_blocking=True), device, rounds)
    side = 256 if is_quick or device == "cpu" else 8192
    rates = {}
    for precision in ("float32", "bfloat16"):
        matrix = torch.ones((side, side), device=device, dtype=getattr(torch, precision))
        rates[precision] = 2 * side**3 / time_call(lambda matrix=matrix: matrix @ matrix, device, rounds)
    return Limits(memory, upload, rates)


def count_operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in `call`."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def make_steps(device: str, images: Sequence[np.ndarray], ensemble: Path, precision: str = "auto") -> dict[str, Step]:
    """The steps on `images`, (h, w) uint16 of one shape, with the networks of `cavity-tem` and of `ensemble`."""
    megapixels = sum(image.size for image in images) / 1e6
    steps = {}
    if device == "cuda":
        stack = np.stack(images)
        steps["upload"] = Step(lambda: to_device(stack, device), megapixels, stack.nbytes, is_upload=True)
    steps |= _make_log_steps(device, images, megapixels)
    steps |= _make_feature_steps(device, images, megapixels)
    detector = load_detector("cavity-tem", device, precision)
    used = detector.card.select_precision(device) if precision == "auto" else precision
    pixels = [normalise(image, detector.card.low_percentile, detector.card.high_percentile) for image in images]

    def run_network() -> object:
        return detector._network.predict_objects(pixels)

    steps[f"Mask R-CNN, network ({used})"] = Step(
        run_network, megapixels, n_operations=count_operations(run_network), precision=used
    )
    steps["Mask R-CNN, all"] = Step(lambda: detector.detect(list(images)), megapixels)
    steps["masks to runs"] = _make_mask_step(device, images)
    members = load_ensemble(ensemble, device)

    def classify() -> object:
        return members.predict_probabilities(list(images))

    steps["ensemble"] = Step(classify, megapixels, n_operations=count_operations(classify))
    return steps


def _make_feature_steps(device: str, images: Sequence[np.ndarray], megapixels: float) -> dict[str, Step]:
    """Properties of images on the device that holds them, and one by one on a CPU; each pixel is read once."""
    stack = np.stack(images)
    batch = to_device(stack, device)
    first = to_device(images[0], device)
    sides_px = [min(image.shape) for image in images]
    no_colours = [0.0] * len(images)
    work = DeviceWork(THUMBNAIL_PX, Detect(detectors=("log",)), has_features=True, has_rings=True)

    def compute_features() -> object:
        return compute_features_of_parts(split_images(batch), sides_px, no_colours, device)

    def make_thumbnails() -> object:
        return [encode_thumbnail(grey) for grey in to_host(downsample_batch(batch, THUMBNAIL_PX)).astype(np.float64)]

    return {
        "features, batch": Step(compute_features, megapixels, stack.nbytes),
        "features, images on a CPU": Step(
            lambda: [image_features(image) for image in images], megapixels, stack.nbytes
        ),
        "thumbnails, batch": Step(make_thumbnails, megapixels, stack.nbytes),
        "thumbnails, images on a CPU": Step(
            lambda: [make_thumbnail(image) for image in images], megapixels, stack.nbytes
        ),
        "one upload, all parts": Step(
            lambda: compute_on_device(images, work, device), megapixels, stack.nbytes, is_upload=device == "cuda"
        ),
        "Thon rings, one image": Step(
            lambda: measure_thon_rings(first, 0.1, 200.0), images[0].size / 1e6, images[0].nbytes
        ),
    }


def _make_log_steps(device: str, images: Sequence[np.ndarray], megapixels: float) -> dict[str, Step]:
    """Its parts on pixels that are on the device, and the whole way from acquired pixels to tables."""
    acquired = to_device(np.stack(images), device)
    pixels = to_device(np.stack([normalise(image, 1, 99) for image in images]), device)
    search = SEARCH | {"log_scale": True, "overlap": None}
    sigmas = sigmas_of(search)
    n_bytes = 2 * FLOAT_BYTES * len(sigmas) * megapixels * 1e6  # each scale reads the image and writes itself
    halving_bytes = 1.25 * FLOAT_BYTES * megapixels * 1e6  # a quarter of the pixels is written
    settings = Detect(detectors=("log",), polarity="both")

    def halve_without_cucim() -> object:
        with mock.patch.object(log_batch, "get_skimage", return_value=None):
            return log_batch.halve_batch(pixels)

    library = "cuCIM" if device == "cuda" else "scikit-image"
    return {
        "LoG, limits": Step(lambda: compute_batch_limits(acquired, 1, 99), megapixels, acquired.nbytes),
        f"LoG, halving by {library}": Step(lambda: log_batch.halve_batch(pixels), megapixels, halving_bytes),
        f"LoG, halving without {library}": Step(halve_without_cucim, megapixels, halving_bytes),
        "LoG, layers": Step(lambda: list(log_batch.compute_batch_layers(pixels, sigmas)), megapixels, n_bytes),
        "LoG, layers and maxima": Step(
            lambda: log_batch.find_batch_maxima(pixels, sigmas, search["threshold"], "both"), megapixels, n_bytes
        ),
        "LoG, exact search": Step(lambda: [find_blobs(image, **search) for image in pixels], megapixels, n_bytes),
        "LoG, pixels to tables": Step(
            lambda: list(detect_images(images, settings, len(images), device)), megapixels, n_bytes
        ),
    }


def _make_mask_step(device: str, images: Sequence[np.ndarray]) -> Step:
    """Masks of N_OBJECTS per megapixel become runs; at least each pixel of a box is written once."""
    rng = np.random.default_rng(0)
    height, width = images[0].shape
    n = max(1, round(N_OBJECTS * height * width / 1e6)) * len(images)
    low = rng.uniform(0, 1, (n, 2)) * [width - 16, height - 16]
    boxes = np.concatenate([low, np.minimum(low + rng.uniform(8, 64, (n, 2)), [width, height])], axis=1)
    y, x = np.mgrid[-1 : 1 : MASK_CELLS * 1j, -1 : 1 : MASK_CELLS * 1j]
    masks = torch.from_numpy(np.exp(-(y**2 + x**2))).float().expand(n, -1, -1).contiguous().to(device)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    corners = torch.from_numpy(boxes).float()
    shapes = np.tile(np.array([height, width], np.int64), (n, 1))
    n_bytes = masks.numel() * FLOAT_BYTES + areas.sum()
    megapixels = len(images) * height * width / 1e6
    return Step(lambda: device_masks.find_runs_as_torchvision(masks, corners, shapes), megapixels, n_bytes)


def measure_steps(steps: dict[str, Step], limits: Limits, device: str, rounds: int) -> dict[str, dict]:
    """ms per megapixel of each step, and its share of the limit: 1 where nothing could be faster; None without one."""
    table = {}
    for name, step in steps.items():
        seconds = time_call(step.call, device, rounds)
        bandwidth = limits.upload_bytes_per_s if step.is_upload else limits.memory_bytes_per_s
        least = max(step.n_bytes / bandwidth, step.n_operations / limits.operations_per_s[step.precision])
        table[name] = {
            "ms_per_megapixel": 1e3 * seconds / step.megapixels,
            "share_of_limit": least / seconds if least else None,
        }
    return table
