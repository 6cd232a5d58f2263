"""The command line with small forests: everything but the errors of a forest is as with the published 100 trees."""

import pytest

from emqa_dask.cli import main
from emqa_dask.predict import regressors

N_TREES = 5


def run_with_few_trees(*arguments: str) -> int:
    """Exit code of a command whose forests have N_TREES trees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regressors, "N_TREES", N_TREES)
        return main([str(argument) for argument in arguments])
