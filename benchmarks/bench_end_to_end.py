"""Micrographs per second of `emqa triage` against the obvious script, alternating in one run; time per stage per Mpx.

The script is joblib over tifffile.imread, percentile normalisation and skimage.feature.blob_log with the same settings,
in as many processes as emqa has workers. It finds blobs and nothing else; emqa also hashes, stores, verifies,
featurises, predicts and reports.
"""

import argparse
import json
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
from skimage.feature import blob_log

from emqa_dask.settings import Detect
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
        rounds = []
        for k in range(options.rounds):
            ours = run_triage(archive, workspace, detect, options.workers)
            script = run_script(paths, detect, options.workers)
            rounds.append({"triage_s": round(ours, 2), "script_s": round(script, 2), "ratio": round(script / ours, 2)})
            print(f"round {k + 1}: triage {ours:.1f} s, script {script:.1f} s, ratio {script / ours:.2f}", flush=True)
        figures = {
            "images": options.n,
            "size_px": options.size,
            "polarity": options.polarity,
            "workers": options.workers,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "rounds": rounds,
            "triage_images_per_s": round(options.n / statistics.median(r["triage_s"] for r in rounds), 2),
            "script_images_per_s": round(options.n / statistics.median(r["script_s"] for r in rounds), 2),
            "median_ratio": round(statistics.median(r["ratio"] for r in rounds), 2),
            "worker_ms_per_megapixel": stage_costs(workspace, megapixels),
        }
    print(json.dumps(figures, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
