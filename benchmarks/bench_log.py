"""The LoG detector against others: time, memory and agreement with skimage.feature.blob_log; one thread, alternating.

python -m benchmarks.bench_log                                     a drawn scene of 1024 x 1024 px
python -m benchmarks.bench_log --images ../shared/data/uw_cavity/images ../shared/data/emps/images
python -m benchmarks.bench_log --device cuda                       on a GPU against cucim, transfers included
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree
from skimage.feature import blob_log

from emqa_dask.backend import to_device, to_host
from emqa_dask.detect import blobs, log, scales
from emqa_dask.detect.normalise import normalise
from emqa_dask.settings import Detect

SEARCH = {"min_sigma": 2, "max_sigma": 15, "num_sigma": 10, "threshold": 0.1, "overlap": 0.5}
REFERENCE = "blob_log float32"
Rows = np.ndarray | None  # n x 3: y, x, sigma in px; None for detectors that have no scale to compare


def scene(size: int, seed: int = 0) -> np.ndarray:
    """A uint16 image of `size` x `size` px with 1500 bright and dark disks per megapixel, a slope and noise."""
    rng = np.random.default_rng(seed)
    image = np.tile(np.linspace(0, 2000, size), (size, 1)) + 20000 + 1500 * rng.standard_normal((size, size))
    for _ in range(round(1500 * size**2 / 1e6)):
        radius, y, x = rng.uniform(3, 16), *rng.integers(0, size, 2)
        cv2.circle(image, (int(x), int(y)), int(radius), 20000 + float(rng.choice([-6000, 6000])), -1)
    return np.clip(image, 0, 65535).astype(np.uint16)


def places(blobs) -> Rows:
    return blobs[["y_px", "x_px", "sigma_px"]].to_numpy()


def by_simple_blob_detector(pixels: np.ndarray, search: dict) -> Rows:
    """OpenCV's: connected components at many thresholds, of areas from the smallest to the largest disk."""
    parameters = cv2.SimpleBlobDetector_Params()  # type: ignore[attr-defined]  # not in OpenCV's stubs
    parameters.blobColor = 255
    parameters.filterByCircularity = parameters.filterByConvexity = parameters.filterByInertia = False
    low, high = (2 * np.pi * sigma**2 for sigma in (search["min_sigma"], search["max_sigma"]))
    parameters.minArea = low
    parameters.maxArea = high
    parameters.minDistBetweenBlobs = 1
    grey = (255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    detector = cv2.SimpleBlobDetector_create(parameters)  # type: ignore[attr-defined]  # not in OpenCV's stubs
    results = detector.detect(grey)
    return np.array([(p.pt[1], p.pt[0], p.size / 2 / np.sqrt(2)) for p in results]).reshape(-1, 3)


def by_dask_image(pixels: np.ndarray, search: dict) -> Rows:
    """dask-image's LoG of every scale, stacked, and the maxima of the stack; in one chunk, in this thread."""
    import dask
    import dask.array
    from dask_image.ndfilters import gaussian_laplace, maximum_filter

    sigmas = sigmas_of(search)
    image = dask.array.from_array(pixels, chunks=pixels.shape)
    stack = dask.array.stack([-gaussian_laplace(image, sigma) * sigma**2 for sigma in sigmas]).rechunk(-1)
    is_peak = (stack == maximum_filter(stack, size=3, mode="nearest")) & (stack > search["threshold"])
    with dask.config.set(scheduler="synchronous"):
        k, y, x = np.nonzero(is_peak.compute())
    return np.column_stack([y, x, sigmas[k]])


def by_trackpy(pixels: np.ndarray, search: dict) -> Rows:
    """trackpy's locate at one diameter, that of the middle scale: it has no scale space."""
    import trackpy

    trackpy.quiet()
    diameter = int(np.sqrt(2) * (search["min_sigma"] + search["max_sigma"])) // 2 * 2 + 1
    results = trackpy.locate(pixels, diameter, engine="python")
    return np.column_stack([results["y"], results["x"], np.full(len(results), diameter / 2 / np.sqrt(2))])


def by_detect_image(pixels: np.ndarray, search: dict) -> Rows:
    settings = Detect(polarity="bright", max_detections=10**6, **({"log_scale": False} | search))
    return places(log.detect_image((20000 * (pixels + 1)).astype(np.uint16), settings))


DETECTORS: dict[str, Callable[[np.ndarray, dict], Rows]] = {
    "blob_log float64": lambda pixels, search: blob_log(pixels.astype(np.float64), **search),
    REFERENCE: lambda pixels, search: blob_log(pixels, **search),
    "find_blobs exact": lambda pixels, search: places(blobs.find_blobs(pixels, **search)),
    "find_blobs fast": lambda pixels, search: places(blobs.find_blobs(pixels, method="fast", **search)),
    "detect_image (normalises)": by_detect_image,
    "OpenCV SimpleBlobDetector": by_simple_blob_detector,
    "dask-image LoG, unpruned": by_dask_image,
    "trackpy.locate, one scale": by_trackpy,
}
SHORT = (REFERENCE, "find_blobs exact", "find_blobs fast")


def on_gpu() -> dict[str, Callable[[np.ndarray, dict], Rows]]:
    """Detectors on a CUDA device, each from a host array to host rows; RuntimeError where there is no device."""
    to_device(np.zeros(1), "cuda")
    from cucim.skimage.feature import blob_log as by_cucim

    return {
        "cucim blob_log float32": lambda pixels, search: to_host(by_cucim(to_device(pixels, "cuda"), **search)),
        "find_blobs cupy": lambda pixels, search: places(blobs.find_blobs(to_device(pixels, "cuda"), **search)),
        "find_blobs cupy, unpruned": lambda pixels, search: places(
            blobs.find_blobs(to_device(pixels, "cuda"), **search | {"overlap": None})
        ),
        "find_blobs fast, cupy": lambda pixels, search: places(
            blobs.find_blobs(to_device(pixels, "cuda"), method="fast", **search)
        ),
        "find_blobs fast (CPU)": DETECTORS["find_blobs fast"],
    }


def sigmas_of(search: dict) -> np.ndarray:
    return scales.compute_sigmas(
        search["min_sigma"], search["max_sigma"], search["num_sigma"], search.get("log_scale", False)
    )


def n_matched(a: np.ndarray, b: np.ndarray, sigmas: np.ndarray) -> int:
    """Blobs that belong together one to one, within 1 px and one scale step."""
    if len(a) == 0 or len(b) == 0:
        return 0
    near = cKDTree(a[:, :2]).sparse_distance_matrix(cKDTree(b[:, :2]), 1 + 1e-9, output_type="coo_matrix")
    step = [np.interp(rows[:, 2], sigmas, np.arange(len(sigmas))) for rows in (a, b)]
    keep = abs(step[0][near.row] - step[1][near.col]) <= 1 + 1e-6
    graph = coo_array((np.ones(keep.sum()), (near.row[keep], near.col[keep])), shape=(len(a), len(b))).tocsr()
    return int((maximum_bipartite_matching(graph) >= 0).sum())


def timed(detectors: dict, pixels: np.ndarray, search: dict, rounds: int) -> dict[str, dict]:
    """Seconds of each of `detectors`, alternating, median of `rounds`; what it found; or why it could not run.

    `first` is the time of the first round: on a GPU kernels are compiled in it, unless they lie in cupy's cache.
    """
    table = {}
    ready = {}
    for name, function in detectors.items():
        try:
            function(pixels[:64, :64], search | {"max_sigma": 6})  # compiles, loads
            ready[name] = function
        except ImportError as error:
            table[name] = {"missing": str(error)}
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    results = {}
    for _ in range(rounds):
        for name, function in ready.items():
            start = time.perf_counter()
            results[name] = function(pixels, search)
            seconds[name].append(time.perf_counter() - start)
    for name in ready:
        times = seconds[name]
        table[name] = {"seconds": median(times[1:] or times), "first": times[0]}
        table[name] |= {"n_blobs": len(results[name]), "rows": results[name]}
    return {name: table[name] for name in detectors}


def compared(table: dict[str, dict], reference: str, sigmas: np.ndarray, megapixels: float) -> dict[str, dict]:
    """`table` with ms per megapixel, the ratio of medians, and the fractions matched both ways, without the rows."""
    base = table[reference]
    out = {}
    for name, row in table.items():
        if "missing" in row:
            out[name] = row
            continue
        n = n_matched(base["rows"], row["rows"], sigmas)
        out[name] = {
            "ms_per_megapixel": 1e3 * row["seconds"] / megapixels,
            "first_ms_per_megapixel": 1e3 * row["first"] / megapixels,
            "times_faster": base["seconds"] / row["seconds"],
            "n_blobs": row["n_blobs"],
            "n_matched": n,
            "reference_matched": n / max(1, base["n_blobs"]),
            "own_matched": n / max(1, row["n_blobs"]),
        }
    return out


def peak_memory(name: str, size: int, log_scale: bool) -> int | None:
    """Peak resident memory (bytes) of detector `name` on a scene, in a fresh process, less that before the call."""
    command = [sys.executable, "-m", "benchmarks.bench_log", "--size", str(size), "--measure-memory", name]
    process = subprocess.run(command + ["--log-scale"] * log_scale, capture_output=True, text=True)
    return int(process.stdout) if process.returncode == 0 else None


def measure_memory(name: str, size: int, search: dict) -> int:
    """Peak less resident memory, by Linux's high-water mark: getrusage's would count the process that started this."""
    pixels = normalise(scene(size), 1, 99)
    DETECTORS[name](pixels[:64, :64].copy(), search | {"max_sigma": 6})
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is resident now
    before = high_water()
    DETECTORS[name](pixels, search)
    return high_water() - before


def high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def costs(rounds: int, largest: int) -> dict[str, dict]:
    """ms per megapixel of the three searches against image size, number of scales and largest scale."""
    selection = {name: DETECTORS[name] for name in SHORT}
    results: dict[str, dict] = {"size_px": {}, "num_sigma": {}, "max_sigma": {}}
    cases = [("size_px", n, n, {}) for n in (256, 512, 1024, 2048, 4096) if n <= largest]
    cases += [("num_sigma", n, 1024, {"num_sigma": n}) for n in (5, 10, 20, 40)]
    cases += [("max_sigma", n, 1024, {"max_sigma": n}) for n in (8, 15, 30, 60)]
    for axis, value, size, change in cases:
        pixels = normalise(scene(size), 1, 99)
        table = timed(selection, pixels, SEARCH | {"log_scale": True} | change, rounds if size < 2048 else 1)
        results[axis][value] = {name: 1e3 * row["seconds"] / pixels.size * 1e6 for name, row in table.items()}
    return results


def images_of(folders: list[Path], most: int) -> dict[str, np.ndarray]:
    """Grey float32 images of `folders`, normalised, at most `most` a folder, evenly chosen."""
    results = {}
    for folder in folders:
        paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff")]
        for path in paths[:: max(1, -(-len(paths) // most))]:
            pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
            if pixels is not None:
                results[f"{folder.parent.name}/{path.name}"] = normalise(pixels, 1, 99)
    return results


def pooled(images: dict[str, np.ndarray], detectors: dict, search: dict, reference: str) -> dict[str, dict]:
    """`compared` over all of `images`, each searched once: times and counts summed."""
    total: dict[str, dict] = {}
    for pixels in images.values():
        for name, row in timed(detectors, pixels, search, 1).items():
            sums = total.setdefault(name, {"seconds": 0.0, "first": 0.0, "n_blobs": 0, "parts": []})
            sums["seconds"] += row["seconds"]
            sums["first"] += row["first"]
            sums["n_blobs"] += row["n_blobs"]
            sums["parts"].append(row["rows"])
    # Images are laid far apart, so that blobs of different ones never match.
    for sums in total.values():
        sums["rows"] = np.concatenate([rows + np.array([1e6 * n, 0, 0]) for n, rows in enumerate(sums.pop("parts"))])
    megapixels = sum(pixels.size for pixels in images.values()) / 1e6
    return compared(total, reference, sigmas_of(search), megapixels)


def show(title: str, table: dict[str, dict]) -> None:
    print(f"\n{title}")
    print(
        f"{'':<28}{'ms/Mpx':>9}{'first':>9}{'faster':>9}{'blobs':>8}{'of reference':>14}{'of own':>12}{'peak MiB':>10}"
    )
    for name, row in table.items():
        if "missing" in row:
            print(f"{name:<28} not measured: {row['missing']}")
            continue
        memory = f"{row['peak_bytes'] / 2**20:10.1f}" if row.get("peak_bytes") is not None else ""
        matched = f"{row['reference_matched']:14.4f}{row['own_matched']:12.4f}"
        pace = f"{row['ms_per_megapixel']:9.1f}{row['first_ms_per_megapixel']:9.1f}{row['times_faster']:8.1f}x"
        print(f"{name:<28}{pace}{row['n_blobs']:8d}{matched}{memory}")


def show_costs(found: dict[str, dict]) -> None:
    for axis, rows in found.items():
        print(f"\nms per megapixel against {axis}")
        for value, row in rows.items():
            print(f"{value:>8}" + "".join(f"{name:>22} {ms:8.1f}" for name, ms in row.items()))


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=int, default=1024, help="height and width of the drawn scene, px")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--images", type=Path, nargs="+", default=[], help="folders of real images")
    options.add_argument("--most", type=int, default=8, help="images of a folder")
    options.add_argument("--no-memory", action="store_true", help="leave out the peak memory, a process a detector")
    options.add_argument("--costs", action="store_true", help="also against size, number of scales and largest scale")
    options.add_argument("--largest", type=int, default=4096, help="largest image of --costs, px")
    options.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    options.add_argument("--log-scale", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--measure-memory", metavar="NAME", help=argparse.SUPPRESS)
    return options


def main() -> None:
    options = parser().parse_args()
    cv2.setNumThreads(1)
    if options.measure_memory:
        print(measure_memory(options.measure_memory, options.size, SEARCH | {"log_scale": options.log_scale}))
        return
    detectors = DETECTORS
    reference = REFERENCE
    if options.device == "cuda":
        try:
            detectors = on_gpu()
        except (RuntimeError, ImportError) as error:
            sys.exit(f"bench_log: {error}")
        reference = "cucim blob_log float32"
    pixels = normalise(scene(options.size), 1, 99)
    figures = {"machine": f"{platform.machine()}, {platform.platform()}", "size_px": options.size, "search": SEARCH}
    memory = {}
    if options.device == "cpu" and not options.no_memory:
        memory = {name: peak_memory(name, options.size, False) for name in detectors}
    for spacing in ("linear", "log"):
        search = SEARCH | {"log_scale": spacing == "log"}
        table = compared(
            timed(detectors, pixels, search, options.rounds), reference, sigmas_of(search), pixels.size / 1e6
        )
        for name in memory:
            table[name]["peak_bytes"] = memory[name]
        figures[f"scene_{spacing}"] = table
        title = f"scene of {options.size} x {options.size} px, sigma 2...15 in 10 {spacing} steps, one thread"
        show(f"{title}, reference {reference}", table)
        if options.device == "cpu":
            # Which of two overlapping blobs goes depends on the order of a Python set, which a single blob more or less
            # changes: how far pruned sets can agree "blob_log float64" above shows; the searches themselves, this.
            short = {name: detectors[name] for name in SHORT}
            table = compared(timed(short, pixels, search | {"overlap": 1.0}, 1), reference, sigmas_of(search), 1.0)
            figures[f"scene_{spacing}_before_pruning"] = table
            show(f"the same before pruning, {spacing} steps", table)
    images = images_of(options.images, options.most)
    for spacing in ("linear", "log") if images else ():
        search = SEARCH | {"log_scale": spacing == "log"}
        short = {name: function for name, function in detectors.items() if name in SHORT or options.device == "cuda"}
        for overlap, what in ((0.5, "pruned"), (1.0, "before pruning")):
            table = pooled(images, short, search | {"overlap": overlap}, reference)
            figures[f"images_{spacing}_{what.replace(' ', '_')}"] = table
            show(f"{len(images)} real images, {spacing} steps, {what}", table)
    if options.costs and options.device == "cpu":
        figures["costs"] = costs(max(1, options.rounds // 2), options.largest)
        show_costs(figures["costs"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
