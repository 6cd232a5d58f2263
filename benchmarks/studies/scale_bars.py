"""Scale bars of EMPS: which are read, and which are read wrongly.

python -m benchmarks.studies.scale_bars [--folds 0 1 2]

emps_scale_bars.csv has the length in nm at each bar, as read by eye, and the length of the bar in px where it was
measured on enlarged cut-outs (fold 0; empty elsewhere). `kind` is "bar", or "no length" for a bar without one. Images
that are not listed have no bar. A bar is read if its length is right and, where its px are known, the pixel size is
within 3 %. Limits of confidence were chosen on drawn bars.
"""

import argparse
import csv
import math
from pathlib import Path

import cv2

from benchmarks.studies.real_sets import N_FOLDS, read_labelled_sets
from emqa_dask.archive.scale_bar.reading import read_scale_bar

TRUTH = Path(__file__).parent / "emps_scale_bars.csv"
TOLERANCE = 0.03  # of the pixel size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)))
    options = parser.parse_args()
    with TRUTH.open(encoding="utf-8", newline="") as stream:
        truth = {row["image"]: row for row in csv.DictReader(stream)}
    counts = dict.fromkeys(("images", "bars", "read", "wrong"), 0)
    for image in read_labelled_sets():
        if image.dataset != "emps" or image.fold not in options.folds:
            continue
        row = truth.get(image.name, {"length_nm": "", "bar_px": ""})
        reading = read_scale_bar(cv2.imread(str(image.path), cv2.IMREAD_GRAYSCALE))
        is_right = is_read_correctly(reading.nm_per_pixel, reading.description, row)
        counts["images"] += 1
        counts["bars"] += row["length_nm"] != ""
        counts["read"] += is_right
        counts["wrong"] += reading.nm_per_pixel > 0 and not is_right
        if row["length_nm"] and not is_right:
            print(image.name, row["length_nm"], row["bar_px"], reading.description or "no bar", flush=True)
    print(counts)


def is_read_correctly(nm_per_pixel: float, description: str, row: dict[str, str]) -> bool:
    """Whether the length that was read is that of `row`, and the pixel size too where the bar was measured."""
    if math.isnan(nm_per_pixel) or not row["length_nm"]:
        return False
    read_px = float(description.rsplit(" on ", 1)[1].removesuffix(" px"))
    length_nm = float(row["length_nm"])
    true_px = float(row["bar_px"] or read_px)
    return math.isclose(nm_per_pixel * read_px, length_nm, rel_tol=0.005) and abs(read_px / true_px - 1) <= TOLERANCE


if __name__ == "__main__":
    main()
