"""Quality models are selected and evaluated on sources that the fit did not have."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import fit_quality_model, quality_selection
from benchmarks.fit_log_forest import DOMAIN
from emqa_dask.predict import quality_files, quality_model
from emqa_dask.tables import CONSISTENCY_FEATURES, DETECTION_FEATURES, F1_LEVELS

BEST = "extra trees, shape, classes and stability"
SMALL = {name: quality_selection.CANDIDATES[name] for name in ("extra trees, scale-free", BEST)}


@pytest.fixture
def rows(monkeypatch) -> pd.DataFrame:
    """Images of two real sets and drawn ones: F1 follows the stability alone."""
    monkeypatch.setattr(quality_selection, "CANDIDATES", SMALL)
    monkeypatch.setattr(quality_selection, "N_FOLDS", 3)
    monkeypatch.setattr(quality_selection, "N_OUTER_FOLDS", 3)
    rng = np.random.default_rng(0)
    n = 240
    names = [*DETECTION_FEATURES, *CONSISTENCY_FEATURES, *DOMAIN, "mean_size", "std_size"]
    table = pd.DataFrame({name: rng.uniform(0.1, 1, n) for name in dict.fromkeys(names)})
    stability = rng.uniform(0, 1, n)
    table = table.assign(mean_stability=stability, true_f1=np.clip(stability + rng.normal(0, 0.05, n), 0, 1))
    table = table.assign(precision=table["true_f1"], recall=table["true_f1"], n_true=5, score_floor=0.1, detector="net")
    table["set"] = np.repeat(["a", "b", "drawn"], n // 3)
    table["source"] = table["set"] + "/" + (np.arange(n) % 7).astype(str)
    return table.assign(micrograph_id=[str(k) for k in range(n)])


def test_evidence_that_tells_is_selected_and_trust_is_right(rows):
    table, summary = fit_quality_model.evaluate_rows(rows)
    assert set(table["candidate"]) == {BEST}
    left_out = summary.set_index(["protocol", "set"])
    real = left_out.loc["sources left out", "all real"]
    assert real["n_images"] == 160
    assert real["trust_precision"] >= 0.95
    assert real["trust_recall"] >= 0.6
    assert 0.82 <= real["coverage"] <= 0.98
    assert sorted(left_out.loc["a whole set left out"].index) == ["a", "all real", "b"]


def test_a_detector_without_classes_has_fewer_candidates(rows):
    rows["mean_stability"] = np.nan
    assert list(quality_selection.list_candidates(rows)) == ["extra trees, scale-free"]
    assert len(quality_selection.select_usable_rows(rows)) == len(rows)


def test_rows_without_detections_or_truth_do_not_count(rows):
    rows.loc[0, "n_detections"] = 0
    rows.loc[1, "true_f1"] = np.nan
    rows.loc[2, "mean_stability"] = np.nan
    assert len(quality_selection.select_usable_rows(rows)) == len(rows) - 3


def test_the_written_model_gives_the_predictions_of_the_fitted_one(rows, tmp_path):
    model, losses, name = fit_quality_model.fit_model(rows, "net", 0.1)
    assert name == BEST
    assert losses[name] == min(losses.values())
    card = {"name": "m", "task": "test", **quality_files.write_quality_model(model, tmp_path)}
    fit_quality_model.models.write_model_card(tmp_path, card)
    stored = quality_files.read_quality_model(tmp_path)
    columns = ["predicted_f1", "predicted_recall_low", "f1_quantile_10"]
    first, second = (quality_model.predict_quality(m, rows)[columns] for m in (model, stored))
    pd.testing.assert_frame_equal(first, second)


def test_the_loss_is_lowest_for_the_true_quantiles():
    rng = np.random.default_rng(1)
    true = rng.uniform(0, 1, 4000)
    levels = np.tile(F1_LEVELS, (4000, 1))  # the quantiles of a uniform distribution
    right, narrow, shifted = (
        quality_selection.compute_losses(quantiles, true).mean()
        for quantiles in (levels, 0.5 + 0.5 * (levels - 0.5), levels + 0.1)
    )
    assert right < min(narrow, shifted)
    assert right == pytest.approx(1 / 6, rel=0.05)  # the ranked probability score of a uniform distribution
