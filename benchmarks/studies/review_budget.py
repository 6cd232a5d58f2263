"""Error of results of an archive after a review of 5, 10 and 20 % of its images, by how these images are selected.

    python -m benchmarks.fit_quality_model ... --cache CACHE        writes CACHE/quality-NAME/evaluation.csv
    python -m benchmarks.studies.review_budget CACHE/quality-NAME/evaluation.csv
    python -m benchmarks.studies.review_budget WORKSPACE --labels LABELS

The table has labelled images with true and predicted F1. Of a workspace the covered images count, with the labels of
all of them. The results are the mean F1, the mean number of objects per image and the share of images with an F1 of at
least 0.5. Selections:

plan           `emqa review plan`: drawn with known probabilities, estimated from labels and predictions
random         a simple random sample, estimated likewise
lowest_f1      the images of lowest predicted F1; truth for these, and predictions for the others
entropy        the images whose trust is most uncertain; likewise

An archive is the drawn images, all real images, or the real images of a set, with quality models that did not see the
source, or the whole set, of an image. An error is the root mean square over
repetitions, relative to the truth. Only the first two selections have intervals.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.measure.estimation import Design, Estimate, define_simple_design, estimate_ratio
from emqa_dask.measure.estimation_shares import estimate_share
from emqa_dask.pipeline.commands.estimate_images import read_images
from emqa_dask.pipeline.commands.estimate_quality import compute_quality
from emqa_dask.pipeline.commands.review_plan import number_strata, read_covered
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.review.gain import RESULTS
from emqa_dask.review.sampling import draw_images
from emqa_dask.store.layout import Workspace
from emqa_dask.store.stored_settings import read_settings

SHARES = (0.05, 0.1, 0.2)  # of the images that are reviewed
GOOD_F1 = 0.5
MIN_IMAGES = 100  # of an archive
DRAWN = "drawn"
COLUMNS = ["protocol", "set", "source", "true_f1", "n_true", "n_detections"]
COLUMNS += ["predicted_f1", "predicted_f1_low", "predicted_f1_high", "f1_probability"]


def list_archives(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Names and images of the archives in a table of fit_quality_model, for each of its protocols."""
    for protocol, rows in table[COLUMNS].groupby("protocol", sort=False):
        images = rows.assign(is_good=rows["true_f1"] >= GOOD_F1, predicted_precision=np.nan, predicted_recall=np.nan)
        real = images[images["set"] != DRAWN]
        archives = {"all drawn": images[images["set"] == DRAWN], "all real": real, **dict(tuple(real.groupby("set")))}
        for name, own_images in archives.items():
            if len(own_images) >= MIN_IMAGES:
                yield f"{name}, {protocol}", own_images.reset_index(drop=True)


def read_archive(root: str, labels: str) -> pd.DataFrame:
    """The covered images of a workspace as list_archives() has them, with their labels."""
    workspace = Workspace(root)
    settings = read_settings(root)
    images = read_covered(workspace, settings)
    matched = read_matched_labels([labels], read_images(workspace, settings))
    matched = {key: label for key, label in matched.items() if key in set(images["micrograph_id"])}
    quality = compute_quality(workspace, settings, images, matched)
    n_true = pd.Series({key: len(label.boxes) for key, label in matched.items()}, dtype=float)
    images["n_true"] = images["micrograph_id"].map(n_true).fillna(0.0)
    images["true_f1"] = images["micrograph_id"].map(quality["f1"]).fillna(0.0)
    images["n_detections"] = images["n_objects"].astype(float)
    return images.assign(source=images["session"], is_good=images["true_f1"] >= GOOD_F1)


def list_values(rows: pd.DataFrame, result: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True and predicted contributions (n,) of images to a result of review.gain; the mean for no prediction."""
    columns = {
        "f1": ("true_f1", "predicted_f1"),
        "density": ("n_true", "n_detections"),
        "triage": ("is_good", "f1_probability"),
    }[result]
    true, predicted = (rows[name].to_numpy(float) for name in columns)
    return true, np.where(np.isfinite(predicted), predicted, np.nanmean(predicted))


def estimate_by_design(design: Design, true: NDArray, predicted: NDArray) -> Estimate:
    """The mean of `true`, known for the reviewed images, with the predictions of all."""
    ones = np.ones(len(predicted))
    true_totals = np.column_stack([true, ones])[design.reviewed]
    estimate = estimate_share if np.isin(true, (0, 1)).all() else estimate_ratio
    return estimate(design, true_totals, np.column_stack([predicted, ones]))


def estimate_by_replacement(reviewed: NDArray, true: NDArray, predicted: NDArray) -> float:
    """The mean of the predictions, in which those of reviewed images are replaced by the truth."""
    values = predicted.copy()
    values[reviewed] = true[reviewed]
    return float(values.mean())


def select_lowest(values: NDArray, n_reviewed: int) -> NDArray[np.int64]:
    """Positions of the lowest values."""
    return np.argsort(values, kind="stable")[:n_reviewed]


def compare_selections(rows: pd.DataFrame, result: str, n_reviewed: int, n_repetitions: int) -> list[dict]:
    """A row for each selection: relative error, coverage and length of 95 % intervals."""
    true, predicted = list_values(rows, result)
    truth = true.mean()
    gain = RESULTS[result](rows)
    strata = number_strata(rows["source"], gain)
    singles = np.arange(len(rows))
    estimates: dict[str, list[Estimate]] = {"plan": [], "random": []}
    for seed in range(n_repetitions):
        draw = draw_images(gain.deviations, strata, singles, n_reviewed, seed)
        probabilities = draw.probabilities[draw.positions]
        design = Design(len(rows), draw.positions, probabilities, np.zeros(len(probabilities), np.int64))
        estimates["plan"].append(estimate_by_design(design, true, predicted))
        sample = np.random.default_rng(seed).choice(len(rows), n_reviewed, replace=False)
        estimates["random"].append(estimate_by_design(define_simple_design(len(rows), sample), true, predicted))
    table = []
    for name, own in estimates.items():
        value, low, high = (np.array([getattr(one, end) for one in own]) for end in ("value", "low", "high"))
        error = np.sqrt(np.mean((value - truth) ** 2)) / truth
        coverage = np.mean((low <= truth) & (truth <= high))
        table.append({"selection": name, "error": error, "coverage": coverage, "length": np.mean(high - low) / truth})
    uncertainty = np.abs(rows["f1_probability"].to_numpy(float) - 0.5)
    for name, values in (("lowest_f1", rows["predicted_f1"].to_numpy()), ("entropy", uncertainty)):
        value = estimate_by_replacement(select_lowest(values, n_reviewed), true, predicted)
        table.append({"selection": name, "error": abs(value - truth) / truth})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("evaluation", help="evaluation.csv of fit_quality_model, or a workspace")
    parser.add_argument("--labels", help="of the images of the workspace: OUT.truth/annotations.json")
    parser.add_argument("--repetitions", type=int, default=500)
    options = parser.parse_args()
    table = []
    if options.labels:
        archives = [(options.evaluation, read_archive(options.evaluation, options.labels))]
    else:
        archives = list_archives(pd.read_csv(options.evaluation))
    for name, rows in archives:
        for result in RESULTS:
            for share in SHARES:
                n_reviewed = round(share * len(rows))
                key = {"archive": name, "n_images": len(rows), "result": result, "n_reviewed": n_reviewed}
                table += [key | row for row in compare_selections(rows, result, n_reviewed, options.repetitions)]
    columns = pd.DataFrame(table).pivot(
        index=["archive", "n_images", "result", "n_reviewed"], columns="selection", values=["error", "coverage"]
    )
    columns = columns.dropna(axis=1, how="all")
    columns.columns = [f"{name} {value}" for value, name in columns.columns]
    print(columns.round(3).to_string())


if __name__ == "__main__":
    main()
