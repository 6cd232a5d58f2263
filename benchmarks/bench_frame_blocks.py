"""Time to read stacks chunked over frames, against the same stacks chunked frame by frame.

    python -m benchmarks.bench_frame_blocks [--frames 64] [--side 1024] [--per-chunk 16] [--rounds 5]

Both kinds are written as HDF5 and Zarr with the same compression and bytes per chunk, and read in turn in one process:
as the survey does (hash and decode every frame) and as the storage does (row windows of every frame). The medians of
the processor times and their ratio are printed; the project's limit for the ratio is 1.5.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import zarr

from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.pipeline.tasks.store_partition import read_row_windows, read_window
from emqa_dask.settings import Archive

SIDE_OF_CHUNK_PX = 64  # of a chunk over frames; 256 of one of a single frame: 16 frames have equal bytes


def make_stack(n_frames: int, side: int) -> np.ndarray:
    """Noise on a slope, which compresses as micrographs do."""
    rng = np.random.default_rng(0)
    slope = np.linspace(2000, 12000, side, dtype=np.float32)
    frames = (slope + rng.normal(0, 60, (side, side)).astype(np.float32) for _ in range(n_frames))
    return np.stack([frame.astype(np.uint16) for frame in frames])


def write_pair(folder: Path, name: str, stack: np.ndarray, frames_per_chunk: int) -> tuple[Path, Path]:
    """The stack in one format, chunked frame by frame and over frames."""
    paths = []
    for kind in ("frames", "blocks"):
        side = 256 if kind == "frames" else SIDE_OF_CHUNK_PX
        chunks = (1 if kind == "frames" else frames_per_chunk, side, side)
        if name.startswith("HDF5"):
            path = folder / f"{name.replace(' ', '_')}_{kind}.h5"
            with h5py.File(path, "w") as file:
                compression = None if name == "HDF5 none" else name.split()[1]
                file.create_dataset("stack", data=stack, chunks=chunks, compression=compression)
        else:
            path = folder / f"{name.replace(' ', '_')}_{kind}.zarr"
            zarr_format = int(name.split()[1])
            array = zarr.create_array(
                str(path), shape=stack.shape, dtype="uint16", chunks=chunks, zarr_format=zarr_format
            )
            array[:] = stack
        paths.append(path)
    return paths[0], paths[1]


def survey(path: Path) -> list[str]:
    """Checksums of all frames, as the survey computes them."""
    (entry,) = scan_archive(path)
    row, micrographs = survey_file(entry, Archive())
    if row["status"] != "ok":
        raise SystemExit(f"{path.name}: {row['reason']}")
    return [micrograph["pixel_sha256"] for micrograph in micrographs]


def make_store_reader(n_frames: int) -> Callable[[Path], list[str]]:
    """A function that reads all row windows as the storage of a partition does."""

    def read(path: Path) -> list[str]:
        for number in range(n_frames):
            for y0, y1 in read_row_windows(str(path), number):
                read_window(str(path), number, y0, y1)
        return []

    return read


def compare(paths: tuple[Path, Path], read: Callable[[Path], list[str]], n_rounds: int) -> tuple[float, float]:
    """Median seconds of processor time of both paths, read in turn."""
    seconds: dict[Path, list[float]] = {path: [] for path in paths}
    results = []
    for number in range(n_rounds):
        for path in paths if number % 2 else paths[::-1]:
            started = time.process_time()
            results.append(read(path))
            seconds[path].append(time.process_time() - started)
    if any(result != results[0] for result in results):
        raise SystemExit(f"{paths[0].name} and {paths[1].name} differ")
    return statistics.median(seconds[paths[0]]), statistics.median(seconds[paths[1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64, help="64")
    parser.add_argument("--side", type=int, default=1024, help="rows and columns of a frame (1024)")
    parser.add_argument("--per-chunk", type=int, default=16, help="frames in a chunk (16)")
    parser.add_argument("--rounds", type=int, default=5, help="5")
    arguments = parser.parse_args()
    stack = make_stack(arguments.frames, arguments.side)
    with tempfile.TemporaryDirectory(prefix="emqa-blocks-") as scratch:
        for name in ("HDF5 none", "HDF5 gzip", "HDF5 lzf", "Zarr 2", "Zarr 3"):
            paths = write_pair(Path(scratch), name, stack, arguments.per_chunk)
            for task, read in (("survey", survey), ("store", make_store_reader(arguments.frames))):
                single_s, block_s = compare(paths, read, arguments.rounds)
                print(f"{name:9} {task:6} by frames {single_s:6.2f} s, over frames {block_s:6.2f} s, "
                      f"ratio {block_s / single_s:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
