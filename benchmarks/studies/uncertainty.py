"""Whether an ensemble knows what it does not know, on real patches and on synthetic lots.

python -m benchmarks.studies.uncertainty --out DIR [--tasks patches lots] [--data patches64's folder]

`patches` are real: a loop or none, and which set a patch is from, with other instruments' images and photographs as
foreign ones (shifts.py, which has more tasks; DIR/shifts.json). `lots` is paper D's study with its three methods, on
synthetic textures (lots.py; DIR/lots.json). Training goes on where it was stopped.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
from pathlib import Path

import torch

from benchmarks.studies import lots, shifts

OF_PATCHES = ("loops", "without_particles_em")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "../shared/data")
    parser.add_argument("--tasks", nargs="+", default=["patches", "lots"], choices=["patches", "lots"])
    lots.add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if "patches" in options.tasks:
        shifts.main(["--out", str(options.out), "--data", str(options.data), "--tasks", *OF_PATCHES])
    if "lots" in options.tasks:
        lots.study(options)


if __name__ == "__main__":
    main()
