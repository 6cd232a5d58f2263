"""Order maps of simulated crystals: IoU with the disordered region, and regions claimed on perfect crystals.

Crystals, doses, jitter and vacancies are drawn as `synthetic.lattices` draws them, cell after cell; points come from
the LoG detector with scales derived from the spacing. `clear` exposures are those that an operator would have kept
(`profiles.make_sample`), `default` ones reach down to 0.7 electrons a pixel, where nothing can be seen.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emqa_dask.detect.log import detect_image
from emqa_dask.settings import Detect
from emqa_dask.synthetic.lattices import CELLS
from emqa_dask.synthetic.profiles import make_sample
from emqa_dask.synthetic.sample import Sample
from emqa_dask.tune.order import OrderMap, compute_order_map
from emqa_dask.tune.order_figures import paint_overlay

SHAPE = (512, 512)
AIM = 0.85


def columns(sample: Sample) -> pd.DataFrame:
    """Bright blobs at the scale of the crystal's columns, false ones between and inside amorphous regions included."""
    spacing = sample.meta["spacing_px"]
    low, high = max(1.0, 0.13 * spacing), max(1.2, 0.3 * spacing)
    settings = Detect(
        polarity="bright", min_sigma=low, max_sigma=high, num_sigma=5, threshold=0.05, overlap=0.3, max_detections=20000
    )
    return detect_image(sample.image, settings)


def one(cell: str, seed: int, exposure: str, disorder: bool) -> tuple[dict, Sample, OrderMap]:
    """One crystal, its map, and a row of the table."""
    rng = np.random.default_rng([seed, sorted(CELLS).index(cell), disorder])
    sample = make_sample("atomic-stem", rng, SHAPE, clear=exposure == "clear", cell=cell, disorder=disorder)
    points = columns(sample)
    start = time.perf_counter()
    results = compute_order_map(sample.image, points)
    seconds = time.perf_counter() - start
    truth = sample.meta["disordered"]
    union = (results.mask | truth).sum()
    row = {
        "cell": cell,
        "seed": seed,
        "exposure": exposure,
        "is_perfect": not disorder,
        "iou": (results.mask & truth).sum() / union if disorder else np.nan,
        "true_fraction": truth.mean(),
        "area_fraction": results.area_fraction,
        "spacing_px": sample.meta["spacing_px"],
        "dose_e_per_px": sample.meta["dose_e_per_px"],
        "n_points": len(points),
        "seconds": seconds,
        "covariance": results.settings["covariance"],
        "threshold": results.settings["threshold"],
    }
    return row, sample, results


def study(n_seeds: int, n_perfect: int) -> tuple[pd.DataFrame, list]:
    """All rows, and the clear crystals with a region for the figure. Seed k is of cell k mod 6."""
    cells = sorted(CELLS)
    rows = []
    shown = []
    for exposure in ("clear", "default"):
        for seed in range(n_seeds):
            row, sample, results = one(cells[seed % len(cells)], seed, exposure, disorder=True)
            rows.append(row)
            if exposure == "clear":
                shown.append((row, sample, results))
        for cell in cells:
            rows += [one(cell, seed, exposure, disorder=False)[0] for seed in range(n_perfect)]
    return pd.DataFrame(rows), shown


def summary(rows: pd.DataFrame) -> dict:
    """The figures per exposure: the distribution of IoU, which seeds miss the aim, false regions by cell, times."""
    result = {}
    for exposure, part in rows.groupby("exposure"):
        damaged = part[~part["is_perfect"]]
        perfect = part[part["is_perfect"]]
        iou = damaged["iou"]
        below = damaged[iou < AIM]
        claimed = perfect[perfect["area_fraction"] > 0]
        result[exposure] = {
            "n": len(damaged),
            "iou": {"mean": iou.mean()} | {f"q{100 * q:.0f}": iou.quantile(q) for q in (0, 0.1, 0.25, 0.5, 0.75, 1)},
            "n_below_aim": len(below),
            "below_aim": below[["cell", "seed", "iou", "spacing_px", "dose_e_per_px"]].to_dict("records"),
            "n_damaged_unknown": int(damaged["area_fraction"].isna().sum()),
            "n_perfect": len(perfect),
            "n_perfect_unknown": int(perfect["area_fraction"].isna().sum()),
            "n_perfect_claimed": len(claimed),
            "claimed_by_cell": claimed.groupby("cell").size().to_dict(),
            "largest_false_fraction": float(perfect["area_fraction"].max()),
            "seconds_per_mpx": {"median": part["seconds"].median() / (SHAPE[0] * SHAPE[1] / 1e6)},
        }
    return result


def figure(shown: list, path: Path) -> None:
    """The six clear maps around the quantiles of IoU, the true outline in yellow."""
    ranked = sorted(shown, key=lambda item: item[0]["iou"])
    selection = [ranked[round(q)] for q in np.linspace(0, len(ranked) - 1, min(6, len(ranked)))]
    sheet = Figure(figsize=(12, 8.6), dpi=100, layout="constrained")
    FigureCanvasAgg(sheet)
    for axes, (row, sample, results) in zip(sheet.subplots(2, 3).ravel(), selection):
        paint_overlay(axes, sample.image, results, f"{row['cell']}, seed {row['seed']}, IoU {row['iou']:.2f}")
        axes.contour(sample.meta["disordered"], levels=[0.5], colors="#ccbb44", linewidths=1.2)
    sheet.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for order_map.csv and order_map.png")
    parser.add_argument("--json", type=Path, help="file for the summary")
    parser.add_argument("--seeds", type=int, default=24, help="damaged crystals per exposure")
    parser.add_argument("--perfect", type=int, default=20, help="perfect crystals per cell and exposure")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, shown = study(options.seeds, options.perfect)
    rows.to_csv(options.out / "order_map.csv", index=False)
    figure(shown, options.out / "order_map.png")
    text = json.dumps(summary(rows), indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
