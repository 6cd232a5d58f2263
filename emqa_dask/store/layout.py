"""Locations of all files in a workspace, and names of stacks and of folders with parts."""

import math
import re
from dataclasses import dataclass

import numpy as np

from emqa_dask.store import files


def name_table_folder(table_name: str, digest: str = "") -> str:
    """Name of the folder of a stage's parts: "detections-3fa2c1d0", or just "thumbnails" without a digest."""
    return f"{table_name}-{digest}" if digest else table_name


PART_FOLDER_PREFIXES = (
    *("thumbnails", "detections", "embeddings", "evidence", "features", "predictions", "probabilities"),
    *("regions", "classifications", "measurements", "sizes", "tiles", "custom_checks", "survey", "failures"),
    "events.parquet",
)


@dataclass(frozen=True)
class Workspace:
    """The folder or bucket with all results of an archive; its properties are the URIs of what lies in it."""

    uri: str

    @property
    def catalog(self) -> str:
        """Table of files, tables.CATALOG."""
        return files.join(self.uri, "catalog.parquet")

    @property
    def micrographs(self) -> str:
        """Ledger of micrographs, tables.MICROGRAPHS."""
        return files.join(self.uri, "micrographs.parquet")

    @property
    def micrographs_copy(self) -> str:
        """Second copy of the ledger, because the ledger cannot be made from other files."""
        return files.join(self.uri, "micrographs-copy.parquet")

    @property
    def triage(self) -> str:
        """Table of verdicts, tables.TRIAGE."""
        return files.join(self.uri, "triage.parquet")

    @property
    def triage_csv(self) -> str:
        """The table of verdicts for spreadsheets."""
        return files.join(self.uri, "triage.csv")

    @property
    def flags(self) -> str:
        """Table of image flags, tables.FLAGS."""
        return files.join(self.uri, "flags.parquet")

    @property
    def duplicate_groups(self) -> str:
        """Table of micrographs that show the same frame, tables.DUPLICATE_GROUPS."""
        return files.join(self.uri, "duplicate_groups.parquet")

    @property
    def alarms(self) -> str:
        """Table of the alarms of emqa watch, tables.ALARMS."""
        return files.join(self.uri, "alarms.parquet")

    @property
    def drifts(self) -> str:
        """Table of tests for drift, tables.DRIFTS."""
        return files.join(self.uri, "drifts.parquet")

    @property
    def sessions(self) -> str:
        """Table of sessions, tables.SESSIONS."""
        return files.join(self.uri, "sessions.parquet")

    @property
    def samples(self) -> str:
        """Table of the results of samples, tables.SAMPLES."""
        return files.join(self.uri, "samples.parquet")

    @property
    def estimates(self) -> str:
        """Table of the results of groups from labels, tables.ESTIMATES."""
        return files.join(self.uri, "estimates.parquet")

    @property
    def review_plan(self) -> str:
        """Table of the images to review, tables.REVIEW_PLAN."""
        return files.join(self.uri, "review_plan.parquet")

    @property
    def review_plan_csv(self) -> str:
        """The images to review for spreadsheets, in their order."""
        return files.join(self.uri, "review_plan.csv")

    @property
    def decisions(self) -> str:
        """Folder with the decisions of reviewers, a JSON file each."""
        return files.join(self.uri, "decisions")

    @property
    def detector_choices(self) -> str:
        """Table of the detectors chosen for sessions, tables.DETECTOR_CHOICES."""
        return files.join(self.uri, "detector_choices.parquet")

    @property
    def atom_overlays(self) -> str:
        """Folder with pictures of the types of atomic columns, one of each image."""
        return files.join(self.uri, "atom_overlays")

    @property
    def failures(self) -> str:
        """Table of failures, tables.FAILURES."""
        return files.join(self.uri, "failures.parquet")

    @property
    def events(self) -> str:
        """Folder with parts of tables.EVENTS."""
        return files.join(self.uri, "events.parquet")

    @property
    def provenance(self) -> str:
        """How the outputs were made, and their digests."""
        return files.join(self.uri, "provenance.json")

    @property
    def ro_crate(self) -> str:
        """RO-Crate metadata: what the files are, and what made them."""
        return files.join(self.uri, "ro-crate-metadata.json")

    @property
    def settings_file(self) -> str:
        """The settings of the last run."""
        return files.join(self.uri, "settings.toml")

    @property
    def report_page(self) -> str:
        """The page with the results."""
        return files.join(self.report_folder, "index.html")

    @property
    def report_folder(self) -> str:
        """Folder with the page and what it loads."""
        return files.join(self.uri, "report")

    @property
    def image_data_folder(self) -> str:
        """Folder with the data of the pages of images, a script for each partition."""
        return files.join(self.report_folder, "micrographs")

    @property
    def image_index(self) -> str:
        """Index of the data of the pages of images: what each file was made from, and its digest."""
        return files.join(self.uri, "report-images.json")

    def image_data(self, partition: str) -> str:
        """The data of the pages of the images of a partition."""
        return files.join(self.image_data_folder, f"{partition}.js")

    @property
    def pictures(self) -> str:
        """Folder with pictures of images at full resolution, a folder for each."""
        return files.join(self.report_folder, "pictures")

    @property
    def report_rows(self) -> str:
        """Folder with files that workers write for a report, which reads and deletes them."""
        return files.join(self.uri, "report-rows")

    @property
    def damaged(self) -> str:
        """Folder into which damaged files are moved."""
        return files.join(self.uri, "damaged")

    @property
    def stacks(self) -> str:
        """OME-Zarr group of all stacks."""
        return files.join(self.uri, "micrographs.zarr")

    def stack(self, name: str) -> str:
        """OME-Zarr image of one stack."""
        return files.join(self.stacks, name)

    def part(self, table_folder: str, name: str) -> str:
        """The part `name` in a folder of parts."""
        return files.join(self.uri, table_folder, f"{name}.parquet")

    def list_table_folders(self) -> list[str]:
        """Names of the folders with parts, for all settings."""
        return [name for name in files.list_names(self.uri) if name.split("-")[0] in PART_FOLDER_PREFIXES]


def name_stack(
    height_px: int, width_px: int, dtype: str, nm_per_pixel: float, nm_per_pixel_y: float | None = None
) -> str:
    """Name of the stack for micrographs of one shape, dtype and pixel size: "2048x2048-uint16-0.31nm".

    Where the pixel size along y is known and differs, both are in it, in the order of the shape (y, x):
    "2048x1024-uint16-0.31x0.62nm". Pixel sizes that differ in their first six digits get different names; NaN,
    infinite, zero and negative ones are unknown: "nopx". Only letters, digits, ".", "-" and "x" occur, so that folders,
    keys and parts can have it.
    """
    x = _format_size(nm_per_pixel)
    y = _format_size(nm_per_pixel_y) or x
    scale = "nopx" if not x else f"{x}nm" if x == y else f"{y}x{x}nm"
    return f"{int(height_px)}x{int(width_px)}-{np.dtype(dtype).name}-{scale}"


def _format_size(nm: float | None) -> str:
    """`nm` with six digits; "" where it is unknown."""
    size = float(nm) if nm is not None else math.nan
    return f"{size:.6g}".replace("+", "") if math.isfinite(size) and size > 0 else ""


def parse_shape(name: str) -> tuple[int, int, str]:
    """(height, width, dtype) of a stack's micrographs, from its name."""
    height, width, dtype = re.match(r"(\d+)x(\d+)-([^-]+)-", name).groups()
    return int(height), int(width), dtype


def parse_pixel_sizes_nm(name: str) -> tuple[float, float]:
    """Pixel sizes (y, x) in nm of a stack, from its name; NaN for "nopx"."""
    match = re.search(r"-(?:([0-9.e-]+)x)?([0-9.e-]+)nm$", name)
    if not match:
        return math.nan, math.nan
    y, x = match.groups()
    return float(y or x), float(x)
