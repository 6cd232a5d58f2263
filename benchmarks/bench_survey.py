"""Time of the survey of an archive: hash and decode every file, in one process that has its imports.

    python -m benchmarks.bench_survey [FOLDER] [--files 1000] [--before CHECKOUT] [--rounds 5]

Without FOLDER an archive of ordinary files is synthesised. With --before, the same survey also runs with the package of
another checkout (a folder with `emqa_dask/`), alternating, and the ratio of the times is printed for each round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SURVEY = """
import sys, time
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive
settings = Archive()
n_images = n_pixels = 0
entries = list(scan_archive(sys.argv[1]))
for entry in entries[::10]:  # imports, once per worker
    survey_file(entry, settings)
started = time.process_time()
for entry in entries:
    row, micrographs = survey_file(entry, settings)
    n_images += len(micrographs)
    n_pixels += sum(m["height_px"] * m["width_px"] for m in micrographs)
print(time.process_time() - started, n_images, n_pixels)
"""


def time_survey(folder: Path, checkout: Path) -> tuple[float, int, float]:
    """Seconds of processor time, number of images and megapixels of a survey by the package in `checkout`."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", SURVEY, str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=checkout).stdout
    seconds, n_images, n_pixels = output.split()
    return float(seconds), int(n_images), int(n_pixels) / 1e6


def synthesise(folder: Path, n_files: int) -> Path:
    """An archive of ordinary files below `folder`."""
    command = [sys.executable, "-m", "emqa_dask", "synthesise", str(folder / "archive"), "--n", str(n_files)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder / "archive"


def compare(folder: Path, before: Path | None, n_rounds: int) -> None:
    """Prints a line per round, and the medians."""
    ratios = []
    times = []
    for number in range(n_rounds):
        order = [before, ROOT] if number % 2 else [ROOT, before]
        seconds = {checkout: time_survey(folder, checkout) for checkout in order if checkout is not None}
        own_seconds, n_images, megapixels = seconds[ROOT]
        times.append(own_seconds)
        line = f"{own_seconds:.2f} s, {n_images} images, {1000 * own_seconds / megapixels:.1f} ms per megapixel"
        if before is not None:
            ratios.append(own_seconds / seconds[before][0])
            line += f"; before {seconds[before][0]:.2f} s, {seconds[before][1]} images, ratio {ratios[-1]:.3f}"
        print(line, flush=True)
    print(f"median {statistics.median(times):.2f} s" + (f", ratio {statistics.median(ratios):.3f}" if ratios else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--files", type=int, default=1000, help="micrographs to synthesise (1000)")
    parser.add_argument("--before", type=Path, help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="5")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emqa-survey-") as scratch:
        folder = arguments.folder or synthesise(Path(scratch), arguments.files)
        compare(folder.resolve(), arguments.before and arguments.before.resolve(), arguments.rounds)
    print(f"took {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
