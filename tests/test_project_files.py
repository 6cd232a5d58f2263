"""The project's own files agree with each other: one version, one licence, a typed package."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

import emqa_dask

REPOSITORY = Path(__file__).parents[1]
IMAGE_TAGS = ["cluster/README.md", "cluster/cloud.md", "cluster/kubernetes.toml", "cluster/kubernetes/job.yaml"]


def test_citation_names_this_version_and_licence():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == emqa_dask.__version__
    assert citation["license"] == "MIT"
    assert (REPOSITORY / "LICENSE").read_text().startswith("MIT License")


@pytest.mark.parametrize("page", IMAGE_TAGS)
def test_image_tags_are_this_version(page):
    tags = re.findall(r"emqa(?:-gpu)?:(\d+\.\d+\.\d+)", (REPOSITORY / page).read_text())
    assert set(tags) == {emqa_dask.__version__}


def test_kustomization_has_the_tag_of_this_version():
    kustomization = yaml.safe_load((REPOSITORY / "cluster/kubernetes/kustomization.yaml").read_text())
    assert {image["newTag"] for image in kustomization["images"]} == {emqa_dask.__version__}


def test_package_is_marked_as_typed():
    assert (Path(emqa_dask.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("name", sorted({*emqa_dask.__all__} - {"__version__", "Settings"}))
def test_public_functions_carry_types(name):
    signature = inspect.signature(getattr(emqa_dask, name))
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert untyped == []
    assert signature.return_annotation is not signature.empty
