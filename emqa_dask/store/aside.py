"""What is damaged or no longer valid in a workspace is moved aside, so that it is made again and nothing is lost."""

import time
import uuid

from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace


def put_aside(root: str, uri: str) -> str:
    """Move file `uri` of the workspace into its folder of damaged files; gives its new place."""
    name = uri.removeprefix(root).strip("/").replace("/", "--")
    stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
    target = files.join(Workspace(root).damaged, f"{stamp}--{name}")
    files.move_file(uri, target)
    return target


def put_aside_parts(root: str, names: set[str]) -> None:
    """Put aside whatever parts the partitions `names` have, in every folder of tables."""
    for folder in Workspace(root).list_table_folders():
        for name in names.intersection(parts.list_parts(root, folder)):
            put_aside(root, Workspace(root).part(folder, name))


def copy_ledger(root: str) -> None:
    """Copy the ledger, which no other table can replace."""
    files.copy_file(Workspace(root).micrographs, Workspace(root).micrographs_copy)
