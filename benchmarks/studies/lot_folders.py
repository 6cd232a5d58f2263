"""Synthetic lots as folders for emqa study uncertainty: labelled fields, changed acquisitions, unseen lots.

python -m benchmarks.studies.lot_folders --out DIR [--lots 12] [--fields 12]
emqa study uncertainty DIR/labels.csv --shifted acquisition=DIR/acquisition --shifted new_class=DIR/new_class

DIR gets labels.csv with the fields of view of every lot, `acquisition` with fields of the same lots under another dose,
blur, detector or contrast, in subfolders named by lot, and `new_class` with fields of lots that have no label.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from benchmarks.studies import lot_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lots", type=int, default=12)
    parser.add_argument("--fields", type=int, default=12, help="of each lot")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    lots = range(given.lots)
    rows = [
        {"uri": str(path.relative_to(given.out)), "label": path.parent.name}
        for path in write_fields(given.out / "fields", lots, given.fields, lot_images.OWN, [given.seed, 0])
    ]
    pd.DataFrame(rows).to_csv(given.out / "labels.csv", index=False)
    for k, (name, acquisition) in enumerate(lot_images.CHANGED.items(), start=1):
        write_fields(given.out / "acquisition" / name, lots, 1, acquisition, [given.seed, k])
    unseen = range(given.lots, given.lots + max(1, 2 * given.lots // 3))
    write_fields(given.out / "new_class", unseen, max(1, given.fields // 2), lot_images.OWN, [given.seed, 9])


def write_fields(
    folder: Path, lots: range, n_fields: int, acquisition: lot_images.Acquisition, seed: list[int]
) -> list[Path]:
    """Paths of fields of view of each lot, as TIFF of 16 bits, in a subfolder named by the lot."""
    paths = []
    for lot in lots:
        place = folder / f"lot {lot:02d}"
        place.mkdir(parents=True, exist_ok=True)
        for k in range(n_fields):
            field = lot_images.draw_field([*seed, lot, k], lot, acquisition)
            pixels = np.clip(np.rint(field * 10_000), 0, 65535).astype(np.uint16)  # a field's mean is about 1
            tifffile.imwrite(place / f"{k:02d}.tif", pixels)
            paths.append(place / f"{k:02d}.tif")
    return paths


if __name__ == "__main__":
    main()
