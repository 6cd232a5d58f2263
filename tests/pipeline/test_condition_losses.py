"""Predicted loss of images by their conditions, what twice the dose would give, and the advice of a run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import models, response_surface, tables
from emqa_dask.cli import main
from emqa_dask.pipeline.commands.dose_advice import COLUMNS, DoseAdvice
from emqa_dask.pipeline.tasks.condition_losses import compute_losses
from emqa_dask.settings import Triage, load_settings, replace
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.archive import synthesise
from emqa_dask.triage import decide
from emqa_dask.triage.f1_probability import compute_shifted_probability
from tests.archive_tables import list_f1_quantiles

AXES = {
    "defocus_nm": np.array([-300.0, 0, 300]),
    "nm_per_pixel": np.array([0.05, 0.1, 0.3]),
    "dose_e_per_nm2": np.array([50.0, 500, 50_000]),
}


def make_surface() -> response_surface.ResponseSurface:
    """F1 of 0.4 with a bump of 0.4 at 500 electrons, in focus, at 0.1 nm/px."""
    weights = np.zeros(27)
    weights[13] = 0.4
    return response_surface.ResponseSurface(AXES, np.ones(3), weights, 0.4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """log-f1 with a surface on its card."""
    folder = tmp_path_factory.mktemp("model") / "log-conditions"
    folder.mkdir()
    source = models.locate_model("log-f1")
    for name in models.load_model_card(source)["files"]:
        (folder / name).write_bytes((source / name).read_bytes())
    table = response_surface.make_card_table(make_surface())
    models.write_model_card(folder, {**models.load_model_card(source), **table})
    return folder


def make_rows(**columns) -> pd.DataFrame:
    conditions = {"dose_e_per_nm2": 500.0, "nm_per_pixel": 0.1, "stated_defocus_nm": 0.0, "defocus_nm": np.nan}
    return pd.DataFrame([{"detector": "log"} | conditions | columns])


def make_settings(*names: object, **featurise):
    return replace(load_settings(None, None), {"predict": {"models": list(map(str, names))}, "featurise": featurise})


def test_the_best_conditions_lose_nothing(model):
    losses = compute_losses(make_rows(), make_settings(model))
    assert losses["predicted_loss"].tolist() == [0]
    f1 = response_surface.evaluate_surface(make_surface(), [(0, 0.1, 1000.0)])
    np.testing.assert_allclose(losses["dose_gain"], f1 - 0.8)


def test_a_loss_is_the_difference_to_the_best(model):
    rows = make_rows(stated_defocus_nm=-300.0)
    spread = np.std([-300, 0, 300])
    expected = 0.4 - 0.4 * np.exp(-0.5 * (300 / spread) ** 2)
    np.testing.assert_allclose(compute_losses(rows, make_settings(model))["predicted_loss"], expected)


@pytest.mark.parametrize(
    "change",
    [
        *({"dose_e_per_nm2": value} for value in (np.nan, 49.0, 60_000.0)),
        *({"stated_defocus_nm": value} for value in (np.nan, 301.0)),
        *({"nm_per_pixel": value} for value in (np.nan, 0.04)),
        {"detector": "em-objects"},
        {"detector": None},
    ],
)
def test_unknown_conditions_and_other_detectors_have_no_loss(model, change):
    losses = compute_losses(make_rows(**change), make_settings(model))
    assert np.isnan(losses["predicted_loss"]).all()
    assert np.isnan(losses["dose_gain"]).all()


def test_a_dose_that_leaves_the_grid_has_no_gain(model):
    losses = compute_losses(make_rows(dose_e_per_nm2=30_000.0), make_settings(model))
    assert np.isfinite(losses["predicted_loss"]).all()
    assert np.isnan(losses["dose_gain"]).all()


def test_the_model_that_predicts_tells_the_loss(model):
    rows = make_rows()
    assert np.isnan(compute_losses(rows, make_settings("log-f1", model))["predicted_loss"]).all()
    assert np.isfinite(compute_losses(rows, make_settings(model, "log-f1"))["predicted_loss"]).all()
    assert np.isnan(compute_losses(rows, make_settings(model, score_floor=0.3))["predicted_loss"]).all()


def test_a_gain_shifts_all_quantiles_of_f1():
    rows = pd.DataFrame([list_f1_quantiles(0.45), list_f1_quantiles(0.45)])
    shifted = compute_shifted_probability(rows, [0.2, np.nan], 0.5)
    np.testing.assert_allclose(shifted, compute_shifted_probability(rows + 0.2, [0, np.nan], 0.5))
    assert np.isnan(shifted[1])


def make_triage(n_trusted=2, probabilities=(0.95, 0.2, np.nan), loss=0.25) -> pd.DataFrame:
    rows = [{"reasons": ["imaging_conditions"], "verdict": "trust", "f1_probability_at_twice_dose": 0.99}] * n_trusted
    for probability in probabilities:
        codes = ["low_predicted_f1", "imaging_conditions"]
        rows.append({"reasons": codes, "verdict": "review", "f1_probability_at_twice_dose": probability})
    rows.append({"reasons": ["blur", "low_predicted_f1"], "verdict": "review", "f1_probability_at_twice_dose": 0.95})
    return pd.DataFrame(rows).assign(predicted_loss=loss)[COLUMNS]


def test_the_advice_counts_images_that_f1_alone_keeps_from_trust():
    advice = DoseAdvice().add(make_triage(), 0.9).add(make_triage(probabilities=(0.9,), loss=0.35), 0.9)
    assert advice == (6 + 4, pytest.approx(6 * 0.25 + 4 * 0.35), 3, 2)
    lines = advice.describe()
    assert "cost 0.29 of F1 on average (10 images)" in lines[0]
    assert "3 of them lack trust for a low predicted F1 alone: at twice the dose 67% of these" in lines[1]


def test_without_a_known_loss_there_is_no_advice():
    assert DoseAdvice().add(make_triage(loss=np.nan), 0.9).describe() == []
    assert DoseAdvice().add(make_triage(probabilities=()), 0.9).describe()[1:] == []


def test_a_verdict_notes_the_loss_and_stays(model):
    row = {"micrograph_id": "a" * 32, "uri": "a.tif", "frame": 0, "content_sha256": "b" * 64, "status": "ok"}
    row |= {"height_px": 512, "width_px": 512, "n_detections": 40, "predicted_f1": 0.9, "predicted_f1_low": 0.8}
    row |= {"predicted_f1_high": 0.95, "ood_distance": 0.5, "evidence": "detections", "is_predicted": True}
    row |= {"dose_gain": 0.1, "content_distance": np.nan, **list_f1_quantiles(0.75)}
    file = {"uri": "a.tif", "frame": -1, "status": "ok", "format": "TIFF", "reason": ""}
    texts = {}
    for loss in (0.04, 0.25, np.nan):
        rows = pd.DataFrame([file, row | {"predicted_loss": loss}])
        (verdict,) = decide(rows, tables.empty(tables.FLAGS), Triage()).itertuples()
        assert verdict.verdict == "trust"
        texts[loss] = verdict.explanation
        assert list(verdict.reasons) == (["imaging_conditions"] if loss == 0.25 else [])
    assert "the detector loses about 0.25 of F1. At twice the dose, F1 is at least 0.5" in texts[0.25]


def test_triage_shows_the_loss_of_an_archive(model, tmp_path, capsys):
    synthesise(tmp_path / "a", "hrtem-particles", n=6, seed=3, shape=(256, 256), faults=())
    root = str(tmp_path / "w")
    command = ["triage", str(tmp_path / "a"), "--workspace", root, "--template", "hrtem-particles"]
    models_option = f'predict.models=["{model}"]'
    assert main([*command, "--scheduler", "in-process", "--set", models_option]) == 0
    output = capsys.readouterr().out
    triage = parts.load_table(Workspace(root).triage, tables.TRIAGE).dropna(subset="micrograph_id")
    assert len(triage) == 6
    f1 = response_surface.predict_f1_at_doses(make_surface(), triage, [1.0])[:, 0]
    np.testing.assert_allclose(triage["predicted_loss"], 0.8 - f1)
    notes = {path.name.removesuffix(".mdoc"): path.read_text() for path in (tmp_path / "a").rglob("*.mdoc")}
    for row in triage.itertuples():
        note = notes[Path(row.uri).name]
        assert f"Defocus = {row.stated_defocus_nm / 1000:.6g}\n" in note
    known = triage["predicted_loss"].dropna()
    assert f"cost {known.mean():.2f} of F1 on average ({len(known)} images)" in output
