"""New files of an archive, and the batches in which they are surveyed."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from emqa_dask import tables
from emqa_dask.archive import entries
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FAILED
from emqa_dask.settings import Archive
from emqa_dask.store import digests, files, parts
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace

GROWTH = 16  # a batch has up to so many times archive.files_per_task files
BATCHES = 64  # of one size before the size doubles
BATCH_BYTES = 2**31  # files of a batch have at most, together, unless it is one file
LISTED = 512  # files that are looked up in the catalog at a time
REFUSED = r"megapixels are over the limit of ([^;]+);"  # what survey.check_budget says


def iter_new_files(
    workspace: Workspace, archive: Iterable[entries.Entry], settings: Archive, uris: DigestSet, present: DigestSet
) -> Iterator[tuple[entries.Entry, bytes]]:
    """Entries of the archive that are new or changed: not in the catalog with this size and date, nor in the workspace.

    Adds the digests of their URIs to `uris`, and those of all files of the archive to `present`.
    """
    surveyed = find_surveyed_files(workspace, settings)
    workspace_folders = list_workspace_folders(workspace.uri)
    listing = iter(archive)
    while listed := list(itertools.islice(listing, LISTED)):
        archive_entries = [entry for entry in listed if not f"{entry.path}/".startswith(workspace_folders)]
        of_uris = digests.digest_texts(entry.uri for entry in archive_entries)
        present.add(of_uris)
        keys = make_version_keys(archive_entries)
        unknown = np.flatnonzero(~surveyed.has(keys))
        is_first = uris.add(of_uris[unknown])  # a list may name a file twice
        for i in unknown[is_first]:
            yield archive_entries[i], bytes(keys[i])


def list_workspace_folders(root: str) -> tuple[str, ...]:
    """What the path of an entry, with a slash at its end, starts with if it lies in workspace `root`."""
    fs, path = files.locate(root)
    return tuple(f"{name.rstrip('/')}/" for name in (path, fs.unstrip_protocol(path)))


def find_surveyed_files(workspace: Workspace, settings: Archive) -> DigestSet:
    """Digests of the files of the catalog that need no further survey.

    These are all files except files whose task failed, files over a limit that was raised since, files whose
    micrographs are not in the ledger, and removed files that had none.
    """
    surveyed = DigestSet()
    stored = DigestSet()
    limit = float(f"{settings.max_megapixels:g}")
    for rows in parts.iterate_table(workspace.micrographs, tables.MICROGRAPHS, ["uri", "content_sha256"]):
        stored.add(digests.digest_contents(rows))
    columns = ["uri", "content_sha256", "size_bytes", "modified_ns", "format", "status", "reason", "n_frames"]
    for rows in parts.iterate_table(workspace.catalog, tables.CATALOG, columns):
        is_known = rows["status"].ne("removed") & rows["n_frames"].eq(0)
        is_known |= rows["n_frames"].gt(0) & stored.has(digests.digest_contents(rows))
        rows = rows[is_known & rows["reason"].ne(SURVEY_FAILED)]
        refused = rows["reason"].str.contains("over the limit", regex=False).fillna(False).to_numpy(bool)
        limits = rows["reason"][refused].str.extract(REFUSED, expand=False).astype(float)
        rows = rows.drop(index=limits.index[limits < limit])
        # The scan does not walk through a Zarr folder, so its size is unknown there.
        is_zarr = rows["uri"].str.lower().str.endswith(entries.ZARR_SUFFIXES) | rows["format"].str.contains("Zarr")
        is_zarr &= ~rows["format"].str.endswith(" in ZIP").fillna(False).astype(bool)
        sizes = rows["size_bytes"].where(~is_zarr.fillna(False).astype(bool), 0)
        surveyed.add(_make_batch_keys(rows["uri"], sizes, rows["modified_ns"]))
    return surveyed


def make_version_keys(archive_entries: list[entries.Entry]) -> np.ndarray:
    """Digest of the URI, size and date of each entry: (n, 2) uint64."""
    return _make_batch_keys(
        [entry.uri for entry in archive_entries],
        [entry.size_bytes for entry in archive_entries],
        [entry.modified_ns for entry in archive_entries],
    )


def _make_batch_keys(uris: Iterable[str], sizes: Iterable[int], dates: Iterable[int]) -> np.ndarray:
    return digests.digest_texts(f"{uri}\0{size}\0{date}" for uri, size, date in zip(uris, sizes, dates, strict=True))


def iter_batches(
    entries: Iterable[tuple[entries.Entry, bytes]], smallest: int
) -> Iterator[tuple[list[entries.Entry], list[bytes]]]:
    """Batches of `entries`, each with its key: `smallest` entries at first, later up to GROWTH times as many.

    A larger batch can end at half its size, after a key that is divisible by that. Most batches therefore stay the same
    when a file is added or removed, so that a repeated survey finds the parts of an interrupted one.
    """
    batch = []
    keys = []
    n_bytes = 0
    n_before = 0
    for entry, key in entries:
        if batch and n_bytes + entry.size_bytes > BATCH_BYTES:
            yield batch, keys
            n_before = n_before + len(batch)
            batch = []
            keys = []
            n_bytes = 0
        batch.append(entry)
        keys.append(key)
        n_bytes += entry.size_bytes
        size = smallest * min(2 ** (n_before // (BATCHES * smallest)).bit_length(), GROWTH)
        is_cut = smallest < size <= 2 * len(batch) and int.from_bytes(key[:4], "little") % (size // 2) == 0
        if len(batch) == size or is_cut:
            yield batch, keys
            n_before = n_before + len(batch)
            batch = []
            keys = []
            n_bytes = 0
    if batch:
        yield batch, keys
