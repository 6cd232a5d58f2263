"""Where everything lies in a workspace, what stacks are called, and the marker that says whose workspace it is."""

import json
import math
import re

import numpy as np

from emqa_dask.settings import Settings, parse
from emqa_dask.store import files

FORMAT = 4  # of the workspace; a program refuses workspaces of another one
MARKER = "workspace.json"


def catalog(root: str) -> str:
    return files.join(root, "catalog.parquet")


def micrographs(root: str) -> str:
    return files.join(root, "micrographs.parquet")


def micrographs_copy(root: str) -> str:
    """A second copy of the ledger, which no other file can replace."""
    return files.join(root, "micrographs-copy.parquet")


def damaged(root: str) -> str:
    """Where damaged files are put aside."""
    return files.join(root, "damaged")


def stacks(root: str) -> str:
    return files.join(root, "micrographs.zarr")


def stack(root: str, name: str) -> str:
    return files.join(root, "micrographs.zarr", name)


def table_dir(stage: str, digest: str = "") -> str:
    """Name of the folder of a stage's parts: "detections-3fa2c1d0", or just "thumbnails" without a digest."""
    return f"{stage}-{digest}" if digest else stage


PARTED = ("thumbnails", "detections", "evidence", "features", "predictions", "probabilities", "regions")
PARTED += ("classifications", "survey", "failures", "events.parquet")  # how folders of parts begin


def table_folders(root: str) -> list[str]:
    """Names of the folders of parts in a workspace, of whatever settings."""
    return [name for name in files.names(root) if name.split("-")[0] in PARTED]


def part(root: str, table: str, name: str) -> str:
    return files.join(root, table, f"{name}.parquet")


def triage(root: str) -> str:
    return files.join(root, "triage.parquet")


def triage_csv(root: str) -> str:
    return files.join(root, "triage.csv")


def flags(root: str) -> str:
    return files.join(root, "flags.parquet")


def drifts(root: str) -> str:
    return files.join(root, "drifts.parquet")


def sessions(root: str) -> str:
    return files.join(root, "sessions.parquet")


def failures(root: str) -> str:
    return files.join(root, "failures.parquet")


def events(root: str) -> str:
    return files.join(root, "events.parquet")


def provenance(root: str) -> str:
    return files.join(root, "provenance.json")


def settings(root: str) -> str:
    return files.join(root, "settings.toml")


def report(root: str) -> str:
    return files.join(root, "report", "index.html")


def stack_name(height_px: int, width_px: int, dtype: str, nm_per_pixel: float) -> str:
    """Name of the stack for micrographs of one shape, dtype and pixel size: "2048x2048-uint16-0.31nm".

    Pixel sizes that differ in their first six digits get different names; NaN, infinite, zero and negative ones are
    unknown: "nopx". Only letters, digits, ".", "-" and "x" occur, so that it can be a folder, a key and a part's name.
    """
    size = float(nm_per_pixel) if nm_per_pixel is not None else math.nan
    scale = f"{size:.6g}nm".replace("+", "") if math.isfinite(size) and size > 0 else "nopx"
    return f"{int(height_px)}x{int(width_px)}-{np.dtype(dtype).name}-{scale}"


def shape_of(name: str) -> tuple[int, int, str]:
    """(height, width, dtype) of a stack's micrographs, which its name says."""
    height, width, dtype = re.match(r"(\d+)x(\d+)-([^-]+)-", name).groups()
    return int(height), int(width), dtype


def scale_of(name: str) -> float:
    """The pixel size in nm that a stack's name says; NaN for "nopx"."""
    found = re.search(r"-([0-9.e-]+)nm$", name)
    return float(found.group(1)) if found else math.nan


def claim(root: str, source: str) -> None:
    """Make `root` the workspace of archive `source`, or see that it already is.

    ValueError with the remedy for a folder that is not empty and not a workspace, a workspace of another archive or of
    a later format, and a file in its place.
    """
    fs, path = files.locate(root)
    if fs.isfile(path):
        raise ValueError(f"{root} is a file, not a folder: give another --workspace")
    marker = files.join(root, MARKER)
    if files.exists(marker):
        _check(root, source, files.read_bytes(marker))
    elif found := files.names(root):
        raise ValueError(
            f"{root} is not an emqa workspace and not empty (it has {found[0]!r}): "
            "give --workspace a new or an empty folder"
        )
    else:
        files.write_text(marker, json.dumps({"format": FORMAT, "source": source}, indent=2) + "\n")


def _check(root: str, source: str, marker: bytes) -> None:
    try:
        said = json.loads(marker)
        version, owner = int(said["format"]), str(said["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{root}/{MARKER} is damaged: give --workspace a new folder") from error
    if version > FORMAT:
        raise ValueError(f"{root} has workspace format {version}, this emqa knows {FORMAT}: update emqa_dask")
    if version < FORMAT:
        raise ValueError(f"{root} has workspace format {version}, of an older emqa_dask: give --workspace a new folder")
    if owner != source:
        raise ValueError(f"{root} belongs to {owner}, not to {source}: give --workspace another folder")


def is_workspace(root: str) -> bool:
    """Is `root` a workspace, of whatever archive?"""
    return files.exists(files.join(root, MARKER))


def settings_of(root: str) -> Settings:
    """The settings that the workspace was last run with; FileNotFoundError when it never was."""
    return parse(files.read_bytes(settings(root)).decode(), settings(root))


def source_of(root: str) -> str:
    """The archive whose workspace `root` is; ValueError when it is none."""
    marker = files.join(root, MARKER)
    if not files.exists(marker):
        raise ValueError(f"{root} is not an emqa workspace: there is no {MARKER} in it")
    return str(json.loads(files.read_bytes(marker))["source"])
