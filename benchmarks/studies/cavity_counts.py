"""Counts on real cavities: a detector's and the LoG's against the number that a published detector's measures imply.

python -m benchmarks.studies.cavity_counts --out DIR [--detector cavity-tem]

The 41 images of data/uw_cavity have no boxes, but the published detector's count, precision and recall on each: the
true number is count * precision / recall. Reported: Spearman's rank correlation with it, and the median of
|count - true| / true, for detections from a score of 0.5 and from the floor of 0.1, and for the LoG's.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from emqa_dask import load_detector
from emqa_dask.detect.log import detect_image
from emqa_dask.settings import load_settings

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "uw_cavity"


def true_counts(table: pd.DataFrame) -> pd.Series:
    """counts * precision / recall by image, where the recall is not 0."""
    table = table[table["recall"] > 0]
    return (table["counts"] * table["precision"] / table["recall"]).set_axis(table["names"])


def judged(counts: pd.DataFrame, true: pd.Series) -> list[dict]:
    """Rank correlation and median relative error of every column of `counts` against `true`."""
    rows = []
    for name in counts:
        error = (counts[name] - true).abs() / true
        rank = spearmanr(counts[name], true).statistic
        rows.append({"counted_by": name, "n": len(true), "spearman": rank, "median_relative_error": error.median()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", default="cavity-tem", help="model directory, or a bundled detector's name")
    options = parser.parse_args()
    true = true_counts(pd.read_csv(FOLDER / "images_f1.csv"))
    detector = load_detector(options.detector)
    log = load_settings(template="cavity-tem").detect
    rows = {}
    for name in true.index:
        image = cv2.imread(str(FOLDER / "images" / name), cv2.IMREAD_GRAYSCALE)
        scores = detector.detect([image])[0]["score"].to_numpy()
        blobs = detect_image(image, log)["score"].to_numpy()
        rows[name] = {"network, score >= 0.5": (scores >= 0.5).sum(), "network, score >= 0.1": (scores >= 0.1).sum()}
        rows[name] |= {"LoG, score >= 0.5": (blobs >= 0.5).sum(), "LoG, score >= 0.1": (blobs >= 0.1).sum()}
    counts = pd.DataFrame.from_dict(rows, orient="index")
    options.out.mkdir(parents=True, exist_ok=True)
    counts.assign(true=np.round(true, 1)).to_csv(options.out / "cavity_counts.csv", index_label="image")
    results = judged(counts, true)
    (options.out / "cavity_counts.json").write_text(json.dumps(results, indent=1))
    print(pd.DataFrame(results).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
