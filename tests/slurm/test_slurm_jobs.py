"""Laws of workers in SLURM jobs: jobs follow the work and the queue, and what cannot be had is an error at once."""

import os
import subprocess
import sys
import time

import dask
import pytest

from emqa_dask.run import tls
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.workers import make_worker_environment
from emqa_dask.settings import Run, Settings, SettingsError
from emqa_dask.settings.schedulers import Slurm
from tests.waiting import wait_until

pytest.importorskip("dask_jobqueue", reason="pip install 'emqa_dask[slurm]'")
from emqa_dask.run import batch
from emqa_dask.run.batch_jobs import list_jobs
from emqa_dask.run.batch_systems import SYSTEMS


def settings(run=(), **section) -> Settings:
    return Settings(run=Run(scheduler="slurm", **dict(run)), slurm=Slurm(**{"interface": "lo", **section})).check()


def job_script(wanted: Settings) -> str:
    from dask_jobqueue.slurm import SLURMJob

    options = batch.cluster_options(wanted, ["json.tool"])
    of_cluster = ("scheduler_options", "silence_logs")
    return SLURMJob("tcp://10.0.0.1:8786", **{k: v for k, v in options.items() if k not in of_cluster}).job_script()


def test_the_job_script_says_what_the_settings_say(tmp_path):
    wanted = settings(
        {"memory_gib": 2.5, "threads_per_worker": 2},
        queue="long", account="em", walltime="1-02:00:00", leave_s=600.0, workers_per_job=3, scratch="/scratch",
        directives=("--qos=night",), prologue=("module load python",), python="/opt/python", log_folder=str(tmp_path),
    )  # fmt: skip
    script = job_script(wanted)
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"-p long", "-A em", "-t 1-02:00:00", "--cpus-per-task=6", "--mem=8G", "--qos=night"} <= set(directives)
    (command,) = (line for line in script.splitlines() if line.startswith("/opt/python -m distributed.cli.dask_worker"))
    assert "--nworkers 3 " in command
    assert "--nthreads 2 --memory-limit 2.50GiB" in command
    assert "--interface lo" in command
    assert "--local-directory /scratch" in command
    assert script.index("module load python") < script.index("export OMP_NUM_THREADS=1")
    assert "LIFETIME__DURATION='93000.0 s'" in script
    assert "LIFETIME__STAGGER='300.0 s'" in script


def test_a_job_with_gpus_has_a_worker_for_each(tmp_path):
    script = job_script(settings(gpus_per_job=4, log_folder=str(tmp_path)))
    assert "#SBATCH --gres=gpu:4" in script
    assert "-m dask_cuda.cli tcp://10.0.0.1:8786" in script
    assert "--resources GPU=1" in script


def test_a_worker_that_starts_elsewhere_reads_the_same_configuration():
    found = dask.config.collect_env(make_worker_environment(["a.b", "c"]))["distributed"]
    read = dask.config.canonical_name
    worker = found[read("worker", found)]
    assert worker["preload"] == ["emqa_dask.run.workers", "a.b", "c"]
    assert (worker["daemon"], worker["memory"]) == (False, {"target": False, "spill": False, "pause": False})
    assert found["scheduler"][read("allowed-failures", found["scheduler"])] == 0


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"walltime": "90"}, "slurm.walltime"), ({"walltime": "00:05:00", "leave_s": 300.0}, "slurm.leave_s"),
        ({"min_jobs": 0}, "slurm.min_jobs"), ({"min_jobs": 5, "max_jobs": 4}, "slurm.min_jobs"),
    ],
)  # fmt: skip
def test_settings_that_could_not_work_are_refused(section, key):
    with pytest.raises(SettingsError, match=key):
        settings(**section)


def test_without_slurm_the_error_says_where_to_go(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no sbatch, squeue, scancel on this machine.*login node"):
        open_cluster(settings()).__enter__()


@pytest.mark.parametrize("section", [{"interface": ""}, {"interface": "ib17"}])
def test_the_scheduler_is_not_opened_to_every_network(section):
    with pytest.raises(ValueError, match=r"set slurm.interface to one of .*lo.*or slurm.scheduler_host"):
        batch.cluster_options(settings(**section))


def test_silence_of_the_queue_is_not_its_emptiness(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for text, found in (("exit 1", None), ("echo 7 PENDING '(Resources)'", {"7": "PENDING (Resources)"}), ("", {})):
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "squeue").chmod(0o755)
        assert list_jobs(SYSTEMS["slurm"]) == found


@pytest.fixture
def jobs(slurm, monkeypatch):
    """Job numbers and states, as the virtual cluster says; everything in this package looks often."""
    monkeypatch.setattr("emqa_dask.run.batch.INTERVAL_S", 0.5)
    monkeypatch.setattr("emqa_dask.run.batch.IDLE_LOOKS", 3)
    monkeypatch.setattr("emqa_dask.run.batch_jobs.FIRST_REST_S", 1.0)
    return lambda: slurm.jobs("PENDING", "RUNNING")


@pytest.mark.real
def test_jobs_follow_the_work_and_cancelled_ones_are_replaced(slurm, jobs, tmp_path):
    wanted = settings({"memory_gib": 1.0, "wait_s": 300.0}, max_jobs=3, log_folder=str(tmp_path / "logs"))
    with open_cluster(wanted, say=lambda text: None) as client:
        assert len(jobs()) == 1
        futures = [client.submit(time.sleep, 4, key=f"sleep-{n}") for n in range(12)]
        wait_until(lambda: len(jobs()) == 3, "there are as many jobs as may be")
        cancelled = max(jobs())
        slurm("scancel", str(cancelled))
        wait_until(lambda: len(set(jobs()) - {cancelled}) == 3, "the job that was cancelled is replaced")
        wait_until(lambda: all(f.done() for f in futures), "tasks have ended", 120)
        futures.clear()
        wait_until(lambda: len(jobs()) == 1, "idle jobs are given back")
        assert client.submit(os.getenv, "SLURM_JOB_ID").result() in map(str, jobs())
    assert jobs() == {}


@pytest.mark.real
def test_a_job_of_several_tls_workers_is_replaced_whole(slurm, jobs, tmp_path):
    """dask-jobqueue alone would count on its workers for ever."""
    certificates = tls.write_certificates(tmp_path / "certificates")
    wanted = settings(
        {"workers": 2, "memory_gib": 0.5, "wait_s": 300.0, "tls": str(certificates)}, workers_per_job=2,
        log_folder=str(tmp_path / "logs"),
    )  # fmt: skip
    with open_cluster(wanted, say=lambda text: None) as client:
        wait_until(lambda: len(client.nthreads()) == 2, "both workers are there")
        assert all(address.startswith("tls://") for address in [client.scheduler.address, *client.nthreads()])
        (first,) = jobs()
        slurm("scancel", str(first))
        wait_until(lambda: list(jobs()) not in ([], [first]), "the job is replaced")
        wait_until(lambda: client.submit(os.getenv, "SLURM_JOB_ID", pure=False).result() != str(first), "it works")
        assert len(jobs()) == 1
    assert jobs() == {}


@pytest.mark.real
def test_a_job_without_worker_is_an_error_with_its_log(slurm, jobs, tmp_path):
    prologue = ("echo the disk is not mounted >&2", "exit 7")
    wanted = settings(
        {"memory_gib": 1.0, "wait_s": 300.0}, min_jobs=3, prologue=prologue, log_folder=str(tmp_path / "logs")
    )
    with pytest.raises(RuntimeError, match=r"3 in a row: .*before a worker came; .*the disk is not mounted"):
        open_cluster(wanted, say=lambda text: None).__enter__()
    assert jobs() == {}


@pytest.mark.real
def test_a_job_refused_by_slurm_is_an_error_with_reason(jobs, tmp_path):
    wanted = settings({"memory_gib": 500.0}, log_folder=str(tmp_path / "logs"))
    with pytest.raises(RuntimeError, match=r"SLURM refuses such a job: .*node configuration.*run.memory_gib"):
        open_cluster(wanted).__enter__()
    assert jobs() == {}


def test_other_schedulers_do_not_load_what_slurm_needs():
    text = "import sys, emqa_dask.run.cluster; print({'distributed', 'dask_jobqueue'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout == "set()\n"
