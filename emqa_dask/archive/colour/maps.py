"""Colour maps that programs paint intensities with: matplotlib's, ImageJ's, and ramps of one hue."""

import colorsys
from functools import cache

import numpy as np

# Of matplotlib; reversed ones have the same colours and are read as these.
_MATPLOTLIB_NAMES = (
    "viridis", "inferno", "magma", "plasma", "cividis", "turbo", "jet", "hot", "afmhot", "gist_heat", "copper", "bone",
    "pink", "cool", "spring", "summer", "autumn", "winter", "rainbow", "gist_rainbow", "nipy_spectral", "gnuplot",
    "gnuplot2", "cubehelix", "CMRmap", "coolwarm", "seismic", "bwr", "Blues", "Greens", "Reds", "Oranges", "Purples",
    "YlOrRd", "YlOrBr", "YlGnBu", "RdBu", "RdYlBu", "Spectral", "twilight", "hsv", "terrain", "ocean", "gist_earth",
    "gist_stern", "gist_ncar", "brg",
)  # fmt: skip
# Of ImageJ (ij.plugin.LutLoader): 32 colours each, between which it interpolates.
_FIRE = (
    (0, 0, 1, 25, 49, 73, 98, 122, 146, 162, 173, 184, 195, 207, 217, 229, 240, 252, *[255] * 14),
    (*[0] * 13, 14, 35, 57, 79, 101, 117, 133, 147, 161, 175, 190, 205, 219, 234, 248, 255, 255, 255, 255),
    (0, 61, 96, 130, 165, 192, 220, 227, 210, 181, 151, 122, 93, 64, 35, 5, *[0] * 11, 35, 98, 160, 223, 255),
)
_ICE = (
    (0, 0, 0, 0, 0, 0, 19, 29, 50, 48, 79, 112, 134, 158, 186, 201, 217, 229, 242, 250, 250, 250, 250, 251, 250, 250,
     250, 250, 251, 251, 243, 230),
    (156, 165, 176, 184, 190, 196, 193, 184, 171, 162, 146, 125, 107, 93, 81, 87, 92, 97, 95, 93, 93, 90, 85, 69, 64,
     54, 47, 35, 19, 0, 4, 0),
    (140, 147, 158, 166, 170, 176, 209, 220, 234, 225, 236, 246, 250, 251, 250, 250, 245, 230, 230, 222, 202, 180, 163,
     142, 123, 114, 106, 94, 84, 64, 26, 27),
)  # fmt: skip
_SIXTEEN_COLOURS = (
    (0, 0, 0), (1, 1, 171), (1, 1, 224), (0, 110, 255), (1, 171, 254), (1, 224, 254), (1, 254, 1), (190, 255, 0),
    (255, 255, 0), (255, 224, 0), (255, 141, 0), (250, 94, 0), (245, 0, 0), (245, 0, 185), (222, 180, 222),
    (255, 255, 255),
)  # fmt: skip
_SAME = 3  # of 255; programs round the colours of a map differently
_HUES = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "cyan": (0, 1, 1), "magenta": (1, 0, 1),
    "yellow": (1, 1, 0),
}  # fmt: skip


@cache
def load_colour_maps() -> dict[str, np.ndarray]:
    """Name -> (256, 3) of uint8, the colour of each intensity."""
    import matplotlib

    tables = {"fire": _interpolate_imagej(_FIRE), "ice": _interpolate_imagej(_ICE)}
    tables["spectrum"] = np.array([colorsys.hsv_to_rgb(k / 255, 1, 1) for k in range(256)]) * 255
    tables["16 colours"] = np.repeat(_SIXTEEN_COLOURS, 16, axis=0)
    ramp = np.arange(256)
    half = np.where(ramp < 128, 2 * ramp, 0)
    tables["red/green"] = np.stack([half, np.where(ramp < 128, 0, 2 * (ramp - 128)), np.zeros_like(ramp)], axis=-1)
    tables["black-red-yellow-white"] = np.stack([np.clip(3 * (ramp - start), 0, 255) for start in (0, 85, 170)], -1)
    tables |= {name: ramp[:, None] * np.array(hue) for name, hue in _HUES.items()}
    for name in _MATPLOTLIB_NAMES:
        tables[name] = matplotlib.colormaps[name].resampled(256)(ramp, bytes=True)[:, :3]
    return {name: np.clip(np.rint(table), 0, 255).astype(np.uint8) for name, table in tables.items()}


def _interpolate_imagej(channels: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """256 colours between those of `channels`, cut to whole numbers as ImageJ does."""
    colours = np.array(channels, float).T
    position = np.arange(256) * len(colours) / 256
    first = position.astype(int)
    second = np.minimum(first + 1, len(colours) - 1)
    fraction = (position - first)[:, None]
    return np.floor((1 - fraction) * colours[first] + fraction * colours[second])


def find_table(table: np.ndarray) -> tuple[str, np.ndarray | None]:
    """(name, intensity of each colour) of the colour map that the colours of `table` (n, 3) of uint8 are of, in order.

    The intensities are None for a whole map: its indices. A map that is not known is "unnamed".
    """
    colours = table.astype(int)
    tables = load_colour_maps()
    for name, map_colours in tables.items():
        if len(table) == len(map_colours) and np.abs(colours - map_colours).max() <= _SAME:
            return name, None
    ends = np.flatnonzero(np.any(np.diff(colours, axis=0), axis=1))
    is_filled_up = len(ends) > 0 and not colours[-1].any()  # with black, as a palette that is too short
    n_used = int(ends[-1]) + 1 if is_filled_up else len(colours)
    for name, map_colours in tables.items():
        distances = np.abs(colours[:n_used, None] - map_colours[None].astype(int)).max(axis=2)
        intensities = np.argmin(distances, axis=1)
        if distances.min(axis=1).max() <= _SAME and (np.diff(intensities) >= 0).all():
            return name, np.append(intensities, np.zeros(len(table) - n_used)).astype(np.uint8)
    return "unnamed", None
