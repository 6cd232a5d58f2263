"""Images a second of the stage classify: 16 wide ResNets on the stored micrographs of a workspace, by workers.

python -m benchmarks.bench_classify                      64 images of 256 px, 9 windows each, 1 and 2 workers
python -m benchmarks.bench_classify --images 200 --windows 36 --method dropout --json FILE

The workspace holds drawn textures and no other stage is run: `emqa classify` on it, with each number of workers in
turns, from process start to exit and between the first worker's being there and the end. Weights are those of one
epoch: what the networks say does not matter here.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from emqa_dask.synthetic import textures
from emqa_dask.train import ensemble
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.windows import WindowSettings

EMQA = [sys.executable, "-m", "emqa_dask"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument("--windows", type=int, default=9, help="of an image")
    parser.add_argument("--members", type=int, default=16, help="of the ensemble, or passes of dropout")
    parser.add_argument("--method", choices=("ensemble", "dropout"), default="ensemble")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="emqa-classify-"))
    try:
        results = measure(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for n, rounds in results.items():
        whole, stage = (statistics.median(values) for values in zip(*rounds))
        windows = options.windows * options.members * stage
        print(f"{n} workers: {whole:.2f} images/s from start to exit; stage {stage:.2f}/s, {windows:.0f} forwards/s")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, given: argparse.Namespace) -> dict[int, list[tuple[float, float]]]:
    """For each number of workers and round: images a second of the command, and of the stage as it says itself."""
    (folder / "archive").mkdir()
    for k in range(given.images):
        image = textures.draw_texture(np.random.default_rng([3, k]), (given.size, given.size), lot=k % 8).image
        tifffile.imwrite(folder / f"archive/{k:04d}.tif", image)
    model = write_model(folder / "model", given)
    shared = ["--classifier", str(model), "--set", f"store.shard_length={max(1, given.images // 8)}"]
    run("ingest", str(folder / "archive"), "--workspace", str(folder / "ws"), *shared)
    results: dict[int, list] = {n: [] for n in given.workers}
    for _ in range(given.rounds):
        for n in given.workers:
            for table in [*folder.glob("ws/probabilities-*"), *folder.glob("ws/regions-*")]:
                shutil.rmtree(table)
            seconds, said = run("classify", str(folder / "ws"), *shared, "--workers", str(n))
            stage = float(re.findall(r"classify: \d+ images in .*, ([0-9.]+)/s", said)[-1])
            results[n].append((given.images / seconds, stage))
    return results


def write_model(out: Path, given: argparse.Namespace) -> Path:
    """A model directory whose networks were trained for one epoch."""
    rng = np.random.default_rng(0)
    members, dropout = (given.members, 0.0) if given.method == "ensemble" else (1, 0.3)
    windows = rng.random((120, 64, 64), np.float32)
    names = [f"lot {k:02d}" for k in range(30)]
    options = EnsembleOptions(
        WindowSettings(64, max_windows=given.windows),
        n_members=members,
        method=given.method,
        n_passes=given.members,
        architecture={"dropout": dropout},
        schedule=MemberSchedule(epochs=1),
    )
    training_set = TrainingSet.from_arrays(windows, np.arange(120) % 30, np.repeat(["train"], 120), names)
    prepare_training(out, training_set, options)
    for k in range(members):
        ensemble.train_member(out, k, say=lambda line: None)
    ensemble.join_members(out, lambda p, y: {})
    return out


def run(*command: str) -> tuple[float, str]:
    """Seconds that a command takes, and what it says; RuntimeError where it fails."""
    started = time.perf_counter()
    process = subprocess.run([*EMQA, *command], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"emqa {command[0]}: {process.stdout[-2000:]}{process.stderr[-2000:]}")
    return time.perf_counter() - started, process.stdout + process.stderr


if __name__ == "__main__":
    main()
