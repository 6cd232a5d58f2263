"""What a person knows about a synthetic archive: labels, samples and crystals agree with the truth."""

import csv
import json
from fnmatch import fnmatchcase

import pytest

from emqa_dask.cli import main
from emqa_dask.synthetic.archive import synthesise
from emqa_dask.tune.lattice import read_lattice


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("labels") / "archive"
    assert main(["synthesise", str(out), "--n", "40", "--seed", "3", "--labels", "9"]) == 0
    truth = out.with_name("archive.truth")
    return truth, json.loads((truth / "annotations.json").read_text("utf-8"))


def test_labels_are_the_truth_of_some_images(archive):
    truth, document = archive
    labels = json.loads((truth / "labels.json").read_text("utf-8"))
    images = {image["id"]: image for image in document["images"]}
    assert len(labels["images"]) == 9
    assert all(images[image["id"]] == image and image["is_annotated"] for image in labels["images"])
    assert {image["family"] for image in labels["images"]} <= {"cavity-tem", "nanoparticle-tem"}
    labelled_ids = {image["id"] for image in labels["images"]}
    assert labels["annotations"] == [row for row in document["annotations"] if row["image_id"] in labelled_ids]


def test_samples_name_what_their_images_show(archive):
    truth, document = archive
    with (truth / "samples.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    families = {"cavities": "cavity-tem", "particles": "nanoparticle-tem"}
    for image in document["images"]:
        samples = [row["sample"] for row in rows if fnmatchcase(image["file_name"], row["uri"])]
        assert len(samples) <= 1
        if samples and image["family"] and image["fault"] != "duplicate":
            assert image["family"] == families[samples[0]]
    assert {row["sample"] for row in rows} == set(families)


def test_crystals_have_the_density_of_their_columns(tmp_path):
    synthesise(tmp_path / "x", "atomic-stem", 1, 1, shape=(256, 256), faults=())
    (image,) = json.loads((tmp_path / "x.truth" / "annotations.json").read_text("utf-8"))["images"]
    physics = read_lattice(tmp_path / "x.truth" / "SrTiO3-001.toml")
    assert physics.columns_per_nm2 == pytest.approx(2 / 0.3905**2)
    assert f"{image['nm_per_pixel']:g} nm per pixel" in (tmp_path / "x.truth" / "SrTiO3-001.toml").read_text("utf-8")


def test_the_foil_has_one_density_and_one_pixel_size(tmp_path):
    synthesise(tmp_path / "foil", "foil", 30, 3, shape=(256, 256), faults=())
    document = json.loads((tmp_path / "foil.truth" / "annotations.json").read_text("utf-8"))
    assert {image["nm_per_pixel"] for image in document["images"]} == {0.4}
    assert len({image["session"] for image in document["images"]}) == 1
    mean_count = len(document["annotations"]) / 30
    assert 35 < mean_count <= 63  # Poisson of mean 60; cavities that find no place are left out


def test_too_many_labels_are_refused_before_writing(tmp_path):
    with pytest.raises(ValueError, match=r"only 4 micrographs of this archive .* ask for fewer"):
        synthesise(tmp_path / "x", "foil", 4, 3, shape=(64, 64), faults=(), n_labels=5)
    with pytest.raises(ValueError, match="only 0 micrographs"):
        synthesise(tmp_path / "x", "atomic-stem", 4, 3, shape=(64, 64), n_labels=1)
    assert not (tmp_path / "x").exists()
