"""The virtual SLURM is one: jobs run on four nodes, wait their turn, are cancelled, and end at their time limit."""

import os

import pytest

from tests.slurm.virtual import NODES, list_processes, start, why_not
from tests.waiting import wait_until

pytestmark = pytest.mark.real


def said(folder) -> list[str]:
    return sorted(text for path in folder.iterdir() if (text := path.read_text().strip()))


def test_jobs_run_on_nodes_and_the_fifth_waits(slurm, tmp_path):
    for _ in range(5):
        slurm("sbatch", f"--output={tmp_path}/%j", "--wrap", "echo $SLURMD_NODENAME; sleep 600")
    wait_until(lambda: len(slurm.jobs("RUNNING")) == 4, "four jobs run")
    assert len(slurm.jobs("PENDING")) == 1
    wait_until(lambda: said(tmp_path) == sorted(NODES), "four jobs have said where they are")


def test_a_job_is_cancelled_and_one_over_its_time_ends(slurm):
    cancelled, late = (int(slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 600")) for _ in "12")
    wait_until(lambda: {cancelled, late} <= set(slurm.jobs("RUNNING")), "both run")
    slurm("scancel", str(cancelled))
    slurm("scontrol", "update", f"JobId={late}", "EndTime=now+2")  # the shortest time limit is a minute
    wait_until(lambda: slurm.jobs().get(cancelled) == "CANCELLED", "the job is cancelled")
    wait_until(lambda: slurm.jobs().get(late) == "TIMEOUT", "the job is over its time", timeout_s=150)


def test_dask_jobqueue_starts_a_worker_in_a_job(slurm, tmp_path):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="pip install 'emqa_dask[slurm]'")
    from distributed import Client

    options = {"cores": 1, "processes": 1, "memory": "1GiB", "interface": "lo", "walltime": "00:05:00"}
    quiet = {"log_directory": str(tmp_path), "scheduler_options": {"dashboard_address": "127.0.0.1:0"}}
    with jobqueue.SLURMCluster(**options, **quiet) as cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        nodes = client.run(os.getenv, "SLURMD_NODENAME").values()
        assert set(nodes) <= set(NODES)
        assert len(set(nodes)) == 2


def test_nothing_is_left_when_it_ends(tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    with start(tmp_path) as slurm:
        slurm("sbatch", "--output=/dev/null", "--wrap", f"sleep 600; echo {tmp_path}")
        wait_until(lambda: slurm.jobs("RUNNING"), "the job runs")
        assert list_processes(tmp_path)
    wait_until(lambda: not list_processes(tmp_path), "no daemon and no job is left")
