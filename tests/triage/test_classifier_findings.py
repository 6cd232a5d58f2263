"""Laws of what a classifier adds to the verdicts: its kinds of shift, its doubts and refusals; nothing without one."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.settings import Settings, Triage
from emqa_dask.settings.rules import SettingsError
from emqa_dask.triage.classifier_findings import SHIFTS
from emqa_dask.triage.rules import CLASSIFIER_CODES, RULES
from tests.archive_tables import decide_archive, list_f1_quantiles

SEEDS = st.integers(0, 2**31)
RANKS = {rule.code: rank for rank, rule in enumerate(RULES)}
OWN = ["predicted_class", "class_probability", "predictive_entropy_nats", "mutual_information_nats", "shift_score"]
OWN += ["shift"]
TRUSTED = Triage(trust_f1=0.7)


def one_image(**features) -> dict[str, pd.DataFrame]:
    """The tables of an archive of one file with one micrograph that is fit for trust."""
    row = {
        "micrograph_id": "a" * 32, "uri": "a.tif", "frame": 0, "content_sha256": "b" * 64, "height_px": 512,
        "width_px": 512, "nm_per_pixel": 0.31, "nm_per_pixel_source": "header", "format": "TIFF", "reason": "",
        "error": None, "status": "ok", "n_detections": 40, "predicted_f1": 0.9, "predicted_f1_low": 0.8,
        "predicted_f1_high": 0.95, "ood_distance": 0.5, "evidence": "detections", **list_f1_quantiles(0.75), **features,
    }  # fmt: skip
    frame = pd.DataFrame([row])
    return {
        "catalog": frame[["uri", "content_sha256", "format", "reason", "error", "status"]],
        "micrographs": frame[[c for c in tables.MICROGRAPHS.names if c in frame]],
        "features": frame[[c for c in ("micrograph_id", "n_detections", "defocus_nm") if c in frame]],
        "predictions": frame.reindex(columns=tables.PREDICTIONS.names),
        "flags": tables.empty(tables.FLAGS),
    }


def answer(**values) -> pd.DataFrame:
    """A classification that finds nothing amiss, changed by `values`."""
    row = {
        "micrograph_id": "a" * 32, "classifier": "grains", "n_members": 5, "predicted_class": "faceted",
        "class_probability": 0.93, "predictive_entropy_nats": 0.25, "mutual_information_nats": 0.05,
        "shift_score": 0.4, "shift": "none", "because": [],
    }  # fmt: skip
    more = {name: values.pop(name) for name in ("entropy_limit_nats", "cohort") if name in values}
    return tables.conform([row | values], tables.CLASSIFICATIONS).to_pandas().assign(**more)


def judged(settings: Triage = TRUSTED, archive: dict | None = None, **values) -> pd.Series:
    return decide_archive(**(archive or one_image()), settings=settings, classifications=answer(**values)).iloc[0]


@pytest.mark.parametrize(
    ("values", "verdict", "reasons"),
    [
        ({}, "trust", []),
        ({"shift": None, "shift_score": np.nan}, "trust", []),
        ({"shift": "unrelated", "shift_score": 4.0}, "out_of_domain", ["unrelated"]),
        ({"shift": "new_class", "shift_score": 1.2}, "out_of_domain", ["new_class"]),
        ({"shift": "acquisition", "shift_score": 1.2}, "out_of_domain", ["shifted_acquisition"]),
        ({"shift": "acquisition", "predictive_entropy_nats": 9.0, "entropy_limit_nats": 1.0}, "out_of_domain",
         ["shifted_acquisition"]),
        ({"predictive_entropy_nats": 9.0}, "trust", []),
        ({"predictive_entropy_nats": 1.0, "entropy_limit_nats": 1.0}, "trust", []),
        ({"predictive_entropy_nats": 1.0001, "entropy_limit_nats": 1.0}, "review", ["uncertain_class"]),
        ({"predictive_entropy_nats": np.nan, "entropy_limit_nats": 1.0}, "trust", []),
        ({"refusal": "it is smaller than 64 px", "predicted_class": None}, "trust", ["not_classified"]),
    ],
)  # fmt: skip
def test_each_rule_at_its_limit(values, verdict, reasons):
    row = judged(**values)
    assert (row["verdict"], row["reasons"]) == (verdict, reasons)


def test_the_settings_limit_counts_before_the_classifiers_own():
    values = {"predictive_entropy_nats": 0.7, "entropy_limit_nats": 0.5}
    assert judged(**values)["reasons"] == ["uncertain_class"]
    assert judged(Triage(trust_f1=0.7, max_entropy_nats=0.8), **values)["verdict"] == "trust"
    strict = judged(Triage(trust_f1=0.7, max_entropy_nats=0.6), predictive_entropy_nats=0.7)
    assert strict["reasons"] == ["uncertain_class"]
    with pytest.raises(SettingsError, match="max_entropy_nats"):
        Settings(triage=Triage(max_entropy_nats=-1)).check()


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_shift_says_numbers_evidence_and_what_to_do(kind):
    because = ["the spectrum lies 3.1 sd off", "contrast is 0.2.", "third", "fourth"]
    row = judged(shift=kind, shift_score=1.0001, shift_probability=0.81, predictive_entropy_nats=1.2, because=because)
    shift = SHIFTS[kind]
    assert row["explanation"] == (
        f"{shift.meaning} (probability 0.81; shift score 1.01, and the limit is 1; predictive entropy 1.2 nats). "
        f"Evidence: the spectrum lies 3.1 sd off; contrast is 0.2; third. {shift.advice}"
    )
    bare = judged(shift=kind, shift_score=np.nan, predictive_entropy_nats=np.nan)
    assert bare["explanation"] == f"{shift.meaning}. {shift.advice}"


def test_the_advice_is_that_of_paper_d():
    advice = {shift.code: shift.advice for shift in SHIFTS.values()}
    for code, word in (
        ("shifted_acquisition", "ugment"),
        ("new_class", "est the sample further"),
        ("unrelated", "iscard"),
    ):
        assert word in advice[code]
        assert word in RULES[RANKS[code]].meaning
        assert RULES[RANKS[code]].verdict == "out_of_domain"


def test_a_doubt_and_a_refusal_say_their_numbers():
    row = judged(
        class_probability=0.41, predictive_entropy_nats=0.80012, mutual_information_nats=0.2, entropy_limit_nats=0.80009
    )
    assert row["explanation"] == (
        "Class 'faceted' has a probability of 0.41: predictive entropy is 0.801 nats, and the limit is 0.8, so that a "
        "person should look. Of it the members disagree about 0.2 nats."
    )
    row = judged(entropy_limit_nats=-np.inf)  # what uncertainty.referral gives where no threshold reaches the risk
    assert "0.25 nats, and no limit makes this classifier safe, so that a person should look." in row["explanation"]
    row = judged(refusal="it is smaller than 64 px")
    assert row["explanation"].endswith("The classifier could not look at it: it is smaller than 64 px.")


def test_a_shift_has_its_position_in_the_rule_order():
    row = judged(archive=one_image(ood_distance=2.0), shift="new_class", shift_score=2.0)
    assert (row["verdict"], row["reasons"]) == ("out_of_domain", ["new_class", "out_of_domain"])
    row = judged(archive=one_image(**list_f1_quantiles(0.1)), shift="unrelated", shift_score=2.0)
    assert (row["verdict"], row["reasons"]) == ("out_of_domain", ["unrelated", "low_predicted_f1"])
    unjudged = {**one_image(), "predictions": one_image()["predictions"][:0]}
    row = judged(archive=unjudged, shift="unrelated", shift_score=2.0)
    assert (row["verdict"], row["reasons"]) == ("unknown", ["not_judged", "unrelated"])
    blank = pd.DataFrame([("a" * 32, "blank", 0.0, 1.0, "blank")], columns=tables.FLAGS.names)
    row = judged(archive={**one_image(), "flags": blank}, shift="unrelated", shift_score=2.0, refusal="no")
    assert (row["verdict"], row["reasons"]) == ("junk", ["blank"])


def test_numbers_reach_the_table_and_defocus_the_features():
    row = judged(archive=one_image(defocus_nm=812.5), shift="new_class", shift_score=1.5)
    assert row[OWN].tolist() == ["faceted", 0.93, 0.25, 0.05, 1.5, "new_class"]
    assert row["defocus_nm"] == 812.5
    assert np.isnan(judged()["defocus_nm"])


def test_a_micrograph_that_is_classified_twice_is_refused():
    with pytest.raises(ValueError, match=f"'{'a' * 32}' occurs twice"):
        decide_archive(**one_image(), settings=TRUSTED, classifications=pd.concat([answer()] * 2))


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_without_a_classifier_nothing_is_said_of_classes(archive, seed):
    given_ = archive(30, seed)
    without = decide_archive(**given_, settings=TRUSTED)
    assert without[OWN].isna().all(axis=None)
    assert not set(CLASSIFIER_CODES) & {code for codes in without["reasons"] for code in codes}
    empty = decide_archive(**given_, settings=TRUSTED, classifications=tables.empty(tables.CLASSIFICATIONS))
    pd.testing.assert_frame_equal(without, empty)
    others = decide_archive(
        **given_, settings=TRUSTED, classifications=answer(micrograph_id="c" * 32, shift="unrelated")
    )
    pd.testing.assert_frame_equal(without, others)


@given(seed=SEEDS, cut=st.integers(0, 30))
@settings(max_examples=5, deadline=None)
def test_answers_change_only_their_rows_and_never_add_trust(archive, classifications, seed, cut):
    given_ = archive(30, seed)
    answers = classifications(given_["micrographs"], seed % 1000)
    without = decide_archive(**given_, settings=TRUSTED)
    rows = decide_archive(**given_, settings=TRUSTED, classifications=answers)
    is_told = rows["micrograph_id"].isin(answers["micrograph_id"])
    pd.testing.assert_frame_equal(rows[~is_told], without[~is_told])
    assert not (rows["verdict"].eq("trust") & without["verdict"].ne("trust")).any()
    for after, before in zip(rows.itertuples(), without.itertuples()):
        assert [code for code in after.reasons if code not in CLASSIFIER_CODES] == before.reasons
        assert [RANKS[code] for code in after.reasons] == sorted({RANKS[code] for code in after.reasons})
        assert after.verdict == next((v for c in after.reasons if (v := RULES[RANKS[c]].verdict) != "note"), "trust")
    shuffled = answers.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(rows, decide_archive(**given_, settings=TRUSTED, classifications=shuffled))
    parts = []
    for uris in (set(given_["catalog"]["uri"][:cut]), set(given_["catalog"]["uri"][cut:])):
        part = {k: t[t["uri"].isin(uris)] if "uri" in t else t for k, t in given_.items()}
        parts.append(decide_archive(**part, settings=TRUSTED, classifications=answers))
    both = pd.concat(parts).sort_values(["uri", "frame"], ignore_index=True)
    both, whole = (tables.conform(t, tables.TRIAGE).to_pandas() for t in (both, rows))
    pd.testing.assert_frame_equal(both, whole)
