"""Shares of labels: nested, groups whole, every class in each."""

import numpy as np
import pytest

from emqa_dask.train.label_shares import SHARES, check_shares, rank_rows, select_share


def draw_rows(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 400)
    labels = np.array(list("abc"))[(groups * 7 + rng.integers(0, 2, 400)) % 3]
    return labels, groups


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_nested_with_whole_groups_and_every_class(seed):
    labels, groups = draw_rows(seed)
    rank = rank_rows(labels, groups, seed)
    before = np.zeros(len(labels), bool)
    for share in SHARES:
        rows = select_share(rank, labels, share)
        assert rows[before].all()
        assert set(labels[rows]) == set("abc")
        assert not set(groups[rows]) & set(groups[~rows])
        assert abs(rows.mean() - share) <= 0.1
        before = rows
    assert before.all()
    np.testing.assert_array_equal(rank, rank_rows(labels, groups, seed))


def test_classes_grow_alike():
    labels = np.array(["many"] * 900 + ["few"] * 100)
    rank = rank_rows(labels, np.arange(1000))
    rows = select_share(rank, labels, 0.3)
    assert rows[:900].mean() == pytest.approx(0.3, abs=0.02)
    assert rows[900:].mean() == pytest.approx(0.3, abs=0.02)


def test_the_smallest_share_has_every_class():
    labels = np.array(["a"] * 99 + ["b"])
    assert set(labels[select_share(rank_rows(labels, np.arange(100)), labels, 0.01)]) == {"a", "b"}


@pytest.mark.parametrize("shares", [(0.5, 1.0), (0.1, 0.5, 0.9), (0.0, 0.5, 1.0), (0.2, 0.5, 1.5)])
def test_what_is_no_curve_is_refused(shares):
    with pytest.raises(ValueError, match="learning curve"):
        check_shares(shares)
