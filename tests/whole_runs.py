"""What tests of real clusters share: `emqa triage` as a command, and the tables that it must leave wherever it ran."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.workspaces import list_differences
from emqa_dask.run.workers import SPAWN_VARIABLES, WORKER_VARIABLES

EMQA = (sys.executable, "-m", "emqa_dask")


def triage(archive: Path, workspace: Path, *options: str, env: dict[str, str] | None = None, code: int = 0) -> str:
    """Run `emqa triage` with LoG to its end; what it said. AssertionError with that if it does not exit with `code`."""
    command = [*EMQA, "triage", str(archive), "--workspace", str(workspace), "--detector", "log", *options]
    ran = subprocess.run(
        command, env=os.environ | (env or {}), cwd=workspace.parent, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == code, f"exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def undisturbed(archive: Path, workspace: Path, *options: str) -> Path:
    """A workspace that was made in one process with the libraries' threads as workers have them: to compare with.

    OpenCV adds floats in another order when it has more threads, which shows in the seventh digit.
    """
    triage(archive, workspace, "--scheduler", "in-process", *options, env=SPAWN_VARIABLES | WORKER_VARIABLES)
    return workspace


def assert_same_tables(workspace: Path, expected: Path) -> None:
    """Every table, shard and the CSV are the same, byte for byte after sorting."""
    assert list_differences(workspace, expected) == []
