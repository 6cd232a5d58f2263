"""Micrographs per second of `emqa triage` against the obvious script and a plain process pool; time per stage per Mpx.

All three alternate in one run, in as many processes as emqa has workers. The script is joblib over tifffile.imread,
percentile normalisation and skimage.feature.blob_log with the same settings. It finds blobs and nothing else. The pool
does emqa's work on every file by emqa's own functions: it hashes, decodes, searches, featurises and draws thumbnails,
writes pixels and tables, and predicts. It has no Dask, no checks of what was written, no recovery, no verdicts and no
report: what emqa takes beyond it is the price of these. For every stage, `worker_ms_per_megapixel` is wall time on the
workers: on a machine that does other work it is too long.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import tifffile
from numcodecs.blosc import Blosc
from skimage.feature import blob_log

from emqa_dask import tables
from emqa_dask.settings import Detect, Settings
from emqa_dask.synthetic.profiles import make_sample

PROFILES = ("cavity-tem", "nanoparticle-tem")


def write_archive(folder: Path, n: int, size: int, seed: int) -> None:
    """`n` good 16-bit TIFFs of `size` x `size` px, half cavities, half particles."""
    folder.mkdir(parents=True)
    for k in range(n):
        sample = make_sample(PROFILES[k % 2], np.random.default_rng([seed, k]), shape=(size, size))
        image = sample.image.astype(np.float64)
        scaled = (image - image.min()) / (np.ptp(image) or 1) * 60000
        tifffile.imwrite(folder / f"image_{k:05d}.tif", scaled.astype(np.uint16))


def script_one(path: Path, detect: Detect) -> int:
    """What a user would write for one file."""
    image = tifffile.imread(path).astype(np.float32)
    low, high = np.percentile(image, [detect.low_percentile, detect.high_percentile])
    image = (image - low) / (high - low)
    n_blobs = 0
    for sign in {"bright": (1,), "dark": (-1,), "both": (1, -1)}[detect.polarity]:
        n_blobs += len(
            blob_log(
                sign * image,
                min_sigma=detect.min_sigma,
                max_sigma=detect.max_sigma,
                num_sigma=detect.num_sigma,
                threshold=detect.threshold,
                overlap=detect.overlap,
                log_scale=detect.log_scale,
            )
        )
    return n_blobs


def run_script(paths: list[Path], detect: Detect, workers: int) -> float:
    """Seconds for the script over `paths` in `workers` processes, started cold like emqa's."""
    from joblib.externals.loky import get_reusable_executor

    started = time.perf_counter()
    joblib.Parallel(n_jobs=workers)(joblib.delayed(script_one)(p, detect) for p in paths)
    seconds = time.perf_counter() - started
    get_reusable_executor().shutdown(wait=True)
    return seconds


def do_file_work(path: Path, settings: Settings, folder: Path) -> tuple[dict, list[dict], dict, pd.DataFrame, bytes]:
    """Rows of the micrographs, evidence and features, the detections and the thumbnail of one file, by emqa's code."""
    from emqa_dask.archive import readers, survey
    from emqa_dask.archive.entries import Entry
    from emqa_dask.pipeline.tasks.image_measurement import detect_objects, measure_image
    from emqa_dask.store.thumbnails import make_thumbnail

    status = path.stat()
    _, (row,) = survey.survey_file(Entry(path.name, str(path), status.st_size, status.st_mtime_ns), settings.archive)
    (frame,) = readers.open_source(str(path)).frames
    image = frame.read(0, frame.height_px)
    if hashlib.sha256(image).hexdigest() != row["pixel_sha256"]:
        raise ValueError(f"{path} has changed")
    packed = Blosc("lz4", 5, Blosc.BITSHUFFLE, typesize=image.itemsize).encode(image)  # as the store does
    (folder / path.stem).write_bytes(packed)
    detections = detect_objects(image, row, settings)
    evidence, features = measure_image(image, row, detections, settings)
    return row, evidence, features, detections, make_thumbnail(image, settings.store.thumbnail_px)


def limit_threads() -> None:
    """One thread for each library of a process of the pool, as emqa's workers have it."""
    import cv2
    import threadpoolctl
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)


def run_pool(paths: list[Path], folder: Path, detect: Detect, workers: int) -> float:
    """Seconds for the work of emqa on `paths` in a plain pool of `workers` processes, with their start."""
    from emqa_dask.pipeline.tasks.predict import join_evidence, predict_rows

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = dataclasses.replace(Settings(), detect=dataclasses.replace(detect, detectors=("log",)))
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, limit_threads) as pool:
        n = len(paths)
        results = list(pool.map(do_file_work, paths, [settings] * n, [folder] * n, chunksize=4))
    rows, evidence, features, detections, thumbnails = zip(*results, strict=True)
    micrographs = pd.DataFrame(rows)
    features = pd.DataFrame(features).merge(micrographs[["micrograph_id", "voltage_kv"]], on="micrograph_id")
    evidence = pd.DataFrame([row for image_rows in evidence for row in image_rows], columns=tables.EVIDENCE.names)
    predictions = predict_rows(join_evidence(evidence, features.drop(columns="signature")), settings)
    named = {"micrographs": micrographs, "evidence": evidence, "features": features, "predictions": predictions}
    named |= {"detections": pd.concat(detections), "thumbnails": pd.DataFrame({"jpeg": thumbnails})}
    for name, table in named.items():
        table.to_parquet(folder / f"{name}.parquet")
    return time.perf_counter() - started


def run_triage(folder: Path, workspace: Path, detect: Detect, workers: int) -> float:
    """Seconds for the whole command `emqa triage`, from process start to exit."""
    shutil.rmtree(workspace, ignore_errors=True)
    command = [sys.executable, "-m", "emqa_dask", "triage", str(folder), "--workspace", str(workspace)]
    command += ["--detector", "log"]
    command += ["--workers", str(workers), "--set", f"detect.polarity={detect.polarity}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def stage_costs(workspace: Path, megapixels: float) -> dict[str, float]:
    """Worker milliseconds per megapixel of each stage, from events.parquet."""
    events = pd.read_parquet(workspace / "events.parquet")
    return (events.groupby("stage")["seconds"].sum() * 1000 / megapixels).round(2).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="images")
    parser.add_argument("--size", type=int, default=1024, help="px")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--polarity", default="bright", help="bright costs the script one blob_log call, both two")
    parser.add_argument("--seed", type=int, default=2000)
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    detect = Detect(polarity=options.polarity)
    megapixels = options.n * options.size**2 / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "archive")
        workspace = Path(scratch, "workspace")
        write_archive(archive, options.n, options.size, options.seed)
        paths = sorted(archive.iterdir())
        write_archive(Path(scratch, "first"), 4, 256, options.seed)
        run_triage(Path(scratch, "first"), workspace, detect, options.workers)  # numba stores what it compiles once
        rounds = []
        for k in range(options.rounds):
            ours = run_triage(archive, workspace, detect, options.workers)
            pool = run_pool(paths, Path(scratch, "pool"), detect, options.workers)
            script = run_script(paths, detect, options.workers)
            seconds = {"triage_s": ours, "pool_s": pool, "script_s": script}
            ratios = {"ratio": script / ours, "ratio_to_pool": pool / ours}
            rounds.append({name: round(value, 2) for name, value in (seconds | ratios).items()})
            print(f"round {k + 1}: {rounds[-1]}", flush=True)
        costs = stage_costs(workspace, megapixels)
        figures = {
            "images": options.n,
            "size_px": options.size,
            "polarity": options.polarity,
            "workers": options.workers,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "rounds": rounds,
            "triage_images_per_s": round(options.n / statistics.median(r["triage_s"] for r in rounds), 2),
            "pool_images_per_s": round(options.n / statistics.median(r["pool_s"] for r in rounds), 2),
            "script_images_per_s": round(options.n / statistics.median(r["script_s"] for r in rounds), 2),
            "median_ratio": round(statistics.median(r["ratio"] for r in rounds), 2),
            "median_ratio_to_pool": round(statistics.median(r["ratio_to_pool"] for r in rounds), 2),
            "worker_ms_per_megapixel": costs | {"all": round(sum(costs.values()), 2)},
        }
    print(json.dumps(figures, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
