"""Which micrograph goes into which stack, slot and partition: tables in, tables out, some thousand rows at a time."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from emqa_dask.partition import Partition
from emqa_dask.settings import Store
from emqa_dask.store import layout

MIB = 2**20
SHARDS_PER_ARCHIVE = 32  # at least, if it has the micrographs, so that workers share it; few of them waste batches
GROWING_SHARD_LENGTH = 16  # micrographs in a shard of an archive that is watched: the first batch is not its size
MAX_SHARD_LENGTH = 1024  # micrographs in a shard, however small they are: their rows travel with the task
MAX_WAITING_MICROGRAPHS = 16_384  # micrographs that may wait for their shard to fill up
MICROGRAPHS_PER_BATCH = 4096  # micrographs that are planned at a time


class OccupiedSlots:
    """The slots of every stack that are given away: `runs` has half-open stretches of them, in order."""

    def __init__(self):
        self.runs: dict[str, list[tuple[int, int]]] = {}

    def add(self, rows: pd.DataFrame) -> None:
        """Give away the slots of `rows` (columns stack, index); those of a stack go up."""
        stack = pd.factorize(rows["stack"])[0]
        index = rows["index"].to_numpy(np.int64)
        breaks = np.flatnonzero((np.diff(stack) != 0) | (np.diff(index) != 1)) + 1
        starts = np.r_[0, breaks][: len(rows)]
        stops = np.r_[breaks, len(rows)][: len(rows)]
        for name, start, stop in zip(rows["stack"].iloc[starts], index[starts], index[stops - 1] + 1, strict=True):
            runs = self.runs.setdefault(name, [])
            if runs and runs[-1][1] == start:
                start = runs.pop()[0]
            runs.append((int(start), int(stop)))

    def next_free_slot(self, stack: str) -> int:
        """The slot behind the last one of `stack` that is given away."""
        return self.runs[stack][-1][1] if stack in self.runs else 0


def choose_shard_lengths(
    counts: Mapping[str, int],
    existing: Mapping[str, int],
    slots: OccupiedSlots,
    settings: Store,
    *,
    is_watched: bool = False,
) -> dict[str, int]:
    """Micrographs per shard of the stacks in `counts` ({stack: new micrographs}); a stack keeps that of `existing`.

    A new one has the setting's, or a 32nd of all micrographs within the bounds on a shard's micrographs and bytes: a
    shard is a task, and a GPU takes the images of a task together, so that small stacks of a large archive have one
    shard. An archive that `is_watched` grows, and has at least GROWING_SHARD_LENGTH within these bounds. ValueError for
    a stack that has slots and no known length.
    """
    longest = math.ceil(sum(counts.values()) / SHARDS_PER_ARCHIVE)
    if is_watched:
        longest = max(longest, GROWING_SHARD_LENGTH)
    lengths = {}
    for stack in sorted(counts):
        if stack in slots.runs and stack not in existing:
            raise ValueError(f"stack {stack} is in the table but not in the store: was it deleted?")
        lengths[stack] = (
            existing.get(stack)
            or settings.shard_length
            or _choose_shard_length(stack, longest if is_watched else min(counts[stack], longest), settings)
        )
    return lengths


def _choose_shard_length(stack: str, longest: int, settings: Store) -> int:
    """At most `longest` micrographs, within the bounds on bytes and micrographs; at least one."""
    height, width, dtype = layout.parse_shape(stack)
    n_within_bytes = int(settings.shard_mib * MIB // max(height * width * np.dtype(dtype).itemsize, 1))
    return max(1, min(longest, n_within_bytes, MAX_SHARD_LENGTH))


def plan_partitions(
    batches: Iterable[pd.DataFrame],
    slots: OccupiedSlots,
    lengths: Mapping[str, int],
    waiting: int = MAX_WAITING_MICROGRAPHS,
    rows: int = MICROGRAPHS_PER_BATCH,
) -> Iterator[pd.DataFrame]:
    """`batches` of new micrographs with `index` and `partition` filled: tables of whole partitions, one after another.

    Micrographs wait until a shard of their stack (column `stack`) is full; when over `waiting` of them do, all go into
    shards that stay short, so that memory is bounded however many stacks there are. A stack grows from the next shard
    boundary (`lengths`: micrographs per shard), so a shard that exists is never touched. The slots go into `slots`. All
    depends on the order of the micrographs only, not on how they come in batches: they are cut anew to `rows`.
    """
    waiting_rows = None
    for batch in rebatch(batches, rows):
        pending = batch if waiting_rows is None else pd.concat([waiting_rows, batch], ignore_index=True)
        planned, waiting_rows = _cut_partitions(pending, slots, lengths)
        yield from planned
        if len(waiting_rows) > waiting:
            planned, waiting_rows = _cut_partitions(waiting_rows, slots, lengths, is_short=True)
            yield from planned
    if waiting_rows is not None:
        yield from _cut_partitions(waiting_rows, slots, lengths, is_short=True)[0]


def _cut_partitions(
    rows: pd.DataFrame, slots: OccupiedSlots, lengths: Mapping[str, int], is_short: bool = False
) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """([planned rows] or [], rows that wait): full shards, or all when short ones may be."""
    stack_codes, names = pd.factorize(rows["stack"], sort=True)
    order = np.argsort(stack_codes, kind="stable")
    stack_counts = np.bincount(stack_codes, minlength=len(names))
    shard_lengths = np.array([lengths[name] for name in names], np.int64)
    stop_slots = np.array([slots.next_free_slot(name) for name in names], np.int64)
    start_slots = -(-stop_slots // shard_lengths) * shard_lengths
    n_planned = stack_counts if is_short else stack_counts // shard_lengths * shard_lengths
    first_rows = np.cumsum(stack_counts) - stack_counts
    stack_positions = np.arange(len(rows)) - np.repeat(first_rows, stack_counts)
    is_planned = stack_positions < n_planned[stack_codes[order]]
    if not is_planned.any():
        return [], rows
    stack_codes = stack_codes[order[is_planned]]
    stack_positions = stack_positions[is_planned]
    row_shard_lengths = shard_lengths[stack_codes]
    partition_starts = stack_positions // row_shard_lengths * row_shard_lengths + start_slots[stack_codes]
    planned = rows.take(order[is_planned]).reset_index(drop=True)
    planned["index"] = start_slots[stack_codes] + stack_positions
    partition_rows = np.flatnonzero(np.r_[True, (np.diff(partition_starts) != 0) | (np.diff(stack_codes) != 0)])
    partition_names = [
        Partition(names[stack_codes[i]], int(partition_starts[i]), int(partition_starts[i]) + 1).name
        for i in partition_rows
    ]
    planned["partition"] = (
        pd.Series(partition_names, dtype="str").repeat(np.diff(np.r_[partition_rows, len(planned)])).to_numpy()
    )
    slots.add(planned)
    return [planned], rows.take(np.sort(order[~is_planned])).reset_index(drop=True)


def rebatch(batches: Iterable[pd.DataFrame], rows: int = MICROGRAPHS_PER_BATCH) -> Iterator[pd.DataFrame]:
    """The rows of `batches` in tables of `rows` rows, the last one shorter; none for no rows."""
    waiting = []
    n = 0
    for batch in batches:
        while len(batch):
            head = batch.iloc[: rows - n]
            batch = batch.iloc[rows - n :]
            waiting.append(head)
            n += len(head)
            if n == rows:
                yield pd.concat(waiting, ignore_index=True)
                waiting = []
                n = 0
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def split_by_partition(rows: pd.DataFrame) -> list[tuple[Partition, slice]]:
    """The partitions of planned `rows` (columns stack, index, partition) in their order, and where their rows are."""
    partition_codes = pd.factorize(rows["partition"])[0]
    starts = np.flatnonzero(np.diff(partition_codes, prepend=-1))
    stops = np.r_[starts[1:], len(rows)][: len(starts)]
    names = rows["partition"].iloc[starts]
    stacks = rows["stack"].iloc[starts]
    last_slots = rows["index"].to_numpy(np.int64)[stops - 1]
    # The start comes from the name, so that it stays even when the first micrograph's row is not there.
    return [
        (Partition(stack, int(name.rpartition("-")[2]), int(index) + 1), slice(int(a), int(b)))
        for stack, name, index, a, b in zip(stacks, names, last_slots, starts, stops, strict=True)
    ]
