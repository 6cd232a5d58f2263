"""Decisions of reviewers in a workspace: a JSON file each, never changed, whose name is the digest of its content.

Nobody writes to a file that exists, so that reviewers need no lock and a killed process loses nothing that was
acknowledged. No run deletes the files.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from emqa_dask import tables
from emqa_dask.store import files
from emqa_dask.store.layout import Workspace

READERS = 8  # threads that read the files; a bucket answers late
SUFFIX = ".json"
ID_DIGITS = 32  # of the SHA-256 in hex, as in micrograph_id


def write_decision(root: str, decision: Mapping) -> str:
    """The identity of `decision` (tables.DECISIONS without decision_id) once it is on the disk or in the bucket."""
    data = _encode(decision)
    decision_id = _digest(data)
    files.write_bytes(files.join(Workspace(root).decisions, decision_id + SUFFIX), data)
    return decision_id


def read_decisions(root: str, known_ids: Collection[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """tables.DECISIONS of all decisions but `known_ids`, by time, and the URIs of damaged files, which do not count."""
    folder = Workspace(root).decisions
    names = [name for name in files.list_names(folder) if name.endswith(SUFFIX)]
    uris = [files.join(folder, name) for name in names if name.removesuffix(SUFFIX) not in known_ids]
    with ThreadPoolExecutor(READERS) as pool:
        contents = list(pool.map(_read_decision, uris))
    damaged = [uri for uri, content in zip(uris, contents, strict=True) if content is None]
    rows = [content for content in contents if content is not None]
    table = tables.conform(rows, tables.DECISIONS).to_pandas()
    return table.sort_values(["time", "decision_id"], ignore_index=True), damaged


def _read_decision(uri: str) -> dict | None:
    """A decision with its identity; None for a file that is not as it was written."""
    data = files.read_bytes(uri)
    decision_id = _digest(data)
    if not uri.endswith(f"/{decision_id}{SUFFIX}"):
        return None
    return {"decision_id": decision_id, **json.loads(data)}


def _encode(decision: Mapping) -> bytes:
    """The bytes of a decision, the same for equal values."""
    return json.dumps(dict(decision), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:ID_DIGITS]
