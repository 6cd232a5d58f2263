"""Copies in tables that are in memory: what the search of a report gives batch by batch."""

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.triage import duplicates
from emqa_dask.triage.landmark_search import find_same_frames
from emqa_dask.uris import name_frame


def flag_duplicates(micrographs: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Rows of `tables.FLAGS` for every micrograph that repeats an earlier one: `duplicate` or `near_duplicate`.

    micrographs: micrograph_id, uri, frame, content_sha256, pixel_sha256, height_px, width_px, dtype; features:
    micrograph_id, signature and, where they are to decide, landmarks (bytes or None). The original is the first by
    (uri, frame), with files whose name says that they are a copy behind all others; it is not flagged, so the order of
    rows does not matter.
    """
    rows = micrographs.assign(is_copy=duplicates.is_copy_name(micrographs["uri"]))
    rows = rows.sort_values(["is_copy", "uri", "frame"], kind="stable", ignore_index=True)
    own_features = features.set_index("micrograph_id").reindex(rows["micrograph_id"])
    signatures = duplicates.pack_bytes(own_features["signature"], duplicates.SIGNATURE_BYTES)
    find_same = None
    if "landmarks" in features:
        landmarks = duplicates.pack_bytes(own_features["landmarks"], LANDMARKS_BYTES)
        sides_px = rows["height_px"].to_numpy(), rows["width_px"].to_numpy()

        def find_same(a, b):
            return find_same_frames(a, b, *sides_px, landmarks.__getitem__)

    identities = (
        duplicates.compute_identities(*(rows[c] for c in columns))
        for columns in (duplicates.PIXELS, duplicates.CONTENT)
    )
    shapes = duplicates.encode_shapes(rows["height_px"], rows["width_px"])
    is_toned = duplicates.has_tones(signatures)
    original, agreement = duplicates.find_duplicates(
        identities, shapes, is_toned, signatures.__getitem__, find_same=find_same
    )
    copy_rows = np.flatnonzero(original != np.arange(len(rows)))
    names = [name_frame(rows["uri"][k], rows["frame"][k]) for k in original[copy_rows]]
    flags = [duplicates.describe_copy(agreement[k], name) for k, name in zip(copy_rows, names, strict=True)]
    ids = rows["micrograph_id"].to_numpy(object)[copy_rows]
    return tables.conform([{"micrograph_id": name} | flag for name, flag in zip(ids, flags)], tables.FLAGS).to_pandas()
