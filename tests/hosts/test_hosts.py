"""emqa triage on workers of other hosts: a host that is cut off and comes back costs nothing but time."""

import signal
import sys

import pandas as pd
import pytest

from emqa_dask.synthetic.archive import synthesise
from tests.cluster_files.files import CLUSTER
from tests.waiting import wait_until
from tests.whole_runs import EMQA, assert_same_tables, undisturbed

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

# A link that is silent for twelve seconds, the least that Dask takes, is broken; cluster/dask.yaml says sixty.
SOON = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s"}


def test_a_host_is_cut_off_and_given_back(hosts, tmp_path):
    archive = tmp_path / "archive"
    synthesise(archive, "demo", n=60, seed=5, shape=(224, 288))
    expected = undisturbed(archive, tmp_path / "expected")
    script = str(CLUSTER / "local.sh")
    at = hosts.address
    env = SOON | {"PYTHON": sys.executable, "SCHEDULER_FILE": str(tmp_path / "scheduler.json"), "MEMORY": "2GiB"}
    logs = {name: tmp_path / f"{name}.log" for name in at}

    def said(name: str, *words: str) -> int:
        return sum(all(word in line for word in words) for line in logs[name].read_text().splitlines())

    def n_parts() -> int:
        return len(list((tmp_path / "ws").glob("predictions-*/*.parquet")))

    hosts.start("scheduler", script, "scheduler", log=logs["scheduler"], env=env | {"HOST": at["scheduler"]})
    address = f"tcp://{at['scheduler']}:8786"
    for name in ("one", "two"):
        hosts.start(name, script, "workers", address, "1", log=logs[name], env=env | {"HOST": at[name]})
    command = [
        *EMQA,
        "triage",
        str(archive),
        "--workspace",
        str(tmp_path / "ws"),
        "--scheduler",
        address,
        "--detector",
        "log",
    ]
    try:
        for name in ("one", "two"):
            wait_until(lambda name=name: said("scheduler", "Register worker", at[name]), f"host {name} has a worker")
        driver = hosts.start("client", *command, log=logs["client"], env=SOON)
        wait_until(lambda: n_parts() >= 3, "three partitions are done", timeout_s=300)
        hosts.unplug("two")
        hosts.signal("one", signal.SIGSTOP)  # or the run would be over before host two is back
        wait_until(lambda: said("scheduler", "Remove worker", at["two"]), "host two is missed", timeout_s=120)
        n_before = n_parts()
        hosts.plug("two")
        wait_until(lambda: said("scheduler", "Register worker", at["two"]) == 2, "host two is back", timeout_s=120)
        wait_until(lambda: n_parts() > n_before, "host two works again", timeout_s=120)
        hosts.signal("one", signal.SIGCONT)
        assert driver.wait(timeout=600) == 0
    except AssertionError as error:
        for name, log in logs.items():
            error.add_note(f"== {name}\n{log.read_text()[-3000:]}" if log.exists() else f"== {name}: nothing")
        raise
    assert_same_tables(tmp_path / "ws", expected)
    assert pd.read_parquet(tmp_path / "ws" / "failures.parquet").empty
    workers = pd.read_parquet(tmp_path / "ws" / "events.parquet")["worker"]
    assert set(workers.str.extract(r"//(.*):", expand=False)) - {""} == {at["one"], at["two"]}
