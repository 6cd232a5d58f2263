"""Laws of the doctor: what is wrong is said with its remedy, and makes the exit code."""

import re

import pytest

from emqa_dask.run import remote
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.doctor import check_machine, list_requirements
from emqa_dask.settings import Run, Settings
from emqa_dask.settings.schedulers import Local


def test_a_machine_on_which_the_tests_run_can_run_it():
    said = []
    assert check_machine(said.append) == 0
    assert said[-1] == "This machine can run emqa_dask."
    assert not [text for text in said if text.startswith("BAD")]


def test_what_the_package_needs_is_found():
    assert {name for name, found, is_new_enough in list_requirements() if is_new_enough} >= {"dask", "numpy", "zarr"}


@pytest.mark.real
def test_a_silent_scheduler_is_a_finding_with_remedy(monkeypatch):
    monkeypatch.setattr(remote, "CONNECT_S", 0.5)
    said = []
    assert check_machine(said.append, Settings(run=Run(scheduler="tcp://127.0.0.1:1"))) == 1
    (finding,) = [text for text in said if text.startswith("BAD")]
    assert re.match(r"BAD {3}scheduler tcp://127\.0\.0\.1:1: no Dask scheduler answers at .*dask scheduler", finding)
    assert said[-1] == "1 findings to mend."


@pytest.mark.real
def test_a_scheduler_with_workers_is_well():
    said = []
    with open_cluster(Settings(run=Run(workers=2), local=Local(tls=False))) as client:
        assert check_machine(said.append, Settings(run=Run(scheduler=client.scheduler.address))) == 0
        assert f"ok    scheduler {client.scheduler.address}: 2 workers that can do this" in said
