"""Archive, runs of `emqa triage` and byte-for-byte comparison of workspaces, for chaos.py, poison.py and bitrot.py."""

import contextlib
import csv
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tifffile

from benchmarks.compare_workspaces import EXCLUDED_COLUMNS, KEYS, find_table_files
from emqa_dask.synthetic.archive import synthesise
from emqa_dask.synthetic.profiles import make_sample

SHAPE = (224, 288)  # px; small, so that dying and starting again is most of what happens
TAG = "EMQA_BENCHMARK"  # environment variable by which a run's processes are known, whoever their parent is by now


def write_archive(folder: Path, n: int, seed: int) -> None:
    """`n` small micrographs: a quarter in sessions of mixed formats and faults, the others one long series of TIFFs.

    The sessions make many stacks of a few micrographs, the series one stack of many partitions.
    """
    n_sessions = max(n // 4, 1)
    synthesise(folder / "sessions", "demo", n=n_sessions, seed=seed, shape=SHAPE)
    os.replace(folder / "sessions.truth", folder.with_name(folder.name + ".truth"))
    series = folder / "series"
    series.mkdir()
    for k in range(n - n_sessions):
        profile = ("cavity-tem", "nanoparticle-tem")[k % 2]
        image = make_sample(profile, np.random.default_rng([seed, k]), SHAPE, clear=True).image.astype(np.float64)
        scaled = (image - image.min()) / (np.ptp(image) or 1) * 60000
        tifffile.imwrite(series / f"image_{k:05d}.tif", scaled.astype(np.uint16))


class Driver:
    """`emqa triage` in a process and session of its own; its output goes to `log`."""

    def __init__(self, archive: Path, workspace: Path, options: list[str], log: Path, env: dict | None = None):
        self.tag = f"{os.getpid()}-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "emqa_dask", "triage", str(archive), "--workspace", str(workspace)]
        command += ["--detector", "log", *options]
        with log.open("a") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | (env or {}) | {TAG: self.tag},
                start_new_session=True,  # a signal to its group is a signal to nobody else
            )
        self.started = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def left(self) -> list[psutil.Process]:
        """Processes of this run that are alive, the driver itself among them."""
        return list_tagged_processes(self.tag)

    def end(self) -> None:
        """Kill whatever is left of the run."""
        for process in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()


def list_tagged_processes(tag: str) -> list[psutil.Process]:
    """Living processes whose environment has `tag`: also those that lost their parent."""
    results = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(TAG) == tag:
                results.append(process)
        except (psutil.Error, OSError):
            continue
    return results


def read_last_line(log: Path) -> str:
    """The last line that a driver said: its error, if there is one."""
    lines = [line.rpartition("\r")[2] for line in log.read_text(errors="replace").strip().splitlines()]
    errors = [line for line in lines if line.startswith("emqa: ")]
    return (errors or lines or [""])[-1]


def read_sorted_table(workspace: Path, name: str) -> pa.Table:
    """Table `name` of KEYS, all its parts, sorted by its key, without EXCLUDED_COLUMNS; OSError where it is missing."""
    files = find_table_files(workspace, name)
    if not files:
        raise FileNotFoundError(f"{workspace} has no table {name}")
    table = pa.concat_tables([pq.ParquetFile(path).read() for path in files])
    table = table.drop_columns([column for column in EXCLUDED_COLUMNS.get(name, ()) if column in table.column_names])
    return table.sort_by([(key, "ascending") for key in KEYS[name]])


def list_tables(workspace: Path) -> list[str]:
    """Names of the tables that a run left in `workspace`."""
    return [name for name in KEYS if not name.endswith(".csv") and find_table_files(workspace, name)]


def read_tables(workspace: Path) -> dict[str, pa.Table]:
    return {name: read_sorted_table(workspace, name) for name in list_tables(workspace)}


def read_csv_rows(workspace: Path) -> list[tuple[str, ...]]:
    """triage.csv: its header, then its rows, sorted."""
    with (workspace / "triage.csv").open(newline="", encoding="utf-8-sig") as stream:
        header, *rows = map(tuple, csv.reader(stream))
    return [header, *sorted(rows)]


def compute_stack_digests(workspace: Path) -> dict[str, str]:
    """SHA-256 of every file of the stacks: shards and their metadata."""
    paths = (p for p in (workspace / "micrographs.zarr").rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(workspace)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def has_same_bytes(a: pa.ChunkedArray, b: pa.ChunkedArray) -> bool:
    """Are two columns equal in every bit, NaN and -0.0 included?"""
    if a.type != b.type or len(a) != len(b):
        return False
    if not pa.types.is_floating(a.type):
        return a.equals(b)
    bits = [pc.fill_null(c, 0.0).to_numpy().tobytes() for c in (a, b)]
    return bits[0] == bits[1] and pc.is_null(a).equals(pc.is_null(b))


def list_unequal_columns(name: str, a: pa.Table, b: pa.Table) -> list[str]:
    """What is different between two tables, in words; nothing where they are equal byte for byte."""
    if a.schema != b.schema:
        return [f"{name}: other columns"]
    if len(a) != len(b):
        return [f"{name}: {len(a)} rows, not {len(b)}"]
    return [f"{name}.{column}" for column in a.column_names if not has_same_bytes(a[column], b[column])]


def list_differences(workspace: Path, reference: Path) -> list[str]:
    """Every table, column, and file of pixels in which `workspace` is not `reference`, byte for byte."""
    results = []
    for name in sorted({*list_tables(workspace), *list_tables(reference)}):
        try:
            results += list_unequal_columns(
                name, read_sorted_table(workspace, name), read_sorted_table(reference, name)
            )
        except (OSError, pa.ArrowInvalid) as error:
            results.append(f"{name}: {error}")
    if not (workspace / "triage.csv").is_file() or read_csv_rows(workspace) != read_csv_rows(reference):
        results.append("triage.csv")
    ours = compute_stack_digests(workspace)
    theirs = compute_stack_digests(reference)
    return results + sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))


Stamp = tuple[int, int]  # inode and modification time, ns: both are others after a file was written again


def list_parts(workspace: Path) -> dict[Path, Stamp]:
    """Every part that is there: files of table folders, and shards."""
    results = {}
    for path in (*workspace.glob("*/*.parquet"), *workspace.glob("micrographs.zarr/*/0/c/*/0/0")):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        if not path.name.startswith("."):
            results[path] = (stat.st_ino, stat.st_mtime_ns)
    return results


def list_damaged_parts(paths: list[Path]) -> list[str]:
    """Parts with a final name that cannot be read to their end."""
    bad = []
    for path in paths:
        if path.suffix == ".parquet":
            try:
                pq.ParquetFile(path).read()
            except FileNotFoundError:
                continue  # just removed
            except (OSError, pa.ArrowInvalid) as error:
                bad.append(f"{path.name}: {error}")
    return bad


def list_partial_files(workspace: Path) -> list[str]:
    """Half-written files that were left behind."""
    return sorted(str(p.relative_to(workspace)) for p in workspace.rglob("*.partial"))


def describe_progress(workspace: Path) -> str:
    """How far a run has come, by what lies in its workspace."""
    if not (workspace / "workspace.json").exists():
        return "start"
    if not (workspace / "micrographs.parquet").exists():
        return f"survey, {len(list(workspace.glob('survey/*.parquet')))} parts"
    n = pc.count_distinct(pq.read_table(workspace / "micrographs.parquet", columns=["partition"])["partition"]).as_py()
    done = len(list(workspace.glob("predictions-*/*.parquet")))
    if done < n:
        return f"partitions, {done} of {n}" if done else f"planned, {n} partitions"
    return "end" if (workspace / "provenance.json").exists() else "report"
