"""The formats of exports, by their names."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.coco import write_coco
from emqa_dask.review.exports.cvat import write_cvat
from emqa_dask.review.exports.fiftyone import write_fiftyone
from emqa_dask.review.exports.fiji import write_fiji
from emqa_dask.review.exports.geojson import write_geojson
from emqa_dask.review.exports.napari import write_napari
from emqa_dask.review.exports.tables import write_csv
from emqa_dask.review.exports.yolo import write_yolo


class ExportFormat(NamedTuple):
    """How a format is written: write(batches, stream or folder, **options)."""

    write: Callable[..., None]
    suffix: str  # of the file; "" for a folder
    has_mask_forms: bool = False  # takes has_polygons
    has_thumbnails: bool = False

    def write_batches(self, batches: Iterable[Batch], target: Any, has_polygons: bool) -> None:
        """Write `batches` to an open binary file, or into an empty folder."""
        options = {"has_polygons": has_polygons} if self.has_mask_forms else {}
        self.write(batches, target, **options)


FORMATS = {
    "coco": ExportFormat(write_coco, ".json", has_mask_forms=True),
    "cvat": ExportFormat(write_cvat, ".xml", has_mask_forms=True),
    "csv": ExportFormat(write_csv, ".csv"),
    "geojson": ExportFormat(write_geojson, ".geojson"),
    "fiftyone": ExportFormat(write_fiftyone, "", has_thumbnails=True),
    "fiji": ExportFormat(write_fiji, ""),
    "napari": ExportFormat(write_napari, ""),
    "yolo": ExportFormat(write_yolo, ""),
}
