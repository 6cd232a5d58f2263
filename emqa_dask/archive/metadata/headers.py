"""Imaging conditions from the metadata of a file: pixel size, voltage, magnification, instrument, date, dose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emqa_dask.archive.metadata.values import clean_text

MAX_METADATA_DEPTH = 8  # levels of nested metadata that are kept
MAX_METADATA_CHARACTERS = 120  # of a text that is kept


@dataclass(frozen=True)
class Header:
    """Imaging conditions of a micrograph as its file states them; NaN or None for unknown ones."""

    nm_per_pixel: float = math.nan  # along x
    nm_per_pixel_y: float = math.nan  # along y; the same for square pixels
    nm_per_pixel_source: str = "none"  # header, sidecar, user, scale_bar, lattice or none
    pixel_size_problem: str | None = None  # why the pixel size may be wrong, one phrase
    voltage_kv: float = math.nan
    magnification: float = math.nan
    instrument: str | None = None
    acquired: str | None = None  # ISO 8601, as precise as the file gives it
    dose_e_per_nm2: float = math.nan
    stated_defocus_nm: float = math.nan  # negative for underfocus
    exposure_s: float = math.nan
    detector: str | None = None  # or the camera
    stage_x_um: float = math.nan
    stage_y_um: float = math.nan
    stage_z_um: float = math.nan
    tilt_deg: float = math.nan  # of the stage, about its first axis
    foreign: Mapping[str, Any] = field(default_factory=dict)


def get_entry(tree: Any, path: str) -> Any:
    """The value at a dotted `path` of nested mappings; None when there is none."""
    for name in path.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def get_first_entry(tree: Any, *paths: str) -> Any:
    """The first value at one of the dotted `paths` that exists and is not empty."""
    return next((v for v in (get_entry(tree, p) for p in paths) if v is not None and v != ""), None)


def flatten_metadata(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested foreign metadata as flat {dotted name: number, bool or text of at most 120 characters}, without arrays."""
    flat_metadata: dict[str, Any] = {}
    if not isinstance(tree, Mapping) or depth > MAX_METADATA_DEPTH:
        return flat_metadata
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat_metadata.update(flatten_metadata(value, f"{name}.", depth + 1))
        elif (scalar := _to_scalar(value)) is not None:
            flat_metadata[name] = scalar
    return flat_metadata


def _to_scalar(value: Any) -> bool | int | float | str | None:
    """`value` as a Python number or short text; None for any other value."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.number) and not isinstance(value, np.complexfloating):
        return float(value) if math.isfinite(value) else None
    text = clean_text(value)
    return text if text and len(text) <= MAX_METADATA_CHARACTERS else None
