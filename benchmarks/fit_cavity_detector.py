"""Fits the bundled detector `cavity-tem`: a Mask R-CNN on synthetic micrographs alone, whose masks are known exactly.

python -m benchmarks.fit_cavity_detector --out FIRST --steps 2300       trains (about a second a step on one core)
python -m benchmarks.fit_cavity_detector --out DIR --second FIRST --steps 1400 --rate 3e-4     the second part, wider
python -m benchmarks.fit_cavity_detector --out DIR --resume   goes on from the last checkpoint
python -m benchmarks.fit_cavity_detector --out DIR --measure  measures a trained one on seeds that no training saw
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import emqa_dask
from emqa_dask import models, networks
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.normalise import normalise
from emqa_dask.settings import load_settings
from emqa_dask.synthetic import camera, cavities, faults, lattices, overlays, textures
from emqa_dask.synthetic.sample import Sample, draw_log_uniform
from emqa_dask.train import augment, scores
from emqa_dask.train.detector import ARCHITECTURE, INPUT
from emqa_dask.train.detector_export import ModelTarget
from emqa_dask.train.detector_fit import fit_detector
from emqa_dask.train.schedules import DetectorSchedule

SEED = 880_000_000  # no test and no demo draws from here
SIZE = 256
CROPS = 4
NOTHING = ("foil", "foil", "foil", "foil", "grains", "columns", "photograph", "plot", "diffraction", "blank")
NOTHING_SHARE = 0.12
# The second part's: enlarged images, whose noise is smooth, and wide fringes with many ripples, as archives have them.
WIDE_SCALES = (0.6, 3.4)
WIDE_SHARE = 0.6
HOPELESS_STEPS = 961  # until then images are drawn with contrast and dose down to hopeless
SHAPES = ((512, 512), (512, 512), (384, 384), (448, 640))
TOGETHER = ("unseen", "hopeless_too", "speckled", "wide")  # of `draw`
# Domains of the closing measurement, each by choices of `cavities.draw_cavities`, on unseen seeds.
CLEAN = {"dose_e_per_px": 1500.0, "mtf_sigma_px": 0.6}
DOMAINS = {
    "overfocus": {"defocus": "over"},
    "underfocus": {"defocus": "under"},
    "dose_low": {"exposure": CLEAN | {"dose_e_per_px": 40.0}},
    "dose_high": {"exposure": CLEAN},
    "size_small": {"median_radius_px": 5.0, "fringe_px": 3.0},
    "size_large": {"median_radius_px": 50.0, "n": 6},
    "background_weak": {"background": 0.15},
    "background_strong": {"background": 1.8},
    "faceted": {"facet": True},
    "round": {"facet": False},
}


def draw(rng: np.random.Generator, *, how: str = "kept") -> Sample:
    """One micrograph as people have them; some with burned-in text, some without a cavity.

    `how` "kept": as an operator would have kept it. Contrast that drowns in the foil's mottle teaches a network to find
    cavities in every mottle, so it is shown to the first steps alone. Sizes are spread further than `draw_cavities`
    has them: specks with wide fringes, and faceted cavities of a third of the image.
    """
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    if rng.random() < NOTHING_SHARE:
        sample = draw_nothing(rng, str(rng.choice(NOTHING)), shape)
    else:
        ways = {"wide": draw_wide, "hopeless_too": draw_any, "speckled": draw_speckled}
        sample = cavities.draw_cavities(rng, shape, **ways.get(how, draw_kept)(rng))
    if rng.random() < 0.15:
        burn = overlays.draw_scale_bar if rng.random() < 0.7 else overlays.draw_banner
        image = burn(sample.image, rng, nm_per_pixel=sample.nm_per_pixel)
        sample = Sample(image, sample.boxes, sample.masks, sample.labels, sample.nm_per_pixel)
    return sample


def draw_any(rng: np.random.Generator) -> dict:
    """Choices for `cavities.draw_cavities` that leave contrast and dose from trivial to hopeless."""
    clear = {"contrast": draw_log_uniform(rng, 0.3, 1.2), "exposure": camera.draw_settings(rng, low_dose=100)}
    return clear if rng.random() < 0.6 else {}


def draw_kept(rng: np.random.Generator) -> dict:
    """Choices for `cavities.draw_cavities` of which cavities can be seen, from specks to a third of the image."""
    background = float(rng.choice([0.15, 0.5, 1.0, 1.5], p=[0.25, 0.3, 0.3, 0.15]))
    choices = {
        "background": background,
        "contrast": draw_log_uniform(rng, 0.35, 1.3) * max(1.0, background),
        "amplitude": draw_log_uniform(rng, 0.02, 0.35),
        "exposure": camera.draw_settings(rng, low_dose=60),
    }
    kind = rng.random()
    if kind < 0.3:  # specks: dark dots in bright rings, or the reverse
        median = draw_log_uniform(rng, 3.5, 8)
        choices |= {"median_radius_px": median, "fringe_px": min(draw_log_uniform(rng, 2, 7), 1.2 * median)}
    elif kind < 0.55:
        median = draw_log_uniform(rng, 22, 85)
        choices |= {
            "median_radius_px": median,
            "fringe_px": draw_log_uniform(rng, 2, 14),
            "n": int(rng.integers(1, 14)),
        }
    return choices


def draw_speckled(rng: np.random.Generator) -> dict:
    """Choices for `draw_cavities` of small cavities in amorphous speckle that the same defocus makes as coarse."""
    median = draw_log_uniform(rng, 3.5, 12)
    return {
        "defocus": "over" if rng.random() < 0.6 else "under",
        "facet": None if rng.random() < 0.2 else False,
        "median_radius_px": median,
        "sigma_log": rng.uniform(0.15, 0.5),
        "fringe_px": min(draw_log_uniform(rng, 2.5, 8), 1.3 * median),
        "n": int(rng.integers(25, 260)),
        "background": draw_log_uniform(rng, 0.2, 1.0),
        "contrast": draw_log_uniform(rng, 0.15, 0.6),
        "amplitude": draw_log_uniform(rng, 0.012, 0.2),
        "exposure": camera.draw_settings(rng, low_dose=150) | {"mtf_sigma_px": draw_log_uniform(rng, 0.4, 2.5)},
    }


def draw_wide(rng: np.random.Generator) -> dict:
    """Choices for `draw_cavities` as `draw_kept`, with fringes up to twice the radius and many faint cavities."""
    choices = draw_kept(rng)
    median = choices.setdefault("median_radius_px", draw_log_uniform(rng, 4, 30))
    if rng.random() < 0.6:
        choices |= {
            "fringe_px": min(14.0, median * draw_log_uniform(rng, 0.4, 1.8)),
            "amplitude": draw_log_uniform(rng, 0.012, 0.1),
        }
    if rng.random() < 0.5:
        room = 512 * 512 / (np.pi * median**2)
        choices["n"] = int(np.clip(room * draw_log_uniform(rng, 0.05, 0.5), 3, 350))
    return choices


def draw_nothing(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Sample:
    """A picture in which there is no cavity."""
    if kind == "foil":
        return cavities.draw_cavities(rng, shape, n=0)
    if kind in ("grains", "columns"):
        image = (textures.draw_texture if kind == "grains" else lattices.draw_lattice)(rng, shape).image
    else:
        image = faults.apply_fault(kind, np.zeros(shape, np.uint8), rng)
    image = image if image.ndim == 2 else image[..., :3].mean(axis=-1).astype(np.float32)
    return Sample(image, np.zeros((0, 4)), [], [], 1.0)


def truth(sample: Sample) -> scores.GroundTruth:
    """The sample as the network sees it."""
    return scores.GroundTruth(normalise(sample.image, *INPUT.values()), sample.masks, [1] * len(sample.masks))


def crops_of(step: int) -> list[augment.Crop]:
    """The crops of a step: as many new micrographs, one crop of each."""
    crops = []
    for k in range(CROPS):
        rng = np.random.default_rng([SEED, step, k])
        results = truth(draw(rng, how="kept" if step >= HOPELESS_STEPS else "hopeless_too"))
        scales = (1.0, 1.0) if rng.random() < 0.3 else (0.5, 1.8)
        crop = augment.draw_crop(*results, rng, size=SIZE, scales=scales, intensity=rng.random() < 0.7)
        crops.append(crop)
    return crops


def wide_crops_of(step: int) -> list[augment.Crop]:
    """The crops of a step of the second part."""
    crops = []
    for k in range(CROPS):
        rng = np.random.default_rng([SEED + 2, step, k])
        wide = rng.random() < WIDE_SHARE
        results = truth(draw(rng, how="wide" if wide else "kept"))
        scales = WIDE_SCALES if wide else (0.5, 1.8)
        crops.append(augment.draw_crop(*results, rng, size=SIZE, scales=scales, intensity=rng.random() < 0.7))
    return crops


def batches(crops_of: Callable, first: int) -> Iterator[list[augment.Crop]]:
    """Crops of `first` and the following steps, rendered ahead by one other process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(crops_of, first + k) for k in range(12)]
        step = first
        while True:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(crops_of, step + 12))
            step += 1


def unseen_wide(n: int, first: int = 0) -> list[scores.GroundTruth]:
    """`n` crops of 384 px of the second part's kind, of seeds that no step uses."""
    results = []
    for k in range(first, first + n):
        rng = np.random.default_rng([SEED + 3, k])
        crop = augment.draw_crop(*truth(draw(rng, how="wide")), rng, size=384, scales=WIDE_SCALES, intensity=False)
        corners = crop.boxes.astype(int)
        masks = [(y0, x0, m[y0:y1, x0:x1]) for (y0, x0, y1, x1), m in zip(corners, crop.masks)]
        results.append(scores.GroundTruth(crop.image, masks, [1] * len(masks)))
    return results


def unseen(n: int, lot: int, choices: dict | None = None, *, how: str = "kept") -> list[scores.GroundTruth]:
    """`n` micrographs of seeds that no step uses: of `draw`, or cavities that can be seen with `choices` on top."""
    rngs = [np.random.default_rng([SEED + 1, lot, k]) for k in range(n)]
    if choices is None:
        return [truth(draw(rng, how=how)) for rng in rngs]
    return [truth(cavities.draw_cavities(rng, (512, 512), **{**draw_kept(rng), **choices})) for rng in rngs]


def describe(args: argparse.Namespace) -> dict:
    """The card, without what is measured."""
    return {
        "name": "cavity-tem",
        "task": "instance segmentation",
        "family": "torchvision",
        "classes": ["cavity"],
        "trained_on": "synthetic bright-field TEM images of cavities, over- and underfocus, and empty pictures",
        "not_for": "particles, loops and precipitates; no real micrograph was in the fit",
        "licence": "MIT",
        "architecture": ARCHITECTURE,
        "input": INPUT,
        "training": {
            "cohort": "synthetic",
            "made_by": "benchmarks/fit_cavity_detector.py",
            "seed": SEED,
            "images": CROPS * args.steps,
            "crop_px": SIZE,
            "crops_per_step": CROPS,
            "planned_steps": args.steps,
            "learning_rate": args.rate,
        },
        "matching": {"iou_threshold": 0.1, "rule": "greedy"},
        "versions": {"emqa_dask": emqa_dask.__version__},
    }


def train(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    schedule = DetectorSchedule(
        n_steps=args.steps,
        learning_rate=args.rate,
        validation_interval=args.validate_every,
        checkpoint_minutes=4,
        seed=SEED,
        precision="bfloat16",  # 1.6 times as fast on cores that have it, the same losses
    )
    net = networks.build_detector(ARCHITECTURE)
    card = describe(args)
    validation = unseen(args.images, 0)
    if args.second:
        networks.load_weights(net, args.second / "weights.safetensors")
        validation = validation[: args.images // 2] + unseen_wide(args.images // 2)
        first = models.load_model_card(args.second)["training"]
        card["training"] |= {"first_part_steps": first["steps"], "images": CROPS * (args.steps + first["steps"])}
    fit_detector(
        net,
        partial(batches, wide_crops_of if args.second else crops_of),
        ModelTarget(args.out, card, has_half_weights=True),
        schedule,
        validation=validation,
        resume=args.resume,
        say=lambda line: print(line, flush=True),
    )


def by_log(images: list[scores.GroundTruth]) -> list[scores.Detections]:
    """What the Laplacian of Gaussian finds with the settings for cavities."""
    settings = load_settings(template="cavity-tem").detect
    tables = [detect_image(image.image, settings).sort_values("score", ascending=False) for image in images]
    return [
        scores.Detections(t[["y0", "x0", "y1", "x1"]].to_numpy(float), t["score"].to_numpy(), np.ones(len(t), int), [])
        for t in tables
    ]


def measure(args: argparse.Namespace) -> None:
    """Scores of the trained network on unseen images, together and by domain, into its card; LoG's beside them.

    Both detectors take the score threshold that is best on the validation images. The card grows with every domain.
    """
    import torch

    torch.set_num_threads(1)
    card = models.load_model_card(args.out)
    net = networks.build_detector(card["architecture"])
    networks.load_weights(net, args.out / "weights.safetensors")
    card.pop("files")
    validation = unseen(args.images // 2, 0) + unseen_wide(args.images // 2)
    measurements = {"validation": scores.evaluate_network(net, validation)}
    threshold = measurements["validation"]["score_threshold"]
    log_threshold = scores.select_threshold(by_log(validation), validation)
    print(f"score thresholds: {threshold}, LoG {log_threshold}", flush=True)
    for lot, (name, choices) in enumerate({**dict.fromkeys(TOGETHER), **DOMAINS}.items(), start=1):
        images = unseen_wide(args.images, 100) if name == "wide" else unseen(args.images, lot, choices, how=name)
        results = scores.evaluate_network(net, images, threshold)
        for iou in (0.1, 0.5):
            counts = scores.count_matches(by_log(images), images, iou, log_threshold)
            results[f"log_image_f1_iou_{iou}"] = scores.compute_f1(counts).mean()
        measurements[name] = results
        rounded = {key: {k: round(float(v), 4) for k, v in row.items()} for key, row in measurements.items()}
        print(name, rounded[name], flush=True)
        models.write_model_card(args.out, {**card, "measured": rounded})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=models.BUNDLED / "cavity-tem")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--validate-every", type=int, default=300)
    parser.add_argument("--images", type=int, default=24, help="of the validation, and of the closing measurement")
    parser.add_argument("--second", type=Path, metavar="DIR", help="go on from this first part, on wider images")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--measure", action="store_true", help="only measure")
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen)
    else:
        train(chosen)
