"""Flags of real micrographs and of real pictures that are none, as triage raises them: a row per image.

python -m benchmarks.studies.real_flags --out FILE.csv [--pictures DIR]

Micrographs: every image of ../shared/data, read and measured by the functions that triage runs. A set is a folder
there; several detectors' formats are one set. Pictures: DIR/KIND/SOURCE/..., KIND being the flag that they should get,
e.g. photograph or plot; not distributed, since most packages with photographs state other licences than this one.
Printed: false junk and false flags per set of micrographs, and the junk among the pictures per kind and source.
"""

import argparse
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from benchmarks.studies.real_sets import DATA
from emqa_dask import tables
from emqa_dask.archive.entries import Entry
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.archive.survey import survey_file
from emqa_dask.featurise.images import image_features
from emqa_dask.settings import Settings
from emqa_dask.triage.flag_list import FLAGS
from emqa_dask.triage.flags import flag_images, join_image_columns

MICROGRAPH_FOLDERS = (
    *("ampis_powder", "arda_stem_np", "cosmic_background", "creme_loops", "deepsem_nanowires", "emps", "emps_more"),
    *("formats_more", "formats_rsciio", "msa_sintering", "uw_cavity", "uw_cavity_more"),
    *("uw_loops", "uw_loops_more", "uw_loops_more_b"),
)
WINDOW_FILES = ("loop_vs_none.npz", "sources.npz")  # of patches64: windows of the images above
MICROGRAPH = "micrograph"  # the kind of the images of DATA
N_WINDOWS = 150  # of each of WINDOW_FILES, evenly spaced


class ImageFile(NamedTuple):
    """An image of the study."""

    kind: str  # MICROGRAPH, or the flag that the picture should get
    dataset: str  # folder of DATA, or the source of the picture
    path: Path


def list_micrographs(data: Path = DATA) -> list[ImageFile]:
    """The files of ../shared/data that may contain a micrograph; FileNotFoundError where it is absent."""
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: the real micrographs are not here; this study needs them")
    files = []
    for folder in MICROGRAPH_FOLDERS:
        directory = data / folder / "images"
        paths = sorted((directory if directory.is_dir() else data / folder).rglob("*"))
        files += [ImageFile(MICROGRAPH, folder, path) for path in paths if path.is_file()]
    return [file for file in files if file.path.suffix not in (".md", ".csv", ".json", ".zip", "")]


def list_pictures(directory: Path) -> list[ImageFile]:
    """The files of DIR/KIND/SOURCE/...."""
    paths = sorted(path for path in directory.rglob("*.*") if path.is_file())
    parts = [path.relative_to(directory).parts for path in paths]
    return [ImageFile(part[0], part[1], path) for part, path in zip(parts, paths, strict=True)]


def write_windows(directory: Path, data: Path = DATA) -> list[ImageFile]:
    """Windows of patches64 as files in `directory`."""
    files = []
    for name in WINDOW_FILES:
        with np.load(data / "patches64" / name) as arrays:
            windows = arrays["X"]
        for k in np.linspace(0, len(windows) - 1, N_WINDOWS).astype(int):
            path = directory / f"{Path(name).stem}_{k:04d}.png"
            cv2.imwrite(str(path), windows[k])
            files.append(ImageFile(MICROGRAPH, "patches64", path))
    return files


def write_packed(directory: Path, data: Path = DATA) -> list[ImageFile]:
    """The micrograph that formats_rsciio has in a zip file, unpacked into `directory`."""
    archive = data / "formats_rsciio" / "tiff" / "tiff_FEI_Helios.zip"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(directory)
        return [ImageFile(MICROGRAPH, "formats_rsciio", directory / name) for name in packed.namelist()]


def measure_file(file: ImageFile) -> Iterator[tuple[dict, dict]]:
    """(row of tables.MICROGRAPHS, row of tables.FEATURES) of every micrograph in a file; none where it has none."""
    _, rows = survey_file(Entry(file.path.name, str(file.path)), Settings().archive)
    for row in rows:
        image, _ = read_micrograph(file.path, row["frame"])
        yield (
            row,
            {"micrograph_id": row["micrograph_id"], **image_features(image, colour_fraction=row["colour_fraction"])},
        )


def flag_files(files: list[ImageFile]) -> pd.DataFrame:
    """A row per image: kind, dataset, name, frame, the value of every flag that it has (NaN without), statistics."""
    parts = []
    for number, file in enumerate(files):
        for row, features in measure_file(file):
            micrographs = pd.DataFrame([row])
            joined = join_image_columns(tables.conform([features], tables.FEATURES).to_pandas(), micrographs)
            values = flag_images(joined).groupby("flag")["value"].first()
            columns = {"kind": file.kind, "dataset": file.dataset, "name": file.path.name, "frame": row["frame"]}
            columns |= {f"flag_{flag.code}": values.get(flag.code, np.nan) for flag in FLAGS}
            columns |= {"has_imaging_conditions": joined["has_imaging_conditions"].iloc[0], "colour": row["colour"]}
            parts.append(columns | {name: features[name] for name in tables.IMAGE_STATISTICS})
        if number % 50 == 0:
            print(f"{number} of {len(files)} files", flush=True)
    return pd.DataFrame(parts)


def summarise_flags(table: pd.DataFrame) -> pd.DataFrame:
    """Per kind and dataset: the number of images, the percentage of them with any junk flag, and with every flag."""
    codes = list(dict.fromkeys(flag.code for flag in FLAGS))
    junk_codes = dict.fromkeys(flag.code for flag in FLAGS if flag.verdict == "junk")
    raised = table[[f"flag_{code}" for code in codes]].notna().set_axis(codes, axis=1)
    raised.insert(0, "junk", raised[list(junk_codes)].any(axis=1))
    groups = [table["kind"], table["dataset"]]
    rates = (100 * raised.groupby(groups).mean()).round(1)
    rates.insert(0, "images", raised.groupby(groups).size())
    return rates.loc[:, (rates != 0).any()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, help="folder KIND/SOURCE/... of pictures that are no micrographs")
    parser.add_argument("--only-pictures", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = list_pictures(options.pictures) if options.pictures else []
        if not options.only_pictures:
            files += [*list_micrographs(), *write_windows(Path(folder)), *write_packed(Path(folder))]
        table = flag_files(files)
    table.to_csv(options.out, index=False)
    with pd.option_context("display.width", 250, "display.max_columns", None, "display.max_rows", None):
        print(summarise_flags(table).to_string())


if __name__ == "__main__":
    main()
