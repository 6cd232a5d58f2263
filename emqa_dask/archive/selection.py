"""Which files of an archive are read: patterns on their URIs, and the number of files and folders that are left out.

A pattern without a slash is for the names of files and folders at any depth: "*.jpg", "thumbs". With a slash at its end
it is for folders only: "thumbs/". With a slash elsewhere it is for paths from the top of the archive: "raw/*.tif",
"/old". A pattern that matches a folder is for all that the folder contains. * stands for any characters, also slashes,
? for one, [abc] for one of these, **/ for any folders or none. Upper and lower case are the same.
"""

import os
import re
import unicodedata
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple

from emqa_dask.archive.entries import ZARR_SUFFIXES, Entry


class FileSelection:
    """Files that no pattern of `exclude` matches and, unless `include` is empty, that one of its patterns matches."""

    def __init__(self, exclude: tuple[str, ...] = (), include: tuple[str, ...] = (), prefix: str = "") -> None:
        """prefix: what stands before the URIs in the tables, with a slash; patterns of paths match with and without."""
        self.n_files = 0  # left out, beside those in the folders
        self.n_folders = 0  # left out with all that they contain
        self._excluded = _PathMatcher(exclude, prefix)
        self._included = _PathMatcher(include, prefix)
        self._last_folder = ""

    def has_folder(self, uri: str) -> bool:
        """Whether the folder `uri` has to be listed; its parents have been asked for before."""
        if not self._excluded.patterns or not self._excluded.is_match(uri, is_folder=True):
            return True
        self._count_folder(uri)
        return False

    def find_excluded_folder(self, uri: str) -> str:
        """The outermost folder around `uri` that is excluded; "" for none."""
        return self._excluded.find_folder(uri) if self._excluded.patterns else ""

    def has_entry(self, entry: Entry) -> bool:
        """Whether `entry` is read. Counts it if it is not."""
        if not (self._excluded.patterns or self._included.patterns):
            return True
        if folder := self.find_excluded_folder(entry.uri):
            self._count_folder(folder)
            return False
        is_folder = _is_folder(entry)
        is_selected = not self._excluded.patterns or not self._excluded.is_match(entry.uri, is_folder)
        if is_selected and self._included.patterns and not entry.problem.startswith("folder:"):
            is_selected = self._included.is_match(entry.uri, is_folder) or bool(self._included.find_folder(entry.uri))
        self.n_files += not is_selected
        return is_selected

    def _count_folder(self, uri: str) -> None:
        self.n_folders += uri != self._last_folder  # a listing names the files of a folder one after another
        self._last_folder = uri


def describe_left_out(n_files: int, n_folders: int) -> str:
    """What the patterns left out, as a line for the user; "" for nothing."""
    counts = {"file": n_files, "folder": n_folders}
    texts = [f"{n:,} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n]
    return f"left out by archive.exclude and archive.include: {' and '.join(texts)}" if texts else ""


class _PathMatcher:
    """Patterns of one kind, compiled."""

    def __init__(self, patterns: tuple[str, ...], prefix: str) -> None:
        self.patterns = patterns
        self._prefix = _normalise(prefix)
        self._matchers = _compile_patterns(patterns)
        self._last_parent = ""
        self._last_folder = ""  # that matches, of those around a file in the folder _last_parent

    def is_match(self, uri: str, is_folder: bool = False) -> bool:
        """Whether a pattern matches the file or folder `uri` itself."""
        path = _normalise(uri)
        name = path.rpartition("/")[2]
        matchers = self._matchers
        if matchers.name(name) or (is_folder and matchers.folder_name(name)):
            return True
        paths = (path, self._prefix + path) if self._prefix else (path,)
        return any(matchers.path(p) or (is_folder and matchers.folder_path(p)) for p in paths)

    def find_folder(self, uri: str) -> str:
        """The outermost folder around `uri` that a pattern matches; "" for none."""
        parent = uri.rpartition("/")[0]
        if parent != self._last_parent:
            folder_names = parent.split("/")
            folders = ("/".join(folder_names[:n]) for n in range(1, len(folder_names) + 1))
            self._last_folder = next((folder for folder in folders if self.is_match(folder, is_folder=True)), "")
            self._last_parent = parent
        return self._last_folder


def _normalise(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).lower()


class _Matchers(NamedTuple):
    """Functions that match a text; the two of folders are not for files."""

    name: Callable[[str], re.Match | None]
    folder_name: Callable[[str], re.Match | None]
    path: Callable[[str], re.Match | None]
    folder_path: Callable[[str], re.Match | None]


@lru_cache(64)
def _compile_patterns(patterns: tuple[str, ...]) -> _Matchers:
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for pattern in patterns:
        text = _normalise(pattern).removeprefix("./")
        is_folder = text.endswith("/")
        text = text.rstrip("/")
        while text.startswith("**/") and "/" not in text[3:]:
            text = text[3:]
        is_path = "/" in text
        texts = _expand_folders(text.removeprefix("/")) if is_path else [text]
        kinds.setdefault((is_path, is_folder), []).extend(texts)
    kinds_in_order = ((False, False), (False, True), (True, False), (True, True))
    return _Matchers(*(_compile(kinds.get(kind, [])) for kind in kinds_in_order))


def _expand_folders(pattern: str) -> list[str]:
    """`pattern` with "**/" as no folder and as some folders."""
    if not re.search(r"(?:^|/)\*\*/", pattern):
        return [pattern]
    head, _, tail = pattern.partition("**/")
    return [head + rest for text in _expand_folders(tail) for rest in (text, f"*/{text}")]


def _compile(patterns: list[str]) -> Callable[[str], re.Match | None]:
    return re.compile("|".join(map(translate, patterns)) or r"(?!)", re.DOTALL).match


def _is_folder(entry: Entry) -> bool:
    if entry.uri.lower().endswith(ZARR_SUFFIXES):
        return True
    return not entry.size_bytes and "://" not in entry.path and os.path.isdir(entry.path)
