"""Paper D on synthetic lots: softmax, MC dropout and deep ensemble told apart by what their probabilities are worth.

python -m benchmarks.studies.lots --out DIR [--minutes of training]

Thirty lots of SEM textures are classes, windows of 64 px the images, split by field of view. Of each of three seeds
(they draw the data and start the trainings): accuracy, NLL, ECE, referral, and how well predictive entropy tells a
changed acquisition, unseen lots and photographs. Of the first seed also the learning curve that confidence alone gives.
Networks and schedule are smaller than the published ones: the options are written to DIR/lots.json with all figures.
Training goes on where it was stopped; after --minutes ensembles have the members that there are, and more when it is
run again. Zhang, Kailkhura & Han, ACS Omega 6 (2021) 12711.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.studies import lot_images, lots_figures, lots_training, lots_verdicts
from benchmarks.studies.lots_training import Plan, classes, figures
from emqa_dask import models
from emqa_dask.classify import load_ensemble
from emqa_dask.uncertainty import entropy, referral, reliability
from emqa_dask.uncertainty.entropy import summarise_entropies
from emqa_dask.uncertainty.learning_curve import compute_labels_needed, fit_learning_curve

METHODS = ("softmax", "dropout", "ensemble")
KINDS = ("test", "changed", "unseen", "photographs")  # that a histogram's shape is to tell apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "../shared/data")
    add_options(parser)
    study(parser.parse_args())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this study alone, as a group."""
    group = parser.add_argument_group("synthetic lots")
    group.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    group.add_argument("--lots", type=int, default=30)
    group.add_argument("--fields", type=int, nargs=3, default=[11, 2, 10], help="of each lot: train, validate, test")
    group.add_argument("--photographs", type=int, default=300)
    group.add_argument("--lot-members", type=int, default=16, help="members, where the time allows")
    group.add_argument("--curve-members", type=int, default=3, help="of the ensembles along the learning curve")
    group.add_argument("--shares", type=float, nargs="*", default=[0.25, 0.5], help="of the training fields")
    group.add_argument("--lot-epochs", type=int, default=12)
    group.add_argument("--batch", type=int, default=16)
    group.add_argument("--learning-rate", type=float, default=3e-3)
    group.add_argument("--weight-decay", type=float, default=1e-4)
    group.add_argument("--lot-depth", type=int, default=10)
    group.add_argument("--lot-widen", type=int, default=1)
    group.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16"], help="of the training's steps"
    )
    group.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    group.add_argument("--processes", type=int, default=1, help="that draw images and train members at once")
    group.add_argument("--minutes", type=float, help="after which no further member is begun; run again for more")
    group.add_argument("--cohort", type=int, default=40, help="windows whose entropies make one histogram")
    group.add_argument("--target", type=float, default=0.9, help="accuracy whose number of labels is asked for")


def study(given: argparse.Namespace) -> dict:
    """Trains what is still to train, measures, prints the tables, and writes lots.json and the figures to given.out."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with lots_training.processes(given.processes) as each:
        return _study(given, each)


def _study(given: argparse.Namespace, each: Callable) -> dict:
    lots_training.train(given, each)
    results = {
        "settings": {key: value for key, value in vars(given).items() if key not in ("out", "data")},
        "seeds": {},
    }
    words = {}
    truth = {}
    for seed in given.seeds:
        if all((_folder(given, seed) / name / "card.toml").is_file() for name in ("dropout", "ensemble")):
            parts = images(seed, given, each)
            words[seed] = said(parts, seed, given)
            truth[seed] = {name: part.lot for name, part in parts.items()}
            truth[seed]["changed"] = _changed(truth[seed])
            results["seeds"][str(seed)] = measure(words[seed], truth[seed], seed, given)
            lots_figures.images(given.out, {name: part.windows for name, part in parts.items()})
    curve = learning_curve(given)
    results |= {
        "learning_curve": curve,
        "shapes": shapes(words, given),
        "orderings": lots_verdicts.orderings(results["seeds"]),
    }
    (given.out / "lots.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(lots_verdicts.tables(results))
    lots_figures.draw(given.out, words, truth, curve)
    return results


def _folder(given: argparse.Namespace, seed: int) -> Path:
    return given.out / "lots" / f"seed_{seed}"


def images(seed: int, given: argparse.Namespace, each: Callable = map) -> dict[str, lot_images.Fields]:
    """What the networks of a seed are asked: the held-out windows "test", and every foreign part."""
    own, split = lot_images.own(seed, given.lots, tuple(given.fields), each)
    test = lot_images.Fields(*(part[split == "test"] for part in own))
    others = lot_images.foreign_parts(seed, given.lots, given.fields[2], given.photographs, given.data, each)
    return {"test": test} | others


def said(parts: dict[str, lot_images.Fields], seed: int, given: argparse.Namespace) -> dict[str, dict[str, NDArray]]:
    """Mean probabilities (n, classes) by method and part. Kept beside the networks, so that these run once.

    "changed" are all changed acquisitions together.
    """
    results = {}
    for method in METHODS:
        folder = _folder(given, seed) / ("dropout" if method == "dropout" else "ensemble")
        networks = load_ensemble(folder, given.device, method=method, classes=classes(given))
        kept = folder.with_name(
            f"said_{method}_{models.digest_model_card(folder)[:16]}.npz"
        )  # not in a folder that is replaced
        if not kept.is_file():
            looked = {name: networks.predict_windows(part.windows)[0].mean(axis=0) for name, part in parts.items()}
            np.savez_compressed(kept, **looked)
        with np.load(kept) as file:
            results[method] = {name: file[name] for name in parts}
        results[method]["changed"] = _changed(results[method])
    return results


def _changed(parts: dict[str, NDArray]) -> NDArray:
    """Rows of all changed acquisitions together."""
    return np.concatenate([rows for name, rows in parts.items() if name.startswith("changed: ")])


def measure(
    words: dict[str, dict[str, NDArray]], truth: dict[str, NDArray], seed: int, given: argparse.Namespace
) -> dict:
    """By method its figures on the test windows; of foreign parts entropy's AUROC and mean, and the accuracy."""
    results = {}
    for method, parts in words.items():
        doubt = {name: entropy.predictive_entropy(p[None]) for name, p in parts.items()}
        row = figures(parts["test"][None], truth["test"])
        for name, values in doubt.items():
            row[f"entropy {name}"] = float(values.mean())
            if name != "test":
                both = np.concatenate([doubt["test"], values])
                row[f"auroc {name}"] = referral.auroc(both, np.arange(len(both)) >= len(doubt["test"]))
            if name.startswith("changed"):
                row[f"accuracy {name}"] = float((parts[name].argmax(axis=1) == truth[name]).mean())
        results[method] = {key: round(value, 4) for key, value in row.items()}
        for key, value in tempered(method, seed, given).items():
            results[method][f"{key} tempered"] = value
    held = load_file(_folder(given, seed) / "ensemble/held_out.safetensors")
    p = held["test.probabilities"]
    y = held["test.classes"]
    sizes = sorted({len(p), *(2**k for k in range(5) if 2**k < len(p))})
    return {"members": len(p), "methods": results, "by_members": {str(n): figures(p[:n], y) for n in sizes}}


def tempered(method: str, seed: int, given: argparse.Namespace) -> dict:
    """NLL and ECE on the test windows at the temperature that suits the validation windows, and that temperature.

    What is left is no matter of how long a network was trained, which decides whether it is over- or underconfident.
    """
    held = load_file(_folder(given, seed) / ("dropout" if method == "dropout" else "ensemble") / "held_out.safetensors")
    used = slice(1) if method == "softmax" else slice(None)
    p = {name: held[f"{name}.probabilities"][used].mean(axis=0, dtype=float) for name in ("validation", "test")}
    temperature = reliability.fit_temperature(p["validation"], held["validation.classes"])
    row = figures(reliability.apply_temperature(p["test"], temperature)[None], held["test.classes"])
    return {"temperature": round(temperature, 3)} | {key: row[key] for key in ("nll", "ece", "ece_equal_mass")}


def learning_curve(given: argparse.Namespace) -> dict:
    """By method: labels, accuracy and confidence on the test windows of each share, and labels for the target by each.

    Ensembles have `curve_members` members at every share, the whole included.
    """
    results = {}
    for method in METHODS:
        rows = []
        for share in (*sorted(given.shares), 1.0):
            plan = Plan(given.seeds[0], "dropout" if method == "dropout" else "ensemble", share, 1)
            folder = given.out / "lots" / plan.name
            if not (folder / "card.toml").is_file():
                continue
            held = load_file(folder / "held_out.safetensors")
            p = held["test.probabilities"]
            used = {"softmax": 1, "dropout": len(p), "ensemble": min(given.curve_members, len(p))}[method]
            labels = models.load_model_card(folder)["training"]["train_windows"]
            rows.append({"labels": labels, "members": used, **figures(p[:used], held["test.classes"])})
        results[method] = {"points": rows}
        if len(rows) >= 3:
            n = [row["labels"] for row in rows]
            for name in ("accuracy", "confidence"):
                law = fit_learning_curve(n, [row[name] for row in rows])
                needed = compute_labels_needed(law, given.target)
                results[method][name] = {**law._asdict(), "labels_needed": needed if np.isfinite(needed) else None}
    return results


def shapes(words: dict[int, dict[str, dict[str, NDArray]]], given: argparse.Namespace) -> dict:
    """By method the share of cohorts whose kind the shape of their entropies tells, and each kind's mean shape.

    Shapes are scaled by their deviations; a cohort gets the kind whose mean over the other seeds' cohorts is nearest.
    """
    results = {}
    for method in METHODS if len(words) > 1 else ():
        rows = [
            (seed, kind, list(summarise_entropies(cohort, given.lots).values()))
            for seed, said in words.items()
            for kind in KINDS
            for cohort in _cohorts(entropy.predictive_entropy(said[method][kind][None]), seed, given.cohort)
        ]
        seeds, kinds, shape = (np.array(column) for column in zip(*rows))
        told = np.empty(len(rows), kinds.dtype)
        for seed in words:
            others = seeds != seed
            scale = np.maximum(shape[others].std(axis=0), 1e-6)
            middles = np.stack([shape[others & (kinds == kind)].mean(axis=0) for kind in KINDS])
            away = (((shape[~others, None] - middles) / scale) ** 2).sum(axis=2)
            told[~others] = np.array(KINDS)[away.argmin(axis=1)]
        results[method] = {
            "told": round(float((told == kinds).mean()), 3),
            "cohorts": len(rows),
            **{f"told {kind}": round(float((told == kinds)[kinds == kind].mean()), 3) for kind in KINDS},
            "names": list(summarise_entropies([], given.lots)),
            "mean": {kind: shape[kinds == kind].mean(axis=0).round(4).tolist() for kind in KINDS},
        }
    return results


def _cohorts(doubt: NDArray, seed: int, size: int) -> list[NDArray]:
    """`doubt` (n,) in random groups of `size`; what is left over is left out."""
    if len(doubt) < size:
        raise ValueError(f"{len(doubt)} windows of a kind make no cohort of {size}: take a smaller --cohort")
    order = np.random.default_rng(seed).permutation(len(doubt))
    return list(doubt[order[: len(doubt) // size * size]].reshape(-1, size))


if __name__ == "__main__":
    main()
