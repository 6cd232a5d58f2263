"""Debian's SLURM on this machine as four virtual nodes: own configuration, key, ports and folder; gone at the end.

Daemons run in the foreground as children of this process, on the loopback interface and on ports that were free, so
that two of these clusters do not know of each other, nor of a SLURM that the machine may have.
"""

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.waiting import wait_until

NODES = ("n1", "n2", "n3", "n4")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

# NodeHostname is what makes four slurmd of one machine four nodes. Nothing is accounted, bound or kept in cgroups: that
# needs the real machine. A node has what is said here (config_overrides), and one job at a time. A job over its time
# limit gets SIGTERM at once and SIGKILL two seconds later.
CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
ReturnToService=2
OverTimeLimit=0
KillWait=2
SlurmdParameters=config_overrides
MessageTimeout=60
SchedulerParameters=sched_interval=1,batch_sched_delay=0
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=EXCLUSIVE State=UP
"""


def why_not() -> str:
    """Why no virtual SLURM can be had here; empty when it can."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacking:
        return f"no {', '.join(lacking)} here: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd has to be started by root"
    return ""


class Slurm:
    """A running virtual cluster: `environment` makes SLURM's commands speak to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def __call__(self, *command: str) -> str:
        """What a command of SLURM says, stripped; AssertionError with its complaint when it fails."""
        ran = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, f"{' '.join(command)}: {ran.stderr or ran.stdout}"
        return ran.stdout.strip()

    def jobs(self, *states: str) -> dict[int, str]:
        """Job numbers and states: of all that SLURM remembers, or only those in one of `states`."""
        lines = self("squeue", "--noheader", "--all", "--states=all", "--format=%A %T").splitlines()
        results = {int(job): state for job, state in map(str.split, lines)}
        return {job: state for job, state in results.items() if not states or state in states}

    def log(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in self.folder.glob("*.log"))


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Slurm]:
    """A virtual cluster in the empty `folder`, whose nodes are idle; at the end no job and no daemon is left."""
    for name in ("state", "spool", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    folder.chmod(0o755)  # munge asks that everybody may reach its socket
    host = platform.node()
    ports = _free_ports(1 + len(NODES))
    nodes = (
        f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=4 RealMemory=16000"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, folder=folder, ports=ports, nodes="\n".join(nodes))
    )
    slurm = Slurm(folder)
    daemons = []
    try:
        daemons.append(
            _daemon(
                slurm, "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
                f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                f"--seed-file={folder}/munge.seed",
            )
        )  # fmt: skip
        wait_until((folder / "munge.socket").exists, "munged listens")
        daemons.append(_daemon(slurm, "slurmctld", "-D"))
        daemons += [_daemon(slurm, "slurmd", "-D", "-N", node) for node in NODES]
        idle = ("sinfo", "--noheader", "--states=idle", "--format=%D")
        wait_until(lambda: _quietly(slurm, *idle) == str(len(NODES)), "four nodes are idle")
        yield slurm
    except AssertionError as error:
        error.add_note(slurm.log())
        raise
    finally:
        _stop(slurm, daemons)


def _stop(slurm: Slurm, daemons: list[subprocess.Popen]) -> None:
    _quietly(slurm, "scancel", "--full", "--user=root")
    deadline = time.monotonic() + 20
    while _quietly(slurm, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.1)
    for daemon in reversed(daemons):
        daemon.send_signal(signal.SIGTERM)
    for daemon in reversed(daemons):
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for process in list_processes(slurm.folder):  # of a job that was cancelled in the moment in which it started
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def list_processes(folder: Path) -> list[psutil.Process]:
    """Processes that carry the cluster's configuration in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF", "").startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _daemon(slurm: Slurm, *command: str) -> subprocess.Popen:
    with (slurm.folder / f"{command[0]}{command[-1] if command[0] == 'slurmd' else ''}.log").open("wb") as log:
        return subprocess.Popen(command, env=slurm.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _quietly(slurm: Slurm, *command: str) -> str | None:
    """What a command says, or None when it fails: the daemons may not be up yet, or any more."""
    ran = subprocess.run(command, env=slurm.environment, capture_output=True, text=True, timeout=60)
    return ran.stdout.strip() if ran.returncode == 0 else None


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where daemons lie, also for who is not root


def _free_ports(n: int) -> list[int]:
    """Ports that are free now, below those that the system gives to clients."""
    results = []
    port = 16000 + secrets.randbelow(8000)
    while len(results) < n:
        port += 1
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            results.append(port)
    return results
