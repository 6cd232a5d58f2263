"""Batches of an export: parts of them hold the same rows, each image whole."""

import io

import pyarrow as pa
import pytest

from emqa_dask.pipeline.workspace.image_selection import split_batch
from emqa_dask.review.exports.formats import FORMATS
from tests.review.exported import make_batch


@pytest.mark.parametrize("n_objects", [1, 4, 5, 6, 1000])
def test_parts_of_a_batch_hold_whole_images(n_objects):
    batch, _ = make_batch(n_images=3, n_objects=5)
    parts = list(split_batch(batch, n_objects))
    names = ["micrograph_id", "uri", "index"]
    assert pa.concat_tables([part.images for part in parts]).select(names).equals(batch.images.select(names))
    assert [jpeg for part in parts for jpeg in part.thumbnails] == list(batch.thumbnails)
    assert sum(len(part.objects) for part in parts) == len(batch.objects)
    assert all(len(part.objects) <= max(n_objects, 5) for part in parts)
    for part in parts:
        owners = part.objects["image"].to_numpy()
        assert ((owners >= 0) & (owners < len(part.images))).all()
    uris = [uri for part in parts for uri in part.repeat("uri").to_pylist()]
    assert uris == batch.repeat("uri").to_pylist()
    scores = [score for part in parts for score in part.objects["score"].to_pylist()]
    assert scores == batch.objects["score"].to_pylist()
    for name in ("coco", "cvat", "csv", "geojson"):
        streams = (io.BytesIO(), io.BytesIO())
        FORMATS[name].write_batches(parts, streams[0], has_polygons=False)
        FORMATS[name].write_batches([batch], streams[1], has_polygons=False)
        assert streams[0].getvalue() == streams[1].getvalue()
