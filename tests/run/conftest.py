"""Dask workers for the tests of this folder: started once."""

import pytest

from emqa_dask.run.cluster import open_cluster
from emqa_dask.settings import Run, Settings


@pytest.fixture(scope="session")
def client():
    preload = ["emqa_dask.store.micrographs", "emqa_dask.store.parts"]
    with open_cluster(Settings(run=Run(workers=2)), preload) as opened:
        yield opened
