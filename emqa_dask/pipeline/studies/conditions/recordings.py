"""Labelled micrographs of a workspace, with pixels, boxes and conditions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emqa_dask.pipeline.studies.conditions.acquire import Recording
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.settings import Settings
from emqa_dask.store import marker, micrographs
from emqa_dask.store.layout import Workspace

COLUMNS = ("micrograph_id", "uri", "path", "frame", "content_sha256", "height_px", "width_px")
COLUMNS += ("nm_per_pixel", "dose_e_per_nm2", "partition", "index")


def read_recordings(root: str, settings: Settings, labels: Sequence[str]) -> list[Recording]:
    """The micrographs of a workspace that the files `labels` label with boxes, in the order of URI and frame.

    Raises ValueError without labels, and for labels of other micrographs.
    """
    if not labels:
        raise ValueError(f"{root}: a workspace without labels says nothing about F1; give --labels FILE")
    marker.read_source(root)
    workspace = Workspace(root)
    tables = list(micrograph_ledger.iter_current(workspace, COLUMNS))
    if not tables:
        raise ValueError(f"{root} holds no micrographs yet: run `emqa triage` first")
    ledger = pd.concat(tables, ignore_index=True)
    labels_by_id = read_matched_labels(labels, ledger)
    boxes = {key: label.boxes for key, label in labels_by_id.items() if "boxes" in label.kinds}
    if not boxes:
        raise ValueError(f"{', '.join(labels)}: no boxes, by which F1 is computed")
    labelled_rows = ledger[ledger["micrograph_id"].isin(boxes)]
    recordings = []
    partitions = {partition.name: partition for partition in micrograph_ledger.list_partitions(workspace)}
    for name, rows in labelled_rows.groupby("partition"):
        images = micrographs.iterate_micrographs(workspace.uri, partitions[str(name)], rows["index"])
        for row, image in zip(rows.to_dict("records"), images, strict=True):
            recordings.append(
                Recording(
                    f"{row['uri']} {row['frame']}" if row["frame"] else row["uri"],
                    np.asarray(image),
                    np.asarray(boxes[row["micrograph_id"]], float).reshape(-1, 4),
                    float(row["nm_per_pixel"]),
                    float(row["dose_e_per_nm2"]),
                )
            )
    return sorted(recordings, key=lambda recording: recording.name)
