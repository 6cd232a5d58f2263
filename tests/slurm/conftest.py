"""One virtual SLURM cluster for the tests of this folder (one for every process that runs them)."""

import pytest

from tests.slurm import virtual
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def virtual_slurm(tmp_path_factory):
    if reason := virtual.why_not():
        pytest.skip(reason)
    with virtual.start(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def slurm(virtual_slurm, monkeypatch):
    """The virtual cluster, to which sbatch and squeue speak from this process, too; no job is left after the test."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, virtual_slurm.environment[name])
    yield virtual_slurm
    virtual_slurm("scancel", "--full", "--user=root")
    wait_until(lambda: not virtual_slurm("squeue", "--noheader"), "all jobs have ended")
