"""local.sh: scheduler and workers by hand triage as one process does, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from emqa_dask.run.tls import write_certificates
from tests.cluster_files.files import CLUSTER
from tests.waiting import wait_until
from tests.whole_runs import assert_same_tables, triage, undisturbed

pytestmark = pytest.mark.real

MARK = "EMQA_TEST_OF_LOCAL_SH"  # by which everything that the script starts is known


@pytest.fixture(scope="module")
def expected(small_archive, tmp_path_factory):
    return undisturbed(small_archive, tmp_path_factory.mktemp("expected") / "ws")


@pytest.fixture
def marked(tmp_path):
    """Variables for the script; afterwards nothing that was started with them is left."""
    variables = {"PYTHON": sys.executable, "WORKERS": "2", "PORT": "0", MARK: str(tmp_path)}
    yield variables
    try:
        wait_until(lambda: not running(tmp_path), "all that local.sh started has ended", timeout_s=30)
    finally:
        for process in running(tmp_path):
            process.kill()


def running(mark) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def start(arguments, env, folder, **options) -> subprocess.Popen:
    with (folder / f"{arguments[0]}.log").open("wb") as log:
        return subprocess.Popen(
            [CLUSTER / "local.sh", *arguments], env=os.environ | env, cwd=folder, stdout=log, stderr=log, **options
        )


def test_everything_on_one_machine(small_archive, expected, marked, tmp_path):
    arguments = ["triage", str(small_archive), "--workspace", str(tmp_path / "ws"), "--detector", "log"]
    assert start(arguments, marked, tmp_path).wait(timeout=300) == 0, (tmp_path / "triage.log").read_text()
    assert_same_tables(tmp_path / "ws", expected)


@pytest.mark.parametrize("how", ["plain", "tls"])
def test_scheduler_and_workers_in_terminals_of_their_own(small_archive, expected, marked, tmp_path, how):
    env = dict(marked)
    options = []
    if how == "tls":
        env["TLS"] = str(write_certificates(tmp_path / "certificates"))
        options = ["--set", f"run.tls={env['TLS']}"]
    scheduler = start(["scheduler"], env, tmp_path)
    workers = None
    try:
        file = tmp_path / "emqa-scheduler.json"
        wait_until(lambda: file.exists() and file.read_text(), "the scheduler has written its address")
        address = json.loads(file.read_text())["address"]
        assert address.startswith(f"{'tls' if how == 'tls' else 'tcp'}://127.0.0.1:")
        workers = start(["workers", address, "2"], env, tmp_path)
        triage(small_archive, tmp_path / "ws", "--scheduler", address, *options)
        assert workers.poll() is None  # they stay for the next run
        assert scheduler.poll() is None
    finally:
        for process in filter(None, (workers, scheduler)):
            process.terminate()
            process.wait(timeout=60)
    assert_same_tables(tmp_path / "ws", expected)


def test_a_signal_stops_it_and_the_same_command_goes_on(small_archive, expected, marked, tmp_path):
    arguments = ["triage", str(small_archive), "--workspace", str(tmp_path / "ws"), "--detector", "log"]
    script = start(arguments, marked, tmp_path, start_new_session=True)
    wait_until(lambda: list((tmp_path / "ws").glob("detections-*/*.parquet")), "the first part is there", 120)
    script.send_signal(signal.SIGINT)
    log = tmp_path / "triage.log"
    assert script.wait(timeout=60) == 130, log.read_text()
    assert "the same command again" in log.read_text()
    assert not (tmp_path / "ws" / "triage.parquet").exists()
    wait_until(lambda: not running(tmp_path), "nothing is left", timeout_s=30)
    assert start(arguments, marked, tmp_path).wait(timeout=300) == 0, log.read_text()
    assert_same_tables(tmp_path / "ws", expected)


def test_what_is_wrong_is_said(tmp_path):
    def says(*arguments, **env):
        ran = subprocess.run(
            [CLUSTER / "local.sh", *arguments], env=os.environ | env, cwd=tmp_path, capture_output=True, text=True
        )
        return ran.returncode, ran.stderr

    assert says("triage")[0] == 1
    assert "local.sh workers ADDRESS" in says()[1]
    assert says("scheduler", TLS=str(tmp_path)) == (
        1,
        f"local.sh: TLS={tmp_path}: there is no ca.pem in it that can be read\n",
    )
    code, text = says("triage", "nothing", PYTHON=sys.executable, HOST="192.0.2.1")
    assert code == 1
    assert "192.0.2.1" in text or "assign requested address" in text
