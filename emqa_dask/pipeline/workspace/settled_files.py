"""Files of a watched archive that are complete: their size and date did not change for some seconds."""

from collections.abc import Iterator
from typing import NamedTuple

from emqa_dask.archive.entries import Entry
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles
from emqa_dask.pipeline.workspace.batches import list_workspace_folders, make_version_keys
from emqa_dask.settings import Archive
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.marker import Sources

LISTED = 512  # files that are looked up at a time


class _Sighting(NamedTuple):
    size_bytes: int
    modified_ns: int
    since_s: float  # of the monotonic clock: steps of the wall clock and dates in the future change nothing


class SettledFiles(ArchiveFiles):
    """Files of an archive that are complete, for ingest; list_new() looks at the archive once more.

    A file that grows or is written again is complete when its size and date are the same for `settle_s`. Memory holds
    16 bytes for each version of a file, and the files that are not complete yet.
    """

    def __init__(self, sources: Sources, settings: Archive, root: str, judged: DigestSet, settle_s: float) -> None:
        """`judged`: versions that are not new, which grows; `root`: workspace, whose files are left out."""
        super().__init__(sources, settings)
        self.n_waiting = 0
        self._workspace_folders = list_workspace_folders(root)
        self._judged = judged
        self._settle_s = settle_s
        self._sightings: dict[str, _Sighting] = {}
        self._settled: list[Entry] = []
        self._later_uris: set[str] = set()

    def list_new(self, now_s: float) -> list[Entry]:
        """Complete files whose version is new, by date; they count as judged from now on. `now_s`: monotonic clock.

        Raises OSError where the archive cannot be listed; an empty archive has no files.
        """
        sightings: dict[str, _Sighting] = {}
        settled: list[Entry] = []
        new_entries: list[Entry] = []
        for entries in self._list_blocks():
            keys = make_version_keys(entries)
            is_judged = self._judged.has(keys)
            for k, entry in enumerate(entries):
                if is_judged[k]:
                    settled.append(entry)
                elif self._is_settled(entry, now_s, sightings):
                    settled.append(entry)
                    new_entries.append(entry)
        self._sightings = sightings
        self._settled = settled
        self.n_waiting = len(sightings)
        self._judged.add(make_version_keys(new_entries))
        self._later_uris = {entry.uri for entry in new_entries}
        return sorted(new_entries, key=lambda entry: (entry.modified_ns, entry.uri))

    def _list_blocks(self) -> Iterator[list[Entry]]:
        block: list[Entry] = []
        try:
            for entry in super().__iter__():
                if not f"{entry.path}/".startswith(self._workspace_folders):
                    block.append(entry)
                if len(block) == LISTED:
                    yield block
                    block = []
        except ValueError:  # there is no file in it
            pass
        if block:
            yield block

    def _is_settled(self, entry: Entry, now_s: float, sightings: dict[str, _Sighting]) -> bool:
        """Whether `entry` is complete; otherwise it gets its entry in `sightings`."""
        last = self._sightings.get(entry.uri)
        is_same = last is not None and (last.size_bytes, last.modified_ns) == (entry.size_bytes, entry.modified_ns)
        if last is not None and is_same and now_s - last.since_s >= self._settle_s:
            return True
        since_s = last.since_s if last is not None and is_same else now_s
        sightings[entry.uri] = _Sighting(entry.size_bytes, entry.modified_ns, since_s)
        return False

    def is_waiting(self, uri: str) -> bool:
        """Whether the last look saw a new version of `uri` that is not complete yet."""
        return uri in self._sightings

    def select(self, batch: list[Entry]) -> "SettledFiles":
        """These files with `batch` of the new ones, and without new ones that were in no batch yet, for ingest()."""
        self._later_uris -= {entry.uri for entry in batch}
        return self

    def __iter__(self) -> Iterator[Entry]:
        """The files that the last look called complete, but for new ones that were in no batch yet."""
        return (entry for entry in self._settled if entry.uri not in self._later_uris)
