"""Measures of the shift between imaging conditions: their laws, and the study on measured losses."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import transfer
from benchmarks.studies.imaging_measures import (
    compute_information,
    compute_missing_information,
    compute_overlap,
    fit_phase_shift,
)
from emqa_dask import imaging_conditions
from emqa_dask.imaging_conditions import ImagingSettings, compute_phase_shift

LOSSES = Path(__file__).parents[2] / "shared/data/hrtem_ood_loss/mini_df.csv.gz"
DEFOCI = [-25.0, -10.0, -5.0, 5.0, 10.0, 25.0]
PAIRS = [(ImagingSettings(a), ImagingSettings(b)) for a in DEFOCI for b in DEFOCI]


@pytest.mark.parametrize(("train", "test"), PAIRS)
def test_overlap_and_missing_information_are_shares(train, test):
    assert 0 < compute_overlap(train, test) <= 1 + 1e-12
    assert compute_overlap(train, test) == pytest.approx(compute_overlap(test, train))
    assert 0 <= compute_missing_information(train, test) < 1
    assert compute_missing_information(train, train) == 0
    assert compute_overlap(train, train) == pytest.approx(1)


def test_a_wider_envelope_lets_more_information_through():
    spreads = [compute_information(ImagingSettings(-10, focal_spread_nm=spread)) for spread in (0.5, 2.0, 5.0)]
    assert spreads == sorted(spreads, reverse=True)
    sharp = ImagingSettings(-10, focal_spread_nm=1.0)
    soft = ImagingSettings(-10, focal_spread_nm=5.0)
    assert compute_missing_information(soft, sharp) > 5 * compute_missing_information(sharp, soft)


def test_nothing_transferred_gives_nan():
    dark = ImagingSettings(0.0, defocus_range_nm=0.0)
    assert np.isnan(compute_overlap(dark, ImagingSettings(10)))
    assert np.isnan(compute_missing_information(ImagingSettings(10), dark))
    assert compute_missing_information(dark, ImagingSettings(10)) == 1


@pytest.mark.parametrize(("train", "test"), PAIRS)
def test_the_phase_shift_is_a_distance_growing_with_defocus(train, test):
    plain = compute_phase_shift(train, test)
    assert plain == pytest.approx(compute_phase_shift(test, train))
    assert plain == pytest.approx(
        abs(test.defocus_nm - train.defocus_nm) * compute_phase_shift(ImagingSettings(0), ImagingSettings(1))
    )
    assert compute_phase_shift(train, test, outward=3, plane_nm=4) >= plain
    assert compute_phase_shift(train, train, outward=3, plane_nm=4) == 0


def test_outward_shifts_cost_more_and_planes_break_the_symmetry():
    assert compute_phase_shift(ImagingSettings(5), ImagingSettings(20), outward=2) > 2 * compute_phase_shift(
        ImagingSettings(20), ImagingSettings(5), outward=2
    )
    there, mirrored = (
        [compute_phase_shift(ImagingSettings(s * 10), ImagingSettings(-s * 25), outward=2, plane_nm=p) for s in (1, -1)]
        for p in (0, 5)
    )
    assert there[0] == pytest.approx(there[1])
    assert mirrored[0] > 1.2 * mirrored[1]


def test_voltage_and_spherical_aberration_shift_the_phase_too():
    assert compute_phase_shift(ImagingSettings(-50), ImagingSettings(-50, voltage_kv=80)) > 1
    assert compute_phase_shift(ImagingSettings(-50), ImagingSettings(-50, cs_mm=1.2)) > 1


def test_what_was_put_in_is_fitted_from_ranks_alone():
    rng = np.random.default_rng(3)
    train, test = zip(*PAIRS)
    truth = [compute_phase_shift(a, b, outward=4.0, plane_nm=-3.0) for a, b in PAIRS]
    loss = np.exp(np.array(truth)) * np.exp(0.01 * rng.standard_normal(len(truth)))
    outward, plane = fit_phase_shift(train, test, loss)
    assert plane == pytest.approx(-3.0, abs=1)
    assert outward in (2.0, 4.0, 8.0)
    plain = [compute_phase_shift(a, b) for a, b in PAIRS]
    assert fit_phase_shift(train, test, np.round(plain, 9)) == (0.0, 0.0)


def test_training_conditions_are_within_the_limit_and_far_ones_beyond():
    rng = np.random.default_rng(3)
    defoci = rng.normal(-80, 6, 200)
    known = imaging_conditions.fit_training_conditions(defoci, np.full(200, 300.0))
    like = [imaging_conditions.compute_condition_distance(known, d, 300.0) for d in rng.normal(80, 6, 100)]
    assert np.mean(np.array(like) > 1) <= 0.15
    assert imaging_conditions.compute_condition_distance(known, 400.0, 300.0) > 5
    assert imaging_conditions.compute_condition_distance(known, 80.0, 80.0) > 1
    assert imaging_conditions.compute_condition_distance(
        known, -80.0, 300.0
    ) == imaging_conditions.compute_condition_distance(known, 80.0, 300.0)
    assert np.isnan(imaging_conditions.compute_condition_distance(known, np.nan, 300.0))
    assert np.isnan(imaging_conditions.compute_condition_distance(known, 80.0, np.nan))
    again = imaging_conditions.read_training_conditions(imaging_conditions.make_card_table(known))
    assert imaging_conditions.compute_condition_distance(again, 400.0, 300.0) == pytest.approx(
        imaging_conditions.compute_condition_distance(known, 400.0, 300.0), rel=1e-3
    )


def test_few_known_conditions_are_none():
    assert imaging_conditions.fit_training_conditions([50.0] * 19 + [np.nan] * 30, [300.0] * 49) is None
    assert imaging_conditions.make_card_table(None) == {}
    assert imaging_conditions.read_training_conditions({}) is None
    same = imaging_conditions.fit_training_conditions([50.0] * 30, [300.0] * 30)
    assert imaging_conditions.compute_condition_distance(same, 50.0, 300.0) == 0


def test_too_few_or_equal_losses_are_refused():
    train, test = zip(*PAIRS[:4])
    with pytest.raises(ValueError, match="losses that differ"):
        fit_phase_shift(train, test, np.ones(4))
    with pytest.raises(ValueError, match="four at least"):
        fit_phase_shift(train[:3], test[:3], [1, 2, 3])


def networks(seed: int = 0) -> pd.DataFrame:
    """Results in the published layout, whose losses follow a signed shift."""
    rng = np.random.default_rng(seed)
    rows = []
    for trained in (-100, -50, 0, 50, 100):
        for tuned in (-250, -150, 150, 250):
            row = {"pretrain_defocus": trained, "transfer_defocus": tuned, "freeze_option": "none"}
            row |= {"N_tl_training_points": 512, "transfer_lr": 1e-4}
            for prefix, at in (("best_pretrain_val", trained), ("best_transfer_performance", tuned)):
                for tested in range(-250, 251, 50):
                    shift = compute_phase_shift(
                        ImagingSettings(at / 10), ImagingSettings(tested / 10), outward=2.0, plane_nm=4.0
                    )
                    row[f"{prefix}_{tested}"] = 0.01 * np.exp(0.3 * shift + 0.02 * rng.standard_normal())
            rows.append(row)
    return pd.DataFrame(rows)


def test_the_study_judges_every_condition_with_the_others_fit(tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.csv.gz"
    networks().to_csv(table, index=False)
    monkeypatch.setattr(sys, "argv", ["transfer.py", "--out", str(tmp_path / "out"), "--data", str(table), "--draws=1"])
    transfer.main()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    pairs = pd.read_csv(tmp_path / "out/pairs.csv")
    assert len(pairs) == summary["pairs"] == 40
    assert (tmp_path / "out/transfer.png").stat().st_size > 10_000
    assert summary["spearman"]["signed_shift"] > max(0.9, summary["spearman"]["difference_nm"])
    for fit in summary["held_out_fits"]:
        rest = pairs[pairs["train_nm"] != fit["left_out_nm"]]
        assert fit_phase_shift(*transfer.conditions(rest), rest["loss"]) == (fit["outward"], fit["plane_nm"])


def test_a_study_without_data_says_what_to_give(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["transfer.py", "--out", str(tmp_path), "--data", str(tmp_path / "none.csv.gz")])
    with pytest.raises(SystemExit):
        transfer.main()
    assert "--data" in capsys.readouterr().err


@pytest.mark.skipif(not LOSSES.exists(), reason="the measured losses (shared/data/hrtem_ood_loss) are not here")
def test_signed_shifts_rank_measured_losses_better_than_defocus_differences():
    pairs, fits = transfer.measure(transfer.losses(pd.read_csv(LOSSES), "pretrain_defocus", "best_pretrain_val"))
    scores = pairs.drop(columns=["train_nm", "test_nm"]).corr("spearman")["loss"]
    assert len(pairs) == 40
    assert scores["difference_nm"] == pytest.approx(0.76, abs=0.01)
    assert scores["signed_shift"] >= 0.85
    assert len(fits) == 4
