"""How often 95 % intervals of density, mean diameter, swelling and quantiles contain the truth, and how long they are.

    python -m benchmarks.studies.estimate_coverage --repetitions 500
    python -m benchmarks.studies.estimate_coverage --repetitions 500 --table rf_f1_features_open.csv

Without --table: archives of 2,000 images with 12 sessions that differ in density, diameter and magnification. The
counts are overdispersed. The recall, the false detections and the error of the diameters depend on the session. With
--table: images are drawn from a table of real images with true and detected numbers of cavities.
"""

import argparse
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.measure.estimation import Design, Estimate, define_simple_design, estimate_ratio
from emqa_dask.measure.estimation_quantiles import estimate_quantile
from emqa_dask.measure.estimation_swelling import estimate_swelling

N_IMAGES = 2000
N_SESSIONS = 12
N_REVIEWED = (20, 50, 100, 200)
OBJECTS_PER_IMAGE = 30
DIAMETER_NM = 10.0  # mean
AREA_NM2 = 4e4  # of an image of the lower magnification
THICKNESS_NM = 100.0
TOTALS = {"density": (0, 3), "mean diameter": (1, 0), "swelling": (2, 4)}  # columns of numerator and denominator
VALUES = {"number": (0, 5), "density": (0, 3), "mean diameter": (1, 0)}  # of an image: columns of its quotient
RANKS = {"10 % quantile": 0.1, "median": 0.5, "90 % quantile": 0.9}
QUANTILES = {f"{rank} of {value}": (value, RANKS[rank]) for value in VALUES for rank in RANKS}


class Archive(NamedTuple):
    """Totals of each image (N, 5): objects, their diameters, their volumes, image area, specimen volume."""

    true_totals: NDArray[np.float64]
    predicted_totals: NDArray[np.float64]
    f1: float


def make_archive(rng: np.random.Generator, detector: str) -> Archive:
    """An archive with a detector of F1 0.8 ("decent"), or one whose detections do not depend on the objects."""
    sessions = rng.integers(0, N_SESSIONS, N_IMAGES)
    areas = rng.choice([0.6, 1.0], N_SESSIONS)[sessions]
    session_density = np.exp(rng.normal(0, 0.5, N_SESSIONS))[sessions]
    rates = OBJECTS_PER_IMAGE * session_density * areas * rng.gamma(3, 1 / 3, N_IMAGES)
    images = np.repeat(np.arange(N_IMAGES), rng.poisson(rates))
    session_diameters = DIAMETER_NM * np.exp(rng.normal(0, 0.2, N_SESSIONS))
    relative_diameters = np.exp(rng.normal(0, 0.1, N_IMAGES))[images] * np.exp(rng.normal(0, 0.25, len(images)))
    diameters = session_diameters[sessions[images]] * relative_diameters
    if detector == "decent":
        is_hit = _draw_hits(rng, sessions[images], relative_diameters)
        session_scale = np.exp(rng.normal(0, 0.08, N_SESSIONS))[sessions[images[is_hit]]]
        hit_diameters = diameters[is_hit] * session_scale * np.exp(rng.normal(0, 0.1, is_hit.sum()))
        false_share = rng.uniform(0.05, 0.4, N_SESSIONS)[sessions]
        false_rates = 0.9 * false_share * rates.mean() * areas * rng.gamma(2, 0.5, N_IMAGES)
    else:
        is_hit = np.zeros(len(images), bool)
        hit_diameters = np.empty(0)
        false_rates = OBJECTS_PER_IMAGE * rng.gamma(2, 0.5, N_IMAGES)
    false_images = np.repeat(np.arange(N_IMAGES), rng.poisson(false_rates))
    false_diameters = 0.8 * DIAMETER_NM * np.exp(rng.normal(0, 0.3, len(false_images)))
    detected_images = np.concatenate([images[is_hit], false_images])
    detected_diameters = np.concatenate([hit_diameters, false_diameters])
    f1 = 2 * is_hit.sum() / (len(images) + len(detected_images))
    return Archive(_sum_up(images, diameters, areas), _sum_up(detected_images, detected_diameters, areas), f1)


def _draw_hits(
    rng: np.random.Generator, sessions: NDArray[np.int64], relative_diameters: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(n,) is the object detected? The recall depends on the session and on the size."""
    recall = rng.uniform(0.65, 0.95, N_SESSIONS)[sessions] * np.clip(relative_diameters, 0.5, 1.1)
    return rng.random(len(sessions)) < recall


def _sum_up(
    images: NDArray[np.int64], diameters: NDArray[np.float64], areas: NDArray[np.float64]
) -> NDArray[np.float64]:
    sums = [np.bincount(images, weights, N_IMAGES) for weights in (None, diameters, np.pi / 6 * diameters**3)]
    return np.column_stack([*sums, AREA_NM2 * areas, AREA_NM2 * areas * THICKNESS_NM])


def draw_design(rng: np.random.Generator, archive_size: int, n_reviewed: int, sizes: NDArray | None) -> Design:
    """Reviewed images: a simple random sample, or a systematic one with probabilities that grow with `sizes`."""
    if sizes is None:
        return define_simple_design(archive_size, rng.choice(archive_size, n_reviewed, replace=False))
    shares = np.sqrt(sizes + 3) * rng.uniform(0.5, 1.5, archive_size)  # 3: images without a detection are drawn, too
    probabilities = np.minimum(n_reviewed * shares / shares.sum(), 1)
    order = rng.permutation(archive_size)
    ends = np.cumsum(probabilities[order])
    positions = np.searchsorted(ends, rng.random() + np.arange(n_reviewed))
    reviewed = order[np.unique(positions[positions < archive_size])]
    return Design(archive_size, reviewed, probabilities[reviewed], np.zeros(len(reviewed), int))


def estimate_quantity(
    quantity: str, design: Design, true_totals: NDArray, predicted_totals: NDArray | None
) -> Estimate:
    """One of TOTALS or QUANTILES; true_totals: (n, 5), predicted_totals: (N, 5)."""
    if quantity in QUANTILES:
        value, probability = QUANTILES[quantity]
        predicted_values = None if predicted_totals is None else _divide(predicted_totals, *VALUES[value])
        return estimate_quantile(design, _divide(true_totals, *VALUES[value]), probability, predicted_values)
    columns = list(TOTALS[quantity])
    predicted = None if predicted_totals is None else predicted_totals[:, columns]
    function = estimate_swelling if quantity == "swelling" else estimate_ratio
    return function(design, true_totals[:, columns], predicted)


def _divide(totals: NDArray, numerator: int, denominator: int) -> NDArray[np.float64]:
    """(n,) quotients of two columns, NaN for a denominator of 0; the column after the last is 1."""
    columns = np.column_stack([totals, np.ones(len(totals))])
    denominators = np.where(columns[:, denominator] > 0, columns[:, denominator], np.nan)
    return columns[:, numerator] / denominators


def run_repetitions(n_repetitions: int, detector: str, seed: int) -> pd.DataFrame:
    """A row for each archive, design, number of reviewed images and quantity."""
    rng = np.random.default_rng([seed, detector == "decent"])
    rows = []
    for repetition in range(n_repetitions):
        archive = make_archive(rng, detector)
        for selection, n_reviewed in ((s, n) for s in ("random", "unequal") for n in N_REVIEWED):
            sizes = archive.predicted_totals[:, 0] if selection == "unequal" else None
            design = draw_design(rng, N_IMAGES, n_reviewed, sizes)
            for quantity in (*TOTALS, *QUANTILES):
                key = {"detector": detector, "selection": selection, "n_reviewed": n_reviewed, "quantity": quantity}
                rows.append({**key, "repetition": repetition, "f1": archive.f1} | _compare(quantity, design, archive))
    return pd.DataFrame(rows)


def _find_truth(quantity: str, true_totals: NDArray) -> float:
    if quantity in QUANTILES:
        value, probability = QUANTILES[quantity]
        return float(np.nanquantile(_divide(true_totals, *VALUES[value]), probability, method="inverted_cdf"))
    everything = define_simple_design(len(true_totals), np.arange(len(true_totals)))
    return estimate_quantity(quantity, everything, true_totals, None).value


def _compare(quantity: str, design: Design, archive: Archive) -> dict[str, float]:
    """Whether intervals with and without detections contain the truth, and their lengths relative to it.

    An open end (NaN) of a quantile's interval contains everything; the length is NaN.
    """
    truth = _find_truth(quantity, archive.true_totals)
    # A tenth of the images may have no object.
    scale = max(truth, 1.0) if quantity in QUANTILES and "number" in quantity else truth
    reviewed_totals = archive.true_totals[design.reviewed]
    estimate = estimate_quantity(quantity, design, reviewed_totals, archive.predicted_totals)
    labels_alone = estimate_quantity(quantity, design, reviewed_totals, None)
    return {
        "is_covered": not (estimate.low > truth or estimate.high < truth),
        "width": (estimate.high - estimate.low) / scale,
        "is_covered_by_labels": not (labels_alone.low > truth or labels_alone.high < truth),
        "labels_width": (labels_alone.high - labels_alone.low) / scale,
        "error": (estimate.value - truth) / scale,
    }


def read_real_counts(path: str) -> Archive:
    """True and detected numbers of cavities of each image of a published table; its first row counts.

    The table states the number of detections, precision and recall; the true number follows from them.
    """
    table = pd.read_csv(path, skipinitialspace=True)
    table = table[(table["precision"] > 0) & (table["recall"] > 0)].drop_duplicates("names")
    n_true = (table["counts"] * table["precision"] / table["recall"]).round().to_numpy()
    n_detected = table["counts"].to_numpy(dtype=np.float64)
    unknown = np.full((len(table), 2), np.nan)
    ones = np.ones(len(table))
    true_totals = np.column_stack([n_true, unknown, ones, ones])
    predicted_totals = np.column_stack([n_detected, unknown, ones, ones])
    return Archive(true_totals, predicted_totals, float(table["f1"].mean()))


def run_resampling(n_repetitions: int, archive: Archive, seed: int) -> pd.DataFrame:
    """As run_repetitions(), for the mean number of objects per image of one real archive, drawn again and again."""
    rng = np.random.default_rng(seed)
    rows = []
    for selection, n_reviewed in ((s, n) for s in ("random", "unequal") for n in N_REVIEWED):
        sizes = archive.predicted_totals[:, 0] if selection == "unequal" else None
        for repetition in range(n_repetitions):
            design = draw_design(rng, len(archive.true_totals), n_reviewed, sizes)
            key = {"detector": "real", "selection": selection, "n_reviewed": n_reviewed, "quantity": "density"}
            rows.append({**key, "repetition": repetition, "f1": archive.f1} | _compare("density", design, archive))
    return pd.DataFrame(rows)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Coverage and mean length by detector, selection, number of reviewed images and quantity."""
    groups = rows.groupby(["detector", "selection", "n_reviewed", "quantity"], sort=False)
    table = groups[["f1", "is_covered", "width", "is_covered_by_labels", "labels_width", "error"]].mean()
    table["width_ratio"] = table["width"] / table["labels_width"]
    return table.rename(columns={"is_covered": "coverage", "is_covered_by_labels": "labels_coverage", "error": "bias"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", help="published table with counts, precision and recall of each image")
    options = parser.parse_args()
    if options.table:
        rows = run_resampling(options.repetitions, read_real_counts(options.table), options.seed)
    else:
        parts = [run_repetitions(options.repetitions, detector, options.seed) for detector in ("decent", "useless")]
        rows = pd.concat(parts, ignore_index=True)
    print(summarise(rows).round(3).to_string())


if __name__ == "__main__":
    main()
