"""From members' probabilities to rows of classifications: their laws, imaging conditions, what is refused."""

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from emqa_dask import imaging_conditions, models, tables
from emqa_dask.featurise.images import image_statistics
from emqa_dask.featurise.rings import measure_thon_rings
from emqa_dask.synthetic.films import draw_amorphous_film
from emqa_dask.uncertainty.classification import classify_images, compute_entropy_limit

CLASSES = ["amorphous", "crystal", "void"]


def write(directory, **more):
    """A classifier's directory without networks and without examples of shifts; its held-out images."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    p = rng.dirichlet([0.3, 0.3, 0.3], (4, 200)).astype(np.float32)
    held = {"validation.probabilities": p, "validation.classes": p.mean(axis=0).argmax(axis=1)}
    doubtful = np.argsort(p.mean(axis=0).max(axis=1))[:40]
    held["validation.classes"][doubtful] = (held["validation.classes"][doubtful] + 1) % 3
    (directory / "held_out.safetensors").write_bytes(safetensors.numpy.save(held))
    card = {"name": "films", "task": "classification", "classes": CLASSES, "input": {"size_px": 64}}
    models.write_model_card(directory, card | {"ensemble": {"method": "ensemble", "temperature": 1.5}} | more)
    return directory


def said_of(ids, members=4, seed=1):
    """Rows of tables.PROBABILITIES for micrographs `ids`."""
    rng = np.random.default_rng(seed)
    rows = [
        {"micrograph_id": key, "classifier": "films", "member": m, "probabilities": rng.dirichlet([1, 1, 1])}
        for key in ids
        for m in range(members)
    ]
    return pd.DataFrame(rows).assign(embedding=None)


def known_of(ids, side_px=256.0, **more):
    rows = pd.DataFrame({"micrograph_id": ids}).assign(**dict.fromkeys(tables.IMAGE_STATISTICS, 0.5))
    rows = rows.assign(short_side_px=side_px, defocus_nm=np.nan, voltage_kv=np.nan, largest_region_entropy_nats=0.9)
    return rows.assign(**more)


@pytest.fixture
def directory(tmp_path):
    return write(tmp_path / "films")


def test_rows_have_the_order_of_the_micrographs(directory):
    ids = ["c", "a", "b"]
    said = said_of(ids)
    known = known_of(ids)
    found = classify_images(said, known, directory)
    assert list(found.columns) == tables.CLASSIFICATIONS.names
    assert list(found["micrograph_id"]) == ids
    again = classify_images(said.sample(frac=1, random_state=2), known.iloc[[2, 0, 1]], directory)
    pd.testing.assert_frame_equal(
        again.set_index("micrograph_id").loc[ids], found.set_index("micrograph_id"), check_dtype=False
    )
    tables.conform(found, tables.CLASSIFICATIONS)
    assert found["class_probability"].between(1 / 3, 1).all()


def test_a_temperature_changes_no_class(directory, tmp_path):
    ids = [f"m{k}" for k in range(40)]
    cold = write(tmp_path / "cold", ensemble={"method": "ensemble", "temperature": 0.4})
    warm, sharp = (classify_images(said_of(ids), known_of(ids), where) for where in (directory, cold))
    assert (warm["predicted_class"] == sharp["predicted_class"]).all()
    assert (warm["class_probability"] < sharp["class_probability"]).all()
    assert (warm["predictive_entropy_nats"] == sharp["predictive_entropy_nats"]).all()


def test_what_was_not_looked_at_says_why(directory):
    known = known_of(["a", "b"], side_px=[256.0, 40.0])
    found = classify_images(said_of(["a"]), known, directory).set_index("micrograph_id")
    assert found.loc["b", "n_members"] == 0
    assert "40 x 40 px, smaller" in found.loc["b", "refusal"]
    assert pd.isna(found.loc["b", "predicted_class"])
    assert pd.isna(found.loc["a", "refusal"])
    assert len(classify_images(said_of(["a"]), known.head(0), directory)) == 0


def test_members_that_are_missing_and_other_classes_are_refused(directory):
    said = said_of(["a", "b"])
    with pytest.raises(ValueError, match="not as many"):
        classify_images(said.drop(said.index[-1]), known_of(["a", "b"]), directory)
    said["probabilities"] = [p[:2] for p in said["probabilities"]]
    with pytest.raises(ValueError, match="another classifier's"):
        classify_images(said, known_of(["a", "b"]), directory)


def test_limits_of_the_entropy_hold_what_they_promise(directory):
    held = safetensors.numpy.load_file(directory / "held_out.safetensors")
    mean = held["validation.probabilities"].mean(axis=0, dtype=float)
    h = -(mean * np.log(np.maximum(mean, 1e-30))).sum(axis=1)
    wrong = mean.argmax(axis=1) != held["validation.classes"]
    for share in (0.05, 0.1, 0.5):
        assert (h > compute_entropy_limit(directory, review_share=share) + 1e-6).mean() <= share
    limit = compute_entropy_limit(directory, target_risk=0.05)
    assert 0.5 < (h <= limit + 1e-6).mean() < 1
    assert wrong[h <= limit + 1e-6].mean() <= 0.05
    assert compute_entropy_limit(directory, review_share=1.0) == -np.inf


def test_films_of_other_defoci_are_a_changed_acquisition(tmp_path):
    rng = np.random.default_rng(3)
    rows = []
    for k in range(32):
        defocus = rng.uniform(-330, -270) if k < 26 else rng.uniform(-1000, -800)
        image = draw_amorphous_film(rng, (512, 512), nm_per_pixel=0.06, defocus_nm=defocus, cs_mm=1.2, voltage_kv=200.0)
        found = measure_thon_rings(image, 0.06, 200.0, cs_mm=1.2)
        rows.append(image_statistics(image) | {"defocus_nm": found.defocus_nm, "voltage_kv": 200.0})
    known = pd.DataFrame(rows).assign(micrograph_id=[f"m{k}" for k in range(32)], largest_region_entropy_nats=0.5)
    conditions = imaging_conditions.fit_training_conditions(known["defocus_nm"][:26], known["voltage_kv"][:26])
    directory = write(tmp_path / "films", **imaging_conditions.make_card_table(conditions))
    found = classify_images(said_of(known["micrograph_id"]), known, directory)
    assert known["defocus_nm"].notna().sum() >= 28
    assert (found["imaging_distance"][:26].dropna() <= 1).mean() >= 0.9
    far = found[26:][known["defocus_nm"][26:].notna()]
    assert len(far) >= 3
    assert far["shift"].eq("acquisition").all()
    assert far["because"].map(lambda words: "defocus" in words[0]).all()
    assert found[:26].loc[found["imaging_distance"][:26].le(1), "shift"].isna().all()
