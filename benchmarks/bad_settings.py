"""Every setting x {-1, 0, 1e99, nan, inf, "x"}: refused in one line, or a run that ends properly and can be continued.

    python -m benchmarks.bad_settings
    python -m benchmarks.bad_settings --sections run local --jobs 2

What loading refuses is not run. What it takes is run on a tiny archive with a limit of time, and then once more without
options, with the settings of the workspace. Settings of schedulers that are not here are only loaded, written and read.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from emqa_dask.cli import main
from emqa_dask.cli.arguments import build_parser
from emqa_dask.cli.options import parse_settings_changes
from emqa_dask.settings import SECTIONS, Settings, dump, parse, replace
from emqa_dask.settings.schedulers import BATCH_SYSTEMS
from emqa_dask.synthetic.archive import synthesise

VALUES = ("-1", "0", "1e99", "nan", "inf", "x")
NOT_HERE = (*BATCH_SYSTEMS, "kubernetes", "cuda")  # sections of schedulers that this machine has not
OF_WORKERS = ("run", "local")  # sections that need worker processes to count


class Case(NamedTuple):
    section: str
    key: str
    value: str

    @property
    def option(self) -> str:
        return f"{self.section}.{self.key}={self.value}"


class Outcome(NamedTuple):
    case: Case
    is_good: bool
    text: str
    seconds: float


def cases(sections: Sequence[str] = SECTIONS) -> list[Case]:
    """Every setting of `sections` with every bad value."""
    names = [
        (section, field.name) for section in sections for field in dataclasses.fields(getattr(Settings(), section))
    ]
    return [Case(section, key, value) for section, key in names for value in VALUES]


def limits(sections: Sequence[str]) -> list[Case]:
    """Every number of `sections` at both ends of its range."""
    return [
        Case(section, key, repr(kind(value)))
        for section in sections
        for key, allowed in getattr(getattr(Settings(), section), "RANGES", {}).items()
        for kind in [type(getattr(getattr(Settings(), section), key))]
        for value in (allowed.low, allowed.high)
    ]


def load(case: Case, root: Path) -> str | None:
    """The line with which the command line refuses the case before any work; None where it takes it.

    `root` is a folder with a text and no image, of which a dry run says the costs.
    """
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        code = main(["triage", str(root), "--dry-run", "--workspace", str(root / "none"), "--set", case.option])
    lines = stderr.getvalue().splitlines()
    if code == 1 and len(lines) == 1 and f"{case.section}.{case.key}" in lines[0]:
        return lines[0]
    return None


def round_trip(case: Case, root: Path) -> Outcome:
    """Load, write and read settings that cannot be run here."""
    options = build_parser().parse_args(["triage", str(root), "--set", case.option])
    settings = replace(Settings(), parse_settings_changes(options), "command line")
    is_good = parse(dump(settings), "again") == settings
    return Outcome(case, is_good, "taken, read back the same" if is_good else "taken, read back otherwise", 0.0)


def run(case: Case, archive: Path, root: Path, limit_s: float) -> Outcome:
    """Triage with the case, then without options: both have to end with 0 or 2, or the first with 1 and one line."""
    workers = ["--workers", "1"] if case.section in OF_WORKERS else ["--scheduler", "in-process"]
    workers = [] if (case.section, case.key) in (("run", "workers"), ("run", "scheduler")) else workers
    started = time.monotonic()
    code, stderr = emqa(["triage", archive, "--workspace", root, "--set", case.option, *workers], limit_s)
    again = [] if code in (0, 2) else ["--scheduler", "in-process"]
    code_again, stderr_again = emqa(["triage", archive, "--workspace", root, *again], limit_s)
    seconds = time.monotonic() - started
    errors = [line for line in stderr.splitlines() if line.startswith("emqa: ")]
    is_clean = "Traceback" not in stderr + stderr_again
    is_good = is_clean and code_again in (0, 2) and (code in (0, 2) or (code == 1 and len(errors) == 1))
    text = f"ran: {code}, again: {code_again}" + (f": {errors[0]}" if errors else "")
    if not is_good:
        text += f"\n{stderr[-2000:]}\n{stderr_again[-2000:]}"
    return Outcome(case, is_good, text, seconds)


def emqa(arguments: Sequence[object], limit_s: float) -> tuple[int | None, str]:
    """(exit code or None after `limit_s`, stderr) of a command."""
    command = [sys.executable, "-m", "emqa_dask", *map(str, arguments)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None, f"not done after {limit_s:g} s"
    return process.returncode, process.stderr


def examine(chosen: Sequence[Case], archive: Path, folder: Path, jobs: int, limit_s: float) -> Iterator[Outcome]:
    """The outcome of every case, those that loading refuses first."""
    text = folder / "text"
    text.mkdir()
    (text / "notes.txt").write_text("no image")
    taken = []
    for case in chosen:
        if (line := load(case, text)) is not None:
            yield Outcome(case, True, f"refused: {line}", 0.0)
        elif case.section in NOT_HERE:
            yield round_trip(case, text)
        else:
            taken.append(case)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda one: run(one[1], archive, folder / f"ws-{one[0]}", limit_s), enumerate(taken))


def report(outcomes: Sequence[Outcome]) -> int:
    """Print what was not refused, and how it went; 0 where every case went well."""
    kinds = Counter(outcome.text.partition(":")[0].partition(",")[0] for outcome in outcomes)
    print(f"{len(outcomes)} cases: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    for outcome in outcomes:
        if not outcome.text.startswith("refused") or not outcome.is_good:
            mark = "ok " if outcome.is_good else "BAD"
            print(f"{mark} {outcome.case.option:<36} {outcome.seconds:6.1f} s  {outcome.text}")
    n_bad = sum(not outcome.is_good for outcome in outcomes)
    print(f"{n_bad} of {len(outcomes)} went wrong")
    return 1 if n_bad else 0


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS, help="default: all")
    options.add_argument("--jobs", type=int, default=1, help="runs at once, default 1")
    options.add_argument("--limit-s", type=float, default=180.0, help="for each run, default 180")
    options.add_argument("--limits", action="store_true", help="also both ends of every number's range")
    return options.parse_args()


if __name__ == "__main__":
    given = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="emqa-bad-settings-") as name:
        synthesise(Path(name) / "archive", "demo", n=4, seed=1, shape=(96, 96))
        chosen = cases(given.sections) + (limits(given.sections) if given.limits else [])
        found = list(examine(chosen, Path(name) / "archive", Path(name), given.jobs, given.limit_s))
    sys.exit(report(found))
