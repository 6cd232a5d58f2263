"""Triage a small synthetic archive and read its tables."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pandas as pd

import emqa_dask

ARCHIVE = Path("triage-example/archive")
WORKSPACE = Path("triage-example/workspace")


def emqa(*arguments: object) -> None:
    """Run the command emqa; here and in a terminal it does the same."""
    subprocess.run([sys.executable, "-m", "emqa_dask", *map(str, arguments)], check=True)


def main() -> None:
    if not ARCHIVE.exists():
        emqa("synthesise", ARCHIVE, "--profile", "mixed", "--n", 20, "--seed", 5)

    settings = emqa_dask.load_settings(template="generic")
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, workers=2))
    rows = emqa_dask.triage_archive(str(ARCHIVE), str(WORKSPACE), settings)

    print("\nverdicts")
    print(rows["verdict"].value_counts().to_string())
    print("\nwhy not trusted")
    print(rows.loc[rows["verdict"] != "trust", "reasons"].str[0].value_counts().to_string())

    # A folder of parts is one table for every Parquet reader.
    folder = next(WORKSPACE.glob("detections-*"))
    detections = pd.read_parquet(folder)
    sizes = detections.merge(rows[["micrograph_id", "uri", "verdict"]], on="micrograph_id")
    print("\nmedian diameter of the detections of each image, nm")
    print(sizes.groupby("uri")["diameter_nm"].median().round(1).to_string())

    # The same functions work on one image, without a workspace.
    with_scale = rows[rows["nm_per_pixel"] > 0]
    image_row = with_scale.loc[with_scale["n_detections"].astype(float).idxmax()]
    image, header = emqa_dask.read_micrograph(ARCHIVE / image_row["uri"], int(image_row["frame"]))
    blobs = emqa_dask.find_blobs(image, min_sigma=3, max_sigma=20, num_sigma=10, threshold=0.1, overlap=0.5)
    print(f"\n{image_row['uri']}: {image.shape} {image.dtype}, {header.nm_per_pixel:.3g} nm/px, {len(blobs)} blobs")


if __name__ == "__main__":  # workers are new processes that import this file
    main()
