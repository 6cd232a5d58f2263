"""Image statistics and predicted F1 of an even sample of a workspace's partitions, in the order of time or name."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

STATISTICS = ("noise_floor", "detail_cpp", "contrast")  # of tables.FEATURES
VERDICT_COLUMNS = ["micrograph_id", "uri", "acquired", "predicted_f1"]
MAX_PARTITIONS = 200  # that are read: some thousand images, in about a second


def sample_statistics(workspace: Workspace, settings: Settings, partitions: Sequence[str]) -> pd.DataFrame:
    """uri, acquired, predicted_f1 and STATISTICS of the images of some of `partitions`, by URI; NaN where unknown."""
    folder = list_run_folders(settings)["features"]
    existing = set(parts.list_parts(workspace.uri, folder))
    names = sorted(name for name in partitions if name in existing)
    positions = np.unique(np.linspace(0, len(names) - 1, MAX_PARTITIONS).astype(int)) if names else []
    columns = ["micrograph_id", *STATISTICS]
    features = parts.read_table(
        workspace.uri, folder, SCHEMAS["features"], columns, [names[position] for position in positions]
    )
    row_filter = ("micrograph_id", features["micrograph_id"].tolist())
    batches = parts.iterate_table(workspace.triage, tables.TRIAGE, VERDICT_COLUMNS, row_filter=row_filter)
    rows = pd.concat([tables.empty(tables.TRIAGE)[VERDICT_COLUMNS], *batches], ignore_index=True)
    rows = rows.merge(features, on="micrograph_id").drop(columns="micrograph_id")
    return rows.sort_values("uri", kind="stable", ignore_index=True)
