"""Does the driver stay flat? A run over 10^3 to 10^6 stub images: its memory, its overhead, and the start of a resume.

The archive is real (empty files, listed and looked up), and so are ingest, plan, ledger, Dask scheduler and workers,
parts, events and report; only the reading of files and the arithmetic on pixels are stubs (scale_stubs.py). Every
step is a process of its own. Driver and scheduler are one process here, as on `--scheduler local`, so its peak memory
bounds both.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PER_FOLDER = 1000
STEPS = {
    "run": ("ingest", "detect", "featurise", "predict", "measure"),
    "report": ("report",),
    "resume": ("ingest", "detect", "featurise", "predict", "measure", "report"),
}


def write_archive(folder: Path, n: int) -> None:
    """`n` empty files in folders of 1000."""
    for start in range(0, n, PER_FOLDER):
        session = folder / f"session-{start // PER_FOLDER:04d}"
        session.mkdir(parents=True)
        for k in range(start, min(n, start + PER_FOLDER)):
            (session / f"image-{k:07d}.tif").touch()


def measure(folder: Path, step: str) -> dict:
    """One step in this process."""
    from benchmarks import scale_stubs
    from emqa_dask.pipeline import PRELOAD
    from emqa_dask.pipeline.commands import ingest, make_tables, triage
    from emqa_dask.run.cluster import start_fork_server
    from emqa_dask.settings import load_settings, replace

    ingest.survey_files = scale_stubs.survey_files
    make_tables.make_partition = scale_stubs.make_partition
    make_tables.STORED = dict.fromkeys(make_tables.STORED, 10**9)  # no pixels are stored, so no room is needed for them
    if step == "run":
        start_fork_server([*PRELOAD, "benchmarks.scale_stubs"])
    imported = peak_mib()
    clock = time.perf_counter()
    cpu = time.process_time()
    settings = replace(
        load_settings(), {"run": {"workers": 2}, "detect": {"detectors": ["log"]}, "store": {"verify_gib": 0}}
    )
    code = triage.run(str(folder / "archive"), str(folder / "ws"), settings, steps=STEPS[step], say=lambda text: None)
    return {
        "exit_code": code,
        "wall_s": time.perf_counter() - clock,
        "driver_cpu_s": time.process_time() - cpu,
        "imports_mib": imported,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench(n: int, keep: str | None) -> dict:
    folder = Path(keep or tempfile.mkdtemp(prefix="emqa-scale-"))
    results = {"n": n}
    try:
        write_archive(folder / "archive", n)
        for step in STEPS:
            command = [sys.executable, "-m", "benchmarks.bench_scale", "--step", step, "--folder", str(folder)]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[step] = json.loads(process.stdout.splitlines()[-1])
            if results[step]["exit_code"]:
                raise RuntimeError(f"step {step} of {n} images ended with exit code {results[step]['exit_code']}")
        results["us_per_image"] = 1e6 * results["run"]["driver_cpu_s"] / n
        results["report_us_per_image"] = 1e6 * results["report"]["driver_cpu_s"] / n
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", metavar="N", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--json", metavar="OUT", help="write the figures there, too")
    parser.add_argument("--keep", metavar="FOLDER", help="leave archive and workspace there")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.folder, options.step)))
        return
    head = f"{'images':>9} {'run s':>8} {'peak MiB':>9} {'us/image':>9} {'report s':>9} {'peak MiB':>9} {'us/image':>9}"
    print(head + f" {'resume s':>9} {'peak MiB':>9}", flush=True)
    rows = []
    for n in options.images:
        row = bench(n, options.keep)
        rows.append(row)
        print(
            f"{n:>9,} {row['run']['wall_s']:>8.1f} {row['run']['peak_mib']:>9.0f} {row['us_per_image']:>9.1f} "
            f"{row['report']['wall_s']:>9.1f} {row['report']['peak_mib']:>9.0f} {row['report_us_per_image']:>9.1f} "
            f"{row['resume']['wall_s']:>9.1f} {row['resume']['peak_mib']:>9.0f}",
            flush=True,
        )
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
