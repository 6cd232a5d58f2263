"""Kill or stop whatever a run of `emqa triage` consists of at random moments, start it again, and hold it to its laws.

SIGKILL ends a process; SIGSTOP leaves it there with its connections open, and it never answers. What is stopped stays
so, but for what a person would replace: a driver that hangs is started once more beside the stopped one, and a part of
a cluster that was started by hand is ended and started again after REPLACE_S.

The laws: the run ends by itself as the undisturbed one does, at most LAST_S after the last blow; every table and shard
is the undisturbed one's, byte for byte after sorting; no part that was finished before a blow is written again; LEAVE_S
after its driver has died no process of a run is alive; SIGTERM and Ctrl-C end it within LEAVE_S with 130; the loss of a
worker, a nanny or the fork server does not end it; a lost scheduler is named; no start is refused. Exit code 1 where
one is broken. Half-written files that a killed process left behind are counted.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks import victims, workspaces
from benchmarks.workspaces import Driver
from emqa_dask.settings import Settings, SettingsError, replace

LOCAL = ("driver", "worker", "fork server", "SIGTERM", "driver", "worker", "fork server", "SIGINT")
TCP = ("driver", "worker", "nanny", "scheduler", "driver", "worker", "nanny", "scheduler", "SIGTERM")
NAMES_SCHEDULER = ("the Dask scheduler at tcp://", "no Dask scheduler answers at tcp://")
SIGNALS = ("SIGKILL", "SIGSTOP")
# A driver whose scheduler is gone may end with 1 and ask to be started again; a lost worker is nobody's end.
ENDS_DRIVER = ("driver", "scheduler", "SIGTERM", "SIGINT")
LEAVE_S = 20.0  # within which SIGTERM, Ctrl-C and a dead driver's other processes have to be gone
LAST_S = 120.0  # after the last blow, within which a run has to have ended
REPLACE_S = 45.0  # after which somebody replaces a part of a cluster that stands still: later than the driver notices
MAX_STARTS = 8
WAITING = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
POLL_S = 0.1


@dataclass
class Blow:
    """A victim and how long after the start, or after the blow before, it is struck; then what was seen."""

    victim: str  # driver, worker, fork server, nanny, scheduler, SIGTERM or SIGINT (both to the driver)
    wait_s: float
    signal: str = "SIGKILL"  # or SIGSTOP; of the last two victims no matter
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
    seconds_after: float = 0.0  # the last blow
    unequal: list[str] = field(default_factory=list)
    n_held: int = 0  # parts that were finished before the last blow
    repeated: list[str] = field(default_factory=list)
    raced: list[str] = field(default_factory=list)  # written twice, but not finished before a blow: no broken law
    left: list[str] = field(default_factory=list)  # half-written files that are still there at the end: no harm
    broken: list[str] = field(default_factory=list)
    last_s: float = 0.0  # when the last blow fell, by the monotonic clock


class Parts:
    """Watches the parts of a workspace: which were finished before a blow, and which were written again."""

    def __init__(self, workspace: Path):
        self.workspace = workspace
        self.seen = {}
        self.held = {}
        self.repeated = set()
        self.raced = set()
        self.damaged = []

    def look(self) -> None:
        now = workspaces.list_parts(self.workspace)
        for path, stamp in self.seen.items():
            if now.get(path, stamp) != stamp:  # what a survey has found is removed once it is in the catalog
                (self.repeated if path in self.held else self.raced).add(path.relative_to(self.workspace).as_posix())
        self.seen |= now

    def hold(self) -> None:
        """From now on what is there is finished: it has to be whole, and to stay as it is."""
        self.look()
        self.damaged += workspaces.list_damaged_parts([path for path in self.seen if path not in self.held])
        self.held = dict(self.seen)


def strike(blow: Blow, driver: Driver, cluster: victims.DaskCluster | None, rng: random.Random) -> bool:
    """Kill or stop one process of the victim's role, or send the driver its signal; False where there is none (yet)."""
    try:
        if blow.victim == "SIGINT":
            os.killpg(driver.popen.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        elif blow.victim == "SIGTERM":
            driver.popen.terminate()
        else:
            results = victims.list_processes_of_role(blow.victim, driver, cluster)
            if not results:
                return False
            rng.choice(results).send_signal(signal.Signals[blow.signal])
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
    return True


def disturb(
    archive: Path,
    workspace: Path,
    run: Run,
    options: list[str],
    *,
    cluster: victims.DaskCluster | None,
    rng: random.Random,
    limit_s: float,
) -> None:
    """Start, strike, start again until it ends by itself; fills in all of `run` but what the comparison says."""
    began = time.monotonic()
    todo = list(run.blows)
    parts = Parts(workspace)
    stopped = []
    log = workspace.with_suffix(".log")
    try:
        for _ in range(MAX_STARTS):
            driver = Driver(archive, workspace, options, log)
            struck = []
            try:
                struck = _attempt(driver, workspace, run, todo, parts, cluster, rng, limit_s)
            finally:
                is_stopped = any(blow.victim == "driver" and blow.signal == "SIGSTOP" for blow in struck)
                stopped.append(driver) if is_stopped else driver.end()
            code = -signal.SIGSTOP if is_stopped else driver.popen.returncode
            run.exit_codes.append(code)
            if code in (0, 2):
                break
            _judge_end(run, code, struck, log)
            if code == 1 and cluster is not None:  # who reads the message replaces what hangs
                cluster.mend(after_s=0.0, replace_s=0.0)
            if not is_stopped:
                parts.hold()  # all processes are gone
        else:
            run.broken.append(f"not done after {MAX_STARTS} starts")
        parts.look()
        run.seconds = time.monotonic() - began
        run.seconds_after = time.monotonic() - run.last_s if run.last_s else 0.0
        if run.seconds_after > LAST_S:
            run.broken.append(f"it ended {run.seconds_after:.0f} s after the last blow")
    finally:
        for driver in stopped:
            driver.end()
    run.n_held = len(parts.held)
    run.repeated = sorted(parts.repeated)
    run.raced = sorted(parts.raced)
    run.broken += [f"damaged part {text}" for text in parts.damaged]
    run.broken += [f"written again: {', '.join(run.repeated)}"] if run.repeated else []


def _judge_end(run: Run, code: int, struck: list[Blow], log: Path) -> None:
    """Was the driver allowed to end, and did it say why?"""
    said = workspaces.read_last_line(log)
    is_named = any(words in said for words in NAMES_SCHEDULER)
    if code == 1 and is_named and any(b.victim == "scheduler" and b.stage != "never struck" for b in run.blows):
        return  # it may not be back yet
    if not any(blow.victim in ENDS_DRIVER for blow in struck):
        what = " and ".join(blow.victim for blow in struck) or "no process"
        run.broken.append(f"it ended with {code} though {what} was struck: {said}")
    elif code == 1:
        run.broken.append(f"it ended with 1 and did not name the scheduler: {said}")


def _attempt(
    driver: Driver,
    workspace: Path,
    run: Run,
    todo: list[Blow],
    parts: Parts,
    cluster: victims.DaskCluster | None,
    rng: random.Random,
    limit_s: float,
) -> list[Blow]:
    """One start to its end, however that comes; the blows that fell in it."""
    struck = []
    since = time.monotonic()
    while driver.popen.poll() is None:
        time.sleep(POLL_S)
        parts.look()
        if cluster is not None:
            cluster.mend(replace_s=REPLACE_S)
        if todo and time.monotonic() - since >= todo[0].wait_s:
            stage = workspaces.describe_progress(workspace)
            parts.hold()
            if stage.startswith(todo[0].not_before) and strike(todo[0], driver, cluster, rng):
                blow = todo.pop(0)
                blow.at_s = round(driver.seconds(), 2)
                blow.stage = stage
                since = time.monotonic()
                struck.append(blow)
                run.last_s = since
                if blow.victim == "driver" and blow.signal == "SIGSTOP":
                    break
                if blow.victim in ("driver", "SIGTERM", "SIGINT"):
                    _see_it_leave(driver, blow, run)
        if driver.seconds() > limit_s:
            run.broken.append(f"still running after {limit_s:.0f} s ({workspaces.describe_progress(workspace)})")
            break
    return struck


def _see_it_leave(driver: Driver, blow: Blow, run: Run) -> None:
    """Within LEAVE_S the driver has ended, with 130 if it was asked to, and no process of its run is alive."""
    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline and (driver.popen.poll() is None or _left(driver)):
        time.sleep(POLL_S)
    if left := _left(driver):
        names = ", ".join(sorted({victims.read_command_line(p)[-60:] for p in left}))
        run.broken.append(f"{len(left)} processes alive {LEAVE_S:.0f} s after {blow.victim}: {names}")
    code = driver.popen.poll()
    if blow.victim in ("SIGTERM", "SIGINT"):
        allowed = [130, 0, 2]  # it may just have been done
        if blow.stage == "start":  # an interpreter that still imports what would answer the signal dies of it
            allowed += [-signal.SIGTERM, -signal.SIGINT]
        if code not in allowed:
            run.broken.append(f"{blow.victim} ended in {code}, not 130")


def _left(driver: Driver) -> list[psutil.Process]:
    """Processes of a run that are alive and could have left: not those that are stopped.

    A fork server and a resource tracker leave when all processes that they serve are gone, so not before a stopped one.
    """
    processes = driver.left()
    going = [process for process in processes if not victims.is_stopped(process.pid)]
    if len(going) == len(processes):
        return going
    return [process for process in going if not any(name in victims.read_command_line(process) for name in WAITING)]


def run_undisturbed(archive: Path, workspace: Path, options: list[str]) -> tuple[int, float]:
    """(exit code, seconds) of a run that nobody disturbs; RuntimeError when it does not end well."""
    driver = Driver(archive, workspace, options, workspace.with_suffix(".log"))
    try:
        code = driver.popen.wait()
    finally:
        driver.end()
    if code not in (0, 2):
        said = workspaces.read_last_line(workspace.with_suffix(".log"))
        raise RuntimeError(f"the undisturbed run ended with {code}: {said}")
    return code, driver.seconds()


@contextlib.contextmanager
def open_scheduler(setup: str, log: Path) -> Iterator[tuple[str, victims.DaskCluster | None]]:
    """The value of --scheduler for a set-up, and the cluster that it needs, closed at the end."""
    if setup == "local":
        yield "local", None
        return
    cluster = victims.DaskCluster(log)
    try:
        yield cluster.address, cluster
    finally:
        cluster.close()


def draw_blows(number: int, setup: str, seconds: float, rng: random.Random) -> Run:
    """The blows of run `number`, at moments anywhere in `seconds`: every role and signal in turn, then up to two more.

    What is stopped last in a run of a cluster by hand is replaced by somebody, see REPLACE_S.
    """
    roles = LOCAL if setup == "local" else TCP
    first = Blow(roles[number % len(roles)], rng.uniform(0, seconds), SIGNALS[number // len(roles) % 2])
    blows = [first]
    for _ in range(number % 3):
        blows.append(Blow(rng.choice(roles), rng.uniform(0, seconds / 2), rng.choice(SIGNALS)))
    return Run(number, setup, blows)


def chaos(
    scratch: Path,
    n: int,
    n_runs: int,
    setups: list[str],
    seed: int,
    shard_length: int,
    keep: bool = False,
    draw: Callable[[int, str, float, random.Random], Run] = draw_blows,
) -> dict:
    """`n_runs` disturbed runs on one archive of `n` micrographs; the figures, a record for every run among them."""
    rng = random.Random(seed)
    archive = scratch / "archive"
    reference = scratch / f"undisturbed-{setups[0]}"
    workspaces.write_archive(archive, n, seed)
    common = ["--set", f"store.shard_length={shard_length}", "--workers", "2"]
    seconds = {}
    for setup in setups:
        workspace = scratch / f"undisturbed-{setup}"
        with open_scheduler(setup, scratch / f"undisturbed-{setup}-cluster.log") as (address, _):
            run_undisturbed(archive, workspace, ["--scheduler", address, *common])  # the first one compiles
            _forget(workspace)
            code, seconds[setup] = run_undisturbed(archive, workspace, ["--scheduler", address, *common])
        print(f"undisturbed, {setup}: {seconds[setup]:.1f} s, exit code {code}", flush=True)
        if results := workspaces.list_differences(workspace, reference):
            raise RuntimeError(f"undisturbed runs differ, {setup} from {setups[0]}: {', '.join(results[:6])}")
    n_parts = len(workspaces.list_parts(reference))
    n_partitions = len(list(reference.glob("micrographs.zarr/*/0/c/*/0/0")))
    print(f"{n_partitions} partitions, {n_parts} parts\n{HEAD}", flush=True)
    runs = []
    for number in range(n_runs):
        setup = setups[number % len(setups)]
        for tries_left in reversed(range(5)):  # a blow that came after the end disturbed nothing: draw another
            run = draw(number // len(setups), setup, seconds[setup], rng)
            run.number = number + 1
            workspace = scratch / f"run-{run.number}"
            with open_scheduler(setup, scratch / f"run-{run.number}-cluster.log") as (address, cluster):
                options = ["--scheduler", address, *common]
                limit_s = 120 + 8 * seconds[setup]
                disturb(archive, workspace, run, options, cluster=cluster, rng=rng, limit_s=limit_s)
            if run.blows[0].stage != "never struck" or run.broken or not tries_left:
                break
            _forget(workspace)
        check_laws(run, workspace, reference, code)
        runs.append(run)
        print(line(run), flush=True)
        for text in run.broken:
            print(f"      broken: {text}", flush=True)
        if not (keep and run.broken):
            _forget(workspace)
    return {
        "micrographs": n,
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "undisturbed_s": {setup: round(s, 1) for setup, s in seconds.items()},
        "partitions": n_partitions,
        "parts": n_parts,
        "runs": [asdict(run) for run in runs],
        "n_runs": len(runs),
        "n_starts": sum(len(run.exit_codes) for run in runs),
        "n_equal": sum(not run.unequal for run in runs),
        "blows": by_blow(runs),
        "longest_s": round(max((run.seconds_after for run in runs), default=0.0), 1),
        "n_repeated_parts": sum(len(run.repeated) for run in runs),
        "n_raced_parts": sum(len(run.raced) for run in runs),
        "n_left": sum(len(run.left) for run in runs),
        "n_broken": sum(bool(run.broken) for run in runs),
    }


def _forget(workspace: Path) -> None:
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.with_suffix(".log").unlink(missing_ok=True)


def check_laws(run: Run, workspace: Path, reference: Path, code: int) -> None:
    """Compare a run that has ended with the undisturbed one."""
    run.unequal = workspaces.list_differences(workspace, reference)
    if run.unequal:
        shown = ", ".join(run.unequal[:6])
        run.broken.append(f"{len(run.unequal)} differences from the undisturbed run: {shown}")
    if run.exit_codes[-1] != code:
        run.broken.append(f"ended with {run.exit_codes[-1]}, the undisturbed run with {code}")
    run.left = workspaces.list_partial_files(workspace)


def name(blow: Blow) -> str:
    """The victim, and the signal where there was a choice."""
    return blow.victim if blow.victim.startswith("SIG") else f"{blow.victim} {blow.signal}"


def by_blow(runs: list[Run]) -> dict[str, dict[str, float]]:
    """Of every victim and signal: blows that fell, runs with one, how many broke a law, and the longest end after."""
    results = {}
    for each in sorted({name(blow) for run in runs for blow in run.blows if blow.stage != "never struck"}):
        hit = [run for run in runs if any(name(b) == each and b.stage != "never struck" for b in run.blows)]
        n = sum(name(b) == each and b.stage != "never struck" for run in hit for b in run.blows)
        longest = max(run.seconds_after for run in hit)
        results[each] = {
            "blows": n,
            "runs": len(hit),
            "broken": sum(bool(r.broken) for r in hit),
            "longest_s": round(longest, 1),
        }
    return results


HEAD = "run  set-up  exit codes     starts      s  after  equal   again left  blows"


def line(run: Run) -> str:
    """A run as a line of the table; `again`: parts written again of those finished before the last blow."""
    codes = " ".join(map(str, run.exit_codes))
    blows = "; ".join(f"{name(b)} at {b.at_s:.1f} s ({b.stage})" for b in run.blows)
    again = f"{len(run.repeated)}/{run.n_held}"
    seconds = f"{run.seconds:>6.1f} {run.seconds_after:>6.1f}"
    equal = "no" if run.unequal else "yes"
    return (
        f"{run.number:>3}  {run.setup:<6}  {codes:<14} {len(run.exit_codes):>6} {seconds}  {equal:<5} "
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
    for each, results in figures["blows"].items():
        print(
            f"  {each:<20} {results['blows']:>3} blows, {results['broken']} broken, "
            f"at most {results['longest_s']} s after"
        )
    print(
        f"{figures['n_runs']} runs, {figures['n_starts']} starts: tables equal in {figures['n_equal']}, "
        f"{figures['n_repeated_parts']} finished parts repeated, {figures['n_raced_parts']} written twice in a race, "
        f"at most {figures['longest_s']} s after the last blow, {figures['n_left']} half-written files left, "
        f"laws broken in {figures['n_broken']}"
    )
    return 1 if figures["n_broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
