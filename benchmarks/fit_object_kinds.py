"""Fits the bundled head `object-kinds`: cavity, particle, loop, lattice or texture, by the middle of a micrograph.

python -m benchmarks.fit_object_kinds --pool POOL --cache FILE.npz --out DIR

`POOL` is the folder of `python -m benchmarks.fit_object_detector draw`. The features are those of the bundled network
`picture-kinds`; only a linear head is fitted, by logistic regression. It is fitted to drawn images of every kind and to
the real sets whose licences allow training. The real cavities are judged only. A real set is judged by a fit
without the whole set, EMPS also by fits without the papers that are judged, and drawn lattices and grains by a fit
without every second image. The cache has the features: a second run takes a minute.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from benchmarks.fit_object_detector import BACKGROUND_NOTICE, read_pool
from benchmarks.studies.real_sets import NOTICES, read_cavity_counts, read_labelled_sets
from emqa_dask import content_domain, models
from emqa_dask.classify import object_kinds
from emqa_dask.classify.content import embed_image
from emqa_dask.synthetic import lattices, textures
from emqa_dask.tables import OBJECT_KIND_NAMES
from emqa_dask.train.detector_data import read_grey_image

SEED = 770_000_001  # no test and no demo draws from here
STRENGTH = 0.01  # C of the logistic regression, on features of unit variance
LIMIT = 0.5  # probability of other kinds: out of domain where they are likelier than the detector's own
IMAGES_PER_KIND = 150  # of the pool
N_DRAWN = {"lattice": 150, "texture": 100}
SIDES_PX = (256, 384, 512)  # of drawn lattices and textures
POOL_KINDS = {
    "cavity": "cavity",
    "cavity_wide": "cavity",
    "background": "cavity",
    "particle": "particle",
    "opaque": "particle",
    "loop": "loop",
}
SHARES = {"cavity": 0.5, "particle": 0.2, "loop": 0.12, "lattice": 0.09, "texture": 0.09}  # of the weights
JUDGED = "cavities"  # the set that no fit sees
N_FOLDS = 4  # of the papers of EMPS


class Row(NamedTuple):
    """An image to learn from or to judge."""

    dataset: str
    source: str
    kind: str
    features: np.ndarray  # of object_kinds.compute_features
    content: np.ndarray  # of embed_image


def collect_images(pool_folder: Path) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Dataset, source, kind and pixels of every image, drawn ones first."""
    pool = read_pool(pool_folder)
    for name, kind in POOL_KINDS.items():
        for k in np.unique(np.linspace(0, len(pool[name]) - 1, IMAGES_PER_KIND).round().astype(int)):
            yield f"drawn {name}", f"{name}-{k}", kind, pool[name][k].image.astype(np.float32)
    for number, (kind, n) in enumerate(N_DRAWN.items(), 1):
        draw = lattices.draw_lattice if kind == "lattice" else textures.draw_texture
        for k in range(n):
            rng = np.random.default_rng([SEED, number, k])
            side = int(rng.choice(SIDES_PX))
            yield f"drawn {kind}", f"{kind}-{k}", kind, draw(rng, (side, side)).image
    for image in read_labelled_sets():
        yield image.dataset, image.source, image.kind, read_grey_image(image.path)
    for cavities in read_cavity_counts():
        yield JUDGED, cavities.family, "cavity", read_grey_image(cavities.path)


def compute_rows(pool_folder: Path) -> Iterator[Row]:
    """The rows of all images that have contrast."""
    network = object_kinds.load_backbone()
    for dataset, source, kind, pixels in collect_images(pool_folder):
        view = object_kinds.make_view(pixels)
        if view is not None:
            features = object_kinds.compute_features(network, view, "cpu")
            yield Row(dataset, source, kind, features, embed_image(pixels))


def load_table(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The columns of all rows, from the cache where it is there."""
    if not options.cache.is_file():
        rows = list(compute_rows(options.pool))
        np.savez(options.cache, **{name: np.array([getattr(row, name) for row in rows]) for name in Row._fields})
    with np.load(options.cache) as columns:
        return dict(columns)


def weigh_rows(table: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Weights of `rows`: kinds by SHARES, sets of a kind alike, a source as the root of its number of images."""
    weights = np.zeros(len(rows))
    for kind, share in SHARES.items():
        is_kind = table["kind"][rows] == kind
        datasets = np.unique(table["dataset"][rows][is_kind])
        for dataset in datasets:
            is_member = is_kind & (table["dataset"][rows] == dataset)
            _, index, n = np.unique(table["source"][rows][is_member], return_inverse=True, return_counts=True)
            weights[is_member] = (n[index] ** -0.5) / (n[index] ** -0.5).sum() * share / len(datasets)
    return weights * len(rows) / weights.sum()


def fit_head(table: dict[str, np.ndarray], is_trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (5, n_features) and biases (5,) of OBJECT_KIND_NAMES, for features as the network gives them."""
    rows = np.flatnonzero(is_trained & (table["dataset"] != JUDGED))
    features = table["features"][rows].astype(np.float64)
    centre = features.mean(axis=0)
    deviation = features.std(axis=0) + 1e-6
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    model.fit((features - centre) / deviation, table["kind"][rows], sample_weight=weigh_rows(table, rows))
    order = [list(model.classes_).index(kind) for kind in OBJECT_KIND_NAMES]
    weights = model.coef_[order] / deviation
    return weights, model.intercept_[order] - weights @ centre


def compute_other_probabilities(features: np.ndarray, head: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities (n,) of all kinds but cavities."""
    logits = features.astype(np.float64) @ head[0].T + head[1]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1 - shares[:, OBJECT_KIND_NAMES.index("cavity")] / shares.sum(axis=1)


def list_judgements(table: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, rows that are judged and rows that are not trained on, as masks."""
    dataset = table["dataset"]
    names = sorted(set(dataset[~np.char.startswith(dataset, "drawn")]) - {JUDGED})
    for name in names:
        yield name, dataset == name, dataset == name
    for name in ("drawn lattice", "drawn texture"):
        is_held_out = np.zeros(len(dataset), bool)
        is_held_out[np.flatnonzero(dataset == name)[::2]] = True
        yield name, is_held_out, is_held_out
    rows = np.flatnonzero(dataset == "emps")
    for _, positions in GroupKFold(N_FOLDS).split(rows, groups=table["source"][rows]):
        is_held_out = np.zeros(len(dataset), bool)
        is_held_out[rows[positions]] = True
        yield "emps, other papers", is_held_out, is_held_out
    yield JUDGED, dataset == JUDGED, dataset == JUDGED


def judge(table: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares out of the domain of a detector of cavities: by kinds, by the distance of cavity-tem, by either."""
    domain = content_domain.read_content_domain(models.locate_model("cavity-tem"))
    is_far = content_domain.compute_content_distances(domain, list(table["content"])) > 1
    hits: dict[str, list[np.ndarray]] = {}
    for name, is_judged, is_held_out in list_judgements(table):
        head = fit_head(table, ~is_held_out)
        is_other = compute_other_probabilities(table["features"][is_judged], head) > LIMIT
        hits.setdefault(name, []).append(np.stack([is_other, is_far[is_judged], is_other | is_far[is_judged]]))
    measurements = {}
    for name, parts in hits.items():
        by_kinds, by_distance, by_either = np.concatenate(parts, axis=1).mean(axis=1)
        n = sum(part.shape[1] for part in parts)
        print(f"{name:20} n {n:4}  kinds {by_kinds:.3f}  distance {by_distance:.3f}  either {by_either:.3f}")
        measurements[name] = round(float(by_either), 4)
    return measurements


def main() -> None:
    """Fits, judges and writes the head."""
    import torch

    from emqa_dask import networks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    table = load_table(options)
    measurements = judge(table)
    weights, biases = fit_head(table, np.ones(len(table["kind"]), bool))
    head = torch.nn.Linear(weights.shape[1], len(weights))
    head.weight.data, head.bias.data = (torch.tensor(values, dtype=torch.float32) for values in (weights, biases))
    options.out.mkdir(parents=True, exist_ok=True)
    networks.save_weights(head, options.out / object_kinds.WEIGHTS)
    card = {
        "name": "object-kinds",
        "what": "probabilities of kinds of objects by the middle of a micrograph, on features of picture-kinds",
        "kinds": list(OBJECT_KIND_NAMES),
        "backbone": models.digest_model_card(models.PICTURE_MODEL),
        "training": {
            "made_by": "benchmarks/fit_object_kinds.py",
            "n_images": int((table["dataset"] != JUDGED).sum()),
            "notices": [BACKGROUND_NOTICE, *NOTICES.values()],
        },
        "out_of_domain_of_cavity_tem": measurements,
    }
    models.write_model_card(options.out, card)


if __name__ == "__main__":
    main()
