"""Synthetic lots as folders for emqa study uncertainty: labelled fields, changed acquisitions, unseen lots.

python -m benchmarks.studies.lot_folders --out DIR [--lots 12] [--fields 12]
emqa study uncertainty DIR/labels.csv --shifted acquisition=DIR/acquisition --shifted new_class=DIR/new_class

DIR gets labels.csv with the fields of view of every lot, `acquisition` with fields of the same lots under another dose,
blur, detector or contrast, in subfolders named by lot, and `new_class` with fields of lots that have no label.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from emqa_dask.synthetic import textures

SHRUNK = 2  # a field of 256 px is recorded, 128 px of it are kept: 2 x 2 windows that share no pixel
FIELD_PX = 256
NM_PER_PIXEL = 100.0  # of the recording, the same for all lots: their grains have radii of 2.5 to 25 px


class Acquisition(NamedTuple):
    """What an operator sets; the same for all lots, as in the paper."""

    dose_e_per_px: float = 150.0
    blur_px: float = 0.7
    side_rad: float = np.pi / 2  # where the detector is
    gamma: float = 1.0  # of the image, about its mean


OWN = Acquisition()
CHANGED = {  # one setting each; the paper's is a new filament
    "dose": OWN._replace(dose_e_per_px=25.0),
    "blur": OWN._replace(blur_px=1.4),
    "detector": OWN._replace(side_rad=0.0),
    "contrast": OWN._replace(gamma=0.75),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lots", type=int, default=12)
    parser.add_argument("--fields", type=int, default=12, help="of each lot")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    lots = range(options.lots)
    rows = [
        {"uri": str(path.relative_to(options.out)), "label": path.parent.name}
        for path in write_fields(options.out / "fields", lots, options.fields, OWN, [options.seed, 0])
    ]
    pd.DataFrame(rows).to_csv(options.out / "labels.csv", index=False)
    for k, (name, acquisition) in enumerate(CHANGED.items(), start=1):
        write_fields(options.out / "acquisition" / name, lots, 1, acquisition, [options.seed, k])
    unseen = range(options.lots, options.lots + max(1, 2 * options.lots // 3))
    write_fields(options.out / "new_class", unseen, max(1, options.fields // 2), OWN, [options.seed, 9])


def write_fields(folder: Path, lots: range, n_fields: int, acquisition: Acquisition, seed: list[int]) -> list[Path]:
    """Paths of fields of view of each lot, as TIFF of 16 bits, in a subfolder named by the lot."""
    paths = []
    for lot in lots:
        place = folder / f"lot {lot:02d}"
        place.mkdir(parents=True, exist_ok=True)
        for k in range(n_fields):
            field = draw_field([*seed, lot, k], lot, acquisition)
            pixels = np.clip(np.rint(field * 10_000), 0, 65535).astype(np.uint16)  # a field's mean is about 1
            tifffile.imwrite(place / f"{k:02d}.tif", pixels)
            paths.append(place / f"{k:02d}.tif")
    return paths


def draw_field(seed: list[int], lot: int, acquisition: Acquisition) -> NDArray[np.float32]:
    """A field of view (128, 128) of a lot, mean about 1 before its gamma."""
    sample = textures.draw_texture(
        np.random.default_rng(seed), (FIELD_PX, FIELD_PX), lot=lot, nm_per_pixel=NM_PER_PIXEL, dtype="float32",
        exposure={"dose_e_per_px": acquisition.dose_e_per_px, "mtf_sigma_px": 0.4, "read_noise_e": 1.0},
        blur_px=acquisition.blur_px, side_rad=acquisition.side_rad,
    )  # fmt: skip
    side = FIELD_PX // SHRUNK
    image = cv2.resize(sample.image / sample.image.mean(), (side, side), interpolation=cv2.INTER_AREA)
    return np.maximum(image, 0) ** np.float32(acquisition.gamma)


if __name__ == "__main__":
    main()
