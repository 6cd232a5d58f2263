"""How long do `emqa calibrate` with 50 labelled images and `emqa rescore` take on a workspace of 10,000 images?

The workspace is real but for the reading of files and the arithmetic on pixels (scale_stubs.py): every image has
detections, evidence and features of its own, drawn at random. Each step is a process of its own, as from the command
line, imports included. Bounds: 10 s each. Also the prediction of all images alone, by every kind of model.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import scale_stubs
from benchmarks.bench_scale import write_archive
from emqa_dask import tables
from emqa_dask.pipeline.commands import ingest, make_tables, triage
from emqa_dask.pipeline.tasks import image_measurement
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict import quality_fit, quality_model
from emqa_dask.settings import load_settings, replace
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace

BOUND_S = 10.0
CORNERS = ["y0", "x0", "y1", "x1"]


def draw_detections(rng: np.random.Generator, name: str, n: int) -> pd.DataFrame:
    """`n` detections of LoG on one image, some sure and some not."""
    size = rng.uniform(12, 60, n)
    y0, x0 = rng.uniform(0, scale_stubs.SIZE_PX - 60, (2, n))
    sure = rng.uniform(0.2, 0.9)
    rows = {"micrograph_id": name, "y0": y0, "x0": x0, "y1": y0 + size, "x1": x0 + size}
    rows |= {"y_px": y0 + size / 2 - 0.5, "x_px": x0 + size / 2 - 0.5, "sigma_px": size / 2.83}
    rows |= {"area_px": np.pi * size**2 / 4, "response": 0.3, "score": rng.beta(8 * sure, 8 * (1 - sure), n)}
    rows |= {"polarity": np.int8(1), "label": "blob", "detector": "log", "circularity": np.nan}
    return pd.DataFrame(rows | {"diameter_px": size, "diameter_nm": 0.31 * size})


def vary(root: str, settings, n_detections: int) -> None:
    """Gives every image of a stub workspace detections, evidence and statistics of its own."""
    where = list_run_folders(settings)
    for partition, rows in micrograph_ledger.iter_partitions(Workspace(root), make_tables.TASK_COLUMNS):
        rng = np.random.default_rng(int(partition.name.encode().hex()[-12:], 16))
        results = []
        evidence = []
        for row in rows.to_dict("records"):
            results.append(draw_detections(rng, row["micrograph_id"], n_detections))
            evidence += image_measurement.summarise_image(row, results[-1], settings)
        features = parts.read_table(root, where["features"], SCHEMAS["features"], None, partitions=[partition.name])
        for name in tables.IMAGE_STATISTICS:
            features[name] *= rng.normal(1, 0.02, len(features))
        changed = {"detections": pd.concat(results, ignore_index=True), "evidence": pd.DataFrame(evidence)}
        for table, values in (changed | {"features": features}).items():
            parts.write_part(root, where[table], partition.name, values, SCHEMAS[table])


def make_workspace(folder: Path, n: int, n_detections: int) -> str:
    """A workspace of `n` images, run to its end."""
    write_archive(folder / "archive", n)
    root = str(folder / "ws")
    settings = replace(load_settings(), {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}})
    kept = ingest.survey_files, make_tables.make_partition, dict(make_tables.STORED)
    ingest.survey_files = scale_stubs.survey_files
    make_tables.make_partition = scale_stubs.make_partition
    make_tables.STORED.update(dict.fromkeys(make_tables.STORED, 10**9))
    try:
        triage.run(str(folder / "archive"), root, settings, steps=triage.STEPS[:-1], say=lambda text: None)
    finally:
        ingest.survey_files, make_tables.make_partition = kept[:2]
        make_tables.STORED.update(kept[2])
    vary(root, settings, n_detections)
    return root


def write_labels(root: str, path: Path, n: int) -> None:
    """COCO labels of `n` images: detections are true with the odds that their scores promise, and some are missing."""
    settings = stored_settings.read_settings(root)
    rng = np.random.default_rng(7)
    ledger = pd.concat(
        micrograph_ledger.iter_current(Workspace(root), ("micrograph_id", "uri", "partition")), ignore_index=True
    )
    ledger = ledger.iloc[np.sort(rng.choice(len(ledger), n, replace=False))]
    results = parts.read_table(
        root, list_run_folders(settings)["detections"], SCHEMAS["detections"], None, sorted(set(ledger["partition"]))
    )
    by_image = dict(list(results.groupby("micrograph_id")))
    images = []
    annotations = []
    for k, row in enumerate(ledger.itertuples(), 1):
        side = scale_stubs.SIZE_PX
        images.append({"id": k, "file_name": row.uri, "height": side, "width": side})
        of = by_image[row.micrograph_id]
        true = of[rng.random(len(of)) < of["score"]]
        missed = draw_detections(rng, "", int(rng.integers(0, 10)))
        for y0, x0, y1, x1 in pd.concat([true[CORNERS], missed[CORNERS]]).to_numpy().tolist():
            number = len(annotations) + 1
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append({"id": number, "image_id": k, "category_id": 1, "bbox": box, "area": box[2] * box[3]})
    categories = [{"id": 1, "name": "cavity"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def timed(*command: str) -> float:
    """Seconds that a command of emqa takes; RuntimeError with what it said where it fails."""
    started = time.perf_counter()
    process = subprocess.run([sys.executable, "-m", "emqa_dask", *command], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"emqa {command[0]}: {process.stdout[-2000:]}{process.stderr[-2000:]}")
    return seconds


def time_predictions(n: int) -> dict[str, float]:
    """Seconds to predict `n` images with reasons, by judges of several kinds fitted on 600 images."""
    rng = np.random.default_rng(3)

    def drawn(rows: int) -> pd.DataFrame:
        table = pd.DataFrame(
            rng.uniform(size=(rows, len(tables.DETECTION_FEATURES))), columns=tables.DETECTION_FEATURES
        )
        table["true_f1"] = table["precision"] = table["recall"] = np.clip(table["score_fraction_8"], 0, 1)
        return table.assign(n_detections=rng.integers(1, 99, rows), score_floor=0.1, detector="net")

    known = drawn(600)
    new = drawn(n)
    results = {}
    conditions = {"detector": "net", "score_floor": 0.1, "iou_threshold": 0.1}
    for kind in ("gaussian_process", "extra_trees", "forest"):
        made = quality_fit.fit_quality_model(known, known, np.arange(600) % 8, kind=kind, **conditions)
        quality_model.predict_quality(made, new.head(9))  # compiled
        started = time.perf_counter()
        quality_model.predict_quality(made, new)
        results[kind] = time.perf_counter() - started
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--labelled", type=int, default=50)
    parser.add_argument("--detections", type=int, default=40, help="an image")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="emqa-rescore-"))
    try:
        started = time.perf_counter()
        root = make_workspace(folder, options.images, options.detections)
        write_labels(root, folder / "labels.json", options.labelled)
        print(f"workspace of {options.images:,} images made in {time.perf_counter() - started:.0f} s", flush=True)
        results: dict[str, Any] = {"first_rescore_s": timed("rescore", root)}
        results["calibrate_s"] = timed("calibrate", root, str(folder / "labels.json"))
        results["rescore_s"] = timed("rescore", root)
        results["floor_s"] = timed("rescore", root, "--set", "featurise.score_floor=0.2")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"rescore, with the bundled model:          {results['first_rescore_s']:6.1f} s")
    print(f"calibrate on {options.labelled} labelled images:        {results['calibrate_s']:6.1f} s")
    print(f"rescore, predictions by the fitted model: {results['rescore_s']:6.1f} s")
    print(f"rescore, with another score floor:        {results['floor_s']:6.1f} s  (all at most {BOUND_S:.0f} s)")
    results["predict_s"] = time_predictions(options.images)
    for kind, seconds in results["predict_s"].items():
        print(f"prediction of {options.images:,} images by {kind}: {seconds:.1f} s")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    ok = max(seconds for name, seconds in results.items() if name != "predict_s") <= BOUND_S
    print("all bounds hold" if ok else "a bound is broken")
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
