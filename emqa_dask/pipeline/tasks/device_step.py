"""What the GPU computes of images: from one upload, the small arrays with which several stages go on on the host."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.backend import to_host
from emqa_dask.detect.candidates import Candidates, find_candidates_in_batch
from emqa_dask.device_batches import map_on_device
from emqa_dask.featurise.batch_parts import split_images
from emqa_dask.featurise.image_parts import ImageParts
from emqa_dask.featurise.rings import LogPower, compute_log_power
from emqa_dask.pipeline.tasks.thon_rings import is_ring_search_due
from emqa_dask.settings import Detect, Settings
from emqa_dask.store.thumbnails import downsample_batch


class DeviceWork(NamedTuple):
    """What is computed of each image; nothing by default."""

    thumbnail_px: int = 0  # longest side of a thumbnail
    detect: Detect | None = None  # settings of a search for blobs
    has_features: bool = False
    has_rings: bool = False


class DeviceParts(NamedTuple):
    """Small arrays of an image (h, w), on the host; None where the work does not ask for them."""

    grey: NDArray | None  # of its thumbnail; not finite where the image is not
    candidates: Candidates | None
    image_parts: ImageParts | float | None  # see split_images()
    log_power: LogPower | None  # None also where compute_log_power() gives it


def plan_device_work(rows: Iterable[dict], settings: Settings, new_tables: Collection[str]) -> DeviceWork:
    """What the GPU has to compute of the micrographs `rows` for `new_tables`."""
    has_blobs = "detections" in new_tables and "log" in settings.detect.detectors
    has_features = "evidence" in new_tables or "features" in new_tables
    return DeviceWork(
        settings.store.thumbnail_px if "thumbnails" in new_tables else 0,
        settings.detect if has_blobs else None,
        has_features,
        has_features and any(is_ring_search_due(row, settings.featurise) for row in rows),
    )


def compute_on_device(images: Sequence[np.ndarray], work: DeviceWork, device: str) -> list[DeviceParts]:
    """What `work` asks for of each of `images` (h, w); those of one shape and dtype go to `device` together, once."""
    return list(map_on_device(partial(_compute_batch, work), images, device, max(1, len(images))))


def _compute_batch(work: DeviceWork, batch: Any, dtype: np.dtype) -> Iterable[DeviceParts]:
    n = len(batch)
    no_parts = [None] * n
    columns = (
        to_host(downsample_batch(batch, work.thumbnail_px)) if work.thumbnail_px else no_parts,
        find_candidates_in_batch(batch, work.detect) if work.detect else no_parts,
        split_images(batch, dtype) if work.has_features else no_parts,
        [compute_log_power(batch[k]) for k in range(n)] if work.has_rings else no_parts,
    )
    return map(DeviceParts, *columns)


def complete_parts(
    images: Sequence[np.ndarray], parts: Sequence[DeviceParts | None], work: DeviceWork, device: str
) -> list[DeviceParts]:
    """`parts` of `images`; where one is None, since the work of all stages together has failed, those of `work`."""
    present = [own for own in parts if own is not None]
    return present if len(present) == len(images) else compute_on_device(images, work, device)
