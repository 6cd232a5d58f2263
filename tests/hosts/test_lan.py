"""The hosts are hosts: they reach each other, a loopback is its host's own, and a cable that is out cuts off."""

import subprocess
import sys

import pytest

from tests.hosts.lan import PATH, lan, why_not
from tests.waiting import wait_until

pytestmark = pytest.mark.real

SAY = "import socket; s = socket.create_server(('0.0.0.0', 9000)); print('up', flush=True)\nwhile True: s.accept()"
ASK = "import socket, sys; socket.create_connection((sys.argv[1], 9000), timeout=2)"


def asks(hosts, host, address, folder) -> bool:
    return hosts.start(host, sys.executable, "-c", ASK, address, log=folder / "asks.log").wait(timeout=60) == 0


def test_hosts_reach_each_other_unless_their_cable_is_out(hosts, tmp_path):
    log = tmp_path / "says.log"
    hosts.start("one", sys.executable, "-c", SAY, log=log)
    wait_until(lambda: "up" in log.read_text(), "it listens")
    address = hosts.address["one"]
    assert asks(hosts, "client", address, tmp_path)
    assert not asks(hosts, "client", "127.0.0.1", tmp_path)
    hosts.unplug("one")
    assert not asks(hosts, "client", address, tmp_path)
    assert asks(hosts, "one", "127.0.0.1", tmp_path)
    hosts.plug("one")
    assert asks(hosts, "two", address, tmp_path)


def test_nothing_is_left_when_it_ends(tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    with lan(["alone"]) as hosts:
        process = hosts.start("alone", "sleep", "600", log=tmp_path / "log")
    assert process.wait(timeout=10) == -9
    left = subprocess.run(["ip", "netns"], env={"PATH": PATH}, capture_output=True, text=True).stdout
    assert hosts.prefix not in left
