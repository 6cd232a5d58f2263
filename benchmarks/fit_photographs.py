"""Fit the weights of predict.flags.PHOTOGRAPH: grey photographs against micrographs, by logistic regression.

Photographs: those of scikit-image's and scikit-learn's wheels in crops, and procedural scenes. Micrographs: synthetic
ones of seeds below 1000 and, where they are at hand, the real ones of ../shared/data. The intercept is set so that one
in a hundred of the micrographs passes 0.5. With --check, every photograph's own weights come from the others.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import sklearn.datasets
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from emqa_dask.featurise.foreign import SCENE
from emqa_dask.featurise.images import image_statistics
from emqa_dask.synthetic import foreign
from emqa_dask.synthetic.profiles import MAKE, make_sample

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def _marks(image):
    return [image_statistics(image)[name] for name in SCENE]


def _grey(rgb):
    return np.rint(rgb[..., :3].astype(float) @ [0.299, 0.587, 0.114]).astype(np.uint8)


def photographs(rng, n_crops):
    sources = {name: foreign._photograph_file(name) for name in foreign._PHOTOGRAPHS}
    sources |= {name: sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")}
    for name, rgb in sources.items():
        grey = _grey(rgb)
        for _ in range(n_crops):
            h, w = (int(side * rng.uniform(0.55, 1)) for side in grey.shape)
            y, x = rng.integers(0, grey.shape[0] - h + 1), rng.integers(0, grey.shape[1] - w + 1)
            part = 255 * (grey[y : y + h, x : x + w] / 255.0) ** rng.uniform(0.7, 1.4)
            size = [(512, 512), (640, 480), (256, 256)][int(rng.integers(3))]
            shrink = cv2.INTER_AREA if part.shape[0] > size[1] else cv2.INTER_CUBIC
            yield name, cv2.resize(part.astype(np.uint8), size, interpolation=shrink)
    for _ in range(3 * n_crops):
        yield "scene", _grey(foreign._scene(rng, (512, 512)))


def micrographs(seed, n):
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        yield make_sample(list(MAKE)[i % len(MAKE)], rng).image
    for folder in ("uw_cavity", "arda_stem_np", "uw_loops", "emps"):
        for path in sorted((REAL / folder).glob("images/**/*.[jp][pn]g")):
            yield cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def fit(marks, is_photograph):
    scaler = StandardScaler().fit(marks)
    model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=3000).fit(
        scaler.transform(marks), is_photograph
    )
    weights = model.coef_[0] / scaler.scale_
    raw = marks @ weights
    return weights, -float(np.quantile(raw[~is_photograph], 0.99))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--n", type=int, default=200, help="synthetic micrographs")
    parser.add_argument("--crops", type=int, default=12)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    pictures = list(photographs(np.random.default_rng(args.seed), args.crops))
    names = np.array([name for name, _ in pictures])
    photo = np.array([_marks(image) for _, image in pictures])
    other = np.array([_marks(image) for image in micrographs(args.seed, args.n)])
    other = other[np.isfinite(other).all(axis=1)]
    marks, is_photograph = np.concatenate([other, photo]), np.arange(len(other) + len(photo)) >= len(other)
    weights, intercept = fit(marks, is_photograph)
    print("recall of its own photographs:", round(float((photo @ weights + intercept > 0).mean()), 3))
    if args.check:
        for name in np.unique(names):
            left = np.r_[np.ones(len(other), bool), names != name]
            w, b = fit(marks[left], is_photograph[left])
            print(f"  {name:22s} recall when left out: {float((photo[names == name] @ w + b > 0).mean()):.2f}")
    for name, value in zip(SCENE, weights):
        print(f'        "{name}": {value:.4g},')
    print(f'        "intercept": {intercept:.4g},')


if __name__ == "__main__":
    main()
