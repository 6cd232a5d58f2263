"""Triage a small synthetic archive with a check of one's own: the sharpness of an image."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

FOLDER = Path("check-example")
ARCHIVE = FOLDER / "archive"
WORKSPACE = FOLDER / "workspace"
SETTINGS = FOLDER / "settings.toml"

MODULE = '''
import numpy as np


def measure_sharpness(image, header):
    """Standard deviation of the differences of neighbours over that of the image; NaN for a constant image."""
    pixels = image.astype(float)
    return np.diff(pixels, axis=1).std() / pixels.std() if pixels.std() > 0 else np.nan
'''
TABLE = """
[flags.custom.sharpness]
function = "my_checks:measure_sharpness"
below = 0.3
verdict = "review"
text = "neighbours differ by {value:.2f} of the contrast (limit {limit:.2f})"
"""


def emqa(*arguments: object) -> None:
    """Run the command emqa; here and in a terminal it does the same."""
    subprocess.run([sys.executable, "-m", "emqa_dask", *map(str, arguments)], check=True)


def main() -> None:
    if not ARCHIVE.exists():
        emqa("synthesise", ARCHIVE, "--profile", "mixed", "--n", 8, "--seed", 5)
    (FOLDER / "my_checks.py").write_text(MODULE)
    SETTINGS.write_text(TABLE)
    emqa("triage", ARCHIVE, "--workspace", WORKSPACE, "--settings", SETTINGS, "--workers", 2)

    rows = pd.read_parquet(WORKSPACE / "triage.parquet")
    values = pd.read_parquet(next(WORKSPACE.glob("custom_checks-*")))
    print("\nsharpness of each image")
    print(rows.merge(values, on="micrograph_id").set_index("uri")["value"].round(2).to_string())
    is_blurred = rows["reasons"].map(lambda codes: "custom_sharpness" in codes)
    print(f"{is_blurred.sum()} of {len(rows)} rows have the reason custom_sharpness")


if __name__ == "__main__":
    main()
