"""Laws of temporary folders: each process has its own, and what a killed one leaves is removed, and nothing else."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from emqa_dask.run import scratch
from tests.waiting import wait_until

MAKE = """
import sys, time
from emqa_dask.run.scratch import get_scratch_folder
print(get_scratch_folder(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def temporary(monkeypatch):
    """A temporary folder with a path that is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(scratch, "_folders_by_pid", {})
        yield Path(folder)


def start():
    process = subprocess.Popen([sys.executable, "-c", MAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def end(process):
    process.communicate("\n")


def test_a_process_has_one_folder_that_goes_with_it(temporary):
    process, folder = start()
    assert os.path.dirname(folder) == str(temporary)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    end(process)
    assert os.listdir(temporary) == []


def test_what_a_killed_process_leaves_is_removed_by_the_next(temporary):
    process, folder = start()
    Path(folder, "a trace").touch()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert os.path.exists(folder)
    end(start()[0])
    assert os.listdir(temporary) == []


def test_nothing_of_others_is_removed(temporary):
    running, folder = start()
    owner = json.loads(Path(folder, scratch.MARKER).read_text())
    (temporary / "outside").mkdir()
    kept = {os.path.basename(folder), "outside"}
    for name, text in {
        "emqa-run-without": None,
        "emqa-run-damaged": "{",
        "emqa-run-list": "[]",
        "emqa-run-elsewhere": json.dumps(owner | {"machine": "another", "pid": 1}),
        "emqa-users-folder": json.dumps(owner | {"start_s": 0.0}),
    }.items():
        (temporary / name).mkdir()
        if text is not None:
            (temporary / name / scratch.MARKER).write_text(text)
        kept.add(name)
    (temporary / "outside" / scratch.MARKER).write_text(json.dumps(owner | {"start_s": 0.0}))
    (temporary / "emqa-run-link").symlink_to(temporary / "outside")
    scratch.remove_abandoned_folders()
    assert set(os.listdir(temporary)) == kept | {"emqa-run-link"}
    assert (temporary / "outside" / scratch.MARKER).exists()
    end(running)


@pytest.mark.real
def test_a_killed_run_leaves_nothing_for_long_and_says_nothing(temporary):
    program = (
        "import sys\nfrom emqa_dask.run.cluster import open_cluster\nfrom emqa_dask.settings import Run, Settings\n"
        "with open_cluster(Settings(run=Run(workers=1))) as client:\n    print('open', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for is_killed in (True, False):
        run = subprocess.Popen([sys.executable, "-c", program], **pipes)
        while (line := run.stdout.readline()) != "open\n":
            assert line.startswith("the workers did not start"), line + run.stderr.read()  # a busy machine
        family = psutil.Process(run.pid).children(recursive=True)
        if is_killed:
            run.kill()
        _, errors = run.communicate("" if is_killed else "\n")
        wait_until(lambda family=family: not any(process.is_running() for process in family), "all have left")
        assert errors == ""
    assert [name for name in os.listdir(temporary) if name != "dask-scratch-space"] == []
    assert [name for name in os.listdir(temporary / "dask-scratch-space") if name.startswith("worker")] == []


@pytest.mark.real
def test_workers_start_where_the_temporary_folder_has_a_long_path(tmp_path):
    folder = tmp_path / ("long" * 15)
    folder.mkdir()
    program = (
        "from emqa_dask.run.cluster import open_cluster\nfrom emqa_dask.settings import Run, Settings\n"
        "with open_cluster(Settings(run=Run(workers=1))) as client:\n    print(len(client.nthreads()))\n"
    )
    environment = os.environ | {"TMPDIR": str(folder)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr
