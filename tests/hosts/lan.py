"""Several hosts on one machine: network namespaces with an address each, cabled to a switch in one of their own.

They share files, as the hosts of a cluster share a network disk, and nothing else of the network: not even the
machine's own interfaces. unplug() takes a host's cable out of the switch, plug() puts it back.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def why_not() -> str:
    """Why no network namespaces can be had here; empty when they can."""
    if shutil.which("ip", path=PATH) is None:
        return "no `ip` here: apt-get install iproute2"
    name = f"emqa-{secrets.token_hex(3)}"
    tries = [["netns", "add", name], ["-n", name, "link", "add", "name", "bridge", "type", "bridge"]]
    tries += [["-n", name, "link", "add", "name", "one", "type", "veth", "peer", "name", "two"]]
    try:
        for command in tries:
            ran = _ip(*command)
            if ran.returncode != 0:
                return f"no network namespaces here: `ip {' '.join(command)}` says {ran.stderr.strip()!r}"
    finally:
        _ip("netns", "del", name)
    return ""


class Lan:
    """Hosts by name; `address[name]` is theirs."""

    def __init__(self, names: Sequence[str]):
        self.prefix = f"emqa-{secrets.token_hex(3)}"
        self.started: list[subprocess.Popen] = []
        self.address = {name: f"10.83.0.{number}" for number, name in enumerate(names, 1)}

    def start(self, host: str, *command: str, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a command on a host; what it says goes to `log`."""
        with log.open("wb") as out:
            full = ["ip", "netns", "exec", f"{self.prefix}-{host}", *command]
            # `ip netns exec` becomes the command: the number of the process is the command's
            process = subprocess.Popen(
                full, env=os.environ | {"PATH": PATH} | (env or {}), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.started.append(process)
        return process

    def signal(self, host: str, number: int) -> None:
        """Send a signal to everything that runs on a host."""
        for pid in _ip("netns", "pids", f"{self.prefix}-{host}").stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def unplug(self, host: str) -> None:
        _must("-n", f"{self.prefix}-switch", "link", "set", host, "down")

    def plug(self, host: str) -> None:
        _must("-n", f"{self.prefix}-switch", "link", "set", host, "up")


@contextlib.contextmanager
def lan(names: Sequence[str]) -> Iterator[Lan]:
    """Hosts `names` on one network; gone at the end, with everything that still runs on them."""
    made = Lan(names)
    switch = f"{made.prefix}-switch"
    try:
        _must("netns", "add", switch)
        _must("-n", switch, "link", "add", "name", "bridge", "type", "bridge")
        _must("-n", switch, "link", "set", "bridge", "up")
        for name, address in made.address.items():
            host = f"{made.prefix}-{name}"
            _must("netns", "add", host)
            _must("-n", switch, "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", host)
            _must("-n", switch, "link", "set", name, "master", "bridge", "up")
            _must("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _must("-n", host, "link", "set", "eth0", "up")
            _must("-n", host, "link", "set", "lo", "up")
        yield made
    finally:
        for process in made.started:
            process.kill()
            process.wait()
        for name in (*names, "switch"):
            made.signal(name, signal.SIGKILL)
            _ip("netns", "del", f"{made.prefix}-{name}")


def _ip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], env=os.environ | {"PATH": PATH}, capture_output=True, text=True)


def _must(*arguments: str) -> None:
    ran = _ip(*arguments)
    if ran.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {ran.stderr.strip()}")
