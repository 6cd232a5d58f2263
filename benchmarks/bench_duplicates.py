"""Recall, precision and time of the search for copies of a frame: shifted, rescaled, other contrast, saved again.

    python -m benchmarks.bench_duplicates [--images 10000] [--pairs 500] [--cleanvision PYTHON] [--folder DIR]

Images of four kinds (cavities, particles, lattices, textures) are cut from synthetic fields of 1120 px: four from each,
which do not overlap, so that images of one specimen are among them. A copy is cut from the same field, up to 25 % of
the side away along both axes, resized by a factor from 0.5 to 2, with another gamma (0.6 to 1.6), gain and offset, and
saved as JPEG of quality 50 to 95; each of the four with a probability of 0.6. All files are 8-bit PNG or JPEG. With
--cleanvision, the Python of an environment that has cleanvision searches the same files.
"""

import argparse
import functools
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from emqa_dask.featurise.landmarks import compute_landmarks
from emqa_dask.featurise.signature import compute_signature
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.synthetic.profiles import FAMILIES, make_sample
from emqa_dask.triage import duplicates
from emqa_dask.triage.landmark_search import find_field_copies, find_same_frames

FIELD_PX = 560  # side of the quarter of a field that an image and its copy are cut from
IMAGE_PX = 448
CHANGES = ("shifted", "rescaled", "contrast", "saved_again")
CHANGE_PROBABILITY = 0.6
CLEANVISION = """
import itertools, json, sys, time
from cleanvision import Imagelab
started = time.perf_counter()
lab = Imagelab(data_path=sys.argv[1])
lab.find_issues({"near_duplicates": {}, "exact_duplicates": {}}, n_jobs=1, verbose=False)
seconds = time.perf_counter() - started
pairs = [pair for kind in ("near_duplicates", "exact_duplicates") for group in lab.info[kind]["sets"]
         for pair in itertools.combinations(sorted(group), 2)]
print(json.dumps({"seconds": seconds, "pairs": pairs}))
"""


class Pair(NamedTuple):
    """Names of the files of an image and its copy, and what makes the copy."""

    image: str
    copy: str
    family: str
    changes: tuple[str, ...]


def write_images(folder: Path, n_images: int, n_pairs: int, seed: int = 0) -> list[Pair]:
    """The pairs among the `n_images` files that are written into `folder`, in an order that hides them."""
    n_originals = n_images - n_pairs
    rng = np.random.default_rng([seed, n_images])
    has_copy = set(rng.choice(n_originals, n_pairs, replace=False).tolist())
    names = [f"{k:06d}" for k in rng.permutation(n_images)]
    pairs = []
    for number in range(n_originals):
        if number % 4 == 0:
            family = list(FAMILIES)[number // 4 % 4]
            fields = draw_fields(family, np.random.default_rng([seed, n_images, number]))
        field = fields[number % 4]
        y, x = rng.integers(0, FIELD_PX - IMAGE_PX + 1, 2)
        name = f"{names.pop()}.png"
        cv2.imwrite(str(folder / name), field[y : y + IMAGE_PX, x : x + IMAGE_PX])
        if number in has_copy:
            changes = draw_changes(rng)
            is_jpeg = "saved_again" in changes
            copy_name = names.pop() + (".jpg" if is_jpeg else ".png")
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))]
            cv2.imwrite(str(folder / copy_name), make_copy(rng, field, (y, x), changes), quality if is_jpeg else [])
            pairs.append(Pair(name, copy_name, family, changes))
    return pairs


def draw_fields(family: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The four quarters of a field of 1120 px as 8-bit images."""
    image = make_sample(family, rng, (2 * FIELD_PX, 2 * FIELD_PX), clear=True).image.astype(np.float32)
    low, high = np.percentile(image, [0.1, 99.9])
    image = np.clip(255 * (image - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
    corners = [(y, x) for y in (0, FIELD_PX) for x in (0, FIELD_PX)]
    return [image[y : y + FIELD_PX, x : x + FIELD_PX] for y, x in corners]


def draw_changes(rng: np.random.Generator) -> tuple[str, ...]:
    """Some of CHANGES, at least one."""
    is_made = rng.random(len(CHANGES)) < CHANGE_PROBABILITY
    is_made[rng.integers(len(CHANGES))] |= not is_made.any()
    return tuple(name for name, made in zip(CHANGES, is_made, strict=True) if made)


def make_copy(rng: np.random.Generator, field: np.ndarray, corner: tuple[int, int], changes) -> np.ndarray:
    """The image of `field` at `corner` with `changes`, but for the compression."""
    y, x = corner
    if "shifted" in changes:
        reach = IMAGE_PX // 4
        y, x = (int(np.clip(k + rng.integers(-reach, reach + 1), 0, FIELD_PX - IMAGE_PX)) for k in corner)
    image = field[y : y + IMAGE_PX, x : x + IMAGE_PX].astype(np.float32)
    if "rescaled" in changes:
        side = round(IMAGE_PX * 2 ** rng.uniform(-1, 1))
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < IMAGE_PX else cv2.INTER_CUBIC)
    if "contrast" in changes:
        unit = np.clip(image / 255, 0, 1) ** rng.uniform(0.6, 1.6)
        image = 255 * (unit * rng.uniform(0.6, 1) + rng.uniform(0, 0.2))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def read_features(folder: Path) -> pd.DataFrame:
    """A row per file of `folder`: its name, size, identity, signature and landmarks."""
    rows = []
    for path in sorted(folder.iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32)
        codes = {"signature": compute_signature(image), "landmarks": compute_landmarks(image)}
        rows.append({"name": path.name, "height_px": image.shape[0], "width_px": image.shape[1], **codes})
    return pd.DataFrame(rows)


def search_copies(rows: pd.DataFrame, *, has_landmarks: bool = True) -> set[tuple[str, str]]:
    """Pairs of names that the package calls copies; without landmarks only those of one shape and field."""
    signatures = duplicates.pack_bytes(rows["signature"], duplicates.SIGNATURE_BYTES)
    identities = [duplicates.compute_identities(rows["name"])]
    shapes = duplicates.encode_shapes(rows["height_px"], rows["width_px"])
    landmarks = duplicates.pack_bytes(rows["landmarks"], LANDMARKS_BYTES)
    sides_px = [rows[name].to_numpy() for name in ("height_px", "width_px")]
    find_same = functools.partial(_find_same, sides_px, landmarks) if has_landmarks else None
    original, _ = duplicates.find_duplicates(
        identities, shapes, duplicates.has_tones(signatures), signatures.__getitem__, find_same=find_same
    )
    names = rows["name"].to_numpy(object)
    copies = np.flatnonzero(original != np.arange(len(rows)))
    pairs = {tuple(sorted((names[k], names[original[k]]))) for k in copies}
    if has_landmarks:
        own = np.flatnonzero(original == np.arange(len(rows))).astype(np.int32)
        heights_px, widths_px = (sides[own] for sides in sides_px)
        fields = find_field_copies(own, heights_px, widths_px, landmarks.__getitem__)
        pairs |= {tuple(sorted((names[a], names[b]))) for a, b in zip(fields.original, fields.row)}
    return pairs


def _find_same(sides_px: list[np.ndarray], landmarks: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    heights_px, widths_px = sides_px
    return find_same_frames(a, b, heights_px, widths_px, landmarks.__getitem__)


def run_cleanvision(python: str, folder: Path) -> dict:
    """Seconds and pairs of cleanvision on the files of `folder`, with the Python of its own environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [python, "-c", CLEANVISION, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    result = json.loads(process.stdout.splitlines()[-1])
    pairs = {tuple(sorted(Path(name).name for name in pair)) for pair in result["pairs"]}
    return {"seconds": result["seconds"], "pairs": pairs}


def describe_result(method: str, listed: set, pairs: list[Pair], seconds: float) -> str:
    """A line of recall, precision and time, and the recall by kind of image and by change."""
    is_listed = {pair: tuple(sorted((pair.image, pair.copy))) in listed for pair in pairs}
    n_listed = sum(is_listed.values())
    text = f"{method}: recall {n_listed / len(pairs):.3f}, precision {n_listed / max(len(listed), 1):.3f}, "
    text += f"{len(listed)} pairs, {seconds:.1f} s\n"
    for labels in (lambda pair: (pair.family,), lambda pair: pair.changes):
        counts = Counter(label for pair in pairs for label in labels(pair))
        hits = Counter(label for pair in pairs if is_listed[pair] for label in labels(pair))
        text += "  recall: " + ", ".join(f"{label} {hits[label] / n:.3f}" for label, n in counts.items()) + "\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--cleanvision", help="Python of an environment that has cleanvision")
    parser.add_argument("--folder", help="folder that the images are written into, by default a temporary one")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(arguments.folder or name)
        folder.mkdir(parents=True, exist_ok=True)
        pairs = write_images(folder, arguments.images, arguments.pairs)
        if arguments.cleanvision:
            result = run_cleanvision(arguments.cleanvision, folder)
            print(describe_result("cleanvision, reading included", result["pairs"], pairs, result["seconds"]))
        started = time.perf_counter()
        rows = read_features(folder)  # as `emqa featurise` does, without the other statistics
        print(f"reading, signature, landmarks: {time.perf_counter() - started:.1f} s")
        for has_landmarks in (False, True):
            search_copies(rows[:100], has_landmarks=has_landmarks)  # compiles the loops
            started = time.perf_counter()
            listed = search_copies(rows, has_landmarks=has_landmarks)
            method = "signatures and landmarks" if has_landmarks else "signatures alone"
            print(describe_result(method, listed, pairs, time.perf_counter() - started))


if __name__ == "__main__":
    main()
