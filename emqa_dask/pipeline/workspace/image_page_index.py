"""Index of the pages of images in a report: the digest of what each file was made from, and of its bytes.

A report writes the files of unchanged partitions not again, and `emqa verify` finds damaged ones.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

import emqa_dask
from emqa_dask import tables
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Settings, digest
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

READERS = 4  # threads that read pages


class PageFile(NamedTuple):
    """Entry of the index: the file of one partition."""

    source: str  # digest of what it was made from
    content: str  # SHA-256 of its bytes


def read_index(workspace: Workspace) -> dict[str, PageFile]:
    """Partition -> entry; empty without an index, or with a damaged one."""
    try:
        return {name: PageFile(*entry) for name, entry in json.loads(files.read_bytes(workspace.image_index)).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def write_index(workspace: Workspace, index: Mapping[str, PageFile]) -> None:
    """Write the index."""
    files.write_text(workspace.image_index, json.dumps(index, separators=(",", ":"), sort_keys=True))


def digest_pages(
    workspace: Workspace,
    settings: Settings,
    code: str,
    neighbours: Mapping[str, Mapping],
    addresses: Mapping[str, str],
) -> dict[str, str]:
    """Partition -> digest of what the pages of its images show.

    These are its rows of triage, the `neighbours` of its images, the tables that it has, the `addresses` of labelled
    images, the settings, and the digest `code` of the program. A part never changes. Memory holds the rows of one row
    group of triage.
    """
    row_digests = _digest_rows(workspace, list(neighbours))
    existing = {folder: set(parts.list_parts(workspace.uri, folder)) for folder in list_run_folders(settings).values()}
    common = digest(settings.report, settings.flags, emqa_dask.__version__, code, sorted(addresses.items()))
    return {
        name: digest(
            *(common, row_digests.get(name, 0), sorted(images.items())),
            [folder for folder, names in existing.items() if name in names],
        )
        for name, images in neighbours.items()
    }


def _digest_rows(workspace: Workspace, names: Sequence[str]) -> dict[str, int]:
    """Partition -> 64-bit digest of its rows of triage, whatever their order."""
    sums: dict[str, int] = {}
    for table in parts.iterate_arrow_tables(workspace.triage, tables.TRIAGE):
        own_rows = table.filter(pc.is_in(table["partition"], pa.array(names, pa.string())))
        for k, field in enumerate(own_rows.schema):
            if pa.types.is_list(field.type):
                own_rows = own_rows.set_column(k, field.name, pc.binary_join(own_rows[field.name], "\0"))
        rows = own_rows.to_pandas()
        hashes = pd.util.hash_pandas_object(rows, index=False)
        for name, value in hashes.groupby(rows["partition"]).sum().items():
            sums[name] = (sums.get(name, 0) + int(value)) % 2**64
    return sums


def find_damaged_pages(workspace: Workspace) -> list[str]:
    """Partitions whose file is missing or is not as it was written."""
    index = read_index(workspace)
    with ThreadPoolExecutor(READERS) as pool:
        digests = pool.map(provenance.digest_of, [workspace.image_data(name) for name in index])
        return [name for (name, entry), content in zip(index.items(), digests, strict=True) if content != entry.content]


def forget_pages(workspace: Workspace, names: Iterable[str]) -> None:
    """Remove the partitions `names` from the index, so that the next report writes their files."""
    removed_names = set(names)
    write_index(workspace, {name: entry for name, entry in read_index(workspace).items() if name not in removed_names})
