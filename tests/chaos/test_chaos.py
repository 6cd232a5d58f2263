"""A driver and a worker are killed for real; both times the run ends as if nothing had happened."""

import pytest

from benchmarks import chaos

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("sys.platform != 'linux'", reason="finds processes as Linux has them"),
]


BLOWS = ("driver", "worker")


def draw(number, setup, seconds, rng):
    return chaos.Run(number, setup, [chaos.Blow(BLOWS[number], 0.0, not_before="partitions")])


def test_killed_processes_leave_tables_of_an_undisturbed_run(tmp_path):
    figures = chaos.chaos(tmp_path, n=24, n_runs=2, setups=["local"], seed=4, shard_length=3, draw=draw)
    first, second = figures["runs"]
    assert [first["broken"], second["broken"]] == [[], []]
    assert (first["exit_codes"], second["exit_codes"]) == ([-9, 0], [0])
    assert (figures["n_equal"], figures["n_repeated_parts"]) == (2, 0)
    assert min(first["n_held"], second["n_held"]) > 0
