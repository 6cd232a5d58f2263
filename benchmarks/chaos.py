"""Kill whatever a run of `emqa triage` consists of at random moments, start it again, and hold it to its laws.

The laws: the run ends by itself as the undisturbed one does; every table and shard is the undisturbed one's, byte for
byte after sorting; no part that was finished before a kill is written again; ten seconds after its driver has died no
process of a run is alive; SIGTERM and Ctrl-C end it within ten seconds with 130; the loss of a worker, a nanny or the
fork server does not end it; no start is refused. Exit code 1 where one is broken. Half-written files that a killed
process left behind are counted.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import workspaces
from workspaces import Driver

from emqa_dask.settings import Settings, SettingsError, replace

LOCAL = ("driver", "worker", "SIGTERM", "fork server", "driver", "worker", "SIGINT")
TCP = ("driver", "worker", "nanny", "scheduler", "SIGTERM")
# A driver whose scheduler is gone may end with 1 and ask to be started again; a lost worker is nobody's end.
ENDS_DRIVER = ("driver", "scheduler", "SIGTERM", "SIGINT")
LEAVE_S = 10.0  # within which SIGTERM, Ctrl-C and a dead driver's other processes have to be gone
MAX_STARTS = 6
POLL_S = 0.1


@dataclass
class Blow:
    """A victim and how long after the start, or after the blow before, it is struck; then what was seen."""

    victim: str  # driver, worker, fork server, nanny, scheduler, SIGTERM or SIGINT (both to the driver)
    wait_s: float
    not_before: str = ""  # how the words of workspaces.stage() have to begin
    at_s: float = float("nan")  # since the driver's start
    stage: str = "never struck"


@dataclass
class Run:
    """What became of one disturbed run; `broken` says in words which laws it broke, and how."""

    number: int
    setup: str
    blows: list[Blow]
    exit_codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    unequal: list[str] = field(default_factory=list)
    n_held: int = 0  # parts that were finished before the last blow
    repeated: list[str] = field(default_factory=list)
    raced: list[str] = field(default_factory=list)  # written twice, but not finished before a blow: no broken law
    left: list[str] = field(default_factory=list)  # half-written files that are still there at the end: no harm
    broken: list[str] = field(default_factory=list)


class Parts:
    """Watches the parts of a workspace: which were finished before a blow, and which were written again."""

    def __init__(self, workspace: Path):
        self.workspace, self.seen, self.held = workspace, {}, {}
        self.repeated, self.raced, self.damaged = set(), set(), []

    def look(self) -> None:
        now = workspaces.parts(self.workspace)
        for path, stamp in self.seen.items():
            if now.get(path, stamp) != stamp:  # what a survey has found is removed once it is in the catalog
                (self.repeated if path in self.held else self.raced).add(path.relative_to(self.workspace).as_posix())
        self.seen |= now

    def hold(self) -> None:
        """From now on what is there is finished: it has to be whole, and to stay as it is."""
        self.look()
        self.damaged += workspaces.damaged([path for path in self.seen if path not in self.held])
        self.held = dict(self.seen)


class DaskCluster:
    """`dask scheduler` and two `dask worker --nanny`, as a person would start them, and start them again."""

    def __init__(self, log: Path, n_workers: int = 2):
        self.log, self.port = log, _free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self._start_scheduler()
        self.nannies = [self._start_nanny() for _ in range(n_workers)]
        self.dead_since: float | None = None

    def _start(self, *words: str) -> subprocess.Popen:
        with self.log.open("a") as output:
            command = [sys.executable, "-m", "dask", *words]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _start_scheduler(self) -> subprocess.Popen:
        return self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def _start_nanny(self) -> subprocess.Popen:
        return self._start(
            "worker", self.address, "--nanny", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"
        )

    def workers(self) -> list[psutil.Process]:
        return [p for n in self.nannies if n.poll() is None for p in _children(n.pid) if _is_python_child(p)]

    def mend(self, after_s: float = 1.0) -> None:
        """Start again what is not running, `after_s` after that was first seen."""
        everything = [self.scheduler, *self.nannies]
        if all(p.poll() is None for p in everything):
            self.dead_since = None
            return
        self.dead_since = self.dead_since or time.monotonic()
        if time.monotonic() - self.dead_since < after_s:
            return
        if self.scheduler.poll() is not None:
            self.scheduler = self._start_scheduler()
        self.nannies = [n if n.poll() is None else self._start_nanny() for n in self.nannies]

    def close(self) -> None:
        workers = self.workers()
        for popen in (*self.nannies, self.scheduler):
            popen.kill()
            popen.wait()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_python_child(process: psutil.Process) -> bool:
    """Was it started by multiprocessing to run Python, and not to track resources?"""
    words = _words(process)
    return "multiprocessing.spawn import spawn_main" in words or "multiprocessing.forkserver import main" in words


def victims(role: str, driver: Driver, cluster: DaskCluster | None) -> list[psutil.Process]:
    """The processes that play `role` now."""
    if role == "driver":
        return [psutil.Process(driver.popen.pid)]
    if role == "scheduler":
        return [psutil.Process(cluster.scheduler.pid)] if cluster.scheduler.poll() is None else []
    if role == "nanny":
        return [psutil.Process(n.pid) for n in cluster.nannies if n.poll() is None]
    if cluster is not None:
        return cluster.workers()
    children = _children(driver.popen.pid)
    servers = [p for p in children if "multiprocessing.forkserver import main" in _words(p)]
    if role == "fork server":
        return servers
    forked = [p for server in servers for p in _children(server.pid)]
    return forked + [p for p in children if "multiprocessing.spawn import spawn_main" in _words(p)]


def strike(blow: Blow, driver: Driver, cluster: DaskCluster | None, rng: random.Random) -> bool:
    """Kill one process of the victim's role, or send the driver its signal; False where there is none (yet)."""
    try:
        if blow.victim == "SIGINT":
            os.killpg(driver.popen.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        elif blow.victim == "SIGTERM":
            driver.popen.terminate()
        else:
            found = victims(blow.victim, driver, cluster)
            if not found:
                return False
            rng.choice(found).kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
    return True


def disturb(
    archive: Path,
    workspace: Path,
    run: Run,
    options: list[str],
    *,
    cluster: DaskCluster | None,
    rng: random.Random,
    limit_s: float,
) -> None:
    """Start, strike, start again until it ends by itself; fills in all of `run` but what the comparison says."""
    began, todo, parts = time.monotonic(), list(run.blows), Parts(workspace)
    log = workspace.with_suffix(".log")
    for _ in range(MAX_STARTS):
        driver = Driver(archive, workspace, options, log)
        try:
            struck = _attempt(driver, workspace, run, todo, parts, cluster, rng, limit_s)
        finally:
            driver.end()
        code = driver.popen.returncode
        run.exit_codes.append(code)
        if code not in (0, 2) and not any(blow.victim in ENDS_DRIVER for blow in struck):
            what = " and ".join(blow.victim for blow in struck) or "no process"
            run.broken.append(f"it ended with {code} though {what} was killed: {workspaces.last_words(log)}")
        if code in (0, 2):
            break
        parts.hold()  # all processes are gone
    else:
        run.broken.append(f"not done after {MAX_STARTS} starts")
    parts.look()
    run.seconds = time.monotonic() - began
    run.n_held, run.repeated, run.raced = len(parts.held), sorted(parts.repeated), sorted(parts.raced)
    run.broken += [f"damaged part {text}" for text in parts.damaged]
    run.broken += [f"written again: {len(run.repeated)} finished parts"] if run.repeated else []


def _attempt(
    driver: Driver,
    workspace: Path,
    run: Run,
    todo: list[Blow],
    parts: Parts,
    cluster: DaskCluster | None,
    rng: random.Random,
    limit_s: float,
) -> list[Blow]:
    """One start to its end, however that comes; the blows that fell in it."""
    struck, since = [], time.monotonic()
    while driver.popen.poll() is None:
        time.sleep(POLL_S)
        parts.look()
        if cluster is not None:
            cluster.mend()
        if todo and time.monotonic() - since >= todo[0].wait_s:
            stage = workspaces.stage(workspace)
            parts.hold()
            if stage.startswith(todo[0].not_before) and strike(todo[0], driver, cluster, rng):
                blow = todo.pop(0)
                blow.at_s, blow.stage, since = round(driver.seconds(), 2), stage, time.monotonic()
                struck.append(blow)
                if blow.victim in ("driver", "SIGTERM", "SIGINT"):
                    _see_it_leave(driver, blow, run)
        if driver.seconds() > limit_s:
            run.broken.append(f"still running after {limit_s:.0f} s ({workspaces.stage(workspace)})")
            break
    return struck


def _see_it_leave(driver: Driver, blow: Blow, run: Run) -> None:
    """Within LEAVE_S the driver has ended, with 130 if it was asked to, and no process of its run is alive."""
    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline and (driver.popen.poll() is None or driver.left()):
        time.sleep(POLL_S)
    if left := driver.left():
        names = ", ".join(sorted({_words(p)[-60:] for p in left}))
        run.broken.append(f"{len(left)} processes alive {LEAVE_S:.0f} s after {blow.victim}: {names}")
    code = driver.popen.poll()
    if blow.victim in ("SIGTERM", "SIGINT"):
        allowed = [130, 0, 2]  # it may just have been done
        if blow.stage == "start":  # an interpreter that still imports what would answer the signal dies of it
            allowed += [-signal.SIGTERM, -signal.SIGINT]
        if code not in allowed:
            run.broken.append(f"{blow.victim} ended in {code}, not 130")


def undisturbed(archive: Path, workspace: Path, options: list[str]) -> tuple[int, float]:
    """(exit code, seconds) of a run that nobody disturbs."""
    driver = Driver(archive, workspace, options, workspace.with_suffix(".log"))
    try:
        code = driver.popen.wait()
        return code, driver.seconds()
    finally:
        driver.end()


def draw(number: int, setup: str, seconds: float, rng: random.Random) -> Run:
    """The blows of run `number`: every role in turn, at a moment anywhere in `seconds`; two of them in every third."""
    roles = LOCAL if setup == "local" else TCP
    blows = [Blow(roles[number % len(roles)], rng.uniform(0, seconds))]
    if number % 3 == 2:
        blows.append(Blow(rng.choice(roles), rng.uniform(0, seconds / 2)))
    return Run(number, setup, blows)


def chaos(
    scratch: Path,
    n: int,
    n_runs: int,
    setups: list[str],
    seed: int,
    shard_length: int,
    keep: bool = False,
    draw: Callable[[int, str, float, random.Random], Run] = draw,
) -> dict:
    """`n_runs` disturbed runs on one archive of `n` micrographs; the figures, a record for every run among them."""
    rng = random.Random(seed)
    archive, reference = scratch / "archive", scratch / "undisturbed"
    workspaces.write_archive(archive, n, seed)
    common = ["--set", f"store.shard_length={shard_length}", "--workers", "2"]
    code, seconds = undisturbed(archive, reference, ["--scheduler", "local", *common])
    if code not in (0, 2):
        raise RuntimeError(
            f"the undisturbed run ended with {code}: {workspaces.last_words(reference.with_suffix('.log'))}"
        )
    n_parts = len(workspaces.parts(reference))
    n_partitions = len(list(reference.glob("micrographs.zarr/*/0/c/*/0/0")))
    print(f"undisturbed: {seconds:.1f} s, exit code {code}, {n_partitions} partitions, {n_parts} parts", flush=True)
    print(HEAD, flush=True)
    runs = []
    for number in range(n_runs):
        setup = setups[number % len(setups)]
        for _ in range(5):  # a blow that came after the end disturbed nothing: draw another
            run = draw(number // len(setups), setup, seconds, rng)
            run.number = number + 1
            workspace = scratch / f"run-{run.number}"
            cluster = DaskCluster(scratch / f"run-{run.number}-cluster.log") if setup == "tcp" else None
            try:
                options = ["--scheduler", cluster.address if cluster else "local", *common]
                disturb(archive, workspace, run, options, cluster=cluster, rng=rng, limit_s=120 + 8 * seconds)
            finally:
                if cluster:
                    cluster.close()
            if run.blows[0].stage != "never struck" or run.broken:
                break
            shutil.rmtree(workspace)
        judge(run, workspace, reference, code)
        runs.append(run)
        print(line(run), flush=True)
        for text in run.broken:
            print(f"      broken: {text}", flush=True)
        if not (keep and run.broken):
            shutil.rmtree(workspace, ignore_errors=True)
            workspace.with_suffix(".log").unlink(missing_ok=True)
    return {
        "micrographs": n,
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "undisturbed_s": round(seconds, 1),
        "partitions": n_partitions,
        "parts": n_parts,
        "runs": [asdict(run) for run in runs],
        "n_runs": len(runs),
        "n_starts": sum(len(run.exit_codes) for run in runs),
        "n_equal": sum(not run.unequal for run in runs),
        "n_repeated_parts": sum(len(run.repeated) for run in runs),
        "n_raced_parts": sum(len(run.raced) for run in runs),
        "n_left": sum(len(run.left) for run in runs),
        "n_broken": sum(bool(run.broken) for run in runs),
    }


def judge(run: Run, workspace: Path, reference: Path, code: int) -> None:
    """Compare a run that has ended with the undisturbed one."""
    run.unequal = workspaces.differences(workspace, reference)
    if run.unequal:
        shown = ", ".join(run.unequal[:6])
        run.broken.append(f"{len(run.unequal)} differences from the undisturbed run: {shown}")
    if run.exit_codes[-1] != code:
        run.broken.append(f"ended with {run.exit_codes[-1]}, the undisturbed run with {code}")
    run.left = workspaces.partials(workspace)


HEAD = "run  set-up  exit codes     starts      s  equal   again left  blows"


def line(run: Run) -> str:
    """A run as a line of the table; `again`: parts written again of those finished before the last blow."""
    codes = " ".join(map(str, run.exit_codes))
    blows = "; ".join(f"{b.victim} at {b.at_s:.1f} s ({b.stage})" for b in run.blows)
    again = f"{len(run.repeated)}/{run.n_held}"
    equal = "no" if run.unequal else "yes"
    return (
        f"{run.number:>3}  {run.setup:<6}  {codes:<14} {len(run.exit_codes):>6} {run.seconds:>6.1f}  {equal:<5} "
        f"{again:>7} {len(run.left):>4}  {blows}"
    )


def supported_setups() -> list[str]:
    """local, and tcp where this version can be told a scheduler's address."""
    try:
        replace(Settings(), {"run": {"scheduler": "tcp://127.0.0.1:8786"}})
    except SettingsError as error:
        print(f"local only: {error}")
        return ["local"]
    return ["local", "tcp"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--n", type=int, default=400, help="micrographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setup", choices=("local", "tcp", "both"), default="both")
    parser.add_argument("--shard-length", type=int, default=12, help="micrographs per partition, at most")
    parser.add_argument("--keep", metavar="FOLDER", help="work there, and leave the workspaces of broken runs")
    parser.add_argument("--json", metavar="OUT", help="write the figures here")
    options = parser.parse_args()
    setups = supported_setups() if options.setup == "both" else [options.setup]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(options.keep or temporary)
        figures = chaos(
            scratch, options.n, options.runs, setups, options.seed, options.shard_length, keep=bool(options.keep)
        )
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{figures['n_runs']} runs, {figures['n_starts']} starts: tables equal in {figures['n_equal']}, "
        f"{figures['n_repeated_parts']} finished parts repeated, {figures['n_raced_parts']} written twice in a race, "
        f"{figures['n_left']} half-written files left, "
        f"laws broken in {figures['n_broken']}"
    )
    return 1 if figures["n_broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
