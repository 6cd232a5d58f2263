"""One virtual SLURM cluster, and one archive, for the tests of this folder (for every process that runs them)."""

import pytest

from emqa_dask.synthetic.archive import synthesise
from tests.slurm import virtual
from tests.waiting import wait_until
from tests.whole_runs import undisturbed


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


@pytest.fixture(scope="session")
def archive(virtual_slurm, tmp_path_factory):
    """60 small micrographs, faults among them, in so many stacks that there are some 50 partitions."""
    folder = tmp_path_factory.mktemp("archives") / "archive"
    synthesise(folder, "demo", n=60, seed=5, shape=(224, 288))
    return folder


@pytest.fixture(scope="session")
def expected(archive, tmp_path_factory):
    return undisturbed(archive, tmp_path_factory.mktemp("expected") / "ws")
