"""Time of the image statistics and thumbnails per image and per part, on one thread.

python -m benchmarks.bench_features                                drawn uint16 images of 1024, 2048 and 4096 px
python -m benchmarks.bench_features --images ../shared/data/emps/images
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from emqa_dask.featurise import foreign, image_parts, images, overlays
from emqa_dask.store import thumbnails
from emqa_dask.synthetic.profiles import make_sample

PARTS = {
    image_parts: ("_clean_image", "count_levels", "count_statistics", "count_impulses", "compute_image_periodogram"),
    images: (
        "split_image",
        "compute_tones",
        "summarise_power",
        "encode_signature",
        "draw_thumbnail",
        "estimate_picture_kinds",
    ),
    overlays: (
        "make_view",
        "measure_banner_rows",
        "measure_acquired_share",
        "find_edge_runs",
        "find_scale_bar",
        "count_stripes",
    ),
    foreign: ("diffraction_statistics", "scene_statistics"),
}


def measure_calls(function: Callable, times: list[float]) -> Callable:
    """`function`, the time of whose calls on this thread is added to `times`, in ms."""

    def measured(*arguments, **options):
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            times.append(1e3 * (time.thread_time() - start))

    return measured


def draw_images(side_px: int, n: int) -> list[np.ndarray]:
    """`n` uint16 images of `side_px`, a multiple of 1024 px, of particles."""
    samples = [make_sample("nanoparticle-tem", np.random.default_rng(k), shape=(1024, 1024)).image for k in range(n)]
    return [np.tile(image.astype(np.uint16), (side_px // 1024, side_px // 1024)) for image in samples]


def report_times(name: str, pictures: list[np.ndarray], n_rounds: int) -> None:
    """Prints the median over the rounds of the time of an image, and of its parts."""
    times: dict[str, list[float]] = defaultdict(list)
    originals = {(module, part): getattr(module, part) for module, parts in PARTS.items() for part in parts}
    compute = measure_calls(images.image_features, times["image_features"])
    draw = measure_calls(thumbnails.make_thumbnail, times["make_thumbnail"])
    compute_together = measure_calls(images.compute_features_of_images, times["compute_features_of_images"])
    images.compute_features_of_images(pictures)  # the first call loads what numba compiled, and the network
    for _ in range(n_rounds):
        compute_together(pictures)
    try:
        for (module, part), function in originals.items():
            setattr(module, part, measure_calls(function, times[part]))
        for _ in range(n_rounds):
            for picture in pictures:
                compute(picture)
                draw(picture)
    finally:
        for (module, part), function in originals.items():
            setattr(module, part, function)
    megapixels = median(picture.size for picture in pictures) / 1e6
    print(f"{name}: {len(pictures)} images, median {megapixels:.2f} Mpx; ms per image and per Mpx")
    for part, values in times.items():
        cost = median(np.array(values).reshape(n_rounds, -1).sum(axis=1)) / len(pictures)
        print(f"  {part:<30}{cost:8.2f}{cost / megapixels:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="*", help="folders of images; without, images are drawn")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 2048, 4096], help="px, of drawn images")
    parser.add_argument("--n", type=int, default=3, help="images of each size or folder")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.images:
        for folder in options.images:
            paths = sorted(path for path in folder.iterdir() if path.is_file())[: options.n]
            pictures = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) for path in paths]
            report_times(folder.name, [picture for picture in pictures if picture is not None], options.rounds)
        return
    for side_px in options.sizes:
        report_times(f"{side_px} px", draw_images(side_px, options.n), options.rounds)


if __name__ == "__main__":
    main()
