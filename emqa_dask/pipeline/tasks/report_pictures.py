"""Pictures of stored micrographs at full resolution, cut into tiles that a page loads on demand."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.store import files, micrographs
from emqa_dask.store.layout import Workspace

TILE_PX = 512  # a 4-megapixel image has 16 tiles and 5 coarser ones
JPEG_QUALITY = 90  # grain of the noise stays visible; 80, that of thumbnails, smooths it
SHOWN_PERCENTILES = (0.5, 99.5)  # that become black and white, as in thumbnails
MAX_SAMPLE_PX = 1 << 18  # pixels from which the percentiles are computed


class PictureLevels(NamedTuple):
    """How the pictures of an image are cut: level 0 has all pixels, each further one half as many along an axis."""

    tile_px: int
    n_levels: int


def plan_levels(shape: tuple[int, int]) -> PictureLevels:
    """Levels of an image of `shape`, until one tile holds it."""
    n_levels = 1
    while max(shape) / 2 ** (n_levels - 1) > TILE_PX:
        n_levels += 1
    return PictureLevels(TILE_PX, n_levels)


def write_pictures(workspace: Workspace, partition: str, rows: pd.DataFrame) -> dict[str, PictureLevels]:
    """Levels of the micrographs `rows` (stack, index) of a partition by micrograph_id; writes their missing tiles.

    The coarsest tile is written last: an image that has it is complete, and an identity always means the same pixels.
    """
    levels = {}
    for row in rows.itertuples():
        shape = int(row.height_px), int(row.width_px)
        levels[row.micrograph_id] = own_levels = plan_levels(shape)
        folder = files.join(workspace.pictures, row.micrograph_id)
        if files.exists(files.join(folder, str(own_levels.n_levels - 1), "0_0.jpg")):
            continue
        image = micrographs.read_window(workspace.uri, row.stack, row.index)
        for name, jpeg in iterate_tiles(stretch_grey(image)):
            files.write_bytes(files.join(folder, name), jpeg)
    return levels


def stretch_grey(image: NDArray) -> NDArray[np.uint8]:
    """`image` (h, w) of any dtype with SHOWN_PERCENTILES black and white; pixels that are not finite are black."""
    values = np.abs(image) if image.dtype.kind == "c" else image
    values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    step = int(np.ceil(np.sqrt(max(values.size, 1) / MAX_SAMPLE_PX)))
    sample = values[::step, ::step]
    finite_values = sample[np.isfinite(sample)]
    low, high = np.percentile(finite_values, SHOWN_PERCENTILES) if finite_values.size else (0.0, 0.0)
    if not high > low:
        return np.where(np.isfinite(values), 128, 0).astype(np.uint8)
    scaled = np.clip((values - low) * (255 / (high - low)), 0, 255)
    return np.rint(np.nan_to_num(scaled)).astype(np.uint8)


def iterate_tiles(grey: NDArray[np.uint8]) -> Iterator[tuple[str, bytes]]:
    """Name "level/y_x.jpg" and JPEG of each tile of `grey` (h, w), the finest level first; y and x count tiles."""
    for level in range(plan_levels(grey.shape).n_levels):
        if level:
            h, w = grey.shape
            grey = cv2.resize(grey, ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA)
        for y in range(0, grey.shape[0], TILE_PX):
            for x in range(0, grey.shape[1], TILE_PX):
                tile = np.ascontiguousarray(grey[y : y + TILE_PX, x : x + TILE_PX])
                ok, jpeg = cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                if not ok:
                    raise ValueError(f"no JPEG of {tile.shape[0]} x {tile.shape[1]} px")
                yield f"{level}/{y // TILE_PX}_{x // TILE_PX}.jpg", jpeg.tobytes()
