"""Agreement of a Mask R-CNN's objects in bfloat16 with those in float32, for the table [precision] of its card.

Images: drawn cavities, and real micrographs of all sets in turn where ../shared/data is present. Objects are those of
the card's selection with a score of at least 0.5; they are matched at IoU 0.5. `--write` puts the table into the card.
Both runs are on one device; the card says which.

    python -m benchmarks.measure_precision --model emqa_dask/bundled/cavity-tem --write
"""

import argparse
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.studies.real_sets import DATA, read_cavity_counts, read_labelled_sets
from emqa_dask import load_detector, models
from emqa_dask.boxes import match_boxes
from emqa_dask.synthetic.cavities import draw_cavities

BOX = ["y0", "x0", "y1", "x1"]
MIN_SCORE = 0.5
CROP_PX = 768  # of real images, from their centre: keeps a run on one core within minutes


def draw_images(n: int) -> list[np.ndarray]:
    """Drawn micrographs of cavities (384, 384), seeds 0 to n - 1."""
    return [draw_cavities(np.random.default_rng(seed), (384, 384)).image for seed in range(n)]


def read_images(n: int) -> list[np.ndarray]:
    """Real micrographs, one of each set in turn, without a choice by their content; none where they are absent."""
    if not DATA.is_dir():
        return []
    paths: dict[str, list[Path]] = {}
    for image in read_labelled_sets():
        paths.setdefault(image.dataset, []).append(image.path)
    paths["cavities"] = [image.path for image in read_cavity_counts()]
    turns = [path for row in zip_longest(*paths.values()) for path in row if path is not None]
    return [_crop(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in turns[:n]]


def _crop(image: np.ndarray) -> np.ndarray:
    y0, x0 = (max(0, (size - CROP_PX) // 2) for size in image.shape)
    return np.ascontiguousarray(image[y0 : y0 + CROP_PX, x0 : x0 + CROP_PX])


def compare_objects(reference: list[pd.DataFrame], tables: list[pd.DataFrame]) -> dict[str, float]:
    """F1 of the objects of `tables` against `reference`, of all images together, and how far their scores differ."""
    n_matches = n_objects = n_reference = 0
    differences = []
    for one, other in zip(reference, tables, strict=True):
        one, other = (rows[rows["score"] >= MIN_SCORE] for rows in (one, other))
        match = match_boxes(other[BOX].to_numpy(), one[BOX].to_numpy(), 0.5)
        n_matches += match.tp
        n_objects += len(other)
        n_reference += len(one)
        for k, j in match.pairs:
            differences.append(abs(other["score"].iloc[k] - one["score"].iloc[j]))
    f1 = 2 * n_matches / max(1, n_objects + n_reference)
    return {"f1": f1, "n_objects": n_reference, "score_difference": float(np.median(differences or [0]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--drawn", type=int, default=16, help="drawn images")
    parser.add_argument("--real", type=int, default=24, help="real images")
    parser.add_argument("--write", action="store_true", help="write the table [precision] into the card")
    options = parser.parse_args()
    images = draw_images(options.drawn) + read_images(options.real)
    reference, tables = (
        [load_detector(options.model, options.device, precision).detect([image])[0] for image in images]
        for precision in ("float32", "bfloat16")
    )
    figures = compare_objects(reference, tables)
    entries = {f"bfloat16_{name}": value if name == "n_objects" else round(value, 4) for name, value in figures.items()}
    entries |= {"n_images": len(images), "n_real_images": len(images) - options.drawn, "device": options.device}
    print("\n".join(f"{name} = {value!r}" for name, value in entries.items()))
    if options.write:
        card = models.read_model_card(options.model)
        models.write_model_card(options.model, {**card, "precision": entries})


if __name__ == "__main__":
    main()
