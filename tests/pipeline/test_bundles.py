"""Laws of bundles: few tasks for Dask's scheduler, enough for every thread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.pipeline.commands.executor import MAX_BUNDLE, MIN_TASKS_PER_THREAD, choose_bundle


@pytest.mark.parametrize(
    ("n_tasks", "n_threads", "expected"),
    [(0, 2, 1), (1000, 2, 1), (3125, 2, 3), (31_250, 2, 16), (31_250, 100, 9), (31_250, 2000, 1)],
)
def test_the_size_of_a_bundle(n_tasks, n_threads, expected):
    assert choose_bundle(n_tasks, n_threads) == expected


@given(st.integers(0, 10**7), st.integers(1, 10**4))
def test_bundles_leave_tasks_for_every_thread(n_tasks, n_threads):
    bundle = choose_bundle(n_tasks, n_threads)
    assert 1 <= bundle <= MAX_BUNDLE
    assert bundle == 1 or n_tasks // bundle >= MIN_TASKS_PER_THREAD * n_threads
