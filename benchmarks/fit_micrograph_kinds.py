"""Fits the bundled ensemble `micrograph-kinds`: the kind of a micrograph, how sure that is, and what is out of domain.

python -m benchmarks.fit_micrograph_kinds --work DIR --out DIR

The members are small heads on the features of the bundled network `picture-kinds`, whose backbone has ImageNet weights
and saw no label of a micrograph. They differ in their seeds and in the bootstrapped sources that they are fitted to.
Images: ../shared/data where the licence allows training, and drawn ones (benchmarks.kind_images). Real cavities and
simulated images are judged only. Every real set is judged by fits without the whole set, EMPS by fits without the
papers that are judged, and every kind by a fit without the kind. DIR/features.npz keeps the features: a second run
takes minutes.
"""

import argparse
import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import safetensors.numpy
import skimage
import sklearn
import tifffile
import torch

from benchmarks.fit_object_detector import BACKGROUND_NOTICE
from benchmarks.kind_images import KindImage, list_images
from benchmarks.picture_rows import draw_view
from benchmarks.studies.real_sets import NOTICES
from emqa_dask import classifiers, models, networks, windows
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.classify import object_kinds
from emqa_dask.pipeline.commands.train_domain import DomainOptions, fit_classifier_domain
from emqa_dask.pipeline.tasks.train_domain import examine_images
from emqa_dask.synthetic import foreign as foreign_pictures
from emqa_dask.synthetic import profiles
from emqa_dask.uncertainty import entropy, shift_files, shift_model
from emqa_dask.uncertainty.classification import HELD_OUT_FILE
from emqa_dask.uncertainty.held_out_scores import compute_held_out_scores
from emqa_dask.uncertainty.referral import auroc

KINDS = ("cavities", "particles", "loops", "lattice", "surface")
VIEW = windows.WindowSettings(size_px=256, whole=True, stride_px=256, max_windows=2)
N_MEMBERS = 5
SEED = 22
N_STEPS = 300
BATCH_ROWS = 256
RATE = 2e-3
WEIGHT_DECAY = 0.05
HIDDEN = 64
DROPOUT = 0.5  # of the features, in training alone
N_FOLDS = 2  # of the papers of EMPS
N_EXAMPLES = 32  # of each kind of shift
IMAGES_PER_SET = 12  # that the domain is fitted to or judged on, of each split
UNKNOWN_FAMILY = "hrtem-particles"  # a family of drawn micrographs that is not trained on
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "china", "coffee", "coins")
PHOTOGRAPHS += ("flower", "ihc", "moon", "motorcycle_left", "retina", "rocket")


def compute_features(images: list[KindImage], cache: Path) -> dict[str, np.ndarray]:
    """Columns `number` (of the image), `is_whole` and `features` (n, 784): whole images, and a view of each."""
    if not cache.is_file():
        backbone = object_kinds.load_backbone()
        rows = []
        for number, image in enumerate(images):
            pixels = read_micrograph(image.path)[0]
            rows.append((number, True, _pool_windows(backbone, pixels)))
            if image.split != "judge":
                view = draw_view(pixels.astype(np.float32), np.random.default_rng([SEED, number]))
                rows.append((number, False, _pool_windows(backbone, view)))
            if number % 100 == 0:
                print(f"features of {number} of {len(images)} images", flush=True)
        number, is_whole, features = map(np.array, zip(*rows))
        np.savez(cache, number=number, is_whole=is_whole, features=features)
    with np.load(cache) as columns:
        return dict(columns)


def _pool_windows(backbone: torch.nn.ModuleDict, pixels: np.ndarray) -> np.ndarray:
    """Mean features (784,) of the windows of an image; a view that is smaller than a window is enlarged."""
    factor = VIEW.size_px / min(pixels.shape)
    if factor > 1:
        pixels = cv2.resize(pixels.astype(np.float32), None, fx=factor * 1.01, fy=factor * 1.01)
    prepared = windows.normalise_image(pixels, VIEW)
    corners = windows.compute_corners(prepared.shape, VIEW).reshape(-1, 2)
    stack = np.stack([windows.cut_window(prepared, corner, VIEW) for corner in corners])
    with torch.inference_mode():
        return classifiers.compute_picture_features(backbone, torch.from_numpy(stack)[:, None]).mean(dim=0).numpy()


def weigh_rows(table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Weights (n,) of mean 1 after a bootstrap of the sources: kinds alike, sets of a kind alike, sources by root n."""
    weights = np.zeros(len(table))
    for _, kind_rows in table.groupby("kind"):
        for _, rows in kind_rows.groupby("dataset"):
            sources = rows["source"].unique()
            drawn = pd.Series(rng.choice(sources, len(sources))).value_counts()
            sizes = rows.groupby("source")["source"].transform("size")
            values = (rows["source"].map(drawn).fillna(0) / np.sqrt(sizes)).to_numpy()
            weights[rows.index] = values / values.sum() / kind_rows["dataset"].nunique()
    return weights * len(table) / weights.sum()


def fit_member(features: np.ndarray, table: pd.DataFrame, kinds: tuple[str, ...], seed: int) -> torch.nn.Module:
    """A head that is fitted to features (n, 784) of the rows of `table`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    weights = weigh_rows(table.reset_index(drop=True), rng)
    classes = torch.tensor([kinds.index(kind) for kind in table["kind"]])
    centre = features.mean(axis=0)
    deviation = features.std(axis=0) + 1e-6
    inputs = torch.from_numpy((features - centre) / deviation).float()
    architecture = {"backbone": classifiers.PICTURE_BACKBONE, "hidden": HIDDEN, "n_classes": len(kinds)}
    net = classifiers.build_classifier(architecture)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=N_STEPS)
    for _ in range(N_STEPS):
        batch = torch.from_numpy(rng.choice(len(table), BATCH_ROWS, p=weights / weights.sum()))
        logits = net(torch.nn.functional.dropout(inputs[batch], DROPOUT))
        loss = torch.nn.functional.cross_entropy(logits, classes[batch], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    layer = net.body[0]  # takes features as the backbone gives them from now on
    layer.weight.data /= torch.from_numpy(deviation)
    layer.bias.data -= layer.weight.data @ torch.from_numpy(centre)
    return net.eval()


def predict(nets: list[torch.nn.Module], features: np.ndarray) -> np.ndarray:
    """Probabilities (members, n, kinds)."""
    with torch.inference_mode():
        return np.stack([net(torch.from_numpy(features)).softmax(dim=1).numpy() for net in nets])


def fit_members(table: pd.DataFrame, features: np.ndarray, is_trained: np.ndarray, kinds: tuple) -> list:
    """N_MEMBERS heads that are fitted to the rows `is_trained` of the table."""
    rows = table[is_trained].reset_index(drop=True)
    return [fit_member(features[is_trained], rows, kinds, SEED + k) for k in range(N_MEMBERS)]


def list_held_out(table: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask of the rows that a fit is judged on and does not see."""
    dataset = table["dataset"].to_numpy()
    is_drawn = np.array([name.startswith("drawn") for name in dataset])
    fold = np.array([zlib.crc32(source.encode()) // 5 % N_FOLDS for source in table["source"]])
    is_judge = (table["split"] == "judge").to_numpy()
    yield "judge", is_judge
    for name in np.unique(dataset[~is_drawn & ~is_judge]):
        yield name, dataset == name
    for k in range(N_FOLDS):
        yield "emps, other papers", (dataset == "emps") & (fold == k)
        yield "drawn", is_drawn & (fold == k)


def judge_sets(table: pd.DataFrame, features: np.ndarray) -> pd.DataFrame:
    """Rows of images that were judged by a fit without their set: set, kind, probabilities (members, kinds)."""
    is_usable = (table["split"] != "judge").to_numpy()
    parts = []
    for name, is_held_out in list_held_out(table):
        nets = fit_members(table, features, is_usable & ~is_held_out, KINDS)
        is_judged = is_held_out & table["is_whole"].to_numpy()
        p = predict(nets, features[is_judged])
        sets = table["dataset"][is_judged] if name in ("judge", "drawn") else name
        parts.append(pd.DataFrame({"set": sets, "kind": table["kind"][is_judged], "p": list(p.swapaxes(0, 1))}))
    return pd.concat(parts, ignore_index=True)


def score_sets(judged: pd.DataFrame) -> dict:
    """Shares of right images of every set; by kind and in all, of real images without anything of their set."""
    p = np.stack(judged["p"].to_list(), axis=1)
    y = np.array([KINDS.index(kind) for kind in judged["kind"]])
    judged = judged.assign(is_right=p.mean(axis=0).argmax(axis=1) == y)
    shares = judged.groupby(["kind", "set"])["is_right"].agg(["mean", "size"])
    print(shares.round(3))
    for name in shares.index.get_level_values("set").unique():
        counts = np.bincount(p[:, judged["set"] == name].mean(axis=0).argmax(axis=1), minlength=len(KINDS))
        print(f"{name:28}", dict(zip(KINDS, counts.tolist())))
    is_real = ~judged["set"].str.contains("drawn|abtem_sim|other papers").to_numpy()
    real = judged[is_real].groupby("kind")["is_right"].mean()
    scores = compute_held_out_scores(p[:, is_real], y[is_real])
    return {
        "sets": {f"{kind}: {name}": round(float(row["mean"]), 4) for (kind, name), row in shares.iterrows()},
        "real_by_kind": real.round(4).to_dict(),
        "real_balanced_accuracy": round(float(real.mean()), 4),
        **{key: scores[key] for key in ("n", "accuracy", "ece", "nll", "error_at_90_percent_coverage")},
        "auroc_wrong_by_entropy": scores.get("auroc_wrong_by_entropy", 1.0),
    }


def judge_new_kinds(table: pd.DataFrame, features: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve of the entropy: images of a kind that was left out against held-out others."""
    areas = {}
    is_held_out = (table["split"].isin(["validation", "test"]) & table["is_whole"]).to_numpy()
    for kind in KINDS:
        is_kind = (table["kind"] == kind).to_numpy()
        kinds = tuple(name for name in KINDS if name != kind)
        nets = fit_members(table, features, (table["split"] == "train").to_numpy() & ~is_kind, kinds)
        entropies = entropy.predictive_entropy(predict(nets, features[is_held_out]))
        areas[kind] = round(auroc(entropies, is_kind[is_held_out]), 4)
    return areas


def write_model(images: list[KindImage], table: pd.DataFrame, features: np.ndarray, out: Path, judged: dict) -> None:
    """The model directory: members fitted to the training sources, and the domain with limits of the others."""
    out.mkdir(parents=True, exist_ok=True)
    nets = fit_members(table, features, (table["split"] == "train").to_numpy(), KINDS)
    members = [f"member_{k}.safetensors" for k in range(N_MEMBERS)]
    for net, file in zip(nets, members):
        networks.save_weights(net, out / file, is_half_precision=True)
    held_out = {}
    measured = {}
    for split in ("validation", "test"):
        is_split = ((table["split"] == split) & table["is_whole"]).to_numpy()
        y = np.array([KINDS.index(kind) for kind in table["kind"][is_split]])
        p = predict(nets, features[is_split])
        held_out |= {f"{split}.probabilities": p, f"{split}.classes": y}
        measured[split] = compute_held_out_scores(p, y)
    (out / HELD_OUT_FILE).write_bytes(safetensors.numpy.save(held_out))
    is_trained = ((table["split"] == "train") & table["is_whole"]).to_numpy()
    card = {
        "name": "micrograph-kinds",
        "task": "classification",
        "what": "kind of a micrograph, by an ensemble of heads on the features of picture-kinds",
        "classes": list(KINDS),
        "licence": "MIT",
        "architecture": {"backbone": classifiers.PICTURE_BACKBONE, "hidden": HIDDEN, "n_classes": len(KINDS)},
        "backbone_digest": models.digest_model_card(models.PICTURE_MODEL),
        "input": asdict(VIEW),
        "ensemble": {"method": "ensemble", "members": members, "min_members": 3},
        "training": {
            "made_by": "benchmarks/fit_micrograph_kinds.py",
            "images": table[is_trained].groupby("dataset").size().to_dict(),
            "notices": [BACKGROUND_NOTICE, *NOTICES.values()],
        },
        "measured": measured,
    }
    rows = select_domain_rows(images)
    options = DomainOptions(examples=N_EXAMPLES)
    with multiprocessing.get_context("spawn").Pool(2) as pool:  # each process has one thread
        fit_classifier_domain(Path("/"), rows, options, print, partial(_call_each, pool), "cpu", out, card)
    card["judged"] = judged
    models.write_model_card(out, card)


def select_domain_rows(images: list[KindImage]) -> pd.DataFrame:
    """Columns uri, y, group and split of the images that the domain is fitted to: few of each set."""
    table = pd.DataFrame(images)
    table = table[table["split"] != "judge"].groupby(["dataset", "split"]).head(IMAGES_PER_SET)
    y = [KINDS.index(kind) for kind in table["kind"]]
    uris = [str(path.resolve().relative_to("/")) for path in table["path"]]
    return pd.DataFrame({"uri": uris, "y": y, "group": table["source"].to_numpy(), "split": table["split"].to_numpy()})


def judge_domain(images: list[KindImage], work: Path, out: Path) -> dict[str, float]:
    """Shares of images that the fitted domain flags: sets that nothing was fitted to, and pictures of other things."""
    foreign = list_foreign_files(work / "foreign")
    test_sets = {f"{image.dataset}, test": [] for image in images if image.split == "test"}
    for image in images:
        name = image.dataset if image.split == "judge" else f"{image.dataset}, {image.split}"
        if image.split == "judge" or name in test_sets:
            test_sets.setdefault(name, []).append(image.path)
    shares = {}
    model = shift_files.read_shift_model(out)
    for name, paths in (test_sets | foreign).items():
        paths = paths[:: max(1, len(paths) // IMAGES_PER_SET)]
        outputs = examine_images(str(out), "cpu", paths, 1.2)["outputs"]
        is_flagged = shift_model.classify_shift(model, outputs)["shift_score"].gt(1)
        shares[name] = round(float(is_flagged.mean()), 4)
        print(f"{name:32} {len(paths):4} images, out of domain {shares[name]:.3f}", flush=True)
    return shares


def list_foreign_files(folder: Path) -> dict[str, list[Path]]:
    """Files of what the ensemble does not know: photographs of two packages, drawn pictures, lattices in particles."""
    packages = (Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images")
    files = {"photographs": [path for package in packages for path in package.iterdir() if path.stem in PHOTOGRAPHS]}
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("plot", "diffraction", "eds_map", UNKNOWN_FAMILY):
        files[f"drawn {name}"] = [folder / f"{name}-{k}.tif" for k in range(24)]
        for k, path in enumerate(files[f"drawn {name}"]):
            rng = np.random.default_rng([SEED, 1_000_000 + k])
            if name == UNKNOWN_FAMILY:
                pixels = profiles.make_sample(name, rng).image
            else:
                pixels = foreign_pictures.make_foreign_image(name, rng, (400, 512))
            tifffile.imwrite(path, pixels)
    return files


def _call_each(pool: Pool, function: Callable, arguments: list[tuple], label: str) -> list[dict]:
    """Records of `function` for all tuples of arguments, in order."""
    print(f"{label}: {len(arguments)} tasks", flush=True)
    return pool.starmap(function, arguments, chunksize=1)


def main() -> None:
    """Fits, judges and writes the ensemble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the drawn images and the features")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # of the processes
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = list_images(options.work / "drawn")
    columns = compute_features(images, options.work / "features.npz")
    features = columns["features"]
    table = pd.DataFrame(images)[["dataset", "source", "kind", "split"]].iloc[columns["number"]]
    table = table.assign(is_whole=columns["is_whole"]).reset_index(drop=True)
    judged = {"without_the_set": score_sets(judge_sets(table, features))}
    judged["entropy_auroc_of_a_new_kind"] = judge_new_kinds(table, features)
    print(judged)
    write_model(images, table, features, options.out, judged)
    card = models.read_model_card(options.out)
    del card["files"]
    card["judged"]["out_of_domain"] = judge_domain(images, options.work, options.out)
    models.write_model_card(options.out, card)


if __name__ == "__main__":
    main()
