"""Everything that needs a GPU, in under eight minutes: equal tables, steps, LoG, Mask R-CNN, whole triages, threads.

    make bench-gpu                                          on a machine with one GPU; no network is needed
    python -m benchmarks.bench_gpu --device cpu --quick     the same parts on tiny images and a CPU, in a minute

Parts, in the order of their use: `steps` (ms per megapixel of each step, and its share of what memory bandwidth or
arithmetic allow), `log` (against cuCIM's blob_log; on a CPU against scikit-image's), `network` (Mask R-CNN against the
plain loop of torchvision), `triage` (whole commands with LoG, with the network and with an ensemble: images per second,
utilisation of the GPU by NVML, and equality of all tables with those of a CPU; networks in float32), `threads` (images
per second against run.gpu_threads). A part that would begin after `--budget-s` is left out and named.

Rates of triages are those between the first and the last task; the command's own time is beside them. A short table
ends the output; `--json` has all figures. Exit code 1 where tables differ.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch

from benchmarks import bench_log, bench_mask_rcnn, gpu_steps
from benchmarks.bench_end_to_end import PROFILES
from benchmarks.compare_workspaces import CompareOptions, compare_workspaces
from emqa_dask import classifiers, load_detector, models, networks
from emqa_dask.backend import to_device
from emqa_dask.detect.log_batch import find_batch_maxima
from emqa_dask.detect.normalise import normalise
from emqa_dask.run.gpu_utilisation import GpuUtilisation
from emqa_dask.run.workers import SPAWN_VARIABLES, WORKER_VARIABLES
from emqa_dask.synthetic.profiles import make_sample

N_DRAWN = 8  # different images; the others are these, shifted, with noise of their own: drawing takes long
RTOL = 1e-2  # of numbers in tables: that of the features of directions and tones; see featurise.images
GIB = 2**30
PARTS = ("steps", "log", "network", "triage", "threads")


class Sizes(argparse.Namespace):
    """Numbers of images and their sides, px."""

    n_images: int
    size_px: int
    rounds: int
    n_members: int
    threads: tuple[int, ...]


FULL = Sizes(n_images=128, size_px=1024, rounds=5, n_members=16, threads=(1, 2, 4, 8))
QUICK = Sizes(n_images=4, size_px=192, rounds=1, n_members=2, threads=(1, 2))


def make_images(n: int, size_px: int) -> list[np.ndarray]:
    """`n` uint16 images of size_px x size_px, half cavities, half particles."""
    drawn = []
    for k in range(min(n, N_DRAWN)):
        image = make_sample(PROFILES[k % 2], np.random.default_rng(k), shape=(size_px, size_px)).image
        drawn.append((image - image.min()) / (np.ptp(image) or 1) * 50000)
    images = []
    for k in range(n):
        rng = np.random.default_rng([1, k])
        shifted = np.roll(drawn[k % len(drawn)], rng.integers(0, size_px, 2), axis=(0, 1))
        images.append((shifted + rng.uniform(0, 600, shifted.shape)).astype(np.uint16))
    return images


def write_archive(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for k, image in enumerate(images):
        tifffile.imwrite(folder / f"image_{k:05d}.tif", image)
    return folder


def write_ensemble(folder: Path, n_members: int, is_quick: bool) -> Path:
    """A model directory of wide ResNets with random weights: speed and equality do not depend on what they learned."""
    folder.mkdir()
    architecture = {"n_classes": 30} | ({"depth": 10, "widen": 1} if is_quick else {})
    files = []
    for k in range(n_members):
        torch.manual_seed(k)
        files.append(f"member_{k:02d}.safetensors")
        networks.save_weights(classifiers.build_classifier(architecture), folder / files[-1])
    card = {"name": "random", "task": "classification", "classes": [f"lot {k:02d}" for k in range(30)]}
    card |= {"architecture": architecture, "input": {"size_px": 64}}
    models.write_model_card(folder, card | {"ensemble": {"method": "ensemble", "members": files}})
    return folder


def run_triage(archive: Path, workspace: Path, device: str, options: list[str]) -> dict[str, Any]:
    """Images per second of `emqa triage` and the GPU's mean utilisation, both between the first and the last task.

    Also the command's whole time, the largest memory of a worker and the seconds of all workers in each stage. In the
    stage `wait` tasks wait for the GPU.
    """
    command = [sys.executable, "-m", "emqa_dask", "triage", str(archive), "--workspace", str(workspace), *options]
    command += ["--set", f"run.device={device}"]
    start = time.perf_counter()
    with GpuUtilisation(device == "cuda") as utilisation:
        ran = subprocess.run(
            command, env=os.environ | SPAWN_VARIABLES | WORKER_VARIABLES, capture_output=True, text=True
        )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    events = pd.read_parquet(workspace / "events.parquet")
    events = events[events["stage"] != "survey"]
    first, last = events["started"].min(), (events["started"] + events["seconds"]).max()
    n_images = len(pd.read_parquet(workspace / "triage.parquet", columns=["uri"]))
    gpu_percent = utilisation.compute_mean(first, last)
    return {
        "images_per_s": n_images / (last - first),
        "command_s": time.perf_counter() - start,
        "gpu_percent": None if np.isnan(gpu_percent) else gpu_percent,
        "peak_gib": events["peak_memory_bytes"].max() / GIB,
        "stage_s": events.groupby("stage")["seconds"].sum().to_dict(),
    }


def measure_triages(device: str, images: list[np.ndarray], ensemble: Path, scratch: Path) -> dict:
    """Each case on `device` and on the CPU: LoG on one core, the others on all cores and with fewer images."""
    few = write_archive(scratch / "few", images[: max(4, len(images) // 4)])
    many = write_archive(scratch / "many", images)
    network = ["--detector", "cavity-tem", "--set", "detect.precision=float32"]
    cases = {
        "LoG": (many, ["--detector", "log"]),
        "network": (few, network),
        "ensemble": (few, ["--detector", "log", "--classifier", str(ensemble)]),
    }
    here = ["--scheduler", "local", "--workers", str(min(2, os.cpu_count() or 1))]
    there = ["--scheduler", "cuda"] if device == "cuda" else here
    table = {}
    for name, (archive, options) in cases.items():
        workspaces = [scratch / f"{name}-{place}" for place in ("device", "cpu")]
        row = run_triage(archive, workspaces[0], device, [*there, *options])
        all_cores = ["--scheduler", "local", "--workers", str(os.cpu_count() or 1)]
        reference = ["--scheduler", "in-process"] if name == "LoG" or device == "cpu" else all_cores
        row["cpu_images_per_s"] = run_triage(archive, workspaces[1], "cpu", [*reference, *options])["images_per_s"]
        row["cpu"] = reference[1]
        compared = compare_workspaces(workspaces[1], workspaces[0], CompareOptions(rtol=RTOL))
        row["tables"] = len(compared)
        row["differences"] = {one.name: list(one.differences) for one in compared if one.differences}
        table[name] = row
    return table


def measure_threads(device: str, sizes: Sizes, archive: Path, scratch: Path) -> dict[int, float]:
    """Images per second of a triage with LoG against the threads of its one worker."""
    rates = {}
    for n in sizes.threads:
        key = "gpu_threads" if device == "cuda" else "threads_per_worker"
        options = ["--scheduler", "cuda" if device == "cuda" else "local", "--workers", "1"]
        options += ["--detector", "log", "--set", f"run.{key}={n}"]
        rates[n] = run_triage(archive, scratch / f"threads-{n}", device, options)["images_per_s"]
    return rates


def search_batch(device: str, pixels: np.ndarray, search: dict) -> np.ndarray:
    """Bright blobs (n, 3: y, x, sigma in px) of one image by the search of a triage on a GPU, transfers included."""
    sigmas = bench_log.sigmas_of(search)
    batch = to_device(pixels[None], device)
    (maxima,) = find_batch_maxima(batch, sigmas, search["threshold"], "bright")
    return np.column_stack([maxima.y, maxima.x, sigmas[maxima.scale]])


def measure_log(device: str, sizes: Sizes) -> dict[str, dict]:
    """LoG of one scene by each detector of bench_log; on a GPU against cuCIM's blob_log, transfers included."""
    detectors = (
        bench_log.on_gpu() if device == "cuda" else {name: bench_log.DETECTORS[name] for name in bench_log.SHORT}
    )
    reference = next(iter(detectors))
    detectors = detectors | {"batch search, unpruned": partial(search_batch, device)}
    pixels = normalise(bench_log.scene(min(2048, 2 * sizes.size_px)), 1, 99)
    search = bench_log.SEARCH | {"log_scale": True}
    timed = bench_log.timed(detectors, pixels, search, sizes.rounds)
    return bench_log.compared(timed, reference, bench_log.sigmas_of(search), pixels.size / 1e6)


def measure_network(device: str, sizes: Sizes) -> dict[str, Any]:
    """The Mask R-CNN stage against the plain loop over the same network."""
    detector = load_detector("cavity-tem", device, "auto")
    images = bench_mask_rcnn.drawn(sizes.size_px, min(16, sizes.n_images))
    plain = bench_mask_rcnn.plain_torchvision(detector.card, device)
    figures = bench_mask_rcnn.alternating(detector, plain, images, max(1, sizes.rounds // 2))
    return figures | {"share_of_time": bench_mask_rcnn.where_time_goes(detector, images)}


def measure_all(device: str, sizes: Sizes, parts: list[str], budget_s: float, is_quick: bool) -> dict[str, Any]:
    """The figures of each part; the names of those that no time was left for."""
    start = time.perf_counter()
    figures: dict[str, Any] = {"left_out": []}
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        scratch = Path(folder)
        images = make_images(sizes.n_images, sizes.size_px)
        ensemble = write_ensemble(scratch / "ensemble", sizes.n_members, is_quick)

        def measure_steps() -> dict[str, dict]:
            limits = gpu_steps.measure_limits(device, sizes.rounds, is_quick)
            figures["limits"] = limits._asdict()
            steps = gpu_steps.make_steps(device, images[:8], ensemble)
            return gpu_steps.measure_steps(steps, limits, device, sizes.rounds)

        functions = {
            "steps": measure_steps,
            "log": lambda: measure_log(device, sizes),
            "network": lambda: measure_network(device, sizes),
            "triage": lambda: measure_triages(device, images, ensemble, scratch),
            "threads": lambda: measure_threads(device, sizes, write_archive(scratch / "threads", images), scratch),
        }
        for name in parts:
            if time.perf_counter() - start > budget_s:
                figures["left_out"].append(name)
                continue
            print(f"bench_gpu: {name}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            figures[name] = functions[name]()
    return figures | {"seconds": time.perf_counter() - start}


def format_table(figures: dict[str, Any]) -> str:
    """The figures that matter, one a line."""
    lines = [f"{figures['device']}: {figures['name']}; {figures['seconds']:.0f} s"]
    lines += [f"{'step':34}{'ms/Mpx':>10}{'of limit':>10}"] if "steps" in figures else []
    for name, row in figures.get("steps", {}).items():
        share = f"{row['share_of_limit']:.0%}" if row["share_of_limit"] is not None else "-"
        lines.append(f"{name:34}{row['ms_per_megapixel']:10.2f}{share:>10}")
    for name, row in figures.get("log", {}).items():
        text = row.get("missing") or f"{row['ms_per_megapixel']:10.2f}{row['times_faster']:9.1f}x"
        lines.append(f"{name:34}{text}")
    if network := figures.get("network"):
        rates = network["images_per_s"]
        lines.append(
            f"Mask R-CNN {rates['stage']:.1f} images/s, plain loop {rates['plain']:.1f}: {network['times_faster']:.1f}x"
        )
    for name, row in figures.get("triage", {}).items():
        percent = "" if row["gpu_percent"] is None else f", GPU {row['gpu_percent']:.0f} %"
        names = ", ".join(row["differences"])
        tables = f"tables differ: {names}" if names else f"{row['tables']} tables equal"
        pace = f"{row['images_per_s']:.1f} images/s, CPU ({row['cpu']}) {row['cpu_images_per_s']:.1f}"
        lines.append(f"triage, {name}: {pace}{percent}; worker {row['peak_gib']:.1f} GiB; {tables}")
    if "threads" in figures:
        lines.append("threads: " + ", ".join(f"{n}: {rate:.1f} images/s" for n, rate in figures["threads"].items()))
    lines += [f"left out, no time: {', '.join(figures['left_out'])}"] if figures["left_out"] else []
    return "\n".join(lines)


def describe_machine(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"device": device, "name": name, "torch": torch.__version__, "commit": commit}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny images: whether it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--budget-s", type=float, default=400.0, help="no part begins after so many seconds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    try:
        to_device(np.zeros(1), options.device)
    except RuntimeError as error:
        print(f"bench_gpu: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    figures = describe_machine(options.device)
    sizes = QUICK if options.quick else FULL
    figures |= measure_all(options.device, sizes, options.parts, options.budget_s, options.quick)
    print(format_table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(any(row["differences"] for row in figures.get("triage", {}).values()))


if __name__ == "__main__":
    sys.exit(main())
