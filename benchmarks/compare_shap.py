"""Time per image of SHAP values: emqa_dask's compiled loops against the package shap, alternating in one run.

python -m benchmarks.compare_shap              about a minute

Trees of the bundled quality models as shap.TreeExplainer takes them, with the background of the model; a Gaussian
process of 50 images as a function of the groups of features, which shap.explainers.Exact explains. Partitions of 32
images.
"""

import contextlib
import io
import time
from collections.abc import Callable
from itertools import pairwise
from math import factorial

import numpy as np
from numpy.typing import NDArray

from emqa_dask.predict import reasons, regressors, shap_values, trees
from emqa_dask.predict.feature_ranking import import_shap
from emqa_dask.predict.forest import PAPER_FEATURES
from emqa_dask.predict.predictions import load_quality_model

MODELS = ("cavity-tem-f1", "em-objects-f1", "log-f1")
N_IMAGES = 32  # of a partition
N_LABELLED = 50  # images that the Gaussian process is fitted to
ROUNDS = 11


def convert_to_shap(ensemble: trees.TreeEnsemble) -> dict:
    """The trees as the dictionary that shap.TreeExplainer takes."""
    starts = [*ensemble.roots.tolist(), len(ensemble.feature)]
    parts = []
    for start, end in pairwise(starts):
        is_leaf = ensemble.feature[start:end] < 0
        left, right = np.where(is_leaf[:, None], -1, ensemble.children[start:end] - start).T
        parts.append(
            {
                "children_left": left,
                "children_right": right,
                "children_default": right,
                "feature": ensemble.feature[start:end],
                "threshold": np.where(is_leaf, 0.0, ensemble.threshold[start:end]),
                "value": np.where(is_leaf, ensemble.value[start:end], 0.0)[:, None],
                "node_sample_weight": np.ones(end - start),
            }
        )
    return {"trees": parts, "base_offset": float(ensemble.offset[0])}


def explain_groups(shap, process, values: NDArray, background: NDArray) -> NDArray:
    """SHAP values (n, k) of groups of features by shap.explainers.Exact, an image at a time."""
    groups = [[PAPER_FEATURES.index(name) for name in group] for group in reasons.group_features(PAPER_FEATURES)]
    masker = shap.maskers.Independent(np.zeros((1, len(groups))), max_samples=1)
    effects = []
    for row in values:

        def predict_coalitions(is_member: NDArray, row: NDArray = row) -> NDArray:
            is_own = np.zeros((len(is_member), len(row)), bool)
            for k, group in enumerate(groups):
                is_own[:, group] = np.asarray(is_member, bool)[:, [k]]
            rows = np.where(is_own[:, None, :], row, background[None]).reshape(-1, len(row))
            return regressors.predict_regressor(process, rows)[0].reshape(len(is_member), -1).mean(axis=1)

        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            effects.append(shap.explainers.Exact(predict_coalitions, masker)(np.ones((1, len(groups)))).values[0])
    return np.array(effects)


def count_coalitions(ensemble: trees.TreeEnsemble, row: NDArray, background: NDArray) -> NDArray:
    """Shapley values (d,) of one row by their definition, from the predictions of all 2^d coalitions."""
    d = len(row)
    numbers = np.arange(2**d)
    is_member = ((numbers[:, None] >> np.arange(d)) & 1).astype(bool)
    gains = [trees.predict_tree_ensemble(ensemble, np.where(is_member, row, other))[0] for other in background]
    totals = np.mean(gains, axis=0)
    sizes = is_member.sum(axis=1)
    weights = np.array([factorial(k) * factorial(d - k - 1) / factorial(d) for k in range(d)])
    absent = [numbers[~is_member[:, j]] for j in range(d)]
    return np.array([(weights[sizes[n]] * (totals[n | (1 << j)] - totals[n])).sum() for j, n in enumerate(absent)])


def compare(name: str, own: Callable[[], NDArray], other: Callable[[], NDArray]) -> None:
    """Prints the largest difference, ms per image of both, and the median ratio with its quartiles."""
    difference = np.abs(own() - other()).max()
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for times, explain in zip(seconds, (own, other), strict=True):
            started = time.perf_counter()
            explain()
            times.append(time.perf_counter() - started)
    own_ms, other_ms = (1000 * np.median(times) / N_IMAGES for times in seconds)
    low, middle, high = np.percentile(np.divide(seconds[1], seconds[0]), [25, 50, 75])
    print(
        f"{name}: {own_ms:.2f} ms per image, shap {other_ms:.2f} ms, {middle:.1f} times as long ({low:.1f} to "
        f"{high:.1f}); largest difference {difference:.1e}"
    )


def main() -> None:
    """Compares the bundled models and a Gaussian process."""
    started = time.perf_counter()
    shap = import_shap()
    print(f"import of shap: {time.perf_counter() - started:.1f} s")
    rng = np.random.default_rng(0)
    for name in MODELS:
        model = load_quality_model(name)
        (component,) = model.targets["f1"].components
        indices = [model.columns.index(column) for column in component.columns]
        background = model.background[:, indices]
        values = model.typical[indices] + rng.normal(size=(N_IMAGES, len(indices))) * model.spread[indices]
        ensemble = component.regressor
        assert isinstance(ensemble, trees.TreeEnsemble)
        scaled = trees.scale_features(ensemble, values)
        explainer = shap.TreeExplainer(
            convert_to_shap(ensemble),
            data=trees.scale_features(ensemble, background),
            feature_perturbation="interventional",
        )
        compare(
            f"{name}, {model.kind}",
            lambda e=ensemble, v=values, b=background: shap_values.compute_tree_shap_values(e, v, b)[0],
            lambda e=explainer, s=scaled: e.shap_values(s, check_additivity=False),
        )
        own, _ = shap_values.compute_tree_shap_values(ensemble, values, background)
        other = explainer.shap_values(scaled, check_additivity=False)
        worst = int(np.abs(own - other).max(axis=1).argmax())
        exact = count_coalitions(ensemble, values[worst], background)
        errors = [np.abs(effects[worst] - exact).max() for effects in (own, other)]
        print(f"  by all coalitions, the image where they differ most: off by {errors[0]:.1e}, shap by {errors[1]:.1e}")
    labelled = rng.uniform(size=(N_LABELLED, len(PAPER_FEATURES)))
    process = regressors.fit_regressor(
        "gaussian_process", labelled, 0.5 * labelled[:, 0] + 0.3 * labelled[:, 4], PAPER_FEATURES
    )
    values = rng.uniform(size=(N_IMAGES, len(PAPER_FEATURES)))
    compare(
        f"Gaussian process of {N_LABELLED} images",
        lambda: reasons.compute_group_shap_values(process, PAPER_FEATURES, values, labelled[:3])[0],
        lambda: explain_groups(shap, process, values, labelled[:3]),
    )


if __name__ == "__main__":
    main()
