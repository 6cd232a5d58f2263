"""The tests for machines with a GPU can be collected on any other: they do not rot unseen."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "gpu"


def collected(*options):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, str(FOLDER)]
    return subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, timeout=300)


def test_every_test_for_a_gpu_collects_and_is_marked():
    ran = collected("-m", "gpu")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for path in FOLDER.glob("test_*.py"):
        assert f"gpu/{path.name}::test_" in ran.stdout
    assert "deselected" not in ran.stdout.splitlines()[-1]
