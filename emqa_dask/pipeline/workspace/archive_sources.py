"""An archive of one source or several: their names, and their files, each once and with a URI of its own."""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence

from emqa_dask import uris
from emqa_dask.archive import scan
from emqa_dask.archive.entries import Entry
from emqa_dask.archive.file_lists import LIST_SUFFIXES
from emqa_dask.archive.selection import FileSelection, describe_left_out
from emqa_dask.settings import Archive
from emqa_dask.store.marker import Sources, describe_sources

_LOCAL_PROTOCOLS = ("file://", "local://")
Archives = str | os.PathLike | Iterable[str | os.PathLike]  # as a user gives them


def make_source_absolute(source: str) -> str:
    """`source` in the form of a workspace's marker: an absolute path or a URI."""
    return source if "://" in source else os.path.abspath(source)


def list_sources(archive: Archives) -> list[str]:
    """The sources of `archive` in the form of a workspace's marker, each once, in a fixed order."""
    items = [archive] if isinstance(archive, str | os.PathLike) else archive
    sources = sorted({make_source_absolute(os.fspath(source)) for source in items})
    if not sources:
        raise ValueError("no source is given: give a folder that holds micrographs")
    return sources


def name_sources(sources: Sequence[str]) -> Sources:
    """`sources` with their names: that of the folder, of a file's folder, or of a list; "" for one source alone.

    Where two are the same, the names of parent folders come before them, and at last a number behind them.
    """
    if len(sources) == 1:
        return {sources[0]: ""}
    places = {source: _locate_source(source) for source in sources}
    names = _name_places(set(places.values()))
    return {source: names[place] for source, place in places.items()}


def _locate_source(source: str) -> str:
    """The place after which a source is named: a folder, a list without its suffix, or the folder of one file."""
    if "://" in source:
        fs, path = uris.locate(source)
        is_file = fs.isfile(path)
        place = source.rstrip("/")
        return place.rpartition("/")[0] if is_file else place
    if os.path.isdir(source) and not scan.is_zarr_folder(source):
        return source
    stem, suffix = os.path.splitext(source)
    return stem if suffix.lower() in LIST_SUFFIXES else os.path.dirname(source)


def _name_places(places: Collection[str]) -> dict[str, str]:
    """A name of its own for each place, without slashes; it does not depend on their order."""
    places = sorted(places)
    components = {place: [part for part in place.split("/") if part and not part.endswith(":")] for place in places}
    depths = dict.fromkeys(places, 1)
    while True:
        names = {place: "-".join(components[place][-depths[place] :]) or "root" for place in places}
        owners: dict[str, list[str]] = {}
        for place, name in names.items():
            owners.setdefault(name.lower(), []).append(place)
        shared = [place for same_name in owners.values() if len(same_name) > 1 for place in same_name]
        deeper = [place for place in shared if depths[place] < len(components[place])]
        if not deeper:
            break
        for place in deeper:
            depths[place] += 1
    for same_name in list(owners.values()):
        for place in same_name[1:]:
            number = next(k for k in itertools.count(2) if f"{names[place]}-{k}".lower() not in owners)
            names[place] = f"{names[place]}-{number}"
            owners[names[place].lower()] = [place]
    return names


class ArchiveFiles:
    """The files of all sources, each once: iterate once, then ask how many were left out."""

    def __init__(self, sources: Sources, settings: Archive) -> None:
        self.sources = sources
        self.selections = {
            source: FileSelection(settings.exclude, settings.include, f"{name}/" if name else "")
            for source, name in sources.items()
        }
        # Only several sources can share files; one costs no requests to a bucket.
        several = sources if len(sources) > 1 else {}
        self._folders = {source: folder for source in several if (folder := _resolve_folder(source))}

    def check_sources(self) -> None:
        """Raises an error that names the remedy for a source that is missing, not readable or empty."""
        if len(self.sources) > 1:
            for source in self.sources:
                scan.scan_archive(source)
        if next(iter(self), None) is None:
            raise ValueError(
                f"{describe_sources(self.sources)}: archive.exclude and archive.include leave out every file; "
                "change these patterns"
            )

    def __iter__(self) -> Iterator[Entry]:
        if len(self.sources) == 1:
            (source,) = self.sources
            yield from scan.scan_archive(source, self.selections[source])
        else:
            yield from self._iterate_unique()

    def _iterate_unique(self) -> Iterator[Entry]:
        """Files of all sources. One that lies in several belongs to the outermost folder, else to the first source."""
        folders = tuple(self._folders.values())
        listed_paths: set[int] = set()  # hashes; no texts, since a list may have a million lines
        for source, name in self.sources.items():
            if self._is_nested(source):
                continue
            for entry in self._scan_source(source):
                if source not in self._folders:
                    path = _resolve_path(entry.path)
                    if path.startswith(folders) or hash(path) in listed_paths:
                        continue
                    listed_paths.add(hash(path))
                yield entry._replace(uri=name if entry.uri == "." else f"{name}/{entry.uri}")

    def _is_nested(self, source: str) -> bool:
        """Whether the folder `source` lies in another one, or is another one that comes before it."""
        folder = self._folders.get(source, "")
        positions = {source: position for position, source in enumerate(self._folders)}
        return any(
            folder.startswith(parent) and (folder != parent or positions[other] < positions[source])
            for other, parent in self._folders.items()
            if folder and other != source
        )

    def _scan_source(self, source: str) -> Iterator[Entry]:
        selection = self.selections[source]
        try:
            return scan.scan_archive(source, selection)
        except ValueError:
            if selection.n_files or selection.n_folders:  # all of this source is left out
                return iter(())
            raise

    def describe_left_out(self) -> str:
        """How many files and folders the settings leave out, as a line for the user; "" for none."""
        selections = self.selections.values()
        return describe_left_out(sum(s.n_files for s in selections), sum(s.n_folders for s in selections))


def _resolve_folder(source: str) -> str:
    """What the paths of all files in the folder `source` start with; "" for a list and for a file."""
    if "://" in source and not source.startswith(_LOCAL_PROTOCOLS):
        fs, path = uris.locate(source)
        return "" if fs.isfile(path) else f"{_resolve_path(source)}/"
    path = _resolve_path(source)
    return os.path.join(path, "") if os.path.isdir(path) else ""


def _resolve_path(path: str) -> str:
    """One text for each file, whatever links lead to it: an absolute path, or a URI in one form."""
    if "::" in path:
        return path
    if "://" in path:
        fs, inner_path = uris.locate(path)
        if not path.startswith(_LOCAL_PROTOCOLS):
            return fs.unstrip_protocol(inner_path).rstrip("/")
        path = inner_path
    with contextlib.suppress(OSError):  # a link that may not be read, as in /proc
        return os.path.realpath(path)
    return path
