"""Micrographs of a workspace by verdict and reason, and their detections, some thousand at a time."""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask import tables
from emqa_dask.partition import Partition
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.review.exports.batch import IMAGE_COLUMNS, OBJECT_COLUMNS, Batch
from emqa_dask.settings import Settings
from emqa_dask.store import digests, files, marker, parts
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace

BATCH_IMAGES = 2048  # of a batch at most; their names and thumbnails take 30 MB
BATCH_OBJECTS = 20_000  # from which a batch is whole; their masks and texts take 50 MB


class Query(NamedTuple):
    """Which rows of the table of verdicts count; an empty part counts all."""

    verdicts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def iterate_rows(self, workspace: Workspace, columns: Collection[str]) -> Iterator[pd.DataFrame]:
        """The rows, with `columns` and verdict."""
        if not files.exists(workspace.triage):
            report = marker.format_command("report", workspace.uri)
            raise ValueError(f"{files.redact(workspace.uri)} has no verdicts: run {report} first")
        names = list(dict.fromkeys([*columns, "verdict", "reasons"]))
        row_filter = ("verdict", self.verdicts) if self.verdicts else None
        for rows in parts.iterate_table(workspace.triage, tables.TRIAGE, names, row_filter=row_filter):
            if self.reasons:
                rows = rows[[not set(self.reasons).isdisjoint(reasons) for reasons in rows["reasons"]]]
            if len(rows):
                yield rows


class ImageSelection:
    """Identities of the micrographs of a query, 16 bytes each, with verdict and detector."""

    def __init__(self, workspace: Workspace, query: Query):
        self._sets: dict[tuple[str, str | None], DigestSet] = {}
        for rows in query.iterate_rows(workspace, ("micrograph_id", "detector")):
            rows = rows[rows["micrograph_id"].notna()]
            for (verdict, detector), group in rows.groupby(["verdict", "detector"], dropna=False):
                key = (str(verdict), None if pd.isna(detector) else str(detector))
                self._sets.setdefault(key, DigestSet()).add(digests.parse_hex_ids(group["micrograph_id"]))

    def __len__(self) -> int:
        return sum(map(len, self._sets.values()))

    def look_up(self, ids: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Verdict and detector of each micrograph (n,), None where the query does not have it."""
        keys = digests.parse_hex_ids(ids)
        verdicts = np.full(len(ids), None, object)
        detectors = np.full(len(ids), None, object)
        for (verdict, detector), members in self._sets.items():
            is_member = members.has(keys)
            verdicts[is_member] = verdict
            detectors[is_member] = detector
        return verdicts, detectors


def iterate_batches(
    workspace: Workspace,
    settings: Settings,
    selection: ImageSelection,
    detector: str | None = None,
    has_thumbnails: bool = False,
) -> Iterator[Batch]:
    """The micrographs of a selection with their detections from the score floor on, in the ledger's order.

    The detections are those of `detector`, by default of the detector that the verdict rests on. Raises ValueError,
    with the remedy, for a partition without detections.
    """
    waiting: list[Batch] = []
    for partition, rows in micrograph_ledger.iter_partitions(workspace, IMAGE_COLUMNS):
        verdicts, detectors = selection.look_up(rows["micrograph_id"])
        is_selected = verdicts != None  # noqa: E711 - an array
        if not is_selected.any():
            continue
        rows = rows[is_selected].assign(verdict=verdicts[is_selected])
        names = np.full(len(rows), detector, object) if detector else detectors[is_selected]
        waiting.append(_read_partition(workspace, settings, partition, rows, names, has_thumbnails))
        n_objects = sum(len(batch.objects) for batch in waiting)
        if n_objects >= BATCH_OBJECTS or sum(len(batch.images) for batch in waiting) >= BATCH_IMAGES:
            yield from split_batch(_join_batches(waiting))
            waiting = []
    if waiting:
        yield from split_batch(_join_batches(waiting))


def _read_partition(
    workspace: Workspace,
    settings: Settings,
    partition: Partition,
    rows: pd.DataFrame,
    detectors: np.ndarray,
    has_thumbnails: bool,
) -> Batch:
    """The micrographs `rows` of a partition, and the detections of the detector of each."""
    folders = list_run_folders(settings)
    try:
        objects = parts.read_part_table(
            workspace.uri, folders["detections"], partition.name, tables.DETECTIONS, OBJECT_COLUMNS
        )
    except FileNotFoundError as error:
        raise ValueError(
            f"{files.redact(workspace.uri)} has no detections of partition {partition.name} for its settings: run "
            "`emqa triage` on it first"
        ) from error
    schema = pa.schema([*(tables.MICROGRAPHS.field(name) for name in IMAGE_COLUMNS), pa.field("verdict", pa.string())])
    images = pa.Table.from_pandas(rows, schema, preserve_index=False)
    objects = _select_objects(objects, images["micrograph_id"], detectors, settings.featurise.score_floor)
    thumbnails: tuple[bytes | None, ...] = ()
    if has_thumbnails:
        table = parts.read_part_table(
            workspace.uri, folders["thumbnails"], partition.name, tables.THUMBNAILS, tables.THUMBNAILS.names
        )
        positions = pc.index_in(images["micrograph_id"], table["micrograph_id"].combine_chunks())
        thumbnails = tuple(table["jpeg"].take(positions).to_pylist())
    return Batch(images, objects, thumbnails)


def _select_objects(objects: pa.Table, ids: pa.ChunkedArray, detectors: np.ndarray, score_floor: float) -> pa.Table:
    """Rows of `objects` of the micrographs `ids` and the detector of each, from the floor on, in the order of `ids`."""
    owners = pc.fill_null(pc.index_in(objects["micrograph_id"], ids.combine_chunks()), -1).to_numpy()
    order = np.argsort(owners, kind="stable")
    order = order[np.searchsorted(owners[order], 0) :]
    owners = owners[order]
    numbers = np.arange(len(order)) - np.searchsorted(owners, owners)  # position among the micrograph's detections
    names = pc.dictionary_encode(objects["detector"].combine_chunks())
    codes = {name: code for code, name in enumerate(names.dictionary.to_pylist())}
    own_codes = np.array([codes.get(name, -1) for name in detectors])
    is_counted = (names.indices.to_numpy()[order] == own_codes[owners]) & (
        objects["score"].to_numpy()[order] >= score_floor
    )
    selected = objects.drop_columns("micrograph_id")
    counted_rows = order[is_counted]
    if not np.array_equal(counted_rows, np.arange(len(objects))):
        selected = selected.take(pa.array(counted_rows))
    return selected.append_column("image", pa.array(owners[is_counted], pa.int32())).append_column(
        "object", pa.array(numbers[is_counted], pa.int32())
    )


def _join_batches(batches: list[Batch]) -> Batch:
    """Batches as one."""
    first_rows = np.cumsum([0, *(len(batch.images) for batch in batches)])
    column = batches[0].objects.schema.get_field_index("image")
    objects = [
        batch.objects.set_column(column, "image", pc.add(batch.objects["image"], pa.scalar(int(first), pa.int32())))
        for batch, first in zip(batches, first_rows)
    ]
    thumbnails = tuple(jpeg for batch in batches for jpeg in batch.thumbnails)
    images = pa.concat_tables([batch.images for batch in batches]).combine_chunks()
    return Batch(images, pa.concat_tables(objects).combine_chunks(), thumbnails)


def split_batch(batch: Batch, n_objects: int = BATCH_OBJECTS) -> Iterator[Batch]:
    """Parts of a batch with about `n_objects` objects each, or those of one image."""
    ends = np.cumsum(batch.count_objects())
    groups = (ends - 1) // n_objects
    first_images = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(ends)]
    column = batch.objects.schema.get_field_index("image")
    for first, stop in pairwise(first_images):
        start = int(ends[first - 1]) if first else 0
        objects = batch.objects.slice(start, int(ends[stop - 1]) - start)
        owners = pc.subtract(objects["image"], pa.scalar(first, pa.int32()))
        images = batch.images.slice(first, stop - first)
        yield Batch(images, objects.set_column(column, "image", owners), batch.thumbnails[first:stop])
