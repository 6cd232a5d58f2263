"""Out-of-domain distance: how far an image's features lie from those of a model's training images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from emqa_dask import models

DOMAIN_FILE = "domain.safetensors"
N_NEIGHBOURS = 5  # their mean distance: one unusual training image does not make others like it in-domain
MAX_ROWS = 1500  # training images kept
MIN_IMAGES = 20  # training images, below which no domain is fitted
LABELLED_QUANTILE = 0.95  # of labelled images that a domain has to contain
_BATCH_ROWS = 2000  # rows whose distances are in memory at a time


@dataclass(frozen=True)
class Domain:
    """Training images as points in a whitened feature space, and the distance that counts as 1."""

    columns: tuple[str, ...]
    centre: NDArray[np.float64]  # medians, (d,)
    scale: NDArray[np.float64]  # interquartile ranges as standard deviations, (d,)
    whiten: NDArray[np.float64]  # (d, d)
    rows: NDArray[np.float32]  # training images, (n, d), whitened
    limit: float  # 99th percentile of held-out training images' raw distances


def fit_domain(
    features: pd.DataFrame, groups: ArrayLike, *, columns: Sequence[str], quantile: float = 0.99, seed: int = 0
) -> Domain:
    """The domain of n training images; distances are scaled so that `quantile` of images held out by group are below 1.

    Every feature is centred on its median, divided by its interquartile range and passed through arcsinh, so that heavy
    tails and units do not matter; then whitened with a Ledoit-Wolf covariance. A distance is the mean Euclidean
    distance to the N_NEIGHBOURS nearest training images (Sun et al., ICML 2022, "deep nearest neighbors", on features
    of the image instead of a network's). An unknown (NaN) feature counts as typical. Raises ValueError for features
    that never vary in training and for fewer than MIN_IMAGES images.
    """
    from sklearn.covariance import ledoit_wolf
    from sklearn.model_selection import GroupKFold

    values = _select_values(features, columns)
    if len(values) < MIN_IMAGES:
        raise ValueError(f"{len(values)} images are too few to say what is typical: at least {MIN_IMAGES}")
    centre = np.nanmedian(values, axis=0)
    scale = _compute_scale(values, columns)
    points = _standardise(values, centre, scale)
    eigenvalues, vectors = np.linalg.eigh(ledoit_wolf(points)[0])
    whiten = vectors / np.sqrt(eigenvalues)
    points = points @ whiten
    folds = GroupKFold(min(5, len(np.unique(groups)))).split(points, groups=groups)
    held_out = np.concatenate([compute_neighbour_distances(points[test], points[train]) for train, test in folds])
    row_indices = np.sort(np.random.default_rng(seed).permutation(len(points))[:MAX_ROWS])
    return Domain(
        columns=tuple(columns),
        centre=centre,
        scale=scale,
        whiten=whiten,
        rows=points[row_indices].astype(np.float32),
        limit=float(np.quantile(held_out, quantile)),
    )


def extend_domain(
    domain: Domain, features: pd.DataFrame, groups: ArrayLike, *, quantile: float = LABELLED_QUANTILE
) -> Domain:
    """`domain` with n labelled images among its training images: what was labelled is known.

    The limit rises where needed, so that `quantile` of the labelled images, each compared with the training images and
    the labelled images of other groups (n labels), have a distance of 1 at most. Images without a known feature count
    for nothing.
    """
    values = _select_values(features, domain.columns)
    is_known = ~np.isnan(values).all(axis=1)
    if not is_known.any():
        return domain
    points = _standardise(values[is_known], domain.centre, domain.scale) @ domain.whiten
    known_groups = np.asarray(groups)[is_known]
    distances = np.zeros(len(points))
    for group in np.unique(known_groups):
        is_group = known_groups == group
        rows = np.concatenate([domain.rows, points[~is_group]])
        distances[is_group] = compute_neighbour_distances(points[is_group], rows)
    rows = np.concatenate([domain.rows, points.astype(np.float32)])
    limit = max(domain.limit, float(np.quantile(distances, quantile)))
    return dataclasses.replace(domain, rows=rows, limit=limit)


def _compute_scale(values: NDArray, columns: Sequence[str]) -> NDArray[np.float64]:
    """Interquartile ranges (d,) as standard deviations; ValueError for columns that never vary."""
    scale = np.subtract(*np.nanpercentile(values, [75, 25], axis=0)) / 1.349  # of a normal distribution
    scale = np.where(scale > 0, scale, np.nanstd(values, axis=0))
    constant = [name for name, width in zip(columns, scale) if not width > 0]
    if constant:
        raise ValueError(f"features that never vary in training carry no information: {', '.join(constant)}")
    return scale


def compute_domain_distances(domain: Domain, features: pd.DataFrame) -> NDArray[np.float64]:
    """Distances (n,) of n rows to the training images: 1 = the 99th percentile of held-out ones; more is further.

    NaN where no feature is known. Infinite features count as very far. Raises ValueError for missing columns.
    """
    values = _select_values(features, domain.columns)
    # Not by BLAS, whose last bits depend on how many rows there are: a row's distance is its own.
    points = np.einsum("nf,fk->nk", _standardise(values, domain.centre, domain.scale), domain.whiten)
    distances = compute_neighbour_distances(points, domain.rows) / domain.limit
    return np.where(np.isnan(values).all(axis=1), np.nan, distances)


def compute_neighbour_distances(points: NDArray, rows: NDArray) -> NDArray[np.float64]:
    """Mean distance (n,) of points (n, d) to the N_NEIGHBOURS nearest of `rows` (m, d), by batches of points."""
    k = min(N_NEIGHBOURS, len(rows))
    batches = [np.zeros(0)]
    for first in range(0, len(points), _BATCH_ROWS):
        distances = cdist(points[first : first + _BATCH_ROWS], rows)
        batches.append(np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1))
    return np.concatenate(batches)


def _select_values(features: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    missing = [name for name in columns if name not in features.columns]
    if missing:
        raise ValueError(f"the features lack {', '.join(missing)}, which the out-of-domain distance needs")
    return features[list(columns)].to_numpy(dtype=np.float64)


def _standardise(values: NDArray, centre: NDArray, scale: NDArray) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        z = np.arcsinh(np.clip((values - centre) / scale, -1e100, 1e100))
    return np.nan_to_num(z, nan=0.0)


def write_domain(domain: Domain, directory: Path) -> dict:
    """Writes DOMAIN_FILE and returns the card's table `domain`: columns and limit."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {f.name: getattr(domain, f.name) for f in dataclasses.fields(Domain)}
    columns = arrays.pop("columns")
    limit = arrays.pop("limit")
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / DOMAIN_FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    return {"domain": {"columns": list(columns), "limit": limit}}


def read_domain(directory: Path) -> Domain | None:
    """The domain in a model directory, its file checked against the card's SHA-256; None for a model without one."""
    model_card = models.read_model_card(directory)
    if "domain" not in model_card:
        return None
    if DOMAIN_FILE not in model_card.get("files", {}):
        raise ValueError(f"{directory / 'card.toml'}: names a domain but no {DOMAIN_FILE}")
    arrays = safetensors.numpy.load_file(models.check_file(directory, DOMAIN_FILE, model_card))
    return Domain(tuple(model_card["domain"]["columns"]), **arrays, limit=model_card["domain"]["limit"])
