"""Palettes of indexed images: a ramp of grey, a look-up table of intensities, or a list of colours."""

from typing import NamedTuple

import numpy as np

from emqa_dask.archive.colour.luma import COLOURED, compute_chroma, convert_to_luma
from emqa_dask.archive.colour.maps import find_table

MIN_COLOURS = 32  # of a look-up table; shorter palettes list colours
_SMALL_STEP = 24  # sum of the channels' differences of neighbours, 8 bit; above: a jump
_MAX_JUMPS = 0.1  # of the neighbours in a look-up table of continuous colours
_MIN_PATH = 100  # sum of all steps; below: the colours are nearly alike
_MAX_STEPS = 40  # of a look-up table of flat steps


class Palette(NamedTuple):
    """What the pixels of an indexed image become: its indices for a look-up table, else the colours of `values`."""

    values: np.ndarray | None  # (n,) intensities or (n, 3) colours; None: the indices are the intensities
    colour_map: str  # the name of the look-up table, or ""


def interpret_palette(table: np.ndarray) -> Palette:
    """The meaning of a palette (n, 3) of uint8 or uint16.

    Grey colours are intensities, whatever their order. A look-up table keeps the indices: neighbouring colours are
    alike, or it consists of flat steps of similar length. Part of a known map gives the intensities of the whole map.
    All others are colours.
    """
    full_scale = np.iinfo(table.dtype).max
    if (compute_chroma(table[None])[0] <= COLOURED * full_scale).all():
        return Palette(convert_to_luma(table[None])[0], "")
    small = table if table.dtype == np.uint8 else (table >> 8).astype(np.uint8)
    if _is_lookup_table(small):
        name, intensities = find_table(small)
        return Palette(intensities, name)
    return Palette(table, "")


def _is_lookup_table(table: np.ndarray) -> bool:
    if len(table) < MIN_COLOURS:
        return False
    steps = np.abs(np.diff(table.astype(int), axis=0)).sum(axis=1)
    is_smooth = np.mean(steps > _SMALL_STEP) <= _MAX_JUMPS and steps.sum() >= _MIN_PATH
    ends = np.flatnonzero(np.append(steps, 1))  # of the flat steps
    longest = np.diff(np.append(-1, ends)).max()
    is_stepped = 4 <= len(ends) <= _MAX_STEPS and longest <= len(table) / 4
    is_padded = not steps[len(steps) // 2 :].any()  # a short list of colours, and then none
    return bool((is_smooth or is_stepped) and not is_padded)


def apply_palette(indices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The colour or grey value of each index; the last one for indices behind the end."""
    return values[np.minimum(indices, len(values) - 1)]
