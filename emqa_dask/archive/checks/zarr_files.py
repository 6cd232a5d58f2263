"""Files of a Zarr hierarchy, in a folder or in a ZIP archive, by their names in the hierarchy."""

import os
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from emqa_dask.archive.checks.zip_members import check_member, read_member
from emqa_dask.archive.source import ReadError

METADATA_NAMES = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")


class FolderFiles:
    """Files below a folder. Symbolic links that lead out of it are refused."""

    def __init__(self, folder: Path):
        self.folder = folder

    def iterate_names(self) -> Iterator[str]:
        """Names of all files; the metadata of a folder come before the other files in it and below it."""
        root = os.path.join(os.path.realpath(self.folder), "")
        for parent, folders, names in os.walk(self.folder):
            for name in (*folders, *names):
                path = os.path.join(parent, name)
                if os.path.islink(path) and not os.path.realpath(path).startswith(root):
                    relative = os.path.relpath(path, self.folder)
                    raise ReadError(f"{relative} is a symbolic link to another folder: not followed")
            prefix = os.path.relpath(parent, self.folder).replace(os.sep, "/")
            prefix = "" if prefix == "." else f"{prefix}/"
            for name in sorted(names, key=lambda name: name not in METADATA_NAMES):
                yield prefix + name

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders in `folder`, in order."""
        with os.scandir(self.folder / folder) as items:
            return sorted(item.name for item in items if item.is_dir())

    def is_file(self, name: str) -> bool:
        return os.path.isfile(self.folder / name)

    def get_size(self, name: str) -> int:
        return os.path.getsize(self.folder / name)

    def read(self, name: str, n_bytes: int, start: int = 0) -> bytes:
        """At most `n_bytes` from `start` on; a negative start counts from the end."""
        with open(self.folder / name, "rb") as file:
            size = file.seek(0, 2)
            file.seek(start if start >= 0 else max(0, size + start))
            return file.read(n_bytes)

    def check_size(self, name: str, limit: int) -> None:
        """ReadError for a file of more than `limit` bytes."""
        size = self.get_size(name)
        if size > limit:
            raise ReadError(f"{name} has {size:,} bytes, more than the {limit:,} that its array can need: refused")


class ZippedFiles:
    """Files of a ZIP archive below `prefix` ("" or a folder with a slash at its end). The archive is not kept open."""

    def __init__(self, path: Path, prefix: str, members: list[zipfile.ZipInfo]):
        self.path = path
        self.members = {info.filename[len(prefix) :]: info for info in members if info.filename.startswith(prefix)}

    def iterate_names(self) -> Iterator[str]:
        """Names of all files, first those of metadata."""
        return iter(sorted(self.members, key=lambda name: name.rpartition("/")[2] not in METADATA_NAMES))

    @cached_property
    def children(self) -> dict[str, dict[str, bool]]:
        """{folder: {name in it: whether it is a folder}}."""
        children: dict[str, dict[str, bool]] = {}
        for name in self.members:
            is_folder = False
            while name:
                folder, _, child = name.rpartition("/")
                siblings = children.setdefault(folder, {})
                if siblings.get(child) is is_folder:
                    break
                siblings[child] = is_folder
                name = folder
                is_folder = True
        return children

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders in `folder`, in order."""
        return sorted(name for name, is_folder in self.children.get(folder, {}).items() if is_folder)

    def is_file(self, name: str) -> bool:
        return name in self.members

    def get_size(self, name: str) -> int:
        return self.members[name].file_size

    def read(self, name: str, n_bytes: int, start: int = 0) -> bytes:
        """At most `n_bytes` from `start` on; a negative start counts from the end."""
        info = self.members[name]
        return read_member(self.path, info, n_bytes, start if start >= 0 else max(0, info.file_size + start))

    def check_size(self, name: str, limit: int) -> None:
        """ReadError for a file of more than `limit` bytes after it is unpacked."""
        check_member(self.members[name], limit)


ZarrFiles = FolderFiles | ZippedFiles
