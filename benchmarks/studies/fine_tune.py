"""Fine-tunes a detector on half of each labelled set, split by source, and measures it on the other half beside LoG.

python -m benchmarks.studies.fine_tune --out DIR [--start cavity-tem] [--sets emps arda_stem_np uw_loops] [--steps 400]

Sources: an article's DOI for emps, material and support for arda_stem_np, the session for uw_loops; no source is in
both halves. Both detectors take the score threshold that is best on the half they may see. Writes `fine_tune.csv`.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from emqa_dask import networks
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.normalise import normalise
from emqa_dask.models import load_model_card
from emqa_dask.settings import load_settings
from emqa_dask.synthetic.coco import compute_run_lengths, encode_run_lengths
from emqa_dask.train import coco, scores
from emqa_dask.train.detector import DetectorOptions, train_detector
from emqa_dask.train.detector_data import CropOptions, read_grey_image

SHARED = Path(__file__).parents[3] / "shared" / "data"
TEMPLATES = {"emps": "nanoparticle-tem", "arda_stem_np": "nanoparticle-tem", "uw_loops": "generic"}
SEED = 20
IOUS = (0.1, 0.5)


def source_of(name: str, file: str, dois: dict[str, str]) -> str:
    """What an image shares with others of the same set, by which halves are kept apart."""
    stem = Path(file).stem
    if name == "emps":
        return dois[Path(file).name]
    if name == "arda_stem_np":
        return re.sub(r"\d+$", "", stem)
    return re.sub(r"(_\d+(_n)?( - Copy)?)$", "", re.sub(r"^(ROI|map)\d+", r"\1", stem))


def halves(name: str, folder: Path) -> tuple[dict, dict]:
    """The set's COCO content twice: with the images to learn from, and with the others."""
    content = json.loads((folder / "annotations_coco.json").read_text())
    dois = {}
    if name == "emps":
        with (folder / "source_dois.csv").open() as table:
            dois = {row["filename"]: row["doi"] for row in csv.DictReader(table)}
        add_masks(content, folder / "segmaps")
    sources: dict[str, list[int]] = {}
    for row in content["images"]:
        sources.setdefault(source_of(name, row["file_name"], dois), []).append(row["id"])
    order = np.random.default_rng(SEED).permutation(sorted(sources))
    sides: tuple[set, set] = (set(), set())
    for source in sorted(order, key=lambda s: -len(sources[s])):  # the largest first, to the smaller half
        min(sides, key=len).update(sources[source])
    return tuple(
        {
            **content,
            "images": [row for row in content["images"] if row["id"] in side],
            "annotations": [row for row in content["annotations"] if row["image_id"] in side],
        }
        for side in sides
    )


def add_masks(content: dict, folder: Path) -> None:
    """Gives emps' annotations, which hold boxes alone, the masks of its maps of instances."""
    rows: dict[int, list[dict]] = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    for image in content["images"]:
        ids = cv2.imread(str(folder / f"{Path(image['file_name']).stem}.png"), cv2.IMREAD_UNCHANGED)
        boxes = {}
        for k in np.unique(ids[ids > 0]):
            y, x = np.nonzero(ids == k)
            boxes[(x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)] = k
        for row in rows.get(image["id"], []):
            x, y, w, h = key = tuple(int(v) for v in row["bbox"])
            crop = ids[y : y + h, x : x + w] == boxes[key]
            row["segmentation"] = {
                "size": list(ids.shape),
                "counts": encode_run_lengths(*compute_run_lengths([(y, x, crop)], ids.shape))[0],
            }


def truths(file: Path, folder: Path) -> list[tuple[np.ndarray, scores.GroundTruth]]:
    """Every image as it is, and as the network sees it with its truth."""
    results = []
    for picture in coco.read_coco_sets([(file, folder)])[0]:
        image = read_grey_image(picture.path)
        results.append((image, scores.GroundTruth(normalise(image, 1, 99), picture.masks, picture.labels)))
    return results


def by_log(name: str, images: list) -> list[scores.Detections]:
    detect = load_settings(template=TEMPLATES[name]).detect
    results = []
    for image, _ in images:
        table = detect_image(image, detect).sort_values("score", ascending=False)
        boxes = table[["y0", "x0", "y1", "x1"]].to_numpy(np.float64)
        results.append(scores.Detections(boxes, table["score"].to_numpy(), np.ones(len(table), np.int64), []))
    return results


def by_network(model: Path, images: list, *, masks: bool) -> list[scores.Detections]:
    net = networks.build_detector(load_model_card(model)["architecture"])
    networks.load_weights(net, model / "weights.safetensors")
    return [scores.detect_objects(net, truth.image, masks=masks) for _, truth in images]


def row_of(name: str, method: str, seen: tuple, unseen: tuple) -> dict:
    """F1 on the unseen half, pooled and as the mean over images, at the seen half's best threshold."""
    (found_seen, images_seen) = seen
    (results, images) = unseen
    known = [truth for _, truth in images_seen]
    threshold = scores.select_threshold(found_seen, known)
    row = {"set": name, "detector": method, "images": len(images), "score_threshold": threshold}
    for iou in IOUS:
        counts = scores.count_matches(results, [truth for _, truth in images], iou, threshold)
        row[f"box_f1_iou_{iou}"] = round(float(scores.compute_f1(counts.sum(axis=0, keepdims=True))[0]), 4)
        row[f"image_f1_iou_{iou}"] = round(float(scores.compute_f1(counts).mean()), 4)
    if any(f.masks for f in results):
        row["mask_ap50"] = round(scores.compute_mask_ap50(results, [t for _, t in images]), 4)
    return row


def study(name: str, args: argparse.Namespace) -> list[dict]:
    folder = SHARED / name
    out = args.out / name
    out.mkdir(parents=True, exist_ok=True)
    files = out / "seen.json", out / "unseen.json"
    for file, content in zip(files, halves(name, folder)):
        file.write_text(json.dumps(content))
    seen, unseen = (truths(file, folder) for file in files)
    model = out / "model"
    if not model.exists():
        train_detector(
            [(files[0], folder)],
            model,
            DetectorOptions(
                start=args.start,
                n_steps=args.steps,
                learning_rate=args.rate,
                crops=CropOptions(scales=(0.6, 1.5)),
                validation_share=0.0,
                precision="bfloat16",
                seed=SEED,
            ),
            normalise=normalise,
            say=lambda line: print(name, line, flush=True),
        )
    rows = []
    for method, find in (
        ("log", lambda images: by_log(name, images)),
        (f"{args.start.name} fine-tuned", lambda images: by_network(model, images, masks=name == "emps")),
    ):
        rows.append(row_of(name, method, (find(seen), seen), (find(unseen), unseen)))
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=Path("cavity-tem"))
    parser.add_argument("--sets", nargs="+", default=list(TEMPLATES), choices=list(TEMPLATES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=2e-4)
    chosen = parser.parse_args()
    measured = [row for name in chosen.sets for row in study(name, chosen)]
    pd.DataFrame(measured).to_csv(chosen.out / "fine_tune.csv", index=False)
