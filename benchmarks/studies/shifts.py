"""Shifted images: whether uncertainty.shift_model flags them and names their kind, on shifts that its fit has not seen.

python -m benchmarks.studies.shifts --out DIR [--data patches64's and cifar10_ood's folder] [--tasks ...] [--seeds ...]

Real patches of 64 px, split by source image. Tasks: `loops` (a loop or none) and `without_SET` (which of the other
three sets a patch is from). `lots`: synthetic powders (synthetic.textures), eight lots taken at one dose. The fit sees
training patches, validation patches and make_shifted_examples (synthetic.shifts) of the latter. It is asked about test
patches (kind none) and
- acquisition: test patches spoilt by other code than the examples' (synthetic.faults, and `_SPOILT`, as said there);
  of lots: new fields of the same lots at another dose, point spread, read-out noise or magnification;
- new_class: patches of the set left out (loops: of the three other sets); of lots: lots it has no class for;
- unrelated: photographs of CIFAR-10; of lots: those, and diagrams and diffraction patterns.
Per task and seed: accuracy, AUROC of entropy for wrong answers, AUROC and share of flags of each cohort by entropy
alone, by each distance and fused, false flags on test patches, the table of kinds, and the kinds of whole cohorts.
Ensembles are trained where DIR has none.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from skimage.restoration import denoise_tv_chambolle

from emqa_dask.classify import Ensemble, load_ensemble
from emqa_dask.featurise.images import image_statistics
from emqa_dask.synthetic import camera, textures
from emqa_dask.synthetic.faults import apply_fault
from emqa_dask.synthetic.foreign import make_foreign_image
from emqa_dask.synthetic.shifts import make_shifted_examples
from emqa_dask.tables import SHIFT_SCORES, SHIFTS
from emqa_dask.train import ensemble
from emqa_dask.train.class_labels import split_groups
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.uncertainty import entropy, referral, shift_model
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs
from emqa_dask.windows import WindowSettings, normalise_image

SETS = ("loops_bfstem", "np_stem", "cavity_tem", "particles_em")
TASKS = ("loops", *(f"without_{name}" for name in SETS), "lots")
FAULTS = ("blur", "drift", "astigmatism", "saturation", "under_exposure", "charging", "x_rays")
EXPOSURE = {"dose_e_per_px": 400.0, "mtf_sigma_px": 0.4, "gain_spread": 0.0, "read_noise_e": 0.0, "seam": False}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "../shared/data")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--embedded", type=int, default=4, help="members whose embeddings are kept")
    parser.add_argument("--times", type=int, default=4, help="examples of each kind for each held-out image")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for task in options.tasks:
        for seed in options.seeds:
            cohorts = look(task, seed, options)
            results[f"{task} {seed}"] = study(*cohorts, embedded=options.embedded, seed=seed)
            print(task, seed, json.dumps(results[f"{task} {seed}"], indent=1), flush=True)
            (options.out / "shifts.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def look(task: str, seed: int, given: argparse.Namespace) -> tuple:
    """What the task's ensemble says of every cohort: {cohort: Seen}, {cohort: kind}, classes and sources by cohort."""
    path = given.out / f"{task}_{seed}.pickle"
    if path.is_file():
        seen, kinds, truth, held_out = pickle.loads(path.read_bytes())
        return _examples(load_ensemble(given.out / f"{task}_{seed}"), held_out, seed, given.times) | seen, kinds, truth
    if not given.data.is_dir():
        raise SystemExit(f"{given.data} is not there: --data has to hold patches64 and cifar10_ood")
    rng = np.random.default_rng([seed, 17])
    images, labels, sources, classes, others = _lots(rng) if task == "lots" else _patches(task, given.data)
    split = split_groups(labels, sources, shares=(0.6, 0.2, 0.2), seed=seed)
    others["photographs"] = ("unrelated", _photographs(given.data, images.shape[1]))
    ensemble = _ensemble(given.out / f"{task}_{seed}", images, labels, split, classes, seed, given)
    parts = {name: [images[k] for k in np.flatnonzero(split == name)] for name in ("train", "validation", "test")}
    cohorts = dict(parts)
    kinds = {"test": "none"}
    if task != "lots":
        spoilt = [apply_fault(str(rng.choice(FAULTS)), image, rng, severity=2) for image in parts["test"]]
        others |= {"faults": ("acquisition", spoilt)}
        others |= {name: ("acquisition", [f(rng, image) for image in parts["test"]]) for name, f in _SPOILT.items()}
    for name, (kind, made) in others.items():
        cohorts[name] = made
        kinds[name] = kind
    seen = {name: _seen(ensemble, made) for name, made in cohorts.items()}
    truth = {name: (labels[split == name], sources[split == name]) for name in parts}
    path.write_bytes(pickle.dumps((seen, kinds, truth, parts["validation"])))
    return _examples(ensemble, parts["validation"], seed, given.times) | seen, kinds, truth


def _examples(ensemble: Ensemble, images: list, seed: int, times: int) -> dict[str, EnsembleOutputs]:
    return {f"fit {kind}": _seen(ensemble, made) for kind, made in make_shifted_examples(images * times, seed).items()}


def study(seen: dict, kinds: dict, truth: dict, *, embedded: int, seed: int) -> dict:
    seen = {name: s._replace(embeddings=s.embeddings[:embedded]) for name, s in seen.items()}
    shifted = {name.removeprefix("fit "): s for name, s in seen.items() if name.startswith("fit ")}
    known = shift_model.fit_shift_model(
        seen["train"], *truth["train"], seen["validation"], shifted, held_out_groups=truth["validation"][1], seed=seed
    )
    judged = {name: shift_model.classify_shift(known, seen[name]) for name in kinds}
    p = seen["test"].probabilities
    y = truth["test"][0]
    is_wrong = p.mean(axis=0).argmax(axis=1) != y
    doubt = entropy.predictive_entropy(p)
    results = {
        "n": {name: len(s.features) for name, s in seen.items()},
        "accuracy": float(1 - is_wrong.mean()),
        "auroc_wrong_by_entropy": referral.auroc(doubt, is_wrong),
        "false_flags": float((judged["test"]["shift"] != "none").mean()),
        "cohorts": {},
        "kinds": {},
    }
    for name in kinds:
        if name == "test":
            continue
        both = pd.concat([judged["test"], judged[name]])
        is_shifted = np.arange(len(both)) >= len(judged["test"])
        row = {s: referral.auroc(both[f"{s}_score"], is_shifted) for s in (*SHIFT_SCORES, "shift")}
        results["cohorts"][name] = {**row, "flagged": float((judged[name]["shift"] != "none").mean())}
    for name in kinds:
        share = judged[name]["shift"].value_counts(normalize=True)
        results["kinds"][f"{kinds[name]}: {name}"] = {kind: float(share.get(kind, 0)) for kind in SHIFTS}
    told = {name: shift_model.classify_cohort_shift(judged[name]) for name in kinds}
    results["kinds_of_cohorts"] = {f"{kinds[name]}: {name}": kind for name, kind in told.items()}
    results["cohorts_right"] = [sum(told[name] == kinds[name] for name in kinds), len(kinds)]
    results["kinds_right"] = _by_kind(judged, kinds)
    return _rounded(results)


def _by_kind(judged: dict, kinds: dict) -> dict[str, float]:
    """Share of the flagged images of each kind that are named rightly, every cohort weighing the same."""
    right: dict[str, list] = {}
    for name, kind in kinds.items():
        flagged = judged[name]["shift"][judged[name]["shift"] != "none"]
        if kind != "none" and len(flagged):
            right.setdefault(kind, []).append(float((flagged == kind).mean()))
    return {kind: float(np.mean(shares)) for kind, shares in right.items()}


def _rounded(found):
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    return round(found, 3) if isinstance(found, float) else found


def _seen(ensemble: Ensemble, images: list) -> EnsembleOutputs:
    looked = ensemble.classify_images(images)
    statistics = pd.DataFrame([image_statistics(image) for image in images])
    p, e = (np.stack([getattr(one, name) for one in looked], axis=1) for name in ("probabilities", "embeddings"))
    content, odds = (np.array([getattr(one, name) for one in looked]) for name in ("content", "foreign_log_odds"))
    return EnsembleOutputs(p, e, statistics, content, odds)


def _ensemble(out: Path, images, labels, split, classes, seed: int, given) -> Ensemble:
    view = WindowSettings(64, whole=True)
    epochs = given.epochs * (2 if "lot 0" in classes else 1)  # fewer images, more classes
    if not (out / "card.toml").is_file():
        began = time.monotonic()
        windows = np.stack([normalise_image(image, view) for image in images])
        options = EnsembleOptions(
            view,
            n_members=given.members,
            seed=seed,
            architecture={"depth": 10, "widen": 1},
            schedule=MemberSchedule(epochs=epochs, batch=32, halve_every=max(1, epochs // 3)),
        )
        prepare_training(out, TrainingSet.from_arrays(windows, labels, split, classes), options)
        for k in ensemble.list_unfinished(out):
            ensemble.train_member(out, k, say=lambda text: None)
        ensemble.join_members(out, lambda p, y: {"accuracy": float((p.mean(axis=0).argmax(axis=1) == y).mean())})
        print(f"{out.name}: trained in {(time.monotonic() - began) / 60:.1f} min", flush=True)
    return load_ensemble(out)


def _patches(task: str, data: Path) -> tuple:
    """Images, classes, sources, names of classes, and {cohort: (kind, images)}."""
    sets = np.load(data / "patches64/sources.npz")
    names = [str(name) for name in sets["classes"]]
    of = {name: list(sets["X"][sets["y"] == k]) for k, name in enumerate(names)}
    if task == "loops":
        own = np.load(data / "patches64/loop_vs_none.npz")
        others = {name: ("new_class", part) for name, part in of.items() if name != "loops_bfstem"}
        return own["X"], own["y"].astype(int), own["src"], [str(name) for name in own["classes"]], others
    out = task.removeprefix("without_")
    kept = [k for k, name in enumerate(names) if name != out]
    rows = np.isin(sets["y"], kept)
    y = np.searchsorted(kept, sets["y"][rows])
    return sets["X"][rows], y, sets["src"][rows], [names[k] for k in kept], {out: ("new_class", of[out])}


def _photographs(data: Path, size: int) -> list:
    pixels = np.load(data / "cifar10_ood/cifar10_train.npz")["X"]
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pixels)
    return [cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in grey]


def _lots(rng: np.random.Generator, n_lots: int = 8, n: int = 60) -> tuple:
    """Fields of `n_lots` powders (128 px) and the shifted cohorts, as `_patches` gives them."""

    def field(lot, size_nm=1.0, **changed):
        nm = size_nm * 1000 * textures.draw_lot_parameters(lot)["radius_um"] / 8 * rng.uniform(0.9, 1.1)
        return textures.draw_texture(
            rng, (128, 128), lot=lot, nm_per_pixel=nm, dtype="uint8", exposure=EXPOSURE | changed
        ).image

    lots = np.repeat(np.arange(n_lots), n)
    few = np.repeat(np.arange(n_lots), 12)
    others = {
        "low dose": ("acquisition", [field(k, dose_e_per_px=rng.uniform(4, 15)) for k in few]),
        "point spread": ("acquisition", [field(k, mtf_sigma_px=rng.uniform(1.2, 2.5)) for k in few]),
        "read-out noise": ("acquisition", [field(k, read_noise_e=rng.uniform(100, 250)) for k in few]),
        "magnification": ("acquisition", [field(k, rng.choice([0.5, 1.8])) for k in few]),
        "other lots": ("new_class", [field(k) for k in np.repeat(np.arange(100, 140), 3)]),
        "diagrams": ("unrelated", [_small(make_foreign_image("plot", rng, (512, 512)), 128) for _ in range(80)]),
        "diffraction": (
            "unrelated",
            [_small(make_foreign_image("diffraction", rng, (512, 512)), 128) for _ in range(80)],
        ),
    }
    images = np.stack([field(k) for k in lots])
    return images, lots, np.arange(len(lots)), [f"lot {k}" for k in range(n_lots)], others


def _small(picture: np.ndarray, size: int) -> np.ndarray:
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)


# Other code, and other strengths, than synthetic.conditions, which the fit has seen. Most have a relative there (mains:
# pattern and jitter; impulses; double_image; equalisation; ringing: transfer; camera: dose), total variation has none.


def _camera(rng, image):
    """The image as intensity before another camera: few electrons, point spread, an imperfect gain, read-out noise."""
    low, high = np.percentile(image, [0.5, 99.5])
    intensity = 0.3 + np.clip((image - low) / max(high - low, 1), 0, 1)
    settings = {"dose_e_per_px": 12.0, "mtf_sigma_px": 0.8, "gain_spread": 0.05, "read_noise_e": 1.5, "seam": False}
    return camera.record(rng, intensity.astype(np.float32), "uint8", settings)


def _mains(rng, image):
    """Interference at the mains frequency: a wave along the scan in brightness and in place."""
    phase = 2 * np.pi * (np.arange(len(image)) / rng.uniform(4, 9) + rng.uniform())
    moved = np.stack([np.roll(row, round(1.5 * np.sin(p))) for row, p in zip(image, phase)])
    return _eight(moved + 0.12 * _range(image) * np.sin(phase)[:, None])


def _column_pattern(rng, image):
    return _eight(image + 0.15 * _range(image) * rng.standard_normal(image.shape[1]))


def _impulses(rng, image):
    hit = rng.random(image.shape)
    return np.where(hit < 0.02, 0, np.where(hit > 0.98, 255, image)).astype(np.uint8)


def _double_exposure(rng, image):
    return _eight(0.5 * image + 0.5 * np.roll(image, (int(rng.integers(3, 7)), int(rng.integers(3, 7))), (0, 1)))


def _total_variation(rng, image):
    return _eight(255 * denoise_tv_chambolle(image / 255, weight=0.15 * _range(image) / 255 + 0.02))


def _equalised(rng, image):
    return cv2.createCLAHE(clipLimit=8, tileGridSize=(4, 4)).apply(image)


def _ringing(rng, image):
    """A sharp limit of resolution: nothing above 0.12 cycles/px."""
    q = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1]))
    return _eight(np.fft.ifft2(np.fft.fft2(image) * (q < 0.12)).real)


def _range(image):
    return max(float(np.subtract(*np.percentile(image, [99, 1]))), 1.0)


def _eight(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_SPOILT = {
    "camera": _camera,
    "mains": _mains,
    "column pattern": _column_pattern,
    "impulses": _impulses,
    "double exposure": _double_exposure,
    "total variation": _total_variation,
    "equalised": _equalised,
    "ringing": _ringing,
}

if __name__ == "__main__":
    main()
