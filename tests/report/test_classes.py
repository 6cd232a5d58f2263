"""Laws of what is gathered of a classifier: batches add up to the whole, medians are close, memory is bounded."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import describe_classifications
from emqa_dask.report import classifier_counts
from emqa_dask.report.classifier_counts import (
    ENTROPY_EDGES,
    FURTHER_COHORTS,
    ClassifierCounts,
    find_most_drifted,
    select_largest_drifts,
)
from emqa_dask.settings import Triage
from tests.archive_tables import decide_archive


def made(archive, classifications, seed: int, n_files: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Triage and classifications of an archive whose micrographs have a defocus here and there."""
    given_ = archive(n_files, seed)
    rng = np.random.default_rng(seed)
    n = len(given_["features"])
    given_["features"] = given_["features"].assign(
        defocus_nm=np.where(rng.random(n) < 0.4, np.nan, rng.lognormal(6.5, 0.5, n))
    )
    answers = classifications(given_["micrographs"], seed)
    return decide_archive(**given_, settings=Triage(), classifications=answers), answers


def gathered(triage: pd.DataFrame, answers: pd.DataFrame, n_batch: int) -> ClassifierCounts:
    found = ClassifierCounts()
    for k in range(0, len(triage), n_batch):
        found.add(triage[k : k + n_batch], answers)
    return found


def plain(section) -> dict:
    """The section as things that compare."""
    cohorts = [line._replace(entropy=line.entropy.tolist()) for line in section.cohorts]
    return section._asdict() | {"cohorts": repr(cohorts), "drifts": section.drifts.to_dict("records")}


@given(seed=st.integers(0, 5), n_batch=st.integers(1, 90))
@settings(max_examples=6, deadline=None)
def test_batches_add_up_to_the_whole(archive, classifications, seed, n_batch):
    triage, answers = made(archive, classifications, seed)
    whole, parts = (plain(gathered(triage, answers, n).make_section()) for n in (len(triage), n_batch))
    np.testing.assert_equal(parts, whole)


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_medians_are_those_of_the_tables(archive, classifications, seed):
    triage, answers = made(archive, classifications, seed, 150)
    section = gathered(triage, answers, 40).make_section()
    assert section.classifiers == ("grains <64>",)
    assert dict(section.classes) == triage["predicted_class"].value_counts().to_dict()
    assert section.n_classified == triage["predicted_class"].notna().sum()
    assert section.n_refused == answers["refusal"].notna().sum()
    assert section.shifts == {kind: triage["shift"].eq(kind).sum() for kind in tables.SHIFTS}
    assert section.entropy_limit_nats == 0.8
    assert [n for _, n in section.classes] == sorted((n for _, n in section.classes), reverse=True)
    both = answers.merge(triage[["micrograph_id", "defocus_nm"]], on="micrograph_id")
    assert {line.cohort for line in section.cohorts} == set(both["cohort"])
    for line in section.cohorts:
        own = both[both["cohort"].eq(line.cohort)]
        assert line.n == len(own)
        assert line.n_shifted == own["shift"].isin(["acquisition", "new_class", "unrelated"]).sum()
        assert line.thon_ring_fraction == pytest.approx(own["defocus_nm"].notna().mean())
        assert line.defocus_nm == pytest.approx(own["defocus_nm"].quantile(0.5, "higher"), rel=0.025)
        assert line.imaging_distance == pytest.approx(own["imaging_distance"].quantile(0.5, "higher"), rel=0.025)
        np.testing.assert_array_equal(
            line.entropy, np.histogram(own["predictive_entropy_nats"].dropna(), ENTROPY_EDGES)[0]
        )


def test_summaries_count_classes_shifts_and_uncertain_images(archive, classifications):
    triage, answers = made(archive, classifications, 3, 150)
    answers = answers[answers["micrograph_id"].isin(triage["micrograph_id"])]
    counts = gathered(triage, answers, 40).summarise()
    assert counts["classes"] == triage["predicted_class"].value_counts().to_dict()
    assert counts["shifts"] == {kind: triage["shift"].eq(kind).sum() for kind in tables.SHIFTS[1:]}
    assert counts["uncertain"] == answers["predictive_entropy_nats"].gt(0.8).sum() > 0
    assert describe_classifications(counts)[1].startswith(
        f"    uncertain {counts['uncertain']} (predictive entropy above 0.80"
    )
    assert ClassifierCounts().summarise() == {}
    assert describe_classifications({}) == []


def test_further_cohorts_are_counted_together(archive, classifications, monkeypatch):
    monkeypatch.setattr(classifier_counts, "MAX_COUNTED_COHORTS", 3)
    triage, answers = made(archive, classifications, 1)
    answers["cohort"] = [f"c{k % 20:02d}" for k in range(len(answers))]
    section = gathered(triage, answers, 10).make_section()
    assert len(section.cohorts) == 4
    assert sum(line.n for line in section.cohorts) == len(answers)
    assert section.cohorts[0].cohort == FURTHER_COHORTS


def test_without_cohorts_there_is_one_and_two_limits_are_none(archive, classifications):
    triage, answers = made(archive, classifications, 2)
    section = gathered(triage, answers.drop(columns=["cohort", "entropy_limit_nats"]), 30).make_section()
    assert [line.cohort for line in section.cohorts] == ["all"]
    assert np.isnan(section.entropy_limit_nats)
    answers["entropy_limit_nats"] = np.where(np.arange(len(answers)) % 2, 0.5, 0.6)
    assert np.isnan(gathered(triage, answers, 30).make_section().entropy_limit_nats)


def test_nothing_gives_no_section(archive):
    triage = decide_archive(**archive(20, 0), settings=Triage())
    found = ClassifierCounts()
    found.add(triage, tables.empty(tables.CLASSIFICATIONS))
    found.add(triage[:0], tables.empty(tables.CLASSIFICATIONS))
    assert found.make_section() is None
    assert ClassifierCounts().make_section(tables.empty(tables.DRIFTS)) is None


def drift_rows(*rows: tuple) -> pd.DataFrame:
    columns = ["cohort", "quantity", "effect", "p_corrected", "is_drifted", "reference", "reference_median"]
    filled = [dict(zip(columns, (*row, "held_out", 0.5))) for row in rows]
    return tables.conform(filled, tables.DRIFTS).to_pandas()


def test_the_worst_of_each_cohort_drifted_ones_first():
    nan = np.nan
    drifts = drift_rows(
        ("a", "p", 0.9, 0.2, False), ("a", "q", -0.4, 0.001, True), ("b", "p", nan, nan, False),
        ("b", "q", nan, nan, False), ("c", "p", 0.1, 0.9, False), ("c", "q", -0.3, 0.5, False),
        ("d", "p", -0.8, 0.001, True), ("d", "q", 0.5, 0.001, True),
    )  # fmt: skip
    rows = select_largest_drifts(drifts)
    assert list(zip(rows["cohort"], rows["quantity"])) == [("d", "p"), ("a", "q"), ("c", "q"), ("b", "p")]
    assert find_most_drifted(drifts) == "p"
    assert find_most_drifted(drifts[drifts["cohort"].eq("c")]) == "q"
    assert find_most_drifted(drifts[drifts["cohort"].eq("b")]) is None
    assert find_most_drifted(tables.empty(tables.DRIFTS)) is None


def test_a_section_takes_drift_and_time_along(archive, classifications, section):
    triage, answers = made(archive, classifications, 3)
    found = section(triage, answers)
    assert found.n_drifted == 1
    assert found.drifts["is_drifted"].tolist() == [True] + [False] * (len(found.drifts) - 1)
    assert found.quantity == "shift_score"
    assert found.reference_median == 0.4
    assert len(found.times) == 10
    bare = gathered(triage, answers, 50).make_section(drift_rows(("a", "p", 0.1, 0.9, False)), "q")
    assert np.isnan(bare.reference_median)
    assert bare.times is None
