"""emqa triage on SLURM: the tables of an undisturbed run, whatever happens to its jobs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster_files.files import CLUSTER
from tests.waiting import wait_until
from tests.whole_runs import EMQA, assert_same_tables

pytest.importorskip("dask_jobqueue", reason="pip install 'emqa_dask[slurm]'")
pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

# cluster/slurm.toml, as somebody would change it for this cluster: jobs of one worker, on the loopback interface
OURS = {"interface": '"lo"', "workers_per_job": "1", "max_jobs": "3", "min_jobs": "3", "memory_gib": "1.5"}


@pytest.fixture
def settings(tmp_path) -> Path:
    lines = (CLUSTER / "slurm.toml").read_text().splitlines()
    changed = [f"{key} = {OURS[key]}" if (key := line.split("=")[0].strip()) in OURS else line for line in lines]
    (tmp_path / "ours.toml").write_text("\n".join(changed) + "\n")
    return tmp_path / "ours.toml"


def start(archive, folder, settings, *options) -> subprocess.Popen:
    """A driver on the "login node"; its output goes to folder/log."""
    command = [*EMQA, "triage", str(archive), "--workspace", str(folder / "ws"), "--settings", str(settings)]
    command += ["--detector", "log", *options]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def finish(driver: subprocess.Popen, folder: Path, slurm) -> None:
    code = driver.wait(timeout=900)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("slurm-logs/*"))
    assert code == 0, f"exit code {code}\n{(folder / 'log').read_text()}\n{logs}\n{slurm.log()}"
    wait_until(lambda: not slurm.jobs("RUNNING", "PENDING"), "the run has cancelled its jobs")


def n_parts(folder: Path) -> int:
    return len(list((folder / "ws").glob("predictions-*/*.parquet")))


def test_the_tables_are_those_of_one_process(slurm, archive, expected, settings, tmp_path):
    two_jobs_of_two = [f"--set=slurm.{key}=2" for key in ("workers_per_job", "min_jobs", "max_jobs")]
    driver = start(archive, tmp_path, settings, *two_jobs_of_two)
    wait_until(lambda: len(slurm.jobs("RUNNING")) == 2, "two jobs run", timeout_s=120)
    finish(driver, tmp_path, slurm)
    assert_same_tables(tmp_path / "ws", expected)
    assert pd.read_parquet(tmp_path / "ws" / "events.parquet")["worker"].nunique() >= 2


@pytest.mark.parametrize("how", ["cancelled", "over its time"])
def test_jobs_that_end_half_way_cost_no_image(slurm, archive, expected, settings, tmp_path, how):
    driver = start(archive, tmp_path, settings)
    wait_until(lambda: n_parts(tmp_path) >= 3, "three partitions are done", timeout_s=300)
    victim = min(slurm.jobs("RUNNING"))
    if how == "cancelled":
        slurm("scancel", str(victim))
        wait_until(lambda: slurm.jobs().get(victim) == "CANCELLED", "the job is cancelled")
    else:
        # SLURM looks at time limits twice a minute: until then the job stands still, with what it has in hand
        slurm("scancel", "--full", "--signal=STOP", str(victim))
        slurm("scontrol", "update", f"JobId={victim}", "EndTime=now+2")
        wait_until(lambda: slurm.jobs().get(victim) == "TIMEOUT", "the job is over its time", timeout_s=120)
    finish(driver, tmp_path, slurm)
    assert_same_tables(tmp_path / "ws", expected)
    assert pd.read_parquet(tmp_path / "ws" / "failures.parquet").empty


def test_bench_measures_one_and_two_jobs(slurm, archive, settings, tmp_path):
    command = [*EMQA, "bench", str(archive), "--files", "8", "--workers", "1", "2", "--rounds", "1"]
    command += ["--settings", str(settings), "--detector", "log", "--out", str(tmp_path / "bench.json")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, f"{ran.stderr}\n{slurm.log()}"
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["scheduler"] == "slurm"
    runs = [(run["scaling"], run["workers"], run["n_files"]) for run in document["runs"]]
    assert runs == [("strong", 1, 8), ("weak", 1, 4), ("strong", 2, 8)]
    assert document["summary"]["law"]
    wait_until(lambda: not slurm.jobs("RUNNING", "PENDING"), "bench has cancelled its jobs")


@pytest.fixture
def submit(slurm, archive, settings, tmp_path):
    """submit() -> number of a job of cluster/slurm.sbatch, as it is, sent off from tmp_path."""
    here = Path(sys.executable).parent
    env = slurm.environment | {"PATH": f"{here}:{slurm.environment['PATH']}", "EMQA_SETTINGS": str(settings)}

    def sbatch(*options: str) -> str:
        command = ["sbatch", *options, str(CLUSTER / "slurm.sbatch"), str(archive), "--workspace", str(tmp_path / "ws")]
        command += ["--detector", "log"]
        ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip() or ran.stderr.strip()

    return sbatch


def test_slurm_would_take_the_driver_as_it_is(submit):
    said = submit("--test-only")
    assert re.fullmatch(r"sbatch: Job \d+ to start at \S+ using 4 processors on nodes n\d in partition all", said)


def test_a_driver_at_its_time_limit_is_requeued_and_resumes(slurm, submit, expected, tmp_path):
    job = int(submit("--parsable"))
    wait_until(lambda: n_parts(tmp_path) >= 3, "three partitions are done", timeout_s=300)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "ws").glob("predictions-*/*.parquet")}
    slurm("scancel", "--batch", "--signal=TERM", str(job))  # as --signal=B:TERM@120 does
    log = tmp_path / f"emqa-{job}.log"
    wait_until(lambda: "goes back into the queue" in log.read_text(), "the driver has stopped", timeout_s=60)
    alone = "only the driver's job is left"  # a worker's job that could not be cancelled in time ends by itself
    living = ("PENDING", "RUNNING", "COMPLETING")
    wait_until(lambda: slurm.jobs(*living) == {job: "PENDING"}, alone, timeout_s=240)
    assert not (tmp_path / "ws" / "triage.parquet").exists()
    # SLURM lets a job rest for two minutes. A node takes a job that starts in the very second in which it was ended
    # there for the old one ("Job credential revoked").
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    wait_until(lambda: slurm.jobs().get(job) == "COMPLETED", "the job is done", timeout_s=240)
    assert_same_tables(tmp_path / "ws", expected)
    assert {path: path.stat().st_mtime_ns for path in done} == done
