"""Train a small classifier ensemble, triage with it, and calibrate the predicted F1 on labelled images."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

import emqa_dask

FOLDER = Path("train-example")
ARCHIVE = FOLDER / "archive"
TRUTH = FOLDER / "archive.truth" / "annotations.json"
LABELS = FOLDER / "labels.csv"
MODEL = FOLDER / "families"
WORKSPACE = FOLDER / "workspace"


def emqa(*arguments: object) -> None:
    """Run the command emqa; here and in a terminal it does the same."""
    subprocess.run([sys.executable, "-m", "emqa_dask", *map(str, arguments)], check=True)


def write_labels(images: pd.DataFrame) -> None:
    """Write the class of every file with one frame: here the family that the synthetic image was drawn from."""
    single = images[~images["file_name"].duplicated(keep=False) & images["is_annotated"]]
    single.rename(columns={"file_name": "uri", "family": "label"})[["uri", "label"]].to_csv(LABELS, index=False)


def compute_true_f1(row, images: pd.DataFrame, annotations: pd.DataFrame, detections: pd.DataFrame) -> float:
    """F1 of the detections of one row of the triage table against the true boxes, at IoU 0.3."""
    image = images[(images["file_name"] == row.uri) & (images["frame"] == row.frame)].iloc[0]
    boxes = annotations.loc[annotations["image_id"] == image["id"], "bbox"].tolist()  # x, y, width, height
    x, y, width, height = np.reshape(boxes, (-1, 4)).T
    true = np.stack([y, x, y + height, x + width], axis=1)
    predicted = detections.loc[detections["micrograph_id"] == row.micrograph_id, ["y0", "x0", "y1", "x1"]]
    return emqa_dask.match_boxes(predicted.to_numpy(), true, iou_threshold=0.3).f1


def main() -> None:
    if not ARCHIVE.exists():
        emqa("synthesise", ARCHIVE, "--profile", "mixed", "--n", 28, "--seed", 5)
    truth = json.loads(TRUTH.read_text())
    images = pd.DataFrame(truth["images"])
    write_labels(images)

    # A training that ends within seconds. A useful one takes the defaults and hundreds of images.
    small = ("--members", 2, "--epochs", 6, "--windows-per-image", 4, "--depth", 10, "--widen", 1, "--examples", 12)
    if not MODEL.exists():
        emqa("train", "ensemble", LABELS, "--images", ARCHIVE, "--out", MODEL, "--workers", 2, *small)
    emqa("triage", ARCHIVE, "--workspace", WORKSPACE, "--detector", "log", "--classifier", MODEL, "--workers", 2)

    # The synthetic truth takes the place of 20 to 50 micrographs that a person has labelled.
    emqa("calibrate", WORKSPACE, TRUTH)
    emqa("rescore", WORKSPACE)

    rows = pd.read_parquet(WORKSPACE / "triage.parquet").dropna(subset="predicted_f1")
    detections = pd.read_parquet(next(WORKSPACE.glob("detections-*")))
    settings = tomllib.loads((WORKSPACE / "settings.toml").read_text())  # the score floor that the labels chose
    detections = detections[detections["score"] >= settings["featurise"]["score_floor"]]
    annotations = pd.DataFrame(truth["annotations"])
    rows["true_f1"] = [compute_true_f1(row, images, annotations, detections) for row in rows.itertuples()]
    columns = ["predicted_class", "predictive_entropy_nats", "predicted_f1_low", "predicted_f1", "true_f1", "verdict"]
    print(rows[columns].round(2).to_string(index=False))


if __name__ == "__main__":
    main()
