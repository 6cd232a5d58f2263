"""Dask workers for the tests of this folder: started once."""

import pytest

from emqa_dask.run.cluster import open_cluster
from emqa_dask.settings import Run


@pytest.fixture(scope="session")
def client():
    with open_cluster(Run(workers=2), preload=["emqa_dask.store.micrographs", "emqa_dask.store.parts"]) as opened:
        yield opened
