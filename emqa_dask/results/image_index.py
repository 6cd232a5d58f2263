"""Images of a run by URI, base name and frame: where each lies in its stack, and in which part its rows are."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask import tables
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

N_SHOWN_URIS = 5  # in an error about an ambiguous name
_COLUMNS = ("uri", "frame", "micrograph_id", "stack", "index", "partition")


class ImagePlace(NamedTuple):
    """A micrograph and where its pixels are."""

    uri: str
    frame: int
    micrograph_id: str
    stack: str
    index: int  # on the n axis of the stored stack


class ImageIndex:
    """All micrographs of a workspace's ledger, in columns of Arrow: about 150 bytes each."""

    def __init__(self, workspace: Workspace):
        self._workspace = workspace

    @functools.cached_property
    def rows(self) -> pa.Table:
        """Columns uri, frame, micrograph_id, stack, index, partition; empty when no micrograph was stored."""
        uri = self._workspace.micrographs
        if not files.exists(uri):
            return pa.schema([tables.MICROGRAPHS.field(name) for name in _COLUMNS]).empty_table()
        return parts.load_arrow_table(uri, tables.MICROGRAPHS, _COLUMNS)

    def list_partitions(self) -> set[str]:
        """Names of all partitions."""
        return set(pc.unique(self.rows["partition"]).to_pylist())

    def list_stacks(self) -> list[str]:
        """Sorted names of the stacks."""
        return sorted(pc.unique(self.rows["stack"]).to_pylist())

    def list_indices(self, stack: str) -> list[int]:
        """Sorted positions of the stack's micrographs on its stored n axis; ValueError for an unknown stack."""
        rows = self.rows.filter(pc.equal(self.rows["stack"], stack))
        if not len(rows):
            raise ValueError(f"{self._workspace.uri} has no stack {stack!r}; it has {', '.join(self.list_stacks())}")
        return np.sort(rows["index"].to_numpy()).tolist()

    def list_ids(self, images: object) -> list[str]:
        """Identities of `images`: rows of a table with `micrograph_id` (pandas or dask), or URIs with all frames.

        ValueError for a URI without a micrograph.
        """
        if hasattr(images, "columns"):
            ids = images["micrograph_id"]
            return pd.Series(ids.compute() if hasattr(ids, "compute") else ids).dropna().unique().tolist()
        uris = [images] if isinstance(images, str) else list(images)
        complete_uris = [self.complete_uri(str(uri)) for uri in uris]
        is_listed = pc.is_in(self.rows["uri"], pa.array(complete_uris, pa.string()))
        return self.rows.filter(is_listed)["micrograph_id"].to_pylist()

    def group_by_partition(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """The identities `ids` by the partition of their image."""
        rows = self.rows.filter(pc.is_in(self.rows["micrograph_id"], pa.array(ids, pa.string())))
        groups: dict[str, list[str]] = {}
        for partition, micrograph_id in zip(rows["partition"].to_pylist(), rows["micrograph_id"].to_pylist()):
            groups.setdefault(partition, []).append(micrograph_id)
        return groups

    def complete_uri(self, name: str) -> str:
        """The URI that `name` is, or whose last part it is; ValueError for no or several such URIs."""
        uris = self.rows["uri"]
        if pc.any(pc.equal(uris, name)).as_py():
            return name
        found_uris = pc.unique(uris.filter(pc.ends_with(uris, f"/{name}"))).to_pylist()
        if len(found_uris) == 1:
            return found_uris[0]
        if found_uris:
            names_text = ", ".join(map(repr, found_uris[:N_SHOWN_URIS])) + (
                ", ..." if found_uris[N_SHOWN_URIS:] else ""
            )
            raise ValueError(f"{name!r} is the name of {len(found_uris):,} files ({names_text}): give the whole URI")
        raise ValueError(f"{self._workspace.uri} has no image {name!r}{self._describe_file(name)}")

    def _describe_file(self, uri: str) -> str:
        """What the catalog says of a file without images, as the end of a sentence."""
        catalog = parts.iterate_table(
            self._workspace.catalog, tables.CATALOG, ["uri", "status", "reason", "error"], row_filter=("uri", uri)
        )
        for rows in catalog:
            row = rows.iloc[0]
            details = [str(text) for text in (row["reason"], row["error"]) if pd.notna(text) and text]
            return f": the file is {row['status']}" + (f" ({'; '.join(details)})" if details else "")
        return "; run.triage lists the URIs of all files"

    def find_image(self, name: str, frame: int, current_ids: Sequence[str]) -> ImagePlace:
        """A frame of the file `name`; ValueError where there is none.

        Of a file that was replaced, the ledger has the former image, too: `current_ids` are those of today's images.
        """
        uri = self.complete_uri(name)
        frames = self.rows.filter(pc.equal(self.rows["uri"], uri)).to_pylist()
        rows = [row for row in frames if row["frame"] == frame]
        if not rows:
            numbers = sorted({row["frame"] for row in frames})
            raise ValueError(f"{uri} has no frame {frame}; it has {_format_frames(numbers)}")
        row = next((row for row in rows if row["micrograph_id"] in current_ids), rows[-1])
        return ImagePlace(**{name: row[name] for name in ImagePlace._fields})


def _format_frames(numbers: list[int]) -> str:
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
