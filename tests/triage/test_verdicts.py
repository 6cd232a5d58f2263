"""Laws of the verdicts: nothing is lost, nothing bad is trusted, and only what is in a row decides about it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.settings import Triage
from emqa_dask.triage import decide
from emqa_dask.triage.f1_probability import compute_f1_probability
from emqa_dask.triage.rules import PRECEDENCE, RULES, Rule, sort_rules
from tests.archive_tables import decide_archive, join_archive, list_f1_quantiles
from tests.operations import count_calls

STRICT = Triage(trust_f1=0.7)
SEEDS = st.integers(0, 2**31)
RANKS = {rule.code: rank for rank, rule in enumerate(RULES)}
JUNK = {rule.code for rule in RULES if rule.verdict == "junk"}
EVIDENCE = ("micrograph_id", "n_detections", "is_capped", "detector_agreement")
NOTES = {rule.code for rule in RULES if rule.verdict == "note"}


def one_image(**values) -> dict[str, pd.DataFrame]:
    """The tables of an archive of one file with one micrograph that is fit for trust, changed by `values`."""
    row = {
        "micrograph_id": "a" * 32, "uri": "a.tif", "frame": 0, "content_sha256": "b" * 64, "height_px": 512,
        "width_px": 512, "nm_per_pixel": 0.31, "nm_per_pixel_source": "header", "format": "TIFF", "reason": "",
        "error": None, "status": "ok", "n_detections": 40, "predicted_f1": 0.9, "predicted_f1_low": 0.8,
        "predicted_f1_high": 0.95, "ood_distance": 0.5, "evidence": "detections", **list_f1_quantiles(0.75), **values,
    }  # fmt: skip
    frame = pd.DataFrame([row])
    return {
        "catalog": frame[[c for c in tables.CATALOG.names if c in frame]],
        "micrographs": frame[[c for c in (*tables.MICROGRAPHS.names, "is_nm_per_pixel_suspect") if c in frame]],
        "features": frame[[c for c in EVIDENCE if c in frame]],
        "predictions": frame.reindex(columns=tables.PREDICTIONS.names),
        "flags": tables.empty(tables.FLAGS),
    }


def with_flags(archive: dict, *flags: tuple[str, float]) -> dict:
    rows = [("a" * 32, flag, value, 1.0, f"found {flag} at {value}") for flag, value in flags]
    return {**archive, "flags": pd.DataFrame(rows, columns=tables.FLAGS.names)}


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_every_file_and_every_micrograph_has_its_row(archive, seed):
    given_ = archive(40, seed)
    rows = decide_archive(**given_, settings=STRICT)
    assert set(rows["uri"]) == set(given_["catalog"]["uri"])
    assert sorted(rows["micrograph_id"].dropna()) == sorted(given_["micrographs"]["micrograph_id"])
    bare = rows[rows["micrograph_id"].isna()]
    assert not bare["uri"].duplicated().any()
    assert not set(bare["uri"]) & set(given_["micrographs"]["uri"])
    assert rows["verdict"].isin(tables.VERDICTS).all()
    assert rows["status"].isin(tables.STATUSES).all()
    assert rows["explanation"].str.fullmatch(r"(?s).+[.!?)]").all()


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_reasons_and_verdicts_agree_with_the_rules(archive, seed):
    rows = decide_archive(**archive(40, seed), settings=STRICT)
    for row in rows.itertuples():
        assert [RANKS[code] for code in row.reasons] == sorted({RANKS[code] for code in row.reasons})
        verdicts = [RULES[RANKS[code]].verdict for code in row.reasons]
        assert row.verdict == next((v for v in verdicts if v != "note"), "trust")
        assert (not row.reasons) == (row.verdict == "trust" and not NOTES & set(row.reasons))
        if row.verdict == "trust":
            assert row.f1_probability >= 0.9
            assert row.ood_distance <= 1
            assert row.n_detections > 0


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_failed_file_is_unknown_and_nothing_else(archive, seed):
    rows = decide_archive(**archive(40, seed), settings=STRICT)
    assert rows.loc[rows["status"].ne("ok"), "verdict"].eq("unknown").all()
    assert rows.loc[rows["verdict"].eq("unknown"), "status"].ne("ok").all()
    assert rows.loc[rows["micrograph_id"].isna(), "verdict"].eq("unknown").all()


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_inputs_does_not_matter(archive, seed):
    given_ = archive(30, seed)
    shuffled = {name: table.sample(frac=1, random_state=seed) for name, table in given_.items()}
    pd.testing.assert_frame_equal(
        decide_archive(**given_, settings=STRICT), decide_archive(**shuffled, settings=STRICT)
    )


@given(seed=SEEDS, cut=st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_a_file_is_judged_alike_with_and_without_the_others(archive, seed, cut):
    given_ = archive(30, seed)
    whole = decide_archive(**given_, settings=STRICT)
    parts = []
    for uris in (set(given_["catalog"]["uri"][:cut]), set(given_["catalog"]["uri"][cut:])):
        part = {k: t[t["uri"].isin(uris)] if "uri" in t else t for k, t in given_.items()}
        parts.append(decide_archive(**part, settings=STRICT))
    both = pd.concat(parts).sort_values(["uri", "frame"], ignore_index=True)
    both, whole = (tables.conform(t, tables.TRIAGE).to_pandas() for t in (both, whole))
    pd.testing.assert_frame_equal(both, whole)


@given(seed=SEEDS, limits=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=15, deadline=None)
def test_asking_more_never_adds_trust(archive, seed, limits):
    given_ = archive(30, seed)
    low, high = (decide_archive(**given_, settings=Triage(trust_f1=f))["verdict"].eq("trust") for f in sorted(limits))
    assert not (high & ~low).any()


@given(code=st.sampled_from(sorted(JUNK - {"no_finite_pixels"})), others=st.sets(st.sampled_from(["blur", "banner"])))
@settings(deadline=None)
def test_junk_is_never_trusted(code, others):
    row = decide_archive(**with_flags(one_image(), (code, 2.0), *((o, 2.0) for o in others)), settings=STRICT).iloc[0]
    assert row["verdict"] == "junk"
    assert row["reasons"][0] == code
    assert set(row["reasons"]) == {code} | others


def test_the_one_image_is_trusted_and_says_why():
    row = decide_archive(**one_image(), settings=STRICT).iloc[0]
    assert (row["verdict"], row["status"], row["reasons"]) == ("trust", "ok", [])
    assert (
        row["explanation"]
        == "Predicted F1 is 0.90 (0.80 to 0.95). It is at least 0.7 with a probability of 0.99; trust asks for 0.9."
    )


@pytest.mark.parametrize(
    ("values", "verdict", "reasons"),
    [
        (list_f1_quantiles(0.7), "trust", []),
        (list_f1_quantiles(0.6999), "review", ["low_predicted_f1"]),
        ({"ood_distance": 1.0}, "trust", []),
        ({"ood_distance": 1.0001}, "out_of_domain", ["out_of_domain"]),
        ({"ood_distance": np.inf, **list_f1_quantiles(0.1)}, "out_of_domain", ["out_of_domain"]),
        ({"is_capped": 1.0}, "review", ["too_many_blobs"]),
        ({"is_capped": np.nan}, "trust", []),
        ({"is_nm_per_pixel_suspect": True}, "review", ["pixel_size_suspect"]),
        ({"is_nm_per_pixel_suspect": None}, "trust", []),
        ({"n_detections": 0, "evidence": "no_detections", "predicted_f1": np.nan, **list_f1_quantiles(np.nan)},
         "review", ["no_detections"]),
        ({"predicted_f1": np.nan, "evidence": "none", **list_f1_quantiles(np.nan)}, "review", ["no_prediction"]),
        ({"reason": "2 of 3 frames lost", "n_frames_lost": 2}, "trust", ["frames_lost"]),
        ({"reason": "JPEG data, though named .tif"}, "trust", ["remark"]),
    ],
)  # fmt: skip
def test_each_rule_at_its_limit(values, verdict, reasons):
    row = decide_archive(**one_image(**values), settings=STRICT).iloc[0]
    assert (row["verdict"], row["reasons"]) == (verdict, reasons)


def test_an_explanation_never_contradicts_its_verdict_by_rounding():
    row = decide_archive(**one_image(**list_f1_quantiles(0.6999)), settings=STRICT).iloc[0]
    assert "a probability of 0.89; trust asks for 0.9" in row["explanation"]
    row = decide_archive(**one_image(ood_distance=1.0001), settings=STRICT).iloc[0]
    assert "is 1.01, and the limit is 1" in row["explanation"]


@pytest.mark.parametrize(
    ("agreement", "limit", "reasons"),
    [(0.3, 0.3, []), (0.2999, 0.3, ["detectors_disagree"]), (0.0, 0.0, []), (np.nan, 1.0, [])],
)
def test_detectors_that_disagree_below_the_limit_ask_for_review(agreement, limit, reasons):
    row = decide_archive(**one_image(detector_agreement=agreement), settings=Triage(min_agreement=limit)).iloc[0]
    assert (row["verdict"], row["reasons"]) == ("review" if reasons else "trust", reasons)
    assert ("of the run is 0.29 (F1), and the limit is 0.3." in row["explanation"]) == bool(reasons)


def test_other_kinds_of_objects_are_named():
    far = {"ood_distance": 1.8, "content_distance": 1.8}
    row = decide_archive(**one_image(**far, other_kind="loop"), settings=STRICT).iloc[0]
    assert row["verdict"] == "out_of_domain"
    assert "than the detector was trained on: its content looks like dislocation loops." in row["explanation"]
    row = decide_archive(**one_image(**far), settings=STRICT).iloc[0]
    assert "than the detector was trained on: distance 1.80, and the limit is 1." in row["explanation"]


def test_flags_keep_their_numbers_and_unknown_ones_are_reviewed():
    flagged = with_flags(one_image(), ("blur", 3.2), ("flag_of_the_future", 9.0), ("banner", 1.0))
    row = decide_archive(**flagged, settings=STRICT).iloc[0]
    assert (row["verdict"], row["reasons"]) == ("review", ["blur", "unlisted", "banner"])
    assert "Found blur at 3.2." in row["explanation"]
    assert "Flag 'flag_of_the_future': found flag_of_the_future at 9.0." in row["explanation"]


def test_all_nonfinite_pixels_are_junk_and_some_are_review():
    assert decide_archive(**with_flags(one_image(), ("nonfinite_pixels", 1.0)), settings=STRICT)["verdict"][0] == "junk"
    assert (
        decide_archive(**with_flags(one_image(), ("nonfinite_pixels", 0.1)), settings=STRICT)["verdict"][0] == "review"
    )


def test_a_stage_that_did_not_finish_leaves_an_unknown():
    for name in ("features", "predictions"):
        given_ = one_image()
        given_[name] = given_[name][:0]
        row = decide_archive(**given_, settings=STRICT).iloc[0]
        assert (row["status"], row["verdict"], row["reasons"]) == ("failed", "unknown", ["not_judged"])
    blank = with_flags({**one_image(), "features": one_image()["features"][:0]}, ("blank", 0.0))
    assert decide_archive(**blank, settings=STRICT)["verdict"][0] == "junk"


def failed_at(stage="detect", kind="timeout", error="TimeoutError: 60 s", micrograph_id="a" * 32) -> pd.DataFrame:
    row = {"uri": "a.tif", "micrograph_id": micrograph_id, "stage": stage, "kind": kind, "error": error, "attempts": 2}
    return tables.conform([row], tables.FAILURES).to_pandas()


def test_a_quarantined_image_says_stage_kind_and_error():
    given_ = one_image()
    for name in ("features", "predictions"):
        given_[name] = given_[name][:0]
    row = decide_archive(**given_, settings=STRICT, failures=failed_at()).iloc[0]
    assert (row["status"], row["verdict"], row["reasons"]) == ("failed", "unknown", ["quarantined"])
    assert row["explanation"] == "Stage detect failed on it (timeout): TimeoutError: 60 s."
    blank = decide_archive(**with_flags(given_, ("blank", 0.0)), settings=STRICT, failures=failed_at()).iloc[0]
    assert (blank["verdict"], blank["reasons"]) == ("junk", ["blank", "quarantined"])


@pytest.mark.parametrize("failures", [failed_at(), failed_at(micrograph_id="c" * 32), failed_at(micrograph_id=None)])
def test_a_failure_that_is_past_or_of_others_changes_nothing(failures):
    assert decide_archive(**one_image(), settings=STRICT, failures=failures)["verdict"][0] == "trust"
    unjudged = {**one_image(), "predictions": one_image()["predictions"][:0]}
    expected = "quarantined" if failures["micrograph_id"][0] == "a" * 32 else "not_judged"
    assert decide_archive(**unjudged, settings=STRICT, failures=failures)["reasons"][0] == [expected]


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [("failed", "not_readable", "failed"), ("skipped", "not_a_micrograph", "skipped"), ("ok", "not_stored", "failed")],
)
def test_a_file_without_micrographs_says_what_the_catalog_says(status, code, outcome):
    given_ = one_image(status=status, reason="the file has no bytes", error="EOFError: nothing")
    given_["micrographs"] = given_["micrographs"][:0]
    row = decide_archive(**given_, settings=STRICT).iloc[0]
    assert (row["status"], row["verdict"], row["reasons"]) == (outcome, "unknown", [code])
    assert pd.isna(row["micrograph_id"])
    if status != "ok":
        assert row["explanation"] == "The file has no bytes. (EOFError: nothing)"


def test_a_micrograph_that_occurs_twice_is_refused():
    given_ = one_image()
    for name in ("catalog", "micrographs", "features", "predictions"):
        with pytest.raises(ValueError, match="twice"):
            decide_archive(**{**given_, name: pd.concat([given_[name]] * 2)}, settings=STRICT)


def test_the_table_fits_its_schema_also_when_it_is_empty(archive):
    given_ = archive(40, 3)
    for table in (given_, {name: t[:0] for name, t in given_.items()}):
        rows = decide_archive(**table, settings=STRICT)
        assert tables.conform(rows, tables.TRIAGE).to_pandas()["verdict"].tolist() == rows["verdict"].tolist()
    empty = {
        "catalog": tables.empty(tables.CATALOG),
        "micrographs": tables.empty(tables.MICROGRAPHS),
        "features": pd.DataFrame({"micrograph_id": [], "n_detections": []}, dtype=object),
        "predictions": tables.empty(tables.PREDICTIONS),
        "flags": tables.empty(tables.FLAGS),
    }
    rows = decide_archive(**empty, settings=STRICT)
    assert len(rows) == 0
    assert list(rows.columns) == tables.TRIAGE.names


def test_each_row_costs_a_few_calls(archive):
    n_rows = []
    n_calls = []
    for n in (650, 6500):
        rows, n_of_this = count_calls(decide_archive, **archive(n, 5), settings=STRICT)
        n_rows.append(len(rows))
        n_calls.append(n_of_this)
    assert n_rows[1] > 10_000
    assert n_calls[1] - n_calls[0] < 99 * (n_rows[1] - n_rows[0])


def test_rules_are_ordered_by_precedence():
    assert sort_rules(RULES) == list(RULES)
    assert sort_rules(RULES[::-1])[0].verdict == "junk"
    assert set(PRECEDENCE) - {"note"} == set(tables.VERDICTS) - {"trust"}
    assert len({rule.code for rule in RULES}) == len(RULES)


DOUBTS = (
    *(rule._replace(verdict="note", is_doubt=rule.code in ("blur", "drift", "charging")) for rule in RULES),
    Rule("two_doubts", "review", "Two doubts together ask for a look.", min_doubts=2),
    Rule("three_doubts", "junk", "Three doubts are too many.", min_doubts=3),
)


@pytest.mark.parametrize(
    ("flags", "verdict", "reasons"),
    [
        (["blur"], "trust", ["blur"]),
        (["blur", "blur"], "trust", ["blur"]),
        (["blur", "saturation"], "trust", ["blur", "saturation"]),
        (["blur", "drift"], "review", ["two_doubts", "blur", "drift"]),
        (["charging", "drift", "blur"], "junk", ["three_doubts", "two_doubts", "blur", "drift", "charging"]),
    ],
)
def test_two_doubts_make_a_review(flags, verdict, reasons):
    flagged = with_flags(one_image(), *((flag, 2.0) for flag in flags))
    rows = join_archive(**{name: table for name, table in flagged.items() if name != "flags"})
    row = decide(rows, flagged["flags"], STRICT, DOUBTS).iloc[0]
    assert (row["verdict"], row["reasons"]) == (verdict, reasons)
    assert ("Two doubts together ask for a look." in row["explanation"]) == ("two_doubts" in reasons)


def test_doubts_of_one_row_do_not_count_for_another():
    flagged = with_flags(one_image(), ("blur", 2.0))
    other = one_image(micrograph_id="c" * 32, uri="b.tif")
    other["flags"] = with_flags(one_image(), ("drift", 2.0))["flags"].assign(micrograph_id="c" * 32)
    both = {name: pd.concat([flagged[name], other[name]], ignore_index=True) for name in flagged}
    rows = join_archive(**{name: table for name, table in both.items() if name != "flags"})
    assert decide(rows, both["flags"], STRICT, DOUBTS)["verdict"].tolist() == ["trust", "trust"]


@pytest.mark.parametrize(
    ("colour", "verdict", "reasons"),
    [
        (None, "trust", []),
        ("colour", "review", ["colour"]),
        ("annotations", "trust", ["coloured_annotations"]),
        ("colour map: fire", "trust", ["colour_map"]),
        ("colour map: fire; annotations", "trust", ["colour_map", "coloured_annotations"]),
    ],
)
def test_colour_makes_no_image_junk(colour, verdict, reasons):
    values = {"colour": colour, "colour_fraction": 0.2, "annotated_fraction": 0.01}
    row = decide_archive(**one_image(**values), settings=STRICT).iloc[0]
    assert (row["verdict"], list(row["reasons"])) == (verdict, reasons)
    assert "nan" not in row["explanation"]


def test_the_probability_is_linear_between_quantiles_and_cut_beyond():
    rows = pd.DataFrame([list_f1_quantiles(0.7)] * 3)
    rows.iloc[1] = 1.0
    rows.iloc[2] = np.nan
    for limit, probabilities in (
        (0.7, (0.9, 0.99)),  # the quantile at 0.1
        (0.7075, (0.85, 0.99)),  # halfway to the quantile at 0.2, which is 0.715
        (0.5, (0.99, 0.99)),
        (0.95, (0.01, 0.99)),
        (1.0, (0.01, 0.99)),  # a quantile of 1 reaches 1
    ):
        np.testing.assert_allclose(compute_f1_probability(rows, limit)[:2], probabilities)
        assert np.isnan(compute_f1_probability(rows, limit)[2])
    assert compute_f1_probability(rows[:0], 0.5).shape == (0,)


@pytest.mark.parametrize(
    ("because", "text"), [(["noise is high", "few pixels"], "noise is high; few pixels"), ([], None), (None, None)]
)
def test_reasons_of_a_prediction_are_one_text(because, text):
    triage = decide_archive(**one_image(because=because), settings=Triage())
    assert triage["because"].tolist() == [text]
    assert tables.conform(triage, tables.TRIAGE)["because"].to_pylist() == [text]
