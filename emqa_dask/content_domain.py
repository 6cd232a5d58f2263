"""Domain of a detector by content: how far the content of an image lies from that of its training images."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from emqa_dask import models

CONTENT_DOMAIN_FILE = "content_domain.safetensors"
MIN_IMAGES = 20  # training images, below which no domain is fitted
N_COMPONENTS = 24  # of the embedding; with 40, images of unseen sources are far from all training images
MIN_IMAGES_PER_COMPONENT = 3
FALSE_ALARMS = 0.05  # of held-out training images
N_FOLDS = 5


@dataclass(frozen=True)
class ContentDomain:
    """Principal components of embeddings, and the training images in them."""

    centre: NDArray[np.float32]  # (d,)
    components: NDArray[np.float32]  # (d, k): to components of variance 1
    precision: NDArray[np.float32]  # (k, k): inverse of the covariance of the training images
    limit: float  # Mahalanobis distance that counts as 1


@dataclass(frozen=True)
class ObjectKinds:
    """Kinds of objects that a detector was trained on."""

    own: tuple[str, ...]
    limit: float  # probability of all other kinds that counts as a distance of 1


def fit_content_domain(embeddings: ArrayLike, groups: ArrayLike) -> ContentDomain:
    """The domain of training images with `embeddings` (n, d), whose limit is that of images of held-out `groups`.

    The distance is Mahalanobis' (Ledoit-Wolf covariance) on principal components; held-out groups are beyond 1 for the
    share FALSE_ALARMS. Raises ValueError for fewer than MIN_IMAGES training images.
    """
    values = np.asarray(embeddings, np.float64)
    if len(values) < MIN_IMAGES:
        raise ValueError(f"{len(values)} images are too few to say what is typical: at least {MIN_IMAGES}")
    distances = np.zeros(len(values))
    for training, held_out in _iterate_folds(values, np.asarray(groups)):
        distances[held_out] = _measure_distances(_fit_covariance(values[training]), values[held_out])
    limit = float(np.quantile(distances, 1 - FALSE_ALARMS))
    return dataclasses.replace(_fit_covariance(values), limit=limit)


def _iterate_folds(values: NDArray, groups: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
    """Pairs of row numbers, of training and of held-out images; groups are never on both sides."""
    from sklearn.model_selection import GroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < 2:  # images of one source: each is its own
        groups = np.arange(len(values))
        n_groups = len(values)
    return GroupKFold(min(N_FOLDS, n_groups)).split(values, groups=groups)


def _fit_covariance(values: NDArray) -> ContentDomain:
    """The domain of values (n, d) with the limit 1. Numbers of the embedding count by their standard deviations."""
    from sklearn.covariance import ledoit_wolf

    centre = values.mean(axis=0)
    scale = values.std(axis=0)
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-12), scale, np.inf)  # constant numbers say nothing
    _, singular_values, vectors = np.linalg.svd((values - centre) / scale, full_matrices=False)
    k = max(1, min(N_COMPONENTS, len(values) // MIN_IMAGES_PER_COMPONENT, int((singular_values > 1e-6).sum())))
    components = vectors[:k].T / scale[:, None] / (singular_values[:k] / np.sqrt(len(values)))
    points = (values - centre) @ components
    precision = np.linalg.inv(ledoit_wolf(points, assume_centered=True)[0])
    centre, components, precision = (np.ascontiguousarray(v, np.float32) for v in (centre, components, precision))
    return ContentDomain(limit=1.0, centre=centre, components=components, precision=precision)


def _measure_distances(domain: ContentDomain, values: NDArray) -> NDArray:
    """Distances (n,) of values (n, d), in units of the limit."""
    # Not by BLAS, whose last bits depend on how many rows there are: a row's distance is its own.
    points = np.einsum("nd,dk->nk", values - domain.centre, domain.components.astype(np.float64))
    squares = np.einsum("ni,ij,nj->n", points, domain.precision.astype(np.float64), points)
    return np.sqrt(squares) / domain.limit


def compute_content_distances(domain: ContentDomain, embeddings: Sequence[ArrayLike | None]) -> NDArray[np.float64]:
    """Distances (n,) of images to the training images: 1 is the limit; more is further. NaN without an embedding.

    Raises ValueError for embeddings of another length than those of the domain.
    """
    distances = np.full(len(embeddings), np.nan)
    present = {k: np.asarray(value, np.float64) for k, value in enumerate(embeddings) if value is not None}
    present = {k: value for k, value in present.items() if len(value)}
    if present:
        values = np.stack(list(present.values()))
        if values.shape[1] != len(domain.centre):
            raise ValueError(f"embeddings have {values.shape[1]} numbers, those of the domain {len(domain.centre)}")
        distances[list(present)] = _measure_distances(domain, values)
    return distances


def compute_kind_distances(
    kinds: ObjectKinds, probabilities: Sequence[ArrayLike | None], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """Probabilities (n,) of other kinds than the detector's over their limit, and the likeliest of these (n,).

    `probabilities` are those of the kinds `names`. The likeliest is None up to a distance of 1, and the distance NaN
    without probabilities.
    """
    is_other = np.array([name not in kinds.own for name in names])
    other_names = np.asarray(names, object)[is_other]
    distances = np.full(len(probabilities), np.nan)
    likeliest = np.full(len(probabilities), None, object)
    for k, values in enumerate(probabilities):
        if values is None or not len(np.asarray(values)):
            continue
        shares = np.asarray(values, np.float64)[is_other]
        distances[k] = shares.sum() / kinds.limit
        if distances[k] > 1:
            likeliest[k] = str(other_names[shares.argmax()])
    return distances, likeliest


def read_object_kinds(model_card: Mapping, names: Sequence[str]) -> ObjectKinds | None:
    """The kinds of objects in a model card's table `object_kinds`; None without one.

    Raises ValueError for kinds that are not among `names`, and for a limit that is no probability.
    """
    if "object_kinds" not in model_card:
        return None
    entries = model_card["object_kinds"]
    kinds = ObjectKinds(tuple(entries["own"]), float(entries["limit"]))
    if unknown := set(kinds.own) - set(names):
        raise ValueError(f"object_kinds.own has {', '.join(sorted(unknown))}; the kinds are {', '.join(names)}")
    if not 0 < kinds.limit < 1:
        raise ValueError(f"object_kinds.limit is {kinds.limit:g}: it has to be between 0 and 1")
    return kinds


def write_content_domain(domain: ContentDomain, directory: Path) -> dict:
    """Writes CONTENT_DOMAIN_FILE and returns the card's table `content_domain`: limit and content network."""
    values = {field.name: getattr(domain, field.name) for field in dataclasses.fields(ContentDomain)}
    limit = values.pop("limit")
    # save_file() would leave it readable by its owner only
    (directory / CONTENT_DOMAIN_FILE).write_bytes(safetensors.numpy.save(values))
    return {"content_domain": {"limit": limit, "network": models.digest_model_card(models.CONTENT_MODEL)}}


def read_content_domain(directory: Path) -> ContentDomain | None:
    """The domain in a model directory, its file checked against the card's SHA-256; None for a model without one.

    Raises ValueError for a domain in the embeddings of another content network than the bundled one.
    """
    model_card = models.read_model_card(directory)
    if "content_domain" not in model_card:
        return None
    entries = model_card["content_domain"]
    path = models.check_file(directory, CONTENT_DOMAIN_FILE, model_card)
    if entries.get("network") != models.digest_model_card(models.CONTENT_MODEL):
        raise ValueError(
            f"{directory / 'card.toml'}: its content_domain is of another content network than this version's: "
            "train the detector again, or delete the table content_domain and the last line of the card"
        )
    return ContentDomain(**safetensors.numpy.load_file(path), limit=float(entries["limit"]))
