"""The stubs of the scaling benchmark make every table of a run."""

import pytest

from benchmarks.bench_scale import STEPS, bench

pytestmark = pytest.mark.real


def test_every_step_of_a_run_with_stubs_succeeds(tmp_path):
    results = bench(70, str(tmp_path))
    assert [results[step]["exit_code"] for step in STEPS] == [0, 0, 0]
