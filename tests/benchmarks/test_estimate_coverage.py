"""The study of coverage: its archives, its designs and its table."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import estimate_coverage


def test_archives_have_stated_detectors():
    rng = np.random.default_rng(0)
    decent = estimate_coverage.make_archive(rng, "decent")
    assert decent.f1 == pytest.approx(0.8, abs=0.06)
    assert np.corrcoef(decent.true_totals[:, 0], decent.predicted_totals[:, 0])[0, 1] > 0.8
    useless = estimate_coverage.make_archive(rng, "useless")
    assert useless.f1 == 0
    assert abs(np.corrcoef(useless.true_totals[:, 0], useless.predicted_totals[:, 0])[0, 1]) < 0.1
    for totals in (*decent[:2], *useless[:2]):
        assert totals.shape == (2000, 5)


def test_quantiles_are_those_of_images_with_a_value():
    rng = np.random.default_rng(4)
    archive = estimate_coverage.make_archive(rng, "decent")
    truth = archive.true_totals
    has_objects = truth[:, 0] > 0
    values = {"number": truth[:, 0], "density": truth[:, 0] / truth[:, 3]}
    values["mean diameter"] = truth[has_objects, 1] / truth[has_objects, 0]
    everything = estimate_coverage.define_simple_design(2000, np.arange(2000))
    for name, image_values in values.items():
        estimate = estimate_coverage.estimate_quantity(f"median of {name}", everything, truth, None)
        assert estimate.value == np.quantile(image_values, 0.5, method="inverted_cdf")


def test_images_are_drawn_with_their_probabilities():
    rng = np.random.default_rng(1)
    sizes = np.repeat([0.0, 97.0], 50)
    counts = np.zeros(100)
    chances = np.zeros(100)
    for _ in range(2000):
        design = estimate_coverage.draw_design(rng, 100, 20, sizes)
        assert len(design.reviewed) == 20
        counts[design.reviewed] += 1
        chances[design.reviewed] += design.probabilities
    # Of n draws an image occurs as often as the sum of its probabilities over all draws: small sizes 0.06, large 0.34.
    assert counts[:50].sum() / 2000 / 50 == pytest.approx(0.4 * np.sqrt(3) / (np.sqrt(3) + 10), rel=0.05)
    assert (chances[50:] / counts[50:]).mean() > 4 * (chances[:50] / counts[:50]).mean()


def test_real_counts_follow_from_precision_and_recall(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("names,f1,precision,recall,counts\na,0.5,0.5,0.25,8\na,1,1,1,3\nb,,0,0,5\nc,0.8,1,0.5,4\n")
    archive = estimate_coverage.read_real_counts(str(table))
    assert archive.true_totals[:, 0].tolist() == [16, 8]
    assert archive.predicted_totals[:, 0].tolist() == [8, 4]
    rows = estimate_coverage.run_resampling(
        1,
        archive._replace(
            true_totals=np.tile(archive.true_totals, (300, 1)),
            predicted_totals=np.tile(archive.predicted_totals, (300, 1)),
        ),
        0,
    )
    assert len(rows) == 2 * len(estimate_coverage.N_REVIEWED)


def test_summary_has_coverage_and_ratio_of_lengths():
    rows = pd.DataFrame(
        {
            "detector": "decent", "selection": "random", "n_reviewed": 20, "quantity": "density", "f1": 0.8,
            "is_covered": [True, False], "width": [1.0, 3.0], "is_covered_by_labels": True, "labels_width": [4.0, 4.0],
            "error": [0.1, -0.1],
        }
    )  # fmt: skip
    summary = estimate_coverage.summarise(rows).iloc[0]
    assert summary[["coverage", "labels_coverage", "width_ratio", "bias"]].tolist() == [0.5, 1.0, 0.5, 0.0]
