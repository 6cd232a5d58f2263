"""A small run of benchmarks/fuzz.py: damaged files of every format, triaged with default settings, break no law."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.real
def test_fuzzed_files_break_no_law(tmp_path):
    command = [sys.executable, "-m", "benchmarks.fuzz", "--files", "62", "--zarrs", "14"]
    command += ["--seed", "7", "--stall", "400", "--limit", "500", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.rsplit(None, 1) for line in done.stdout.splitlines() if line and line[0] not in "{ ")
    assert (int(lines["files"]), int(lines["laws broken"])) == (76, 0)
    assert int(lines["ok"]) > 10
    assert int(lines["with damage"]) > 3
