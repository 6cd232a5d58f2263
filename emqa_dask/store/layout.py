"""Locations of all files in a workspace, and names of stacks and of folders with parts."""

import math
import re

import numpy as np

from emqa_dask.store import files


def catalog_uri(root: str) -> str:
    return files.join(root, "catalog.parquet")


def micrographs_uri(root: str) -> str:
    return files.join(root, "micrographs.parquet")


def micrographs_copy_uri(root: str) -> str:
    """Second copy of the ledger, because the ledger cannot be made from other files."""
    return files.join(root, "micrographs-copy.parquet")


def damaged_folder(root: str) -> str:
    """Folder into which damaged files are moved."""
    return files.join(root, "damaged")


def stacks_folder(root: str) -> str:
    return files.join(root, "micrographs.zarr")


def stack_folder(root: str, name: str) -> str:
    return files.join(root, "micrographs.zarr", name)


def name_table_folder(stage: str, digest: str = "") -> str:
    """Name of the folder of a stage's parts: "detections-3fa2c1d0", or just "thumbnails" without a digest."""
    return f"{stage}-{digest}" if digest else stage


PART_FOLDER_PREFIXES = (
    *("thumbnails", "detections", "evidence", "features", "predictions", "probabilities", "regions"),
    *("classifications", "survey", "failures", "events.parquet"),
)


def list_table_folders(root: str) -> list[str]:
    """Names of the folders with parts in a workspace, for all settings."""
    return [name for name in files.list_names(root) if name.split("-")[0] in PART_FOLDER_PREFIXES]


def part_uri(root: str, table: str, name: str) -> str:
    return files.join(root, table, f"{name}.parquet")


def triage_uri(root: str) -> str:
    return files.join(root, "triage.parquet")


def triage_csv_uri(root: str) -> str:
    return files.join(root, "triage.csv")


def flags_uri(root: str) -> str:
    return files.join(root, "flags.parquet")


def drifts_uri(root: str) -> str:
    return files.join(root, "drifts.parquet")


def sessions_uri(root: str) -> str:
    return files.join(root, "sessions.parquet")


def failures_uri(root: str) -> str:
    return files.join(root, "failures.parquet")


def events_uri(root: str) -> str:
    return files.join(root, "events.parquet")


def provenance_uri(root: str) -> str:
    return files.join(root, "provenance.json")


def settings_uri(root: str) -> str:
    return files.join(root, "settings.toml")


def report_uri(root: str) -> str:
    return files.join(root, "report", "index.html")


def name_stack(height_px: int, width_px: int, dtype: str, nm_per_pixel: float) -> str:
    """Name of the stack for micrographs of one shape, dtype and pixel size: "2048x2048-uint16-0.31nm".

    Pixel sizes that differ in their first six digits get different names; NaN, infinite, zero and negative ones are
    unknown: "nopx". Only letters, digits, ".", "-" and "x" occur, so that folders, keys and parts can have it.
    """
    size = float(nm_per_pixel) if nm_per_pixel is not None else math.nan
    scale = f"{size:.6g}nm".replace("+", "") if math.isfinite(size) and size > 0 else "nopx"
    return f"{int(height_px)}x{int(width_px)}-{np.dtype(dtype).name}-{scale}"


def parse_shape(name: str) -> tuple[int, int, str]:
    """(height, width, dtype) of a stack's micrographs, from its name."""
    height, width, dtype = re.match(r"(\d+)x(\d+)-([^-]+)-", name).groups()
    return int(height), int(width), dtype


def parse_pixel_size_nm(name: str) -> float:
    """Pixel size in nm of a stack, from its name; NaN for "nopx"."""
    match = re.search(r"-([0-9.e-]+)nm$", name)
    return float(match.group(1)) if match else math.nan
