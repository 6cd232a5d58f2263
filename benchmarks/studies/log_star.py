"""Reward-driven LoG (LoG*): by method of search, and on real particles. Noise: `emqa study robustness`."""

import argparse
import json
import platform
import re
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.studies import columns, particles
from emqa_dask.detect.log import detect_image
from emqa_dask.settings import Detect, load_settings
from emqa_dask.tune import plots, rewards
from emqa_dask.tune.rewards import Scene
from emqa_dask.tune.search import METHODS, run_search
from emqa_dask.tune.space import SearchSpace

BUDGET = 56
OBJECTIVES = ("count_error", "crowding")
LABELS = ("|count error| (fraction of the expected columns)", "crowded columns (fraction of the expected)")
VALUED = (0.2, 0.2)  # hypervolumes are measured from here: a fifth of the columns wrong is worth nothing
WORTH = 0.1  # least range of an objective on the front: a trade of 0.2 % against 10 % is none


def evaluator(case: columns.Case, log: columns.Log, names=OBJECTIVES):
    """A function that judges settings by rewards on one image."""
    scene = Scene(case.image, case.nm_per_pixel, case.physics)
    selection = [rewards.load_reward(name) for name in names]
    return lambda asked: [[judge(log.points(s), scene) for judge in selection] for s in asked]


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def by_method(arguments, out: Path) -> list[dict]:
    """Hypervolume by evaluation of all methods over the whole space, and what random search needs to catch up."""
    conditions = [("SrTiO3 [001]", 0.6), ("Si [110]", 0.5), ("MoS2 [001]", 0.8)][: 1 if arguments.quick else 3]
    rows = []
    for cell, noise in conditions:
        case = columns.noisy(columns.synthetic(cell, 5, spacing_px=12, shape=(256, 256)), noise, 0)
        log = columns.Log(case.image)
        evaluate = evaluator(case, log)
        volumes = {}
        first_of = {}
        for method in METHODS:
            traces = [
                run_search(
                    evaluate, SearchSpace(), OBJECTIVES, evaluations=BUDGET, seed=s, method=method, reference=VALUED
                )
                for s in range(arguments.seeds)
            ]
            first_of[method] = traces[0]
            volumes[method] = np.array([t.table["hypervolume"] for t in traces]) / np.prod(VALUED)
        long = [
            run_search(
                evaluate, SearchSpace(), OBJECTIVES, evaluations=8 * BUDGET, seed=s, method="random", reference=VALUED
            )
            for s in range(100, 100 + arguments.seeds)
        ]
        goal = float(np.median(volumes["bayes"][:, -1]))
        needed = [caught_up(t.table["hypervolume"].to_numpy() / np.prod(VALUED), goal) for t in long]
        row = {"case": cell, "noise": noise, "seeds": arguments.seeds, "evaluations": BUDGET}
        row |= {f"median_hypervolume_{m}": float(np.median(v[:, -1])) for m, v in volumes.items()}
        middle = float(np.median(needed))  # null: over half of the random searches never got there
        row |= {"random_needs_median": middle if np.isfinite(middle) else None}
        row |= {"random_evaluations": 8 * BUDGET, "random_never": int(np.isinf(needed).sum())}
        rows.append(row)
        print(json.dumps(row), flush=True)
        title = "hypervolume (1 = no error)"
        plots.save_figure(plots.plot_hypervolume(volumes, title), out / f"hypervolume_{plain(cell)}.png")
        plots.save_figure(plots.plot_pareto_front(first_of["bayes"], LABELS, WORTH), out / f"front_{plain(cell)}.png")
    return rows


def caught_up(volumes: np.ndarray, goal: float) -> float:
    """Evaluations until `volumes` reach `goal`; infinite when they do not."""
    there = volumes >= goal
    return float(there.argmax() + 1) if there.any() else np.inf


def particle_space(images: list[particles.Labelled]) -> SearchSpace:
    """What somebody who has seen the cohort would search: no particle below 0.3 % of the field's side in radius."""
    side = min(min(i.image.shape) for i in images)
    return SearchSpace(
        threshold=(0.05, 0.4), overlap=(0.05, 0.8), min_sigma=(max(2.0, 0.0022 * side), 40), sigma_ratio=(1.5, 6)
    )


def on_particles(arguments) -> list[dict]:
    """Box F1 of tuned and untuned LoG, cohort by cohort; tuned without a label on at most six images of the cohort."""
    template = load_settings(template="nanoparticle-tem").detect
    rows = []
    for source in ("arda_stem_np", "emps"):
        for name, images in list(particles.cohorts(source).items())[: 2 if arguments.quick else None]:
            row = {"source": source, "cohort": name, "images": len(images)}
            row["scikit-image"] = float(np.mean([particles.skimage_f1(i) for i in images]))
            for label, settings in (("defaults", Detect()), ("template", template)):
                row[label] = float(np.mean([particles.true_f1(detect_image(i.image, settings), i) for i in images]))
            space = particle_space(images)
            logs = [columns.Log(particles.middle(i.image), "auto", floor=space.threshold[0]) for i in images[:6]]
            for reward in ("doubtful_count", "doubtful_area"):
                settings = Detect(**tuned(logs, space, reward, 16 if arguments.quick else 40))
                row[reward] = float(np.mean([particles.true_f1(detect_image(i.image, settings), i) for i in images]))
            rows.append(row)
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    print_particles(rows)
    return rows


def tuned(logs: list[columns.Log], space: SearchSpace, name: str, evaluations: int) -> dict:
    """The settings of least mean reward over images; no label is seen."""
    judge = rewards.load_reward(name)

    def evaluate(asked):
        return [[float(np.mean([judge(log.points(s), Scene(log.image)) for log in logs]))] for s in asked]

    return run_search(evaluate, space, [name], evaluations=evaluations, seed=0).select_settings()


def print_particles(rows: list[dict]) -> None:
    table = pd.DataFrame(rows)
    figures = table.columns.drop(["source", "cohort", "images"])
    for source, part in table.groupby("source"):
        means = {name: round(float(np.average(part[name], weights=part["images"])), 3) for name in figures}
        print(f"{source}, {part['images'].sum()} images, mean box F1 at IoU {particles.IOU}: {means}", flush=True)


def held_out(rows: list[dict]) -> list[dict]:
    """What labels of some cohorts, used only to choose between a reward and the template, give on the others.

    Within a source every second cohort chooses for the rest and the reverse; across sources the one for the other.
    """
    table = pd.DataFrame(rows)
    ways = ["template", "doubtful_count", "doubtful_area"]

    def mean(part: pd.DataFrame, name: str) -> float:
        return float(np.average(part[name], weights=part["images"]))

    parts = [
        (f"{source}, other half", part[k::2], part[1 - k :: 2])
        for source, part in table.groupby("source")
        for k in (0, 1)
    ]
    sources = list(table.groupby("source"))
    parts += [(f"{one} chooses for {other}", a, b) for one, a in sources for other, b in sources if one != other]
    results = []
    for name, choosing, judged in parts:
        if len(choosing) and len(judged):
            way = max(ways, key=lambda way, part=choosing: mean(part, way))
            results.append({"case": name, "chosen": way, "f1": mean(judged, way), "template": mean(judged, "template")})
            print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("log_star"), help="folder for the figures")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--seeds", type=int, default=10, help="of the comparison of methods")
    parser.add_argument("--only", nargs="*", default=["methods", "particles"])
    parser.add_argument("--quick", action="store_true", help="a few cases only, to see that it runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result: dict = {"machine": f"{platform.machine()}, {platform.platform()}", "budget": BUDGET}

    def keep(**found) -> None:
        result.update(found)  # each part as it ends: the whole takes the better part of an hour
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1))

    if "methods" in arguments.only:
        keep(methods=by_method(arguments, arguments.out))
    if "particles" in arguments.only:
        rows = on_particles(arguments)
        keep(particles=rows, particles_held_out=held_out(rows))


if __name__ == "__main__":
    main()
