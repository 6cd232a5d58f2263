"""The output of every stage for a fixed small archive is the stored one, unless the stage's version was raised."""

import json

import numpy as np
import pandas as pd
import pytest

from emqa_dask.pipeline.workspace.stages import STAGES
from tests.pipeline.stage_outputs import STORED, compute_digests, digest_table

# Relative. Other processors round otherwise; a training of a few steps amplifies that.
TOLERANCES = {"classify": 0.02, "uncertainty": 0.05}


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return compute_digests(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_output_of_a_stage_changes_only_with_its_version(digests, stage):
    stored = json.loads(STORED.read_text())[stage]
    made = digests[stage]
    if made["version"] != stored["version"]:
        pytest.fail(f"the version of {stage} was raised: run python -m tests.pipeline.stage_outputs")
    advice = f"the output of stage {stage} changed: raise its version in pipeline/workspace/stages.py"
    for table, columns in stored["tables"].items():
        assert list(made["tables"][table]) == list(columns), f"{advice} ({table})"
        for column, expected in columns.items():
            found = made["tables"][table][column]
            assert found[0] == expected[0], f"{advice} ({table}.{column})"
            size = max(1.0, *map(abs, expected))
            close = np.allclose(found, expected, rtol=TOLERANCES.get(stage, 1e-4), atol=1e-6 * size)
            assert close, f"{advice} ({table}.{column}: {found}, before {expected})"


def test_a_change_in_one_row_changes_the_digest(digests):

    rows = pd.DataFrame({"score": [0.1, 0.2, 0.3]})
    swapped = pd.DataFrame({"score": [0.2, 0.1, 0.3]})
    assert digest_table(rows) != digest_table(swapped)
