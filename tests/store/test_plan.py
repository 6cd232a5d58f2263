"""Laws of the plan: independent of the rows' order, shards never extended, every micrograph in one slot."""

import dataclasses

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.partition import cut
from emqa_dask.settings import Store
from emqa_dask.store.plan import partitions, plan

NONE = tables.empty(tables.MICROGRAPHS)


def rows(keys, prefix="m"):
    """Micrograph rows from (height, dtype, nm_per_pixel) triples."""
    table = pd.DataFrame(keys, columns=["height_px", "dtype", "nm_per_pixel"])
    table["micrograph_id"] = [f"{prefix}{i}" for i in range(len(keys))]
    table["uri"] = [f"{prefix}/{i % 7}/{i}.tif" for i in range(len(keys))]
    return tables.conform(table.assign(frame=0, width_px=64), tables.MICROGRAPHS).to_pandas()


KEYS = st.lists(
    st.tuples(st.sampled_from([1, 8]), st.sampled_from(["uint8", "uint16"]), st.sampled_from([0.5, np.nan])),
    max_size=40,
)


@settings(deadline=None, max_examples=25)
@given(first=KEYS, second=KEYS, length=st.integers(0, 5), seed=st.integers(0, 9))
def test_the_laws(first, second, length, seed):
    store = dataclasses.replace(Store(), shard_length=length)
    one, two = rows(first, "a"), rows(second, "b")
    present, lengths = plan(one, NONE, store)
    shuffled = one.sample(frac=1, random_state=seed)
    pandas.testing.assert_frame_equal(plan(shuffled, NONE, store)[0], present)

    # later files start behind the shards that are there, however the setting has changed since
    added, more = plan(two, present, Store(shard_length=3), lengths)
    assert set(added["partition"]).isdisjoint(present["partition"])
    both = pd.concat([present, added])
    lengths |= more
    assert len(both) == len(first) + len(second)
    assert not both.duplicated(["stack", "index"]).any()
    for name, members in both.groupby("stack"):
        assert members[["height_px", "width_px", "dtype"]].drop_duplicates().shape[0] == 1
        shard = members["index"] // lengths[name]
        assert (members.groupby(shard)["partition"].nunique() == 1).all()
        assert (members.groupby("partition")["index"].min() % lengths[name] == 0).all()
    for partition in partitions(both):
        inside = both[both["partition"] == partition.name]
        assert sorted(inside["index"]) == list(range(partition.start, partition.stop))
        assert set(inside["stack"]) == {partition.stack}
    assert len(partitions(both)) == both["partition"].nunique()


@settings(deadline=None, max_examples=25)
@given(keys=KEYS)
def test_within_a_stack_the_order_is_that_of_uri_and_frame(keys):
    table, _ = plan(rows(keys), NONE, Store())
    for _, members in table.groupby("stack"):
        assert list(members["uri"]) == sorted(members["uri"])
        assert list(members["index"]) == list(range(len(members)))
    columns = ["stack", "index", "partition"]
    assert list(table.columns) == tables.MICROGRAPHS.names
    pandas.testing.assert_frame_equal(
        table.drop(columns=columns),
        rows(keys).set_index("micrograph_id").loc[table["micrograph_id"]].reset_index().drop(columns=columns),
    )
    tables.conform(table, tables.MICROGRAPHS)


def test_frames_of_one_file_stay_in_order():
    table = rows([(8, "uint8", 1.0)] * 12).assign(uri="a.mrc", frame=range(12)[::-1])
    planned, _ = plan(table, NONE, Store())
    assert list(planned["frame"]) == list(range(12))


@pytest.mark.parametrize(
    ("n", "height", "mib", "expected"),
    [(1, 8, 1, 1), (16, 8, 1, 1), (17, 8, 1, 2), (1600, 8, 1, 100), (1600, 4096, 1, 4), (40, 2**20, 1, 1)],
)
def test_the_length_of_a_shard(n, height, mib, expected):
    table = rows([(height, "uint8", 1.0)] * n)
    _, lengths = plan(table, NONE, Store(shard_mib=mib))
    assert list(lengths.values()) == [expected]


def test_what_cannot_be_planned_is_refused():
    table = rows([(8, "uint8", 1.0)] * 3)
    present, lengths = plan(table, NONE, Store())
    with pytest.raises(ValueError, match="micrograph m0 is there twice"):
        plan(table, present, Store(), lengths)
    with pytest.raises(ValueError, match="stack 8x64-uint8-1nm is in the table but not in the store"):
        plan(rows([(8, "uint8", 1.0)], "b"), present, Store(), {})


def test_nothing_gives_nothing():
    planned, lengths = plan(NONE, NONE, Store())
    assert list(planned.columns) == tables.MICROGRAPHS.names
    assert len(planned) == 0
    assert lengths == {}
    assert partitions(planned) == []


@given(n_present=st.integers(0, 50), n_new=st.integers(0, 50), length=st.integers(1, 9))
def test_cutting_never_extends_a_shard(n_present, n_new, length):
    found = cut("s", n_present, n_new, length)
    assert sum(map(len, found)) == n_new
    assert all(p.start % length == 0 and p.start >= n_present and 1 <= len(p) <= length for p in found)
    assert [p.name for p in found] == sorted({p.name for p in found})
