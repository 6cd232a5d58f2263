"""Laws of quality models: intervals for new groups, SHAP values and their words, files, refusals; trees as arrays."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emqa_dask import imaging_conditions, models, tables
from emqa_dask.predict import (
    conformal,
    cross_validation,
    feature_ranking,
    gaussian_process,
    quality_files,
    quality_fit,
    quality_model,
    reasons,
    regressors,
    trees,
)
from emqa_dask.predict.forest import PAPER_FEATURES
from emqa_dask.predict.predictions import predict_images

CONDITIONS = {"detector": "net", "score_floor": 0.1, "iou_threshold": 0.1}


def labelled(n, seed, n_groups=6):
    """Features and truths; F1 rises with the share of high scores, and every group is off by its own amount."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.uniform(size=(n, len(tables.DETECTION_FEATURES))), columns=tables.DETECTION_FEATURES)
    table["n_detections"] = rng.integers(1, 200, n)
    table["score_floor"] = 0.1
    table["detector"] = "net"
    table["micrograph_id"] = [f"{seed:x}-{i:x}" for i in range(n)]
    table["group"] = rng.integers(0, n_groups, n)
    off = rng.normal(0, 0.05, n_groups)[table["group"]]
    table["true_f1"] = np.clip(0.1 + 0.7 * table["score_fraction_8"] + off + rng.normal(0, 0.05, n), 0, 1)
    table["precision"] = np.clip(table["mean_score"] + rng.normal(0, 0.05, n), 0, 1)
    table["recall"] = rng.uniform(size=n)
    return table


def fit(kind="gaussian_process", n=70, **more):
    table = labelled(n, 1)
    return quality_fit.fit_quality_model(table, table, table["group"], kind=kind, **CONDITIONS, **more)


@pytest.fixture(scope="module", params=["gaussian_process", "boosting", "extra_trees"])
def fitted(request):
    return fit(request.param)


def test_rows_are_predicted_one_by_one(fitted):
    table = labelled(12, 2)
    whole = quality_model.predict_quality(fitted, table)
    order = np.random.default_rng(0).permutation(12)
    for part in (order, order[:5], order[5:6]):
        pd.testing.assert_frame_equal(
            quality_model.predict_quality(fitted, table.iloc[part]), whole.iloc[part], check_exact=True
        )


def test_every_mean_lies_in_its_interval_within_bounds(fitted):
    table = labelled(60, 3)
    table.loc[::7, list(PAPER_FEATURES)] *= 1e4  # far outside, too
    p = quality_model.predict_quality(fitted, table)
    for name in quality_model.TARGETS:
        mean, low, high = (p[f"predicted_{name}{suffix}"] for suffix in ("", "_low", "_high"))
        assert ((low >= 0) & (low <= mean) & (mean <= high) & (high <= 1)).all()


def test_learnable_targets_are_learned_and_noise_has_wide_intervals(fitted):
    table = labelled(300, 4)
    p = quality_model.predict_quality(fitted, table)
    assert np.abs(p["predicted_f1"] - table["true_f1"]).mean() < 0.12
    width = {name: (p[f"predicted_{name}_high"] - p[f"predicted_{name}_low"]).mean() for name in quality_model.TARGETS}
    assert width["recall"] > max(width["f1"], width["precision"])


def test_no_detections_and_unknown_features_are_no_guess(fitted):
    table = labelled(4, 5)
    table.loc[1, ["n_detections", "mean_score"]] = 0, np.nan
    table.loc[2, "mean_score"] = np.nan
    p = quality_model.predict_quality(fitted, table)
    assert p["evidence"].tolist() == ["detections", "no_detections", "none", "detections"]
    assert p.filter(like="predicted_").isna().all(axis=1).tolist() == [False, True, True, False]
    assert p["because"].map(len)[[1, 2]].tolist() == [0, 0]
    assert len(quality_model.predict_quality(fitted, table.iloc[:0])) == 0


def test_shap_values_and_base_sum_to_the_prediction(fitted):
    table = labelled(40, 6)
    values = table[list(fitted.columns)].to_numpy()
    for name, target in fitted.targets.items():
        shap, base = quality_model.explain_predictions(fitted, values, name)
        np.testing.assert_allclose(
            shap.sum(axis=1) + base, quality_model.predict_target(target, fitted.columns, values)[0], atol=1e-9
        )


def test_words_say_what_the_shap_values_say(fitted):
    table = labelled(40, 7)
    shap, _ = quality_model.explain_predictions(fitted, table[list(fitted.columns)].to_numpy())
    n_said = 0
    for row, effects, because in zip(table.itertuples(), shap, quality_model.predict_quality(fitted, table)["because"]):
        large = effects[np.argsort(-np.abs(effects), kind="stable")]
        large = large[np.abs(large) >= reasons.MIN_EFFECT][: reasons.MAX_REASONS]
        assert len(because) == len(large)
        for effect, text in zip(large, because):
            verb = "raises" if effect > 0 else "lowers"
            assert text.endswith(f"): {verb} the predicted F1 by {abs(effect):.2f}")
        share = [text for text in because if "0.9 or more" in text]
        assert all(text.startswith(f"{row.score_fraction_8:.0%}".replace("%", " %")) for text in share)
        n_said += bool(share)
    assert n_said > 20  # it is what F1 hangs on


def test_low_scores_are_put_together_in_words():
    columns = ("score_fraction_0", "score_fraction_1", "n_detections")
    row = np.array([0.3, 0.07, 10.0])
    usual = np.array([0.03, 0.02, 12.0])
    (said,) = reasons.describe_effects(columns, row[None], np.array([[-0.12, 0.01]]), usual, np.ones(3))
    assert said == ["37 % of the scores are below 0.3 (usually 5 %): lowers the predicted F1 by 0.12"]
    rows = np.array([[0.0, 0.06, 10.0]])
    (shifted,) = reasons.describe_effects(columns, rows, np.array([[0.2, 0.0]]), usual, np.ones(3))
    assert shifted == ["6 % of the scores are between 0.2 and 0.3 (usually 2 %): raises the predicted F1 by 0.20"]


def shapley(game, k):
    """Shapley values of a game of k players from their definition."""
    value = np.zeros(k)
    for i in range(k):
        others = [j for j in range(k) if j != i]
        for size in range(k):
            for coalition in itertools.combinations(others, size):
                weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
                value[i] += weight * (game({*coalition, i}) - game(set(coalition)))
    return value


@pytest.mark.parametrize("kind", regressors.KINDS)
def test_shap_values_are_shapleys(kind):
    rng = np.random.default_rng(8)
    columns = ("mean_score", "score_fraction_8", "n_detections", "area_ratio")
    values = rng.uniform(size=(80, 4))
    targets = values[:, 0] * values[:, 1] + 0.2 * np.sin(5 * values[:, 2]) + rng.normal(0, 0.05, 80)
    model = regressors.fit_regressor(kind, values, targets, columns)
    background = values[:3]
    row = rng.uniform(size=4)
    groups = reasons.group_features(columns)
    at = [[columns.index(c) for c in group] for group in groups]

    def game(coalition):
        mixed = background.copy()
        for player in coalition:
            mixed[:, at[player]] = row[at[player]]
        return regressors.predict_regressor(model, mixed)[0].mean()

    found, base = reasons.compute_group_shap_values(model, columns, row[None], background)
    np.testing.assert_allclose(found[0], shapley(game, len(groups)), atol=1e-9)
    assert base == pytest.approx(game(set()))


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(15, random_state=0),
        ExtraTreesRegressor(15, min_samples_leaf=3, random_state=0),
        HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5, monotonic_cst=[1, 0, 0, -1]),
    ],
)
def test_trees_as_arrays_predict_what_scikit_learn_does(model):
    rng = np.random.default_rng(9)
    values = rng.normal(size=(120, 4)) * [1, 10, 0.01, 1]
    pipeline = make_pipeline(StandardScaler(), model).fit(values, values[:, 0] + np.sin(values[:, 1]))
    fresh = rng.normal(size=(200, 4)) * [1, 10, 0.01, 1]
    mean, spread = trees.predict_tree_ensemble(trees.convert_pipeline(pipeline), fresh)
    np.testing.assert_allclose(mean, pipeline.predict(fresh), atol=1e-12)
    if hasattr(model, "estimators_"):
        scaled = pipeline[0].transform(fresh)
        np.testing.assert_allclose(spread, np.std([t.predict(scaled) for t in model.estimators_], axis=0), atol=1e-6)


def test_the_gaussian_process_predicts_what_scikit_learn_does():
    rng = np.random.default_rng(10)
    values = rng.normal(size=(60, 3)) * [1, 10, 0.1]
    targets = np.tanh(values[:, 0]) + 0.1 * rng.normal(size=60)
    model = gaussian_process.fit_gaussian_process(values, targets)
    amplitude, length, linear, offset, noise = model.kernel
    kernel = ConstantKernel(amplitude) * Matern(length, nu=1.5) + WhiteKernel(noise)
    kernel += ConstantKernel(linear) * DotProduct(np.sqrt(offset / linear))
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    known = GaussianProcessRegressor(kernel, optimizer=None).fit(scaled, (targets - targets.mean()) / targets.std())
    fresh = rng.normal(size=(50, 3)) * [1, 10, 0.1]
    mean, std = known.predict((fresh - values.mean(axis=0)) / values.std(axis=0), return_std=True)
    found, spread = gaussian_process.predict_gaussian_process(model, fresh)
    np.testing.assert_allclose(found, mean * targets.std() + targets.mean(), atol=1e-9)
    np.testing.assert_allclose(spread, std * targets.std(), atol=1e-7)


def test_no_parameters_are_more_likely_than_those_that_were_found():
    rng = np.random.default_rng(18)
    values = rng.normal(size=(60, 3))
    targets = np.tanh(values[:, 0]) + 0.3 * rng.normal(size=60)
    amplitude, length, linear, offset, noise = gaussian_process.fit_gaussian_process(values, targets).kernel
    kernel = ConstantKernel(amplitude) * Matern(length, nu=1.5) + WhiteKernel(noise)
    kernel += ConstantKernel(linear) * DotProduct(np.sqrt(offset / linear))
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    standard = (targets - targets.mean()) / targets.std()
    ours = GaussianProcessRegressor(kernel, optimizer=None).fit(scaled, standard).log_marginal_likelihood_value_
    theta = np.log([amplitude, length, noise, linear, np.sqrt(offset / linear)])
    known = GaussianProcessRegressor(kernel, optimizer=None).fit(scaled, standard)
    near = [known.log_marginal_likelihood(theta + rng.normal(0, 0.3, 5)) for _ in range(50)]
    assert ours >= max(near) - 1e-3


def test_offsets_of_groups_are_not_laid_on_features():
    """Within every group the target rises with the feature; groups with larger features are lower (Simpson)."""
    rng = np.random.default_rng(19)
    groups = np.repeat(np.arange(12), 15)
    level = rng.uniform(-2, 2, 12)
    values = np.stack([level[groups] + rng.normal(0, 0.5, 180), rng.normal(size=180)], axis=1)
    targets = 0.5 + 0.2 * (values[:, 0] - level[groups]) - 0.15 * level[groups] + rng.normal(0, 0.03, 180)
    plain = gaussian_process.fit_gaussian_process(values, targets)
    mixed = gaussian_process.fit_gaussian_process(values, targets, groups=groups)
    ends = np.array([[-0.5, 0.0], [0.5, 0.0]])
    rise = [np.diff(gaussian_process.predict_gaussian_process(model, ends)[0])[0] for model in (plain, mixed)]
    assert rise[0] < rise[1]
    assert gaussian_process.predict_gaussian_process(mixed, ends)[1].min() > 0.1  # a new group may be anywhere
    two = gaussian_process.fit_gaussian_process(
        values, targets, groups=groups % 2
    )  # too few groups to say how much they differ
    assert np.array_equal(two.kernel, plain.kernel)


@pytest.mark.parametrize("n_groups", [5, 10, 25])
def test_intervals_hold_for_groups_never_seen(n_groups):
    """Nominal 0.9; the standard error of the mean over 300 drawn archives is about 0.01."""
    rng = np.random.default_rng(n_groups)
    covered = []
    for _ in range(300):
        sizes = rng.integers(5, 60, n_groups + 1)
        group = np.repeat(np.arange(n_groups + 1), sizes)
        true = 0.5 + rng.normal(0, 0.08, n_groups + 1)[group] + rng.normal(0, 0.08, len(group))
        mean = np.full(len(group), 0.5)
        spread = np.zeros(len(group))
        seen = group < n_groups
        residuals = conformal.compute_residual_quantiles(mean[seen], spread[seen], true[seen], group[seen])
        quantiles = conformal.compute_quantiles(mean[~seen], spread[~seen], residuals)
        low, high = conformal.select_interval(mean[~seen], quantiles, 0.9)
        covered.append(np.mean((true[~seen] >= low) & (true[~seen] <= high)))
    assert 0.84 <= np.mean(covered) <= 0.95


def test_with_rows_as_groups_the_promise_is_split_conformals():
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        true = 0.5 + rng.normal(0, 0.1, 61)
        mean, spread = np.full(60, 0.5), np.zeros(60)
        residuals = conformal.compute_residual_quantiles(mean, spread, true[:60], np.arange(60))
        quantiles = conformal.compute_quantiles(mean[:1], spread[:1], residuals)
        low, high = conformal.select_interval(mean[:1], quantiles, 0.9)
        covered += int(low[0] <= true[60] <= high[0])
    # At least 0.9, at most 0.9 + 2 / 61; three standard errors of a binomial of 400.
    assert 0.9 - 0.045 <= covered / 400 <= 0.933 + 0.045


def test_recalibration_finds_a_line_whatever_the_sizes_of_groups():
    rng = np.random.default_rng(12)
    mean = rng.uniform(size=300)
    offset, slope = conformal.fit_recalibration(mean, -0.1 + 1.2 * mean, rng.integers(0, 5, 300))
    assert (offset, slope) == (pytest.approx(-0.1), pytest.approx(1.2))


@pytest.mark.parametrize("kind", ["forest", "gaussian_process"])
def test_a_saved_model_predicts_the_same_in_every_bit(kind, tmp_path):
    made = fit(kind, n=40)
    models.write_model_card(tmp_path / "m", quality_files.write_quality_model(made, tmp_path / "m"))
    table = labelled(30, 13)
    pd.testing.assert_frame_equal(
        quality_model.predict_quality(quality_files.read_quality_model(tmp_path / "m"), table),
        quality_model.predict_quality(made, table),
        check_exact=True,
    )
    rows = predict_images(table, tmp_path / "m")
    assert list(rows) == tables.PREDICTIONS.names
    assert tables.conform(rows, tables.PREDICTIONS).num_rows == 30
    assert rows["detector"].eq("net").all()
    content = bytearray((tmp_path / "m" / quality_files.QUALITY_MODEL_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "m" / quality_files.QUALITY_MODEL_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        quality_files.read_quality_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "says"),
    [({"score_floor": 0.25}, "score_floor .*0.25.*fitted with 0.1"), ({"detector": "log"}, "detector .*log.*'net'")],
)
def test_features_of_other_conditions_are_refused(fitted, change, says):
    with pytest.raises(ValueError, match=says):
        quality_model.predict_quality(fitted, labelled(3, 14).assign(**change))


def test_a_fit_refuses_what_it_cannot_learn_from():
    table = labelled(30, 15)
    with pytest.raises(ValueError, match="one group"):
        quality_fit.fit_quality_model(table, table, np.zeros(30), **CONDITIONS)
    with pytest.raises(ValueError, match="precision has to be"):
        quality_fit.fit_quality_model(table, table.assign(precision=1.5), table["group"], **CONDITIONS)
    with pytest.raises(ValueError, match="NaN or infinite values: mean_size"):
        quality_fit.fit_quality_model(table.assign(mean_size=np.nan), table, table["group"], **CONDITIONS)
    with pytest.raises(ValueError, match="kind is 'oracle'"):
        quality_fit.fit_quality_model(table, table, table["group"], kind="oracle", **CONDITIONS)


def test_the_bundled_forest_gives_f1_with_reasons_and_nothing_else():
    table = labelled(20, 16).assign(detector="log")
    card = models.load_model_card(models.locate_model("log-synthetic"))
    for name in {*card["forest"]["columns"], *card["domain"]["columns"]} - set(table):
        table[name] = 0.5
    table["score_floor"] = card["forest"]["score_floor"]
    p = predict_images(table, "log-synthetic")
    assert p["predicted_f1"].notna().all()
    assert p.filter(regex="precision|recall").isna().all(axis=None)
    assert p["because"].map(len).sum() > 0
    assert p["detector"].eq("log").all()


def test_leaving_one_out_leaves_its_images_out_too():
    groups = np.array(list("aabbcc"))
    images = np.array([1, 2, 2, 3, 4, 5])
    folds = list(cross_validation.make_leave_one_out_folds(groups, images))
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(6))
    for fit_rows, held_out in folds:
        assert not set(images[fit_rows]) & set(images[held_out])
        assert not set(groups[fit_rows]) & set(groups[held_out])
    assert len(folds[0][0]) == 3  # row 2 shows an image of group a


def test_ranking_finds_the_feature_that_lowers_the_error():
    table = labelled(80, 17)
    columns = ("recall", "mean_size", "score_fraction_8")
    ranking = feature_ranking.rank_features(table, table["true_f1"], columns, "boosting")
    assert ranking.columns[0] == "score_fraction_8"
    assert (np.diff(ranking.importance) <= 0).all()
    curve = feature_ranking.sweep_feature_counts(
        table, table["true_f1"], ranking.columns[::-1], "boosting", table["group"]
    )
    assert curve["n_features"].tolist() == [1, 2, 3]
    assert curve["rmse"].iloc[-1] < 0.8 * curve["rmse"].iloc[0]
    with pytest.raises(ValueError, match="Gaussian"):
        feature_ranking.rank_features(table, table["true_f1"], columns, "gaussian_process")


def test_imaging_conditions_unlike_those_of_training_count_as_a_distance(tmp_path):
    card = quality_files.write_quality_model(fit("forest", n=40), tmp_path / "m")
    known = imaging_conditions.fit_training_conditions(np.linspace(280, 320, 40), np.full(40, 200.0))
    models.write_model_card(tmp_path / "m", card | imaging_conditions.make_card_table(known))
    table = labelled(4, 13).assign(defocus_nm=[300.0, 900.0, np.nan, 300.0], voltage_kv=[200.0, 200.0, 200.0, np.nan])
    far = predict_images(table, tmp_path / "m")["ood_distance"]
    assert far[0] <= 1 < far[1]
    assert far[2:].isna().all()
    assert predict_images(table.drop(columns=["defocus_nm"]), tmp_path / "m")["ood_distance"].isna().all()
