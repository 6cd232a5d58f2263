"""Labelled images that are most like the images of some partitions, for their pages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from numpy.typing import NDArray

from emqa_dask import models, tables
from emqa_dask.pipeline.workspace.quality_models import select_fitting_models
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict.forest import select_feature_values
from emqa_dask.predict.labelled_images import LabelledImages, find_nearest, read_labelled_images
from emqa_dask.report.formatting import escape_invisible
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

N_NEAREST = 3  # labelled images on a page
RATIO = "size_variation"  # feature that no table has: the ratio of PARTS_OF_RATIO
PARTS_OF_RATIO = ("std_size", "mean_size")


class DetectorImages(NamedTuple):
    """Labelled images of the quality model that predicts for a detector."""

    detector: str
    score_floor: float
    images: LabelledImages


def list_labelled_images(settings: Settings) -> list[DetectorImages]:
    """Labelled images of each quality model of the run that keeps some."""
    labelled: dict[tuple[str, float], DetectorImages] = {}
    for name in select_fitting_models(settings.predict.models, settings.detect):
        key = models.read_detector_and_floor(name)
        directory = models.locate_model(name)
        images = read_labelled_images(directory, models.digest_model_card(directory))
        if images is not None:
            labelled.setdefault(key, DetectorImages(*key, images))
    return list(labelled.values())


def describe_nearest(
    workspace: Workspace, settings: Settings, names: Sequence[str], ids: Sequence[str], addresses: Mapping[str, str]
) -> dict[tuple[str, str], list[dict]]:
    """(micrograph_id, detector) -> the nearest labelled images of the images `ids` in the partitions `names`.

    Each has its name, its true F1, its distance, and its address in `addresses` (micrograph_id -> page), if any.
    """
    nearest = {}
    for own in list_labelled_images(settings):
        for micrograph_id, values in _iter_features(workspace, settings, own, names, ids):
            positions = find_nearest(own.images, values, micrograph_id, N_NEAREST)
            nearest[micrograph_id, own.detector] = [
                _describe_labelled(own.images, k, addresses) | {"distance": round(distance, 4)}
                for k, distance in positions
            ]
    return nearest


def _describe_labelled(images: LabelledImages, k: int, addresses: Mapping[str, str]) -> dict:
    frame = f", frame {images.frames[k]}" if images.frames[k] else ""
    return {
        "name": escape_invisible(images.uris[k]) + frame,
        "f1": round(float(images.true_f1[k]), 4),
        "address": addresses.get(images.micrograph_ids[k], ""),
    }


def _iter_features(
    workspace: Workspace, settings: Settings, own: DetectorImages, names: Sequence[str], ids: Sequence[str]
) -> Iterator[tuple[str, NDArray]]:
    """micrograph_id and features (d,) of the images `ids`, as the quality model of `own` takes them."""
    folders = list_run_folders(settings)
    needed = {*own.images.columns, *PARTS_OF_RATIO} - {RATIO}
    columns = {
        "evidence": ["micrograph_id", "detector", "score_floor", *sorted(needed & set(tables.EVIDENCE.names))],
        "features": ["micrograph_id", *sorted(needed - set(tables.EVIDENCE.names))],
    }
    own_tables = []
    for table, table_columns in columns.items():
        existing = set(parts.list_parts(workspace.uri, folders[table]))
        own_names = [name for name in names if name in existing]
        is_wanted = ("micrograph_id", list(ids))
        arguments = (workspace.uri, folders[table], SCHEMAS[table], table_columns, own_names, is_wanted)
        own_tables.append(parts.read_table(*arguments))
    evidence, features = own_tables
    is_own = evidence["detector"].eq(own.detector) & evidence["score_floor"].eq(own.score_floor)
    rows = evidence[is_own].merge(features, on="micrograph_id")
    yield from zip(rows["micrograph_id"], select_feature_values(rows, own.images.columns), strict=True)
