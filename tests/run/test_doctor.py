"""Laws of the doctor: what is wrong is said with its remedy, and makes the exit code."""

import importlib.metadata
import re

import pytest

from emqa_dask.run import doctor, remote
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.doctor import check_machine, list_requirements
from emqa_dask.settings import Run, Settings
from emqa_dask.settings.schedulers import Local


def test_a_machine_on_which_the_tests_run_can_run_it():
    said = []
    assert check_machine(said.append) == 0
    assert said[-1] == "This machine can run emqa_dask."
    assert not [text for text in said if text.startswith("BAD")]


def test_what_the_package_needs_is_found():
    assert {name for name, found, is_new_enough in list_requirements() if is_new_enough} >= {"dask", "numpy", "zarr"}


@pytest.mark.real
def test_a_silent_scheduler_is_a_finding_with_remedy(monkeypatch):
    monkeypatch.setattr(remote, "CONNECT_S", 0.5)
    said = []
    assert check_machine(said.append, Settings(run=Run(scheduler="tcp://127.0.0.1:1"))) == 1
    (finding,) = [text for text in said if text.startswith("BAD")]
    assert re.match(r"BAD {3}scheduler tcp://127\.0\.0\.1:1: no Dask scheduler answers at .*dask scheduler", finding)
    assert said[-1] == "1 findings to mend."


@pytest.mark.real
def test_a_scheduler_with_workers_is_well():
    said = []
    with open_cluster(Settings(run=Run(workers=2), local=Local(tls=False))) as client:
        assert check_machine(said.append, Settings(run=Run(scheduler=client.scheduler.address))) == 0
        assert f"ok    scheduler {client.scheduler.address}: 2 workers that can do this" in said


GPU_LIST = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""  # as NVIDIA's MIG user guide prints it


@pytest.fixture
def sliced_gpu(tmp_path, monkeypatch):
    """A program nvidia-smi that answers as on a machine with one GPU in MIG mode."""
    (tmp_path / "gpus.txt").write_text(GPU_LIST)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\n[ $1 = --list-gpus ] && cat {tmp_path}/gpus.txt || echo 'NVIDIA A100-SXM4-40GB, 40960 MiB'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_slices_of_a_gpu_are_named(sliced_gpu):
    findings = [text for _, text, _ in doctor.describe_gpus()]
    assert findings[0] == "GPU: NVIDIA A100-SXM4-40GB, 40960 MiB"
    assert findings[1].startswith(
        "2 MIG slices: MIG 3g.20gb MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f, MIG 1g.5gb MIG-cba6"
    )


def test_a_missing_gpu_package_is_named_with_its_loss(sliced_gpu, monkeypatch):
    find_version = importlib.metadata.version

    def version(name):
        if name in doctor.GPU_PACKAGES and name != "dask-cuda":
            raise importlib.metadata.PackageNotFoundError(name)
        return find_version("dask")

    monkeypatch.setattr(importlib.metadata, "version", version)
    said = []
    assert check_machine(said.append) == 0
    (text,) = [text for text in said if "cucim" in text]
    assert text.startswith("note  cucim-cu13 missing: LoG smooths and halves images by CuPy alone, which is slower")
    assert any(text.startswith("ok    dask-cuda") for text in said)
