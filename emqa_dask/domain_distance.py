"""How far an image's features lie from those of a model's training images: the out-of-domain distance."""

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
N_NEIGHBOURS = 5  # their mean distance: one odd training image does not open the door for its like
MAX_ROWS = 1500  # training images kept
_BATCH_ROWS = 2000


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
    of the image instead of a network's). An unknown (NaN) feature counts as typical. Features that never vary in
    training are refused with ValueError, as are fewer than 20 images.
    """
    from sklearn.covariance import ledoit_wolf
    from sklearn.model_selection import GroupKFold

    values = _select_values(features, columns)
    if len(values) < 20:
        raise ValueError(f"{len(values)} images are too few to say what is typical: at least 20")
    centre = np.nanmedian(values, axis=0)
    scale = np.subtract(*np.nanpercentile(values, [75, 25], axis=0)) / 1.349
    scale = np.where(scale > 0, scale, np.nanstd(values, axis=0))
    if not (scale > 0).all():
        flat = [name for name, s in zip(columns, scale) if not s > 0]
        raise ValueError(f"features that never vary in training say nothing: {', '.join(flat)}")
    points = _standardise(values, centre, scale)
    eigenvalues, vectors = np.linalg.eigh(ledoit_wolf(points)[0])
    points = points @ (whiten := vectors / np.sqrt(eigenvalues))
    folds = GroupKFold(min(5, len(np.unique(groups)))).split(points, groups=groups)
    held_out = np.concatenate([compute_neighbour_distances(points[test], points[train]) for train, test in folds])
    keep = np.sort(np.random.default_rng(seed).permutation(len(points))[:MAX_ROWS])
    rows = points[keep].astype(np.float32)
    return Domain(tuple(columns), centre, scale, whiten, rows, float(np.quantile(held_out, quantile)))


def compute_domain_distances(domain: Domain, features: pd.DataFrame) -> NDArray[np.float64]:
    """Distance of n rows to the training images, (n,), 1 = the 99th percentile of held-out ones; more is further.

    NaN where no feature is known. Infinite features count as very far. Raises ValueError for missing columns.
    """
    values = _select_values(features, domain.columns)
    # Not by BLAS, whose last bits depend on how many rows there are: a row's distance is its own.
    points = np.einsum("nf,fk->nk", _standardise(values, domain.centre, domain.scale), domain.whiten)
    found = compute_neighbour_distances(points, domain.rows) / domain.limit
    return np.where(np.isnan(values).all(axis=1), np.nan, found)


def compute_neighbour_distances(points: NDArray, rows: NDArray) -> NDArray[np.float64]:
    """Mean distance (n,) of points (n, d) to the N_NEIGHBOURS nearest of `rows` (m, d); some points at a time."""
    k = min(N_NEIGHBOURS, len(rows))
    found = [np.zeros(0)]
    for start in range(0, len(points), _BATCH_ROWS):
        apart = cdist(points[start : start + _BATCH_ROWS], rows)
        found.append(np.partition(apart, k - 1, axis=1)[:, :k].mean(axis=1))
    return np.concatenate(found)


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
    """Writes `domain.safetensors` and returns the domain's part of the card: columns and limit, under `domain`."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {f.name: getattr(domain, f.name) for f in dataclasses.fields(Domain)}
    columns = arrays.pop("columns")
    limit = arrays.pop("limit")
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / DOMAIN_FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    return {"domain": {"columns": list(columns), "limit": limit}}


def read_domain(directory: Path) -> Domain | None:
    """The domain in a model directory, its file checked against the card's SHA-256; None for a model without one."""
    card = models.read_card(directory)
    if "domain" not in card:
        return None
    if DOMAIN_FILE not in card.get("files", {}):
        raise ValueError(f"{directory / 'card.toml'}: names a domain but no {DOMAIN_FILE}")
    arrays = safetensors.numpy.load_file(models.check_file(directory, DOMAIN_FILE, card))
    return Domain(tuple(card["domain"]["columns"]), **arrays, limit=card["domain"]["limit"])
