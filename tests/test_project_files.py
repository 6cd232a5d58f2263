"""The project's own files agree with each other: one version, one licence, a typed package."""

import inspect
import itertools
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import emqa_dask
from emqa_dask.settings import RENAMED_KEYS

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


@pytest.mark.parametrize("name", sorted({*emqa_dask.__all__} - {"__version__", "Run", "Settings"}))
def test_public_functions_carry_types(name):
    signature = inspect.signature(getattr(emqa_dask, name))
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert untyped == []
    assert signature.return_annotation is not signature.empty


def test_every_file_names_the_same_pythons():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["project"]["classifiers"]))
    allowed = SpecifierSet(project["project"]["requires-python"])
    assert versions == [f"3.{minor}" for minor in range(30) if f"3.{minor}.5" in allowed]
    newest_first = " ".join(reversed(versions))
    assert f"version,{newest_first}," in (REPOSITORY / "Makefile").read_text()
    assert project["tool"]["ruff"]["target-version"] == "py" + versions[0].replace(".", "")


def test_lock_pins_every_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {canonicalize_name(Requirement(line).name) for line in lines} - {"emqa-dask"}
    pins = [Requirement(line) for line in (REPOSITORY / "constraints.txt").read_text().splitlines()]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    assert names <= {canonicalize_name(pin.name) for pin in pins}


def chosen_python(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """What the Makefile takes for PYTHON where only the programs in `folder` exist."""
    command = [shutil.which("make"), "-s", "-f", REPOSITORY / "Makefile", "--eval", "show: ; $(info $(PYTHON))", "show"]
    return subprocess.run([*command, *options], cwd=folder, env={"PATH": str(folder)}, capture_output=True, text=True)


def test_makefile_takes_the_newest_python_that_runs(tmp_path):
    for name, status in (("python3.13", 127), ("python3.12", 0), ("python3.11", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    assert chosen_python(tmp_path).stdout == "python3.12\n"
    assert chosen_python(tmp_path, "PYTHON=python3.11").stdout == "python3.11\n"


def test_makefile_names_the_pythons_where_none_runs(tmp_path):
    answer = chosen_python(tmp_path)
    assert answer.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 with venv is needed" in answer.stderr


def test_every_shared_module_carries_types():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    checked = set(project["tool"]["mypy"]["overrides"][0]["module"])
    modules = {path.stem for path in Path(emqa_dask.__file__).parent.glob("*.py")} - {"__init__", "__main__"}
    assert {f"emqa_dask.{name}" for name in modules} <= checked


def test_changelog_names_every_renamed_setting():
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    missing = [key for pair in RENAMED_KEYS.items() for key in pair if f"`{key}`" not in text]
    assert missing == []


def test_the_map_of_tests_lists_every_folder():
    folders = {
        path.parent.relative_to(REPOSITORY / "tests").as_posix() for path in REPOSITORY.glob("tests/*/test_*.py")
    }
    rows = re.findall(r"^\| `(\w+)/` \|", (REPOSITORY / "tests/README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(folders)


def test_files_named_in_the_map_of_tests_exist():
    names = re.findall(r"`([\w/]+\.py)`", (REPOSITORY / "tests/README.md").read_text())
    assert [name for name in names if not (REPOSITORY / "tests" / name.removeprefix("tests/")).is_file()] == []
