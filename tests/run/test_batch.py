"""Laws of batch systems: dask-jobqueue takes what we pass, and job scripts say what the settings say. No job is run."""

import inspect

import pytest

from emqa_dask.run.batch import cluster_options, import_cluster_class, open_batch
from emqa_dask.run.batch_jobs import list_jobs, read_last_line, record_refusals
from emqa_dask.run.batch_systems import SYSTEMS
from emqa_dask.settings import Settings, SettingsError, replace
from emqa_dask.settings.schedulers import BATCH_SYSTEMS

dask_jobqueue = pytest.importorskip("dask_jobqueue", reason="pip install 'emqa_dask[jobqueue]'")

SECTION = {
    "account": "em", "walltime": "1-02:00:30", "leave_s": 600.0, "workers_per_job": 3, "interface": "lo",
    "scratch": "/scratch", "prologue": ["module load python"], "python": "/opt/python",
}  # fmt: skip
RUN = {"memory_gib": 2.5, "threads_per_worker": 2}


def make_settings(name: str, **section) -> Settings:
    queue = {} if name == "htcondor" else {"queue": "long"}
    return replace(Settings(), {"run": RUN | {"scheduler": name}, name: SECTION | queue | section})


def write_script(settings: Settings) -> str:
    """The job script that dask-jobqueue writes, by the same class as in a run."""
    name = settings.run.scheduler
    cluster_only = ("scheduler_options", "silence_logs")
    options = {k: v for k, v in cluster_options(settings, ["json.tool"]).items() if k not in cluster_only}
    return record_refusals(import_cluster_class(name).job_cls)(
        "tcp://10.0.0.1:8786", name="w-0", **options
    ).job_script()


def list_directives(script: str) -> set[str]:
    """Directives without their prefix; of HTCondor the pairs of its submit file."""
    prefixes = ("#SBATCH ", "#PBS ", "#BSUB ", "#$ ")
    lines = script.splitlines()
    found = {line.removeprefix(p) for line in lines for p in prefixes if line.startswith(p)}
    return found or {line for line in lines if " = " in line and not line.startswith("Arguments")}


DIRECTIVES = {
    "slurm": {"-p long", "-A em", "-t 1-02:00:30", "--cpus-per-task=6", "--mem=8G", "-J emqa"},
    "pbs": {"-q long", "-A em", "-l walltime=26:00:30", "-l select=1:ncpus=6:mem=7680mb", "-N emqa"},
    # -M in kB, the default of LSF
    "lsf": {"-q long", '-P "em"', "-W 26:01", "-n 6", '-R "span[hosts=1]"', "-M 8053064", "-J emqa"},
    "sge": {"-q long", "-P em", "-l h_rt=26:00:30", "-pe smp 6", "-l mem_free=1280M", "-N emqa"},
    "htcondor": {
        "RequestCpus = MY.DaskWorkerCores", "MY.DaskWorkerCores = 6", "MY.DaskWorkerMemory = 8053063680",
        "MY.DaskWorkerDisk = 4294967296", "accounting_group = em",
        "periodic_remove = (JobStatus == 2) && ((time() - EnteredCurrentStatus) > 93630)",
    },
}  # fmt: skip
GPU_DIRECTIVES = {
    "slurm": {"--gres=gpu:4"},
    "pbs": {"-l select=1:ncpus=8:mem=10240mb:ngpus=4"},
    "lsf": {'-gpu "num=4"'},
    "sge": {"-l gpu=4"},
    "htcondor": {"request_gpus = 4"},
}


def test_every_section_of_a_batch_system_has_its_entry():
    assert set(BATCH_SYSTEMS) == set(SYSTEMS) == set(DIRECTIVES)
    assert all(name == getattr(Settings(), name).SECTION for name in BATCH_SYSTEMS)


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_every_argument_is_one_of_dask_jobqueue(name, tmp_path):
    cluster_class = import_cluster_class(name)
    signatures = [cluster_class.job_cls.__init__, dask_jobqueue.core.Job.__init__]
    signatures.append(dask_jobqueue.core.JobQueueCluster.__init__)
    known = {parameter for function in signatures for parameter in inspect.signature(function).parameters}
    for section in ({}, {"gpus_per_job": 2}):
        options = cluster_options(make_settings(name, log_folder=str(tmp_path), **section))
        assert set(options) <= known - {"self", "base_class_kwargs", "job_kwargs", "job_extra", "extra", "env_extra"}


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_the_job_script_says_what_the_settings_say(name, tmp_path):
    script = write_script(make_settings(name, log_folder=str(tmp_path)))
    assert DIRECTIVES[name] <= list_directives(script)
    (command,) = (line for line in script.splitlines() if "/opt/python -m distributed.cli.dask_worker" in line)
    for option in (
        "--nworkers 3 ",
        "--nthreads 2 --memory-limit 2.50GiB",
        "--interface lo",
        "--local-directory /scratch",
    ):
        assert option in command
    assert script.index("module load python") < script.index("export OMP_NUM_THREADS=1")
    quote = "''" if name == "htcondor" else "'"
    assert f"LIFETIME__DURATION={quote}93030.0 s{quote}" in script
    assert f"LIFETIME__STAGGER={quote}300.0 s{quote}" in script
    assert str(tmp_path) in script


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_a_job_with_gpus_has_a_worker_for_each(name, tmp_path):
    script = write_script(make_settings(name, gpus_per_job=4, log_folder=str(tmp_path)))
    assert GPU_DIRECTIVES[name] <= list_directives(script)
    assert "-m dask_cuda.cli tcp://10.0.0.1:8786" in script
    assert "--resources GPU=1" in script
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in script


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_own_directives_are_added_to_the_script(name, tmp_path):
    own = "+Site = here" if name == "htcondor" else "--hold now"
    script = write_script(make_settings(name, directives=[own], log_folder=str(tmp_path)))
    assert own in list_directives(script)


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_without_its_commands_the_error_says_where_to_go(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    submit, *_ = SYSTEMS[name].commands
    with pytest.raises(RuntimeError, match=rf"no {submit}, .* on this machine.*login node"):
        open_batch(make_settings(name, log_folder=str(tmp_path))).__enter__()


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
@pytest.mark.parametrize("interface", ["", "ib17"])
def test_the_scheduler_is_not_opened_to_every_network(name, interface):
    with pytest.raises(ValueError, match=rf"set {name}.interface to one of .*lo.*or {name}.scheduler_host"):
        cluster_options(make_settings(name, interface=interface))


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
@pytest.mark.parametrize(
    ("section", "key"),
    [({"walltime": "90"}, "walltime"), ({"leave_s": 1e6}, "leave_s"), ({"min_jobs": 5, "max_jobs": 4}, "min_jobs")],
)
def test_settings_that_could_not_work_are_refused(name, section, key):
    with pytest.raises(SettingsError, match=f"{name}.{key}"):
        make_settings(name, **section)


def test_htcondor_has_no_queue_and_takes_pairs():
    with pytest.raises(SettingsError, match=r"htcondor.queue is 'long': it has to be empty"):
        make_settings("htcondor", queue="long")
    with pytest.raises(SettingsError, match=r"htcondor.directives .* \"key = value\""):
        make_settings("htcondor", directives=["--hold"])


# Output of the list commands, as their manuals show it.
LISTED = {
    "slurm": ("7 PENDING (Resources)\n", {"7": "PENDING (Resources)"}),
    "pbs": (
        "\npbs01: \n"
        "                                                            Req'd  Req'd   Elap\n"
        "Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time\n"
        "--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----\n"
        "7.pbs01         em       long     emqa          --    1   6 7680mb 26:00 Q   -- \n"
        "8.pbs01.exampl* em       long     emqa        4242    1   6 7680mb 26:00 R 00:12\n"
        "9.pbs01         em       long     emqa        4243    1   6 7680mb 26:00 F 00:12\n",
        {"7": "Q", "8": "R"},
    ),
    "lsf": ("7      PEND\n8      RUN\n", {"7": "PEND", "8": "RUN"}),
    "sge": (
        "job-ID  prior   name       user         state submit/start at     queue          slots ja-task-ID\n"
        "-------------------------------------------------------------------------------------------------\n"
        "      7 0.55500 emqa       em           r     11/29/2026 10:00:00 long@n1            6        \n"
        "     18 0.00000 emqa       em           qw    11/29/2026 10:01:00                    6        \n",
        {"7": "r", "18": "qw"},
    ),
    "htcondor": ("7.0 2\n8.0 1\n9.0 4\n", {"7.0": "running", "8.0": "idle"}),
}


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_jobs_are_listed_and_silence_is_not_emptiness(name, monkeypatch, tmp_path):
    system = SYSTEMS[name]
    text, states = LISTED[name]
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    listing = tmp_path / "listing"
    command = tmp_path / system.commands[1]
    for script, expected in ((f"cat {listing}", states), ("exit 1", None), ("", {})):
        listing.write_text(text)
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        assert list_jobs(system) == expected
    if system.message_without_jobs:
        command.write_text(f"#!/bin/sh\necho '{system.message_without_jobs}' >&2\nexit 255\n")
        assert list_jobs(system) == {}


@pytest.mark.parametrize(
    ("name", "job", "file"),
    [
        ("slurm", "7", "emqa-7.err"), ("pbs", "7", "7.pbs01.ER"), ("pbs", "7", "emqa.e7"), ("lsf", "7", "w-0-7.err"),
        ("sge", "7", "emqa.o7"), ("htcondor", "7.0", "worker-7.0.err"),
    ],
)  # fmt: skip
def test_the_last_words_of_a_job_are_found(name, job, file, tmp_path):
    (tmp_path / file).write_text("first\nthe disk is not mounted\n")
    assert read_last_line(SYSTEMS[name], str(tmp_path), job).endswith(f"{file} ends with: the disk is not mounted")
    assert read_last_line(SYSTEMS[name], str(tmp_path), "70") == f"; its output is in {tmp_path}"
