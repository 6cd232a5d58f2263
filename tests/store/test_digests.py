"""Digests is a set: whatever is added in whatever batches, it says what is there, and what came first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.store import digests
from emqa_dask.store.digests import DigestSet


@given(st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=12))
def test_it_is_a_set_and_adding_says_what_is_new(batches):
    found = DigestSet()
    expected = set()
    for batch in batches:
        is_new = found.add(digests.digest_texts(map(str, batch)))
        for number, said in zip(batch, is_new, strict=True):
            assert said == (number not in expected)
            expected.add(number)
        assert len(found) == len(expected)
    there = found.has(digests.digest_texts(map(str, range(70))))
    assert set(np.flatnonzero(there)) == expected


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=20))
def test_hexadecimal_ids_are_their_own_digests(ids):
    found = DigestSet()
    assert found.add(digests.parse_hex_ids(i.hex() for i in ids)).all()
    assert found.has(digests.parse_hex_ids(i.hex() for i in ids)).all()


def test_a_set_of_many_keeps_few_arrays():
    found = DigestSet()
    for start in range(0, 20_000, 100):
        found.add(digests.digest_texts(map(str, range(start, start + 100))))
    assert len(found) == 20_000
    assert sum(a.nbytes for a in found._sorted) == 20_000 * digests.N_BYTES
    assert len(found._sorted) < 10


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_digests_with_one_half_in_common_are_told_apart(pairs):
    found = DigestSet()
    expected = set()
    for start in range(0, len(pairs), 7):
        batch = pairs[start : start + 7]
        found.add(np.array(batch, "<u8").reshape(-1, 2))
        expected |= set(batch)
    every = [(a, b) for a in range(4) for b in range(4)]
    assert {pair for pair, is_in in zip(every, found.has(np.array(every, "<u8")), strict=True) if is_in} == expected
