"""Whether an ensemble knows what it does not know: wrong answers by entropy, and foreign images by four scores.

python benchmarks/studies/uncertainty.py --out DIR [--data patches64's and cifar10_ood's folder]

Real patches of 64 px, split by source image. Two tasks: a loop or none (foreign: patches of three other kinds of
micrographs, and photographs), and which set a patch is from (foreign: a set left out, and photographs). Of each an
ensemble of wide ResNets, smaller and trained shorter than the published one unless the options say otherwise.
Entropy alone, Mahalanobis and nearest-neighbour distance of embeddings (mean over members of their excess), distance of
the image's statistics, and all fused; flags are calibrated on the validation patches to 5 % and counted on the test
patches. Training goes on where it was stopped; figures are in DIR/real.json.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from emqa_dask.classify import Ensemble, load_ensemble
from emqa_dask.featurise.images import image_statistics
from emqa_dask.predict import embeddings, entropy, ood, referral, reliability
from emqa_dask.train import classifier
from emqa_dask.train.classes import split_groups
from emqa_dask.train.member_fit import Schedule
from emqa_dask.windows import View, prepare

VIEW = View(64)
LEFT_OUT = "particles_em"  # of the sets' task: figures from many instruments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "../shared/data")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--widen", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", default=["loops", "sets"], choices=["loops", "sets"])
    given = parser.parse_args()
    if not given.data.is_dir():
        parser.error(f"{given.data} is not there: --data has to hold patches64 and cifar10_ood")
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    found = {"settings": {key: str(value) for key, value in vars(given).items() if key not in ("out", "data")}}
    for task in given.tasks:
        found[task] = study(task, given)
        print(json.dumps(found[task], indent=1), flush=True)
        (given.out / "real.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def load(task: str, data: Path) -> tuple:
    """Patches, classes, sources, the classes' names, and foreign patches by kind."""
    photographs = [
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_CUBIC)
        for image in np.load(data / "cifar10_ood/cifar10_train.npz")["X"]
    ]
    sets = np.load(data / "patches64/sources.npz")
    names = [str(name) for name in sets["classes"]]
    if task == "loops":
        own = np.load(data / "patches64/loop_vs_none.npz")
        foreign = {name: sets["X"][sets["y"] == k] for k, name in enumerate(names) if name != "loops_bfstem"}
        foreign["photographs"] = np.stack(photographs)
        return own["X"], own["y"].astype(int), own["src"], [str(name) for name in own["classes"]], foreign
    out = names.index(LEFT_OUT)
    rows = sets["y"] != out
    kept = [k for k in range(len(names)) if k != out]
    y = np.searchsorted(kept, sets["y"][rows])
    foreign = {LEFT_OUT: sets["X"][~rows], "photographs": np.stack(photographs)}
    return sets["X"][rows], y, sets["src"][rows], [names[k] for k in kept], foreign


def study(task: str, given: argparse.Namespace) -> dict:
    """Trains the task's ensemble where that is still to do, and measures it."""
    patches, y, sources, classes, foreign = load(task, given.data)
    # Not 80, 10, 10: false flags of 5 % ask for more held-out patches than a tenth of 750.
    split = split_groups(y, sources, shares=(0.6, 0.2, 0.2), seed=given.seed)
    stack = np.stack([prepare(patch, VIEW) for patch in patches])
    out = given.out / task
    began = time.monotonic()
    if not (out / "card.toml").is_file():
        classifier.prepare(
            out, stack, y, split, classes,
            view=VIEW, members=given.members, seed=given.seed,
            architecture={"depth": given.depth, "widen": given.widen},
            schedule=Schedule(epochs=given.epochs, batch=32, halve_every=max(1, given.epochs // 3)),
            training={"patches": "patches64", "task": task},
        )  # fmt: skip
        for k in classifier.unfinished(out):
            classifier.train_member(out, k)
        classifier.finish(out, figures)
    ensemble = load_ensemble(out, classes=classes)
    parts = {name: patches[split == name] for name in ("train", "validation", "test")} | foreign
    seen = scores(ensemble, parts, y[split == "train"], sources[split == "train"])
    found = {
        "patches": {name: len(part) for name, part in parts.items()},
        "minutes": round((time.monotonic() - began) / 60, 1),
        "members_alone": [figures(p[None], y[split == "test"]) for p in seen["test"]["p"]],
        "ensemble": figures(seen["test"]["p"], y[split == "test"]),
        "foreign": {},
    }
    kinds = [name for name in seen["test"] if name != "p"]
    for name in [*kinds, "distances fused", "all fused"]:
        used = kinds if name == "all fused" else kinds[1:3] if name == "distances fused" else [name]
        scale = embeddings.calibrate({key: seen["validation"][key] for key in used}, 0.05)
        fused = {part: embeddings.fuse(scale, values) for part, values in seen.items()}
        row = {"false_flags_on_test": round(float((fused["test"] > scale.limit).mean()), 3)}
        for part in foreign:
            both = np.concatenate([fused["test"], fused[part]])
            is_foreign = np.arange(len(both)) >= len(fused["test"])
            row[f"auroc {part}"] = round(referral.auroc(both, is_foreign), 3)
            row[f"flagged {part}"] = round(float((fused[part] > scale.limit).mean()), 3)
        found["foreign"][name] = row
    return found


def figures(p: np.ndarray, y: np.ndarray) -> dict:
    """Accuracy, NLL, ECE, AUROC of entropy for wrong against right, and area under risk and coverage."""
    mean = p.mean(axis=0, dtype=float)
    is_wrong, doubt = mean.argmax(axis=1) != y, entropy.predictive_entropy(p)
    found = {
        "accuracy": float(1 - is_wrong.mean()),
        "nll": reliability.negative_log_likelihood(mean, y),
        "ece": reliability.expected_calibration_error(mean, y),
        "ece_equal_mass": reliability.expected_calibration_error(mean, y, binning="mass"),
        "risk_coverage_area": referral.risk_coverage(doubt, is_wrong).area,
        "wrong": int(is_wrong.sum()),
        "n": len(y),
    }
    if 0 < is_wrong.sum() < len(y):
        found["auroc_wrong_by_entropy"] = referral.auroc(doubt, is_wrong)
    return {key: round(value, 4) for key, value in found.items()}


def scores(ensemble: Ensemble, parts: dict, y: np.ndarray, sources: np.ndarray) -> dict:
    """Of every part the probabilities `p` and each score; entropy first. Domains are those of part "train"."""
    looked = {name: ensemble.look(np.stack([prepare(patch, VIEW) for patch in part])) for name, part in parts.items()}
    known = [embeddings.fit(member, y) for member in looked["train"][1]]
    statistics = {name: pd.DataFrame([image_statistics(patch) for patch in part]) for name, part in parts.items()}
    columns = [key for key in statistics["train"] if _varies(statistics["train"][key])]
    domain = ood.fit(statistics["train"], sources, columns=columns)
    found = {name: {"p": p, "entropy": entropy.predictive_entropy(p)} for name, (p, _) in looked.items()}
    for kind, distance in (("mahalanobis", embeddings.mahalanobis), ("nearest", embeddings.nearest)):
        raw = {name: [distance(k, member) for k, member in zip(known, e)] for name, (_, e) in looked.items()}
        middles = [np.median(values) for values in raw["validation"]]
        for name, values in raw.items():
            found[name][kind] = np.mean([v / middle for v, middle in zip(values, middles)], axis=0)
    for name, table in statistics.items():
        found[name]["statistics"] = ood.distance(domain, table)
    return found


def _varies(column: pd.Series) -> bool:
    values = column.to_numpy(float)
    return bool(np.isfinite(values).mean() > 0.9 and np.nanstd(values) > 1e-9)


if __name__ == "__main__":
    main()
