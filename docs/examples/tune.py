"""Tune the blob detector for a synthetic crystal whose number of columns is known."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

FOLDER = Path("tune-example")
ARCHIVE = FOLDER / "archive"
WORKSPACE = FOLDER / "workspace"
TUNED = FOLDER / "tuned.toml"


def emqa(*arguments: object) -> None:
    """Run the command emqa; here and in a terminal it does the same."""
    subprocess.run([sys.executable, "-m", "emqa_dask", *map(str, arguments)], check=True)


def main() -> None:
    if not ARCHIVE.exists():
        emqa("synthesise", ARCHIVE, "--profile", "atomic-stem", "--n", 4, "--seed", 1)

    # The crystal has 22.4 columns per square nanometre. Eight evaluations are few; the default is 48.
    physics = ("--count-per-um2", 22.4e6, "--nm-per-pixel", 0.0144)
    search = ("--template", "atomic-stem", "--evaluations", 8, "--images", 2)
    emqa("tune", "log", ARCHIVE, "--workspace", WORKSPACE, "--out", TUNED, "--workers", 2, *physics, *search)
    print(TUNED.read_text())

    # The file holds settings for every cohort, and a triage takes it as it is.
    emqa("triage", ARCHIVE, "--workspace", WORKSPACE, "--settings", TUNED, "--detector", "log", "--workers", 2)
    rows = pd.read_parquet(WORKSPACE / "triage.parquet").dropna(subset="n_detections")
    columns = rows["n_detections"] / (rows["height_px"] * rows["width_px"] * 0.0144**2)
    print("\ncolumns found per square nanometre")
    print(columns.astype(float).round(1).to_string())


if __name__ == "__main__":
    main()
