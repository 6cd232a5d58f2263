"""Flip single bits in every kind of file of a workspace, run `emqa triage` again, and look at the results.

The law: after the run every table, column and pixel is what it was, byte for byte, or the run ended with one line that
names the damaged file and a remedy; then the remedy is carried out, and after that everything is what it was. Exit code
1 where a result differs in silence, or a remedy does not help. `--overhead` measures what checksums cost instead.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import workspaces
from benchmarks.compare_workspaces import find_table_files
from emqa_dask.cli import main as emqa
from emqa_dask.run.workers import SPAWN_VARIABLES, WORKER_VARIABLES
from emqa_dask.store import checksum
from emqa_dask.synthetic.archive import synthesise

SHAPE = (128, 160)  # px; small, since every case is a run

# What is damaged: a name, and the files of a workspace that are of this kind.
KINDS = {
    "catalog": "catalog.parquet",
    "ledger": "micrographs.parquet",
    "copy of the ledger": "micrographs-copy.parquet",
    "thumbnails": "thumbnails/*.parquet",
    "detections": "detections-*/*.parquet",
    "evidence": "evidence-*/*.parquet",
    "features": "features-*/*.parquet",
    "predictions": "predictions-*/*.parquet",
    "events": "events.parquet/*.parquet",
    "failures": "failures.parquet",
    "shards": "micrographs.zarr/*/0/c/*/0/0",
    "stack metadata": "micrographs.zarr/**/zarr.json",
    "triage": "triage.parquet",
    "flags": "flags.parquet",
    "triage.csv": "triage.csv",
    "page": "report/index.html",
    "provenance": "provenance.json",
    "settings": "settings.toml",
    "marker": "workspace.json",
    "model cards": "models/*/card.toml",
    "model files": "models/*/*.s*",
}
OUTCOMES = ("repaired", "named", "silent, equal", "silent, different", "remedy failed", "traceback")
BROKEN = ("silent, different", "remedy failed", "traceback")


@dataclass
class Case:
    """One flipped bit and what became of it."""

    kind: str
    file: str
    bit: int
    outcome: str
    seconds: float
    words: str


def make_workspace(folder: Path, n: int, seed: int) -> None:
    """An archive of `n` micrographs with labels, triaged, calibrated to these, scored again; and a copy of that."""
    archive = folder / "archive"
    root = folder / "ws"
    synthesise(archive, "demo", n=n, seed=seed, shape=SHAPE)
    labels = next((folder / "archive.truth").glob("*.json"))
    triage = ["triage", str(archive), "--workspace", str(root), "--scheduler", "in-process", "--detector", "log"]
    for command in (triage, ["calibrate", str(root), str(labels)], ["rescore", str(root)], triage):
        code, words = say(command)
        if code not in (0, 2):
            raise RuntimeError(f"emqa {' '.join(command)} ended with {code}: {words}")
    shutil.copytree(root, folder / "reference")


def say(command: list[str]) -> tuple[int, str]:
    """Run `emqa` in this process; its exit code and all that it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = emqa(command)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, said.getvalue()


def victims(reference: Path, kind: str) -> list[Path]:
    """The files of a kind that the workspace's settings name: there may be tables of earlier ones, too."""
    files = [path for name in workspaces.list_tables(reference) for path in find_table_files(reference, name)]
    folders = {path.parent.name for path in files if path.parent != reference}
    results = [path.relative_to(reference) for path in sorted(reference.glob(KINDS[kind])) if path.is_file()]
    return [
        path for path in results if path.parts[0] in folders or "-" not in path.parts[0] or kind == "copy of the ledger"
    ]


def try_case(folder: Path, kind: str, number: int, seed: int) -> Case:
    """Flip a bit in a copy of the reference, run triage, and hold the result against the reference."""
    rng = np.random.default_rng([seed, number, *kind.encode()])
    root = folder / "ws"
    reference = folder / "reference"
    shutil.rmtree(root)
    shutil.copytree(reference, root, copy_function=os.link)  # emqa writes files beside and renames them
    results = victims(reference, kind)
    victim = str(results[rng.integers(len(results))])
    data = bytearray((root / victim).read_bytes())
    bit = int(rng.integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    (root / victim).unlink()
    (root / victim).write_bytes(data)
    began = time.perf_counter()
    triage = ["triage", str(folder / "archive"), "--workspace", str(root), "--detector", "log"]
    code, words = say(triage)
    is_made_again = not (root / victim).exists() or (root / victim).read_bytes() != bytes(data)
    outcome = judge(code, words, is_made_again, folder, victim, triage)
    return Case(kind, victim, bit, outcome, time.perf_counter() - began, words[-600:])


def judge(code: int, words: str, is_made_again: bool, folder: Path, victim: str, triage: list[str]) -> str:
    """The outcome of a case, after the remedy where one was named."""
    if "Traceback" in words:
        return "traceback"
    root = folder / "ws"
    reference = folder / "reference"
    if code in (0, 2):
        if workspaces.list_differences(root, reference):
            return "silent, different"
        return "repaired" if is_made_again else "silent, equal"
    if Path(victim).name not in words:
        return "silent, different"
    if victim.startswith("models/"):  # the remedy: restore the model
        shutil.copyfile(reference / victim, root / victim)
    if victim == "settings.toml":  # the remedy: give the settings
        (folder / "mine.toml").write_text((reference / "settings.toml").read_text())
        triage = [*triage, "--settings", str(folder / "mine.toml")]
    code, words = say(triage)
    return "named" if code in (0, 2) and not workspaces.list_differences(root, reference) else "remedy failed"


def run_share(folder: Path, cases: list[tuple[str, int]], n: int, seed: int) -> list[Case]:
    """The cases of one process, in a workspace of its own: settings name models by their absolute paths."""
    folder.mkdir()
    make_workspace(folder, n, seed)
    return [try_case(folder, kind, number, seed) for kind, number in cases]


def run_all(folder: Path, options: argparse.Namespace) -> list[Case]:
    """All cases, shared by the processes."""
    kinds = options.kind or list(KINDS)
    cases = [(kind, number) for kind in kinds for number in range(options.flips)]
    n = options.processes
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        shares = [pool.submit(run_share, folder / str(k), cases[k::n], options.images, options.seed) for k in range(n)]
        return [case for share in shares for case in share.result()]


def show(cases: list[Case]) -> None:
    width = max(map(len, KINDS))
    header = "".join(f"{outcome:>19}" for outcome in OUTCOMES)
    print(f"{'damaged':<{width}} {'flips':>6}{header}{'s, median':>11}")
    for kind in (kind for kind in KINDS if any(case.kind == kind for case in cases)):
        of_kind = [case for case in cases if case.kind == kind]
        counts = Counter(case.outcome for case in of_kind)
        numbers = "".join(f"{counts[outcome]:>19}" for outcome in OUTCOMES)
        seconds = statistics.median(case.seconds for case in of_kind)
        print(f"{kind:<{width}} {len(of_kind):>6}{numbers}{seconds:>11.2f}")


def measure_overhead(folder: Path, rounds: int) -> None:
    """Seconds of a triage with checksums over one without, alternating."""
    ratios = []
    off = {"add_checksum": lambda data: data, "add_checksum_to_stream": lambda stream: None, "verify": _rewind}
    for k in range(rounds):
        seconds = {}
        for name in ("with", "without")[:: 1 if k % 2 else -1]:
            with contextlib.ExitStack() as patches:
                for function, stub in off.items() if name == "without" else ():
                    patches.enter_context(mock.patch.object(checksum, function, stub))
                root = folder / f"{name}-{k}"
                began = time.perf_counter()
                say(
                    [
                        "triage",
                        str(folder / "archive"),
                        "--workspace",
                        str(root),
                        "--scheduler",
                        "in-process",
                        "--detector",
                        "log",
                    ]
                )
                seconds[name] = time.perf_counter() - began
            shutil.rmtree(root)
        ratios.append(seconds["with"] / seconds["without"])
        print(
            f"round {k}: {seconds['with']:.2f} s with, {seconds['without']:.2f} s without checksums: {ratios[-1]:.3f}"
        )
    low, high = min(ratios), max(ratios)
    print(f"checksums: a triage takes {statistics.median(ratios):.3f} times as long ({low:.3f} to {high:.3f})")


def _rewind(stream) -> bytes:
    stream.seek(0)
    return b"none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300, metavar="N", help="of each kind of file; default 300")
    parser.add_argument(
        "--kind", action="append", choices=list(KINDS), help="only this kind; may be given several times"
    )
    parser.add_argument("--images", type=int, default=24, metavar="N", help="micrographs of the archive; default 24")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--overhead", type=int, default=0, metavar="ROUNDS", help="measure what checksums cost instead")
    parser.add_argument("--out", type=Path, help="a JSON file for every case")
    options = parser.parse_args()
    os.environ |= SPAWN_VARIABLES | WORKER_VARIABLES
    with tempfile.TemporaryDirectory(prefix="bitrot-") as scratch:
        folder = Path(scratch)
        if options.overhead:
            synthesise(folder / "archive", "demo", n=options.images, seed=options.seed)
            measure_overhead(folder, options.overhead)
            return 0
        cases = run_all(folder, options)
    for case in cases:
        if case.outcome in BROKEN:
            print(f"{case.outcome}: bit {case.bit} of {case.file}: {case.words[-300:]}")
    show(cases)
    if options.out:
        options.out.write_text(json.dumps([vars(case) for case in cases], indent=1))
    return int(any(case.outcome in BROKEN for case in cases))


if __name__ == "__main__":
    raise SystemExit(main())
