"""The example scripts of the documentation run as they stand, in a folder of their own."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from docs.generate import columns

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PAGES = EXAMPLES.parent
# What a script prints at its end, and the workspace that it leaves.
EXPECTED = {
    "triage_and_read.py": "median diameter of the detections of each image, nm",
    "train_and_calibrate.py": "predicted_f1",
    "tune.py": "columns found per square nanometre",
    "custom_check.py": "sharpness of each image",
}

pytestmark = pytest.mark.real


def run_example(name: str, folder: Path) -> str:
    """What the script prints; AssertionError with that when it fails."""
    command = [sys.executable, str(EXAMPLES / name)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_every_example_is_run_and_shown():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)
    pages = "".join(path.read_text() for path in PAGES.rglob("*.md"))
    assert all(f"examples/{name}\n:language: python" in pages for name in EXPECTED)


def test_triage_example(tmp_path):
    assert EXPECTED["triage_and_read.py"] in run_example("triage_and_read.py", tmp_path)
    assert (tmp_path / "triage-example/workspace/report/index.html").is_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder that the training example leaves."""
    folder = tmp_path_factory.mktemp("training")
    assert EXPECTED["train_and_calibrate.py"] in run_example("train_and_calibrate.py", folder)
    return folder / "train-example"


def test_training_example_leaves_the_described_files(trained):
    options = ("LATTICE_ORDER", "CUSTOM_CHECKS", "DETECTOR_CHOICES", "EMBEDDINGS")  # of other runs
    options += ("ESTIMATES", "REVIEW_PLAN", "DECISIONS", "ALARMS", "ATOM_")  # of other commands
    places = {name: columns.find_file(name) for name in columns.list_schemas() if not name.startswith(options)}
    assert [name for name, place in places.items() if not any((trained / "workspace").glob(place))] == []


def test_python_lines_of_the_page_of_results_run(trained):
    page = (PAGES / "how-to/results.md").read_text()
    lines = page.partition("```python\nimport emqa_dask\n")[2].partition("```")[0]
    image = next((trained / "archive").rglob("*.hspy"))
    lines = lines.replace("scan.dm4", str(image)).replace('"lots"', repr(str(trained / "families")))
    assert str(image) in lines
    program = f"import emqa_dask\n{lines}\nassert len(tables) == p.shape[1] == 1"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_tuning_example(tmp_path):
    assert EXPECTED["tune.py"] in run_example("tune.py", tmp_path)
    assert (tmp_path / "tune-example/tuned.toml").is_file()


def test_custom_check_example(tmp_path):
    assert EXPECTED["custom_check.py"] in run_example("custom_check.py", tmp_path)
    values = pd.read_parquet(next((tmp_path / "check-example/workspace").glob("custom_checks-*")))
    assert values["name"].unique().tolist() == ["sharpness"]
    assert values["value"].notna().all()
