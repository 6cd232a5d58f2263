"""Laws of drift: false discoveries are held, a shift of one standard deviation is found, and only ranks count."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, mannwhitneyu

from emqa_dask import tables
from emqa_dask.uncertainty import drift
from emqa_dask.uncertainty.drift import detect_drifts
from emqa_dask.uncertainty.time_bins import summarise_over_time

ACQUISITIONS = Path(__file__).parents[3] / "shared/data/hrtem_metadata/Dataset_metadata.csv"
SEEDS = st.integers(0, 2**31)
NUMBERS = ["n", "n_reference", "statistic", "p_value", "p_corrected", "effect", "is_drifted"]


def session(cohort: str, n: int, rng, shift: float = 0.0, acquired: str | None = None) -> pd.DataFrame:
    """n images of a cohort: quantity a is shifted, b is not."""
    numbers = {"a": rng.normal(shift, 1, n), "b": rng.gamma(2, 1, n)}
    return pd.DataFrame({"cohort": cohort, "acquired": pd.Series([acquired] * n, dtype=object), **numbers})


def archive(rng, sizes=(30, 12, 50, 20), shifts=(0, 0, 0, 0)) -> pd.DataFrame:
    sessions = [session(f"c{k}", n, rng, shift) for k, (n, shift) in enumerate(zip(sizes, shifts))]
    return pd.concat(sessions, ignore_index=True)


@pytest.mark.parametrize("is_held_out", [False, True])
def test_false_discoveries_are_held_where_nothing_has_drifted(is_held_out):
    rng = np.random.default_rng(1)
    n_archives = 100
    share = 0.05
    n_wrong = 0
    for _ in range(n_archives):
        reference = session("", 60, rng) if is_held_out else None
        found = detect_drifts(archive(rng), reference, quantities=["a", "b"], false_discoveries=share, least_effect=0)
        n_wrong += found["is_drifted"].any()
    # All discoveries are false here, so that their share is 1 wherever there is one: at most 5 archives are expected,
    # and more than 12 come with probability 0.002.
    assert n_wrong <= 12


def test_false_discoveries_are_held_beside_true_ones():
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(40):
        reference = session("", 200, rng)
        values = archive(rng, (30,) * 8, (2.0,) * 3 + (0.0,) * 5)
        found = detect_drifts(values, reference, quantities=["a", "b"], false_discoveries=0.1, least_effect=0)
        found = found[found["is_drifted"]]
        is_true = found["quantity"].eq("a") & found["cohort"].isin(["c0", "c1", "c2"])
        shares.append(1 - is_true.mean() if len(found) else 0)
        assert is_true.sum() == 3
    assert np.mean(shares) <= 0.1


@pytest.mark.parametrize(
    ("n_cohorts", "quantities", "shift", "least"),
    [(1, ["a"], 1.0, 0.92), (4, ["a", "b"], 1.0, 0.75), (4, ["a", "b"], 1.25, 0.93), (1, ["a"], 1.5, 0.99)],
)
@pytest.mark.parametrize("is_held_out", [False, True])
def test_thirty_images_show_a_shift_of_one_standard_deviation(is_held_out, n_cohorts, quantities, shift, least):
    """The more rows are corrected for, the more it takes: in 200 archives 97 % of one row's, 83 % of one in eight."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(50):
        reference = session("", 200, rng) if is_held_out else None
        sizes = (30,) * n_cohorts if is_held_out else (30, 200) if n_cohorts == 1 else (30,) + (200 // 3,) * 3
        values = archive(rng, sizes, (shift, *(0,) * (len(sizes) - 1)))
        rows = detect_drifts(values, reference, quantities=quantities).set_index(["cohort", "quantity"])
        found.append(rows.loc[("c0", "a"), "is_drifted"])
        assert rows.loc[("c0", "a"), "effect"] > 0.2
    assert np.mean(found) >= least


def test_a_small_shift_of_many_images_is_no_drift():
    rng = np.random.default_rng(4)
    values = session("c", 3000, rng, 0.25)
    reference = session("", 3000, rng)
    found = detect_drifts(values, reference, quantities=["a"]).iloc[0]
    assert found["p_corrected"] < 1e-6
    assert 0.1 < found["effect"] < 0.2
    assert not found["is_drifted"]
    assert detect_drifts(values, reference, quantities=["a"], least_effect=0.1)["is_drifted"][0]


@given(seed=SEEDS, is_held_out=st.booleans())
@settings(max_examples=10, deadline=None)
def test_only_ranks_count(seed, is_held_out):
    rng = np.random.default_rng(seed)
    values = archive(rng, shifts=(0, 1, 0, 2))
    values["a"] = values["a"].round(1)  # with ties
    reference = session("", 25, rng).round(1) if is_held_out else None
    shuffled = values.sample(frac=1, random_state=seed)
    other = None if reference is None else reference.sample(frac=1, random_state=seed)
    found = detect_drifts(values, reference, quantities=["a", "b"])
    pd.testing.assert_frame_equal(found, detect_drifts(shuffled, other, quantities=["a", "b"]))

    def bent(table):
        return None if table is None else table.assign(a=np.exp(table["a"]), b=np.cbrt(table["b"]) - 7)

    moved = detect_drifts(bent(values), bent(reference), quantities=["a", "b"])
    pd.testing.assert_frame_equal(found[NUMBERS], moved[NUMBERS])

    def mirrored(table):
        return None if table is None else table.assign(a=-table["a"], b=-table["b"])

    back = detect_drifts(mirrored(values), mirrored(reference), quantities=["a", "b"])
    np.testing.assert_allclose(back["effect"], -found["effect"], atol=1e-12)
    np.testing.assert_allclose(back[["statistic", "p_value"]], found[["statistic", "p_value"]], rtol=1e-9)


def test_two_cohorts_alone_have_opposite_drifts():
    rng = np.random.default_rng(5)
    found = detect_drifts(archive(rng, (30, 50), (0, 1)), None, quantities=["a"])
    assert found["effect"].tolist() == pytest.approx([-found["effect"][1], found["effect"][1]])
    assert found["p_value"][0] == found["p_value"][1]
    assert found["effect"][1] > 0.33
    assert found["reference"].tolist() == ["others", "others"]
    assert found["median"].tolist() == found["reference_median"].tolist()[::-1]


@pytest.mark.parametrize("exact", [1000, 0])
@pytest.mark.parametrize("is_held_out", [False, True])
def test_numbers_are_those_of_scipy(monkeypatch, exact, is_held_out):
    monkeypatch.setattr(drift, "MAX_EXACT_VALUES", exact)
    rng = np.random.default_rng(6)
    values = archive(rng, (9, 41, 80, 17), (0, 0.7, 0, -1))
    values["b"] = rng.poisson(3, len(values)).astype(float)  # mostly ties
    reference = values.sample(70, random_state=1) if is_held_out else None
    for row in detect_drifts(values, reference, quantities=["a", "b"]).itertuples():
        is_own = values["cohort"].eq(row.cohort)
        own = values.loc[is_own, row.quantity]
        rest = reference[row.quantity] if is_held_out else values.loc[~is_own, row.quantity]
        expected = ks_2samp(own, rest, method="exact" if exact else "asymp")
        assert row.statistic == pytest.approx(expected.statistic)
        assert row.p_value == pytest.approx(expected.pvalue)
        assert row.effect == pytest.approx(2 * mannwhitneyu(own, rest).statistic / (len(own) * len(rest)) - 1)
        assert (row.n, row.n_reference) == (len(own), len(rest))
        assert (row.median, row.reference_median) == (np.median(own), np.median(rest))


def test_what_is_unknown_is_as_if_it_were_not_there():
    rng = np.random.default_rng(7)
    values = archive(rng, shifts=(0, 0, 1.5, 0))
    gaps = session("c2", 15, rng).assign(a=np.nan)
    of_none = session("x", 20, rng).assign(cohort=None)
    found = detect_drifts(pd.concat([values, gaps, of_none]), None, quantities=["a"])
    pd.testing.assert_frame_equal(found, detect_drifts(values, None, quantities=["a"]))


def test_small_cohorts_and_those_without_reference_are_not_drifted():
    rng = np.random.default_rng(8)
    values = archive(rng, (40, 7, 8), (0, 50, 50))
    found = detect_drifts(values, session("", 40, rng), quantities=["a"]).set_index("cohort")
    assert found.loc["c1", ["statistic", "p_value", "p_corrected", "effect"]].isna().all()
    assert (found.loc["c1", "n"], found.loc["c1", "is_drifted"]) == (7, False)
    assert found.loc["c1", "median"] > 40
    assert found.loc["c2", "is_drifted"]
    # The correction is over the rows that were tested.
    assert found.loc["c2", "p_corrected"] == pytest.approx(2 * found.loc["c2", "p_value"])
    alone = detect_drifts(values[values["cohort"].eq("c0")], None, quantities=["a"])
    assert alone[["n", "n_reference"]].to_numpy().tolist() == [[40, 0]]
    assert alone["p_value"].isna().all()
    assert not alone["is_drifted"].any()
    few = detect_drifts(values, session("", 5, rng), quantities=["a"])
    assert few["p_value"].isna().all()
    assert few["reference_median"].notna().all()


def test_a_constant_has_no_drift_and_infinity_is_far():
    values = archive(np.random.default_rng(9)).assign(a=3.5)
    found = detect_drifts(values, None, quantities=["a"])
    assert found["p_value"].eq(1).all()
    assert found["p_corrected"].eq(1).all()
    assert found["effect"].eq(0).all()
    assert not found["is_drifted"].any()
    values.loc[values["cohort"].eq("c2"), "a"] = np.inf
    found = detect_drifts(values, None, quantities=["a"]).set_index("cohort")
    assert found.loc["c2", ["effect", "median", "is_drifted"]].tolist() == [1, np.inf, True]
    assert found.loc["c1", "effect"] < 0


def test_dates_are_the_earliest_and_latest_known():
    rng = np.random.default_rng(10)
    dated = [session("c0", 9, rng, acquired=day) for day in ("2021-03-05T10:00:00", "2020-12-31", "2021-03-04")]
    values = pd.concat([*dated, session("c0", 9, rng), session("c1", 9, rng)])
    found = detect_drifts(values, None, quantities=["a", "b"])
    assert found["cohort"].tolist() == ["c0", "c0", "c1", "c1"]
    assert found["quantity"].tolist() == ["a", "b"] * 2
    assert found["first_acquired"].tolist()[:2] == ["2020-12-31"] * 2
    assert found["last_acquired"].tolist()[:2] == ["2021-03-05T10:00:00"] * 2
    assert found[["first_acquired", "last_acquired"]].iloc[2:].isna().all(axis=None)


@pytest.mark.parametrize("reference", [None, pd.DataFrame({"a": [], "b": []}, dtype=float)])
def test_nothing_gives_an_empty_table_that_fits_its_schema(reference):
    values = archive(np.random.default_rng(0))
    for found in (
        detect_drifts(values[:0], reference, quantities=["a", "b"]),
        detect_drifts(values, reference, quantities=[]),
    ):
        assert len(found) == 0
        assert list(found.columns) == tables.DRIFTS.names
    found = detect_drifts(values, reference, quantities=["a"])
    assert tables.conform(found, tables.DRIFTS).num_rows == 4


def test_bad_input_is_refused_by_name():
    values = archive(np.random.default_rng(0))
    with pytest.raises(ValueError, match="values lacks the columns shift_score"):
        detect_drifts(values, None, quantities=["a", "shift_score"])
    with pytest.raises(ValueError, match="reference lacks the columns b"):
        detect_drifts(values, values[["a"]], quantities=["a", "b"])
    with pytest.raises(ValueError, match="twice"):
        detect_drifts(values, None, quantities=["a", "a"])
    for wrong in ({"false_discoveries": 0}, {"least_effect": 1.5}, {"min_images": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            detect_drifts(values, None, quantities=["a"], **wrong)
    with pytest.raises(ValueError, match=r"\['c'\]"):
        summarise_over_time(values, "c")
    with pytest.raises(ValueError, match="n_bins is 0"):
        summarise_over_time(values, "a", 0)


@given(seed=SEEDS, n=st.integers(1, 60), n_bins=st.integers(1, 15), is_dated=st.booleans())
@settings(max_examples=40, deadline=None)
def test_stretches_hold_every_known_value_once_and_do_not_overlap(seed, n, n_bins, is_dated):
    rng = np.random.default_rng(seed)
    days = np.datetime64("2020-01-01T00:00:00") + rng.integers(0, 10 ** rng.integers(1, 8), n)
    values = pd.DataFrame({"acquired": days.astype(str).astype(object) if is_dated else None, "a": rng.normal(size=n)})
    values.loc[rng.random(n) < 0.3, "a"] = np.nan
    values.loc[rng.random(n) < 0.3, "acquired"] = None
    found = summarise_over_time(values, "a", n_bins)
    known = values["a"].dropna()
    dated = values.loc[values["acquired"].notna() & values["a"].notna(), "a"]
    used = dated if len(dated) else known
    assert found["n"].sum() == len(used)
    assert len(found) <= n_bins
    assert (found["start"] < found["end"]).all()
    assert (found["start"].to_numpy()[1:] >= found["end"].to_numpy()[:-1]).all()
    assert ((found["low"] <= found["median"]) & (found["median"] <= found["high"])).all()
    if len(found) == 1:
        assert found["median"][0] == pytest.approx(used.median())
    assert found["start"].dtype == ("datetime64[s]" if len(dated) else "int64") or not len(found)
    if len(dated):  # in whatever order they come
        pd.testing.assert_frame_equal(found, summarise_over_time(values[::-1], "a", n_bins))


def test_dates_of_any_precision_are_one_scale():
    values = pd.DataFrame({"acquired": ["2020", "2021-01-01T00:00:00+00:00", "2021-12-31T23:00:00.5", "2022-01", "?"]})
    found = summarise_over_time(values.assign(a=[1.0, 2.0, 3.0, 4.0, 99.0]), "a", 2)
    assert found["n"].tolist() == [1, 3]
    assert found["median"].tolist() == [1, 3]
    assert found["start"].dt.year.tolist() == [2020, 2020]
    assert found["end"].tolist() == [pd.Timestamp("2020-12-31T12:00:00"), pd.Timestamp("2022-01-01")]


def test_without_dates_the_order_of_the_rows_is_the_time():
    values = pd.DataFrame({"acquired": pd.Series([None] * 24, dtype=object), "a": np.arange(24.0)})
    found = summarise_over_time(values, "a", 3)
    assert found[["start", "end", "n"]].to_numpy().tolist() == [[0, 8, 8], [8, 16, 8], [16, 24, 8]]
    assert found["median"].tolist() == [3.5, 11.5, 19.5]
    assert summarise_over_time(values[:0], "a").empty


@pytest.mark.skipif(not ACQUISITIONS.exists(), reason="the real acquisitions (shared/data/hrtem_metadata) are not here")
def test_real_sessions_with_a_changed_pixel_size_are_found():
    told = pd.read_csv(ACQUISITIONS)
    days = pd.to_datetime(told["Date"], format="%m/%d/%y").dt.strftime("%Y-%m-%d")
    values = pd.DataFrame({"cohort": told["Folder"], "acquired": days, "nm_per_pixel": told["Pixel Scale (nm)"]})
    found = detect_drifts(values, None, quantities=["nm_per_pixel"])
    later = found[found["first_acquired"] >= "2022-06"]
    assert len(later) == 4
    assert later["is_drifted"].all()
    assert later["median"].eq(0.02).all()
    assert later["effect"].lt(-0.5).all()
    earlier = found.drop(index=later.index)
    assert earlier.loc[earlier["is_drifted"], "median"].tolist() == [0.033]
    medians = summarise_over_time(values, "nm_per_pixel")["median"]
    assert medians.iloc[0] > medians.iloc[-1] == 0.02
