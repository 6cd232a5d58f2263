import numpy as np
import pandas as pd
import pytest

from emqa_dask import models, tables
from emqa_dask.uncertainty import embedding_distances, shift_files, shift_model
from emqa_dask.uncertainty.domain_reference import SPECTRUM, STATISTICS
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs

D = 12
MEMBERS = 3
FURTHER = {"none": 0, "acquisition": 0.2, "new_class": 3, "unrelated": 3}  # by content
WAYS = {"none": (0, 0, 0), "acquisition": (0, 8, 1.5), "new_class": (9, 0, 3), "unrelated": (5, -9, 6)}


def draw(rng, n, kind="none", strength=1.0):
    """Images of 3 classes; of a shift the embeddings, the spectrum and the tones move, each in a way of its own."""
    away, spectrum, tones = (strength * step for step in WAYS[kind])
    y = rng.integers(0, 3, n)
    centres = np.eye(3, D) * 8
    e = np.stack([centres[y] + away * np.eye(1, D, 5) + rng.normal(size=(n, D)) for _ in range(2)])
    logits = 3 * np.eye(3)[y] + rng.normal(size=(MEMBERS, n, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    columns = [*STATISTICS, *SPECTRUM]
    own = rng.normal(size=(n, len(columns)))
    own[:, : len(STATISTICS) // 2] += tones
    own[:, len(STATISTICS) : len(STATISTICS) + 5] += spectrum
    content = rng.normal(size=(n, 7)) + FURTHER[kind] * strength
    said = p.astype(np.float32), e.astype(np.float32), pd.DataFrame(own, columns=columns)
    return EnsembleOutputs(*said, content, rng.normal(2 if kind == "unrelated" else -3, 1, n)), y


def fitted(rng, kinds=tuple(WAYS)[1:], n=200, **options):
    train, y = draw(rng, n)
    shifted = {kind: draw(rng, n)[0] if kind == "none" else draw(rng, n, kind)[0] for kind in kinds}
    return shift_model.fit_shift_model(train, y, np.arange(n) // 4, draw(rng, n)[0], shifted, **options)


@pytest.fixture(scope="module")
def known():
    return fitted(np.random.default_rng(0))


def test_kinds_are_distinguished_with_all_columns_present(known):
    rng = np.random.default_rng(1)
    for kind in WAYS:
        rows = shift_model.classify_shift(known, draw(rng, 100, kind)[0])
        assert (rows["shift"] == kind).mean() > 0.85
        names = {f"{name}_score" for name in tables.SHIFT_SCORES} | {"shift_score", "shift", "shift_probability"}
        assert set(rows.columns) == names | {"because"}
        flagged = rows["shift"] != "none"
        assert ((rows["shift_score"] > 1) == flagged).all()
        assert rows["shift_probability"][flagged].between(1 / 3, 1).all()
        assert rows["shift_probability"][~flagged].isna().all()
        assert (rows["because"].map(len) > 0).tolist() == flagged.tolist()
    table = tables.conform(rows.assign(micrograph_id="0" * 32), tables.CLASSIFICATIONS)
    assert table.num_rows == 100


def test_scores_are_0_at_median_and_1_at_95_percent():
    rng = np.random.default_rng(2)
    train, y = draw(rng, 200)
    held = draw(rng, 300)[0]
    known = shift_model.fit_shift_model(train, y, np.arange(200), held, {"unrelated": draw(rng, 100, "unrelated")[0]})
    rows = shift_model.classify_shift(known, held)
    for name in tables.SHIFT_SCORES:
        np.testing.assert_allclose(np.percentile(rows[f"{name}_score"], [50, 95]), [0, 1], atol=1e-6)


def test_false_flags_are_held_to_their_share():
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(12):
        known = fitted(rng, n=100, false_flags=0.1)
        shares.append((shift_model.classify_shift(known, draw(rng, 400)[0])["shift"] != "none").mean())
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)


def test_a_shift_without_examples_is_flagged_all_the_same():
    rng = np.random.default_rng(4)
    known = fitted(rng, kinds=("acquisition",))
    for kind in ("new_class", "unrelated"):
        rows = shift_model.classify_shift(known, draw(rng, 100, kind, strength=2)[0])
        assert (rows["shift_score"] > 1).mean() > 0.95


def test_entropy_cannot_hide_what_the_distances_see(known):
    seen = draw(np.random.default_rng(12), 100, "new_class", strength=2)[0]
    sure = np.zeros_like(seen.probabilities)
    sure[:, :, 0] = 1  # every member is certain, and of the same class
    rows = shift_model.classify_shift(known, seen._replace(probabilities=sure))
    assert (rows["entropy_score"] < 0).all()
    assert (rows["shift_score"] > 1).mean() > 0.95


def test_a_row_is_its_own(known):
    seen = draw(np.random.default_rng(5), 37, "new_class")[0]
    rows = shift_model.classify_shift(known, seen)
    order = np.random.default_rng(6).permutation(37)[:9]
    part = EnsembleOutputs(
        seen.probabilities[:, order],
        seen.embeddings[:, order],
        seen.features.iloc[order],
        seen.content[order],
        seen.foreign_log_odds[order],
    )
    pd.testing.assert_frame_equal(
        shift_model.classify_shift(known, part), rows.iloc[order].reset_index(drop=True), check_exact=True
    )
    none = EnsembleOutputs(
        seen.probabilities[:, :0],
        seen.embeddings[:, :0],
        seen.features.iloc[:0],
        seen.content[:0],
        seen.foreign_log_odds[:0],
    )
    assert list(shift_model.classify_shift(known, none).columns) == list(rows.columns)


def test_the_evidence_names_what_is_unlike(known):
    rng = np.random.default_rng(7)
    features = draw(rng, 1)[0].features
    seen = draw(rng, 1)[0]._replace(features=features.assign(noise_floor=500.0))
    (row,) = shift_model.classify_shift(known, seen).to_dict("records")
    assert row["shift"] != "none"
    assert any("noise floor 500, typically" in text for text in row["because"])
    assert any("spectrum" in text and "times as far" in text for text in row["because"])


def test_images_that_no_network_has_seen_are_unknown(known):
    seen = draw(np.random.default_rng(8), 5)[0]
    p = seen.probabilities.copy()
    p[:, 2] = np.nan
    rows = shift_model.classify_shift(known, seen._replace(probabilities=p))
    assert rows["shift"].isna().tolist() == [False, False, True, False, False]
    assert np.isnan(rows["shift_score"][2])
    rest = shift_model.classify_shift(known, seen)
    pd.testing.assert_frame_equal(rows.drop(2), rest.drop(2), check_exact=True)


def test_unknown_statistics_count_as_typical(known):
    seen = draw(np.random.default_rng(9), 50)[0]
    rows = shift_model.classify_shift(known, seen._replace(features=seen.features * np.nan))
    assert np.isfinite(rows["shift_score"]).all()
    assert (rows["shift"] == "none").mean() > 0.8


def test_distances_of_embeddings_do_not_ask_for_units_or_axes():
    rng = np.random.default_rng(13)
    (train, y) = draw(rng, 300)
    seen = draw(rng, 50, "new_class")[0]
    found = []
    for change in (np.eye(D), 7 * np.linalg.qr(rng.normal(size=(D, D)))[0]):
        changed = [member @ change for member in train.embeddings.astype(float)]
        parts = [embedding_distances.fit_member_reference(member, y, np.arange(200)) for member in changed]
        members, backgrounds = zip(*parts)
        found.append(
            embedding_distances.compute_distances(members, backgrounds, seen.embeddings.astype(float) @ change)
        )
    assert found[0].shape == (3, 2, 50)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_saved_model_classifies_alike_and_is_checked(known, tmp_path):
    seen = draw(np.random.default_rng(10), 40, "acquisition")[0]
    models.write_model_card(tmp_path, {"name": "some", **shift_files.write_shift_model(known, tmp_path)})
    again = shift_files.read_shift_model(tmp_path)
    pd.testing.assert_frame_equal(
        shift_model.classify_shift(again, seen), shift_model.classify_shift(known, seen), check_exact=True
    )
    content = bytearray((tmp_path / shift_files.SHIFT_MODEL_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / shift_files.SHIFT_MODEL_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        shift_files.read_shift_model(tmp_path)


def test_what_was_learnt_with_another_network_of_contents_is_refused(known, tmp_path):
    table = shift_files.write_shift_model(known, tmp_path)
    table["shift"]["content"] = "0" * 64
    models.write_model_card(tmp_path, {"name": "some", **table})
    with pytest.raises(ValueError, match="another version's network `content`; train the classifier again"):
        shift_files.read_shift_model(tmp_path)


def told(**n_by_kind):
    kinds = np.repeat(list(n_by_kind), list(n_by_kind.values()))
    return pd.DataFrame({"shift": kinds, "shift_probability": np.where(kinds == "none", np.nan, 0.8)})


def test_a_cohort_has_the_majority_kind_beyond_false_flags():
    assert shift_model.classify_cohort_shift(told(none=80, acquisition=7, unrelated=5)) == "acquisition"
    assert shift_model.classify_cohort_shift(told(none=95, acquisition=5)) == "none"
    assert shift_model.classify_cohort_shift(told(none=80, acquisition=20), false_flags=0.2) == "none"
    assert shift_model.classify_cohort_shift(told(new_class=1)) == "none"  # of one image nothing is sure
    assert shift_model.classify_cohort_shift(told(new_class=2)) == "new_class"
    assert shift_model.classify_cohort_shift(told().astype(object)) is None
    unseen = told(none=3).assign(shift=None)
    assert shift_model.classify_cohort_shift(unseen) is None
    assert shift_model.classify_cohort_shift(pd.concat([unseen, told(acquisition=3)])) == "acquisition"


def test_a_cohort_is_told_apart_where_an_image_is_not(known):
    rng = np.random.default_rng(21)
    n_right = 0
    own = []
    for kind in ("acquisition", "new_class", "unrelated"):
        for _ in range(10):
            rows = shift_model.classify_shift(known, draw(rng, 20, kind, strength=0.45)[0])
            n_right += shift_model.classify_cohort_shift(rows) == kind
            own.append((rows["shift"] == kind).mean())
    assert n_right >= 28
    assert np.mean(own) < 0.92


def test_order_does_not_matter_to_a_cohort(known):
    rows = shift_model.classify_shift(known, draw(np.random.default_rng(22), 40, "acquisition")[0])
    assert shift_model.classify_cohort_shift(rows.sample(frac=1, random_state=1)) == shift_model.classify_cohort_shift(
        rows
    )


def test_a_model_without_shifts_has_none(tmp_path):
    models.write_model_card(tmp_path, {"name": "some"})
    assert shift_files.read_shift_model(tmp_path) is None


def test_what_does_not_fit_is_refused(known):
    rng = np.random.default_rng(11)
    (train, y) = draw(rng, 60)
    held = draw(rng, 60)[0]
    other = draw(rng, 60, "unrelated")[0]
    with pytest.raises(ValueError, match="shifted has typhoon"):
        shift_model.fit_shift_model(train, y, y, held, {"typhoon": other})
    with pytest.raises(ValueError, match="no kind"):
        shift_model.fit_shift_model(train, y, y, held, {})
    with pytest.raises(ValueError, match="5 classes"):
        shift_model.fit_shift_model(train, y[:5], y, held, {"unrelated": other})
    with pytest.raises(ValueError, match="10 held-out images cannot hold"):
        shift_model.fit_shift_model(train, y, y, draw(rng, 10)[0], {"unrelated": other})
    with pytest.raises(ValueError, match="of one source"):
        shift_model.fit_shift_model(train, y, y, held, {"unrelated": other}, held_out_groups=np.zeros(60))
    with pytest.raises(ValueError, match="unrelated: embeddings"):
        shift_model.fit_shift_model(
            train, y, y, held, {"unrelated": other._replace(embeddings=other.embeddings[:, :, :5])}
        )
    with pytest.raises(ValueError, match="lack banner_rows"):
        shift_model.classify_shift(known, held._replace(features=held.features.drop(columns="banner_rows")))
    with pytest.raises(ValueError, match="of 2 members at least"):
        shift_model.classify_shift(known, held._replace(embeddings=held.embeddings[:1]))
    with pytest.raises(ValueError, match="59 rows of statistics"):
        shift_model.classify_shift(known, held._replace(features=held.features.iloc[1:]))
    p = train.probabilities.copy()
    p[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 rows have no finite"):
        shift_model.fit_shift_model(train._replace(probabilities=p), y, y, held, {"unrelated": other})
