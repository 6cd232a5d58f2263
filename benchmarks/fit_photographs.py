"""Fit the weights of triage.photographs.WEIGHTS: grey photographs against micrographs, by logistic regression.

Photographs: those of scikit-image's and scikit-learn's wheels in crops, procedural scenes and, where they are at hand,
the small ones of ../shared/data. Micrographs: synthetic ones of seeds below 1000, good and with faults that change the
marks, and the real ones of ../shared/data. A source (photograph, folder, profile or fault) weighs as the root of its
number of pictures, photographs and micrographs as much as each other. The intercept is set so that four in a thousand
of the good synthetic micrographs pass 0.5. With --check, every source's own rate comes from a fit without it.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import sklearn.datasets
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from emqa_dask.featurise.foreign import SCENE_STATISTICS
from emqa_dask.featurise.images import image_statistics
from emqa_dask.synthetic import foreign
from emqa_dask.synthetic.faults import apply_fault
from emqa_dask.synthetic.profiles import FAMILIES, make_sample

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
FAULTS = ("blur", "drift", "astigmatism", "saturation", "charging", "banner", "scale_bar", "x_rays")
SMALL = "cifar10_ood"  # 32 px enlarged: photographs of a kind, which must not outweigh the others
LESS = {SMALL: 0.3}


def _marks(image):
    return [image_statistics(image)[name] for name in SCENE_STATISTICS]


def _grey(rgb):
    return np.rint(rgb[..., :3].astype(float) @ [0.299, 0.587, 0.114]).astype(np.uint8)


def photographs(seed, n_crops):
    """(source, grey image); the two views of one motorcycle are one source."""
    rng = np.random.default_rng(seed)
    sources = {name: foreign._load_photograph(name) for name in foreign._PHOTOGRAPHS}
    sources |= {name: sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")}
    for name, rgb in sources.items():
        grey = _grey(rgb)
        for _ in range(n_crops):
            h, w = (int(side * rng.uniform(0.55, 1)) for side in grey.shape)
            y, x = rng.integers(0, grey.shape[0] - h + 1), rng.integers(0, grey.shape[1] - w + 1)
            part = 255 * (grey[y : y + h, x : x + w] / 255.0) ** rng.uniform(0.7, 1.4)
            size = [(512, 512), (640, 480), (256, 256), (1024, 1024)][int(rng.integers(4))]
            way = cv2.INTER_AREA if part.shape[0] > size[1] else cv2.INTER_CUBIC
            yield name.split("_left")[0].split("_right")[0], cv2.resize(part.astype(np.uint8), size, interpolation=way)
    for _ in range(3 * n_crops):
        yield "scene", _grey(foreign._draw_street_scene(rng, (512, 512)))
    for path in sorted((REAL / SMALL).glob("*.npz")):
        with np.load(path) as data:
            for small in next(data[key] for key in data.files if data[key].ndim == 4):
                yield SMALL, _grey(cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC))


def micrographs(seed, n):
    """(source, grey image)."""
    for i in range(n):
        name = list(FAMILIES)[i % len(FAMILIES)]
        yield name, make_sample(name, np.random.default_rng([seed, i])).image
    for i in range(n // 4):
        rng = np.random.default_rng([seed, 1, i])
        fault = FAULTS[i // len(FAMILIES) % len(FAULTS)]
        yield fault, apply_fault(fault, make_sample(list(FAMILIES)[i % len(FAMILIES)], rng).image, rng)
    for folder in ("uw_cavity", "arda_stem_np", "uw_loops", "emps"):
        for path in sorted((REAL / folder).glob("images/**/*.[jp][pn]g")):
            yield folder, cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def fit(marks, is_photograph, sources):
    names, index, n = np.unique(sources, return_inverse=True, return_counts=True)
    weight = (np.array([LESS.get(name, 1.0) for name in names]) / np.sqrt(n))[index]
    weight[is_photograph] *= weight[~is_photograph].sum() / weight[is_photograph].sum()
    scaler = StandardScaler().fit(marks)
    model = LogisticRegression(C=3, max_iter=5000).fit(
        scaler.transform(marks), is_photograph, sample_weight=weight / weight.mean()
    )
    weights = model.coef_[0] / scaler.scale_
    return weights, -float(np.quantile(marks[np.isin(sources, list(FAMILIES))] @ weights, 0.996))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--n", type=int, default=600, help="good synthetic micrographs")
    parser.add_argument("--crops", type=int, default=24)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [(True, name, _marks(image)) for name, image in photographs(args.seed, args.crops)]
    rows += [(False, name, _marks(image)) for name, image in micrographs(args.seed, args.n)]
    rows = [row for row in rows if np.isfinite(row[2]).all()]
    is_photograph, sources, marks = (np.array(column) for column in zip(*rows))
    weights, intercept = fit(marks, is_photograph, sources)
    passed = marks @ weights + intercept > 0
    print(f"{'share that passes 0.5':30s} fitted{'   left out' if args.check else ''}")
    for name in np.unique(sources):
        own = sources == name
        print(f"  {'photo' if is_photograph[own][0] else ''} {name:22s} {passed[own].mean():.3f}", end="")
        if args.check:
            w, b = fit(marks[~own], is_photograph[~own], sources[~own])
            print(f"     {float((marks[own] @ w + b > 0).mean()):.3f}", end="")
        print()
    for name, value in zip(SCENE_STATISTICS, weights):
        print(f'        "{name}": {value:.4g},')
    print(f'        "intercept": {intercept:.4g},')


if __name__ == "__main__":
    main()
