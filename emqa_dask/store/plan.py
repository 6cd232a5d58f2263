"""Which micrograph goes into which stack, slot and partition: a pure function of tables."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from emqa_dask.partition import Partition, cut
from emqa_dask.settings import Store
from emqa_dask.store.layout import stack_name

MIB = 2**20
TASKS_PER_STACK = 16  # a stack is cut into at least so many shards, if it has the micrographs, so that workers share it


def plan(
    new: pd.DataFrame, present: pd.DataFrame, settings: Store, shard_lengths: Mapping[str, int] | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """`new` micrographs with `stack`, `index` and `partition` filled, sorted by them; and the stacks' shard lengths.

    `new` and `present` have the columns of tables.MICROGRAPHS; `present` are those that were planned before, and
    `shard_lengths` says how their stacks were cut (stacks.shard_lengths). A stack keeps its shard length, and
    new micrographs start at its next shard boundary, so a shard that exists is never touched. Within a stack the order
    is that of (uri, frame), whatever the order of the rows. The lengths returned are those of the stacks in `new`.
    ValueError when a micrograph is there twice, or a stack of `present` has no known shard length.
    """
    known = dict(shard_lengths or {})
    ids = pd.concat([present["micrograph_id"], new["micrograph_id"]])
    if ids.duplicated().any():
        raise ValueError(f"micrograph {ids[ids.duplicated()].iloc[0]} is there twice")
    rows = new.copy()
    rows["stack"] = [
        stack_name(h, w, d, s)
        for h, w, d, s in zip(rows["height_px"], rows["width_px"], rows["dtype"], rows["nm_per_pixel"])
    ]
    rows = rows.sort_values(["stack", "uri", "frame"], kind="stable", ignore_index=True)
    n_present = present.groupby("stack")["index"].max() + 1
    if lost := set(n_present.index) & set(rows["stack"]) - set(known):
        raise ValueError(f"stack {min(lost)} is in the table but not in the store: was it deleted?")
    lengths, index, names = {}, [], []
    for name, members in rows.groupby("stack", sort=True):
        lengths[name] = known.get(name) or _shard_length(members.iloc[0], len(members), settings)
        for partition in cut(name, int(n_present.get(name, 0)), len(members), lengths[name]):
            index.append(np.arange(partition.start, partition.stop))
            names += [partition.name] * len(partition)
    rows["index"] = np.concatenate(index).astype(np.int64) if index else np.empty(0, np.int64)
    rows["partition"] = pd.Series(names, dtype="str")
    return rows, lengths


def _shard_length(row: pd.Series, n_micrographs: int, settings: Store) -> int:
    """Micrographs per shard: the setting, or a 16th of the stack within the bound on a shard's uncompressed size."""
    if settings.shard_length:
        return settings.shard_length
    micrograph_bytes = int(row["height_px"]) * int(row["width_px"]) * np.dtype(row["dtype"]).itemsize
    longest = int(settings.shard_mib * MIB // max(micrograph_bytes, 1))
    return max(1, min(math.ceil(n_micrographs / TASKS_PER_STACK), longest))


def partitions(rows: pd.DataFrame) -> list[Partition]:
    """The partitions that planned `rows` (columns stack, index, partition) lie in, sorted; none for no rows."""
    last = rows.groupby(["stack", "partition"], sort=True)["index"].max()
    # The start comes from the name, so that it stays even when the first micrograph's row is not there.
    return sorted(Partition(s, int(name.rpartition("-")[2]), int(i) + 1) for (s, name), i in last.items())
