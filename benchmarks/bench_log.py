"""How much faster the LoG detector is than skimage.feature.blob_log: one thread, alternating, ratio of medians."""

import argparse
import json
import platform
import time
from statistics import median

import cv2
import numpy as np
from skimage.feature import blob_log

from emqa_dask.detect import log, log_fast, scales
from emqa_dask.detect.normalise import normalise
from emqa_dask.settings import Detect

SEARCH = {"min_sigma": 2, "max_sigma": 20, "num_sigma": 10, "threshold": 0.1, "overlap": 0.5, "log_scale": True}


def scene(size: int, seed: int = 0) -> np.ndarray:
    """A uint16 image of `size` x `size` px with 1500 bright and dark disks per megapixel, a slope and noise."""
    rng = np.random.default_rng(seed)
    image = np.tile(np.linspace(0, 2000, size), (size, 1)) + 20000 + 1500 * rng.standard_normal((size, size))
    for _ in range(round(1500 * size**2 / 1e6)):
        radius, y, x = rng.uniform(3, 16), *rng.integers(0, size, 2)
        cv2.circle(image, (int(x), int(y)), int(radius), 20000 + float(rng.choice([-6000, 6000])), -1)
    return np.clip(image, 0, 65535).astype(np.uint16)


def parts(image: np.ndarray, rounds: int) -> dict[str, float]:
    """Median ms of each part of `detect_image`, bright and dark, at the searched scales."""
    pixels = normalise(image, 1, 99) - np.float32(0.5)
    sigmas = scales.sigma_list(2, 20, 10, True)
    found = log_fast.scale_maxima(pixels, sigmas, 0.1, "both")
    steps = {
        "normalise": lambda: normalise(image, 1, 99),
        "responses": lambda: list(log_fast.responses(pixels, sigmas)),
        "responses and maxima, bright": lambda: log_fast.scale_maxima(pixels, sigmas, 0.1, "bright"),
        "responses and maxima, both": lambda: log_fast.scale_maxima(pixels, sigmas, 0.1, "both"),
        "prune": lambda: log.pruned(found, sigmas, 0.5),
    }
    return {name: 1e3 * median(seconds(step) for _ in range(rounds)) for name, step in steps.items()}


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="height and width, px")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    image = scene(arguments.size)
    pixels = normalise(image, 1, 99)
    bright, both = (Detect(polarity=p, max_detections=10**6, **SEARCH) for p in ("bright", "both"))
    timed = {
        "blob_log float64": lambda: blob_log(pixels.astype(np.float64), **SEARCH),
        "blob_log float32": lambda: blob_log(pixels, **SEARCH),
        "find_blobs float32": lambda: log.find_blobs(pixels, **SEARCH),
        "detect_image bright": lambda: log.detect_image(image, bright),
        "detect_image both": lambda: log.detect_image(image, both),
    }
    for function in list(timed.values())[2:]:
        function()  # compiled code is loaded once a process
    rows: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(arguments.rounds):
        for name, function in timed.items():
            rows[name].append(seconds(function))
    megapixels = image.size / 1e6
    ms = {name: 1e3 * median(values) / megapixels for name, values in rows.items()}
    result = {
        "size_px": arguments.size,
        "machine": f"{platform.machine()}, {platform.platform()}",
        "n_blobs": len(timed["blob_log float32"]()),
        "n_detected_bright": len(timed["detect_image bright"]()),
        "ms_per_megapixel": ms,
        "times_faster_than_blob_log_float32": {n: ms["blob_log float32"] / v for n, v in ms.items()},
        "parts_ms_per_megapixel": {n: v / megapixels for n, v in parts(image, arguments.rounds).items()},
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{arguments.size} x {arguments.size} px, sigma 2...20 in 10 logarithmic steps, one thread, {result['machine']}"
    )
    print(f"bright blobs: {result['n_blobs']} by blob_log, {result['n_detected_bright']} by detect_image")
    for name, value in ms.items():
        print(f"{name:<32}{value:9.1f} ms/Mpx {result['times_faster_than_blob_log_float32'][name]:7.1f}x")
    for name, value in result["parts_ms_per_megapixel"].items():
        print(f"  {name:<30}{value:9.1f} ms/Mpx")


if __name__ == "__main__":
    main()
