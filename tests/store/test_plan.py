"""Laws of the plan: it follows the order of the micrographs alone, extends no shard, and loses nobody."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.settings import Store
from emqa_dask.store import layout, plan
from emqa_dask.store.plan import OccupiedSlots, choose_shard_lengths, plan_partitions, rebatch, split_by_partition

NONE = tables.empty(tables.MICROGRAPHS)


def rows(keys, prefix="m"):
    """Micrograph rows from (height, dtype, nm_per_pixel) triples, in the order of a scan."""
    table = pd.DataFrame(keys, columns=["height_px", "dtype", "nm_per_pixel"])
    table["micrograph_id"] = [f"{prefix}{i}" for i in range(len(keys))]
    table["uri"] = [f"{prefix}/{i:03d}.tif" for i in range(len(keys))]
    table["stack"] = pd.Series([layout.name_stack(h, 64, d, s) for h, d, s in keys], dtype="str")
    return tables.conform(table.assign(frame=0, width_px=64), tables.MICROGRAPHS).to_pandas()


def planned(table, present=NONE, store=Store(), known=None, sizes=(1000,), **bounds):  # noqa: B008
    """(the planned rows, the stacks' shard lengths, the slots given away); `table` comes in batches of `sizes`."""
    slots = OccupiedSlots()
    slots.add(present)
    lengths = choose_shard_lengths(Counter(table["stack"]), known or {}, slots, store)
    edges = np.cumsum([0, *sizes])
    batches = [table.iloc[a:b] for a, b in zip(edges, [*edges[1:-1], len(table)])]
    done = list(plan_partitions(batches, slots, lengths, **bounds))
    return pd.concat(done, ignore_index=True) if done else NONE, lengths, slots


KEYS = st.lists(
    st.tuples(st.sampled_from([1, 8]), st.sampled_from(["uint8", "uint16"]), st.sampled_from([0.5, np.nan])),
    max_size=40,
)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6)
BOUNDS = st.fixed_dictionaries({"waiting": st.integers(0, 20), "rows": st.integers(1, 20)})


@settings(deadline=None, max_examples=60)
@given(first=KEYS, second=KEYS, length=st.integers(0, 5), sizes=SIZES, others=SIZES, bounds=BOUNDS)
def test_the_laws(first, second, length, sizes, others, bounds):
    store = dataclasses.replace(Store(), shard_length=length)
    one = rows(first, "a")
    two = rows(second, "b")
    present, lengths, _ = planned(one, NONE, store, sizes=sizes, **bounds)
    pandas.testing.assert_frame_equal(planned(one, NONE, store, sizes=others, **bounds)[0], present)

    # later files start behind the shards that are there, however the setting has changed since
    added, more, slots = planned(two, present, Store(shard_length=3), lengths, sizes, **bounds)
    assert set(added["partition"]).isdisjoint(present["partition"])
    both = pd.concat([present, added], ignore_index=True)
    lengths |= more
    assert sorted(both["micrograph_id"]) == sorted([*one["micrograph_id"], *two["micrograph_id"]])
    assert not both.duplicated(["stack", "index"]).any()
    for name, members in both.groupby("stack"):
        assert members[["height_px", "width_px", "dtype"]].drop_duplicates().shape[0] == 1
        shard = members["index"] // lengths[name]
        assert (members.groupby(shard)["partition"].nunique() == 1).all()
        assert (members.groupby("partition")["index"].min() % lengths[name] == 0).all()
        assert list(members["index"]) == sorted(members["index"])
        assert sorted(i for run in slots.runs[name] for i in range(*run)) == list(members["index"])

    # the rows of a partition are next to one another, in the order of its slots
    found = split_by_partition(both)
    assert len(found) == both["partition"].nunique()
    for partition, where in found:
        inside = both[where]
        assert set(inside["partition"]) == {partition.name}
        assert list(inside["index"]) == list(range(partition.start, partition.stop))
        assert set(inside["stack"]) == {partition.stack}


@settings(deadline=None, max_examples=25)
@given(keys=KEYS)
def test_a_stack_has_the_order_of_the_scan(keys):
    table = rows(keys)
    done, _, _ = planned(table)
    for _, members in done.groupby("stack"):
        assert list(members["uri"]) == sorted(members["uri"])
        assert list(members["index"]) == list(range(len(members)))
    columns = ["index", "partition"]
    assert list(done.columns) == tables.MICROGRAPHS.names
    came = table.set_index("micrograph_id").loc[done["micrograph_id"]].reset_index()
    pandas.testing.assert_frame_equal(done.drop(columns=columns), came.drop(columns=columns))
    tables.conform(done, tables.MICROGRAPHS)


def test_what_waits_is_bounded_and_goes_into_short_shards():
    table = rows([(height, "uint8", 1.0) for _ in range(6) for height in range(1, 21)])  # 20 stacks, in turn
    store = Store(shard_length=4)
    done, _, slots = planned(table, NONE, store, waiting=30, rows=10)
    assert len(done) == len(table)
    assert done["partition"].value_counts().max() == 2  # 20 rows wait, then 30, 40: all of them go
    assert slots.runs["1x64-uint8-1nm"] == [(0, 2), (4, 6), (8, 10)]
    full, _, slots = planned(table, NONE, store, waiting=60, rows=10)
    assert set(full["partition"].value_counts()) == {2, 4}
    assert slots.runs["1x64-uint8-1nm"] == [(0, 6)]


@pytest.mark.parametrize(
    ("n", "height", "mib", "expected"),
    [(1, 8, 1, 1), (32, 8, 1, 1), (33, 8, 1, 2), (3200, 8, 1, 100), (6400, 4096, 1, 4), (400, 2**20, 1, 1)],
)
def test_the_length_of_a_shard(n, height, mib, expected):
    stack = layout.name_stack(height, 64, "uint8", 1.0)
    assert choose_shard_lengths({stack: n}, {}, OccupiedSlots(), Store(shard_mib=mib)) == {stack: expected}


def test_small_stacks_of_a_large_archive_are_one_shard():
    counts = {layout.name_stack(k, 64, "uint8", 1.0): 16 for k in range(1, 201)}
    assert set(choose_shard_lengths(counts, {}, OccupiedSlots(), Store()).values()) == {16}


def test_first_image_of_a_watch_sets_no_shard_length():
    small, large = layout.name_stack(64, 64, "uint8", 1.0), layout.name_stack(4096, 4096, "uint16", 1.0)
    store = Store(shard_mib=64)
    lengths = choose_shard_lengths({small: 1, large: 1}, {}, OccupiedSlots(), store, is_watched=True)
    assert lengths == {small: plan.GROWING_SHARD_LENGTH, large: 2}  # 32 MiB each
    assert choose_shard_lengths({small: 5}, {small: 3}, OccupiedSlots(), store, is_watched=True) == {small: 3}
    assert choose_shard_lengths({small: 6400}, {}, OccupiedSlots(), store, is_watched=True) == {small: 200}


@given(
    height=st.integers(1, 99),
    width=st.integers(1, 99),
    dtype=st.sampled_from(["bool", "uint8", ">i2", "float16", "complex64"]),
    nm=st.one_of(st.floats(1e-9, 1e9), st.just(np.nan)),
)
def test_a_stacks_name_says_its_shape(height, width, dtype, nm):
    assert layout.parse_shape(layout.name_stack(height, width, dtype, nm)) == (height, width, np.dtype(dtype).name)


def test_a_stack_that_was_deleted_is_said_to_be():
    present, lengths, _ = planned(rows([(8, "uint8", 1.0)] * 3))
    with pytest.raises(ValueError, match="stack 8x64-uint8-1nm is in the table but not in the store"):
        planned(rows([(8, "uint8", 1.0)], "b"), present, Store(), {})
    assert len(planned(rows([(8, "uint8", 1.0)], "b"), present, Store(), lengths)[0]) == 1


def test_nothing_gives_nothing():
    done, lengths, slots = planned(NONE)
    assert len(done) == 0
    assert lengths == slots.runs == {}
    assert split_by_partition(NONE) == []
    assert list(rebatch([NONE, NONE])) == []


@given(sizes=st.lists(st.integers(0, 9), max_size=9), n=st.integers(1, 12))
def test_chunks_are_the_same_rows_in_the_same_order(sizes, n):
    table = pd.DataFrame({"a": range(sum(sizes))})
    edges = np.cumsum([0, *sizes])
    found = list(rebatch((table.iloc[a:b] for a, b in itertools.pairwise(edges)), n))
    assert [a for chunk in found for a in chunk["a"]] == list(table["a"])
    assert all(len(chunk) == n for chunk in found[:-1])
