"""Archives and workspaces that several tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from emqa_dask.settings import Settings, replace
from emqa_dask.synthetic.archive import synthesise


@pytest.fixture(scope="session")
def in_process() -> Settings:
    """Settings for a run with LoG in this process."""
    return replace(Settings(), {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}})


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory):
    """A folder with 16 small micrographs in many formats, faults among them."""
    folder = tmp_path_factory.mktemp("archives") / "small archive"
    synthesise(folder, "demo", n=16, seed=31, shape=(160, 192))
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """One thread of torch in this process: small networks are faster so, and tests run beside each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
