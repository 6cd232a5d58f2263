"""The micrographs and detections of a partition, as exports take them."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

IMAGE_COLUMNS = (
    *("micrograph_id", "uri", "frame", "content_sha256", "height_px", "width_px", "nm_per_pixel", "nm_per_pixel_y"),
    *("stack", "index"),
)
OBJECT_COLUMNS = (
    *("micrograph_id", "y_px", "x_px", "y0", "x0", "y1", "x1", "area_px", "score", "label", "detector", "mask_rle"),
    *("circularity", "diameter_px", "diameter_nm"),
)


class Batch(NamedTuple):
    """Micrographs and those of their detections that are exported, in order."""

    images: pa.Table  # IMAGE_COLUMNS and verdict
    objects: pa.Table  # OBJECT_COLUMNS without micrograph_id; image: row in `images`; object: row in `detections`
    thumbnails: tuple[bytes | None, ...] = ()  # JPEG of each image, where the format needs them

    def count_objects(self) -> np.ndarray:
        """Number of objects of each image (n,)."""
        return np.bincount(self.objects["image"].to_numpy(), minlength=len(self.images))

    def repeat(self, column: str) -> pa.ChunkedArray:
        """A column of the images, for each object."""
        return self.images[column].take(self.objects["image"])
