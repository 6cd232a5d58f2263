"""A data set for FiftyOne: COCO JSON beside thumbnails, which FiftyOne shows with the detections on them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.coco import write_coco


def write_fiftyone(batches: Iterable[Batch], folder: Path) -> None:
    """Write labels.json and data/<micrograph_id>.jpg; memory holds one batch.

    FiftyOne scales the boxes of labels.json, which are in px of the micrograph, by the sizes that it states. It refuses
    a data set in which a picture is missing: ValueError for a micrograph without a thumbnail.
    """
    (folder / "data").mkdir()
    with open(folder / "labels.json", "wb") as stream:
        write_coco(_write_thumbnails(batches, folder / "data"), stream, name_files=_name_thumbnails)


def _name_thumbnails(images: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(images["micrograph_id"].combine_chunks(), ".jpg", "")


def _write_thumbnails(batches: Iterable[Batch], folder: Path) -> Iterator[Batch]:
    """The batches, after their thumbnails were written."""
    for batch in batches:
        for name, jpeg in zip(_name_thumbnails(batch.images).to_pylist(), batch.thumbnails, strict=True):
            if jpeg is None:
                raise ValueError(f"micrograph {name[:-4]} has no thumbnail: run `emqa triage` again, or leave it out")
            (folder / name).write_bytes(jpeg)
        yield batch
