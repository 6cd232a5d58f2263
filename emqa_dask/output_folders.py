"""Folders that a command writes whole or not at all, and replaces only where emqa_dask wrote what is there.

A folder is ours when its card.toml lists the files beside it with the SHA-256 that they have, nothing else is there but
folders that are ours in turn, and nothing is a symbolic link. Every other file belongs to somebody: it stays.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from emqa_dask import models

MARKER = "emqa writes a folder here.txt"  # in the hidden folder beside the one that is written
MARKER_TEXT = (
    "emqa_dask writes a folder here, and removes this one afterwards. The name of the folder that is written:\n"
)
# beside the marker: what is written, and what it replaces
NEW_FOLDER = "new"
OLD_FOLDER = "old"
_HIDDEN_NAME = re.compile(r"\..+-[a-z0-9_]{8}\.partial", re.DOTALL)


def check_folder(*folders: str | Path) -> None:
    """Raises FileExistsError, with the remedy, for the first of `folders` that is there and not ours.

    Call it before any work. A folder that is not there is well, unless a file is in the place of one above it.
    """
    for folder in map(make_absolute, folders):
        if os.path.lexists(folder):
            if reason := find_foreign_files(folder):
                raise FileExistsError(
                    f"{folder} is there and is not what emqa would write there ({reason}): nothing of it is replaced; "
                    "give another name, or move it away"
                )
        else:
            check_parent_folders(folder)


def check_collection(folder: str | Path) -> None:
    """The same of all that is in `folder`, into which folders of ours go; of a folder that is no folder, too."""
    folder = make_absolute(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        check_folder(folder)
    elif folder.is_dir():
        check_folder(*(path for path in sorted(folder.iterdir()) if not _is_hidden(path)))
    else:
        check_parent_folders(folder)


def check_free(path: str | Path) -> None:
    """Raises FileExistsError where something is at `path`, even an empty folder or a broken link."""
    path = make_absolute(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} is there already: give another name, or move it away")
    check_parent_folders(path)


def check_parent_folders(path: Path) -> None:
    """Raises NotADirectoryError where a file is in the place of a folder above `path`."""
    for parent in path.parents:
        if os.path.lexists(parent):
            if not parent.is_dir():
                raise NotADirectoryError(f"{parent} is not a folder, so {path} cannot be in it: give another name")
            return


def find_foreign_files(folder: Path) -> str:
    """What in `folder` emqa_dask did not write, or would not recognise, in words; "" for a folder that is ours."""
    if folder.is_symlink():
        return "it is a symbolic link"
    if not folder.is_dir():
        return "it is a file"
    try:
        listed = models.read_model_card(folder).get("files")
    except models.ModelError:
        return "it has no card.toml of emqa"
    if not isinstance(listed, dict) or not listed:
        return "its card.toml lists no file"
    if absent := sorted(set(listed) - set(os.listdir(folder))):
        return f"{absent[0]}, which its card.toml lists, is not there"
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            return f"{entry.name} is a symbolic link"
        if entry.is_dir():
            if not _is_hidden(Path(entry.path)) and (reason := find_foreign_files(Path(entry.path))):
                return f"{entry.name}: {reason}"
        elif entry.name != "card.toml":
            if entry.name not in listed:
                return f"{entry.name} is not on its card.toml"
            if not entry.is_file() or models.hash_file(Path(entry.path)) != listed[entry.name]:
                return f"{entry.name} is not the file that its card.toml lists"
    return ""


@contextlib.contextmanager
def write_folder(target: str | Path) -> Iterator[Path]:
    """An empty folder that becomes `target`, whole, once the block has ended without an exception.

    The block writes files and a card that lists them. A folder `target` that is ours is replaced, and it is there until
    the new one is; check_folder()'s errors for any other. Whatever a killed process has left beside it goes.
    """
    target = make_absolute(target)
    check_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    restore_interrupted(target)
    with _make_hidden_folder(target) as hidden_folder:
        (hidden_folder / NEW_FOLDER).mkdir()
        yield hidden_folder / NEW_FOLDER
        _sync(hidden_folder / NEW_FOLDER)
        _replace_folder(target, hidden_folder)


def remove_folder(folder: str | Path) -> None:
    """Removes `folder` where it is ours; any other stays as it is."""
    folder = make_absolute(folder)
    if os.path.lexists(folder) and not find_foreign_files(folder):
        _remove_listed(folder)


def restore_interrupted(target: Path) -> None:
    """Removes what processes that were killed have left half-written beside `target`; one that they moved comes back"""
    for hidden_folder in sorted(target.parent.glob(".*.partial")):
        if not _is_hidden(hidden_folder, target.name):
            continue
        with (hidden_folder / MARKER).open("r+") as marker:
            if not _lock_marker(marker):
                continue  # its process is at work
            if os.path.lexists(hidden_folder / OLD_FOLDER) and not os.path.lexists(target):
                os.rename(hidden_folder / OLD_FOLDER, target)
            _remove_hidden(hidden_folder)


def make_absolute(path: str | Path) -> Path:
    """`path` from the root; symbolic links in it are not followed."""
    return Path(os.path.abspath(path))


@contextlib.contextmanager
def _make_hidden_folder(target: Path) -> Iterator[Path]:
    hidden_folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        with (hidden_folder / MARKER).open("w", encoding="utf-8") as marker:
            _lock_marker(marker)
            marker.write(f"{MARKER_TEXT}{target.name}\n")
            marker.flush()
            yield hidden_folder
    finally:
        _remove_hidden(hidden_folder)


def _is_hidden(folder: Path, name: str = "") -> bool:
    """Is `folder` a hidden one of ours, with a marker that says so (and that it is for `name`)?"""
    marker = folder / MARKER
    if not _HIDDEN_NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        if not stat.S_ISREG(marker.lstat().st_mode):
            return False
        text = marker.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return text == f"{MARKER_TEXT}{name}\n" if name else text.startswith(MARKER_TEXT)


def _lock_marker(marker: TextIO) -> bool:
    """Takes the lock that tells the folder of a process at work from one of a process that was killed."""
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _replace_folder(target: Path, hidden_folder: Path) -> None:
    """Gives the new folder its name; renaming never replaces a file, nor a folder with anything in it."""
    check_folder(target)  # somebody may have put something there meanwhile
    if os.path.lexists(target):
        os.rename(target, hidden_folder / OLD_FOLDER)
    try:
        os.rename(hidden_folder / NEW_FOLDER, target)
    except BaseException:
        if os.path.lexists(hidden_folder / OLD_FOLDER):
            os.rename(hidden_folder / OLD_FOLDER, target)
        raise


def _remove_hidden(hidden_folder: Path) -> None:
    """Removes a hidden folder: what was written there by nobody else, and of what was replaced the files of its card"""
    shutil.rmtree(hidden_folder / NEW_FOLDER, ignore_errors=True)
    if os.path.lexists(hidden_folder / OLD_FOLDER):
        _remove_listed(hidden_folder / OLD_FOLDER)
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        if os.listdir(hidden_folder) == [MARKER]:
            (hidden_folder / MARKER).unlink()
            hidden_folder.rmdir()


def _remove_listed(folder: Path) -> None:
    """Removes the files that the card of `folder` lists, and the folder if nothing else is in it."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            (_remove_hidden if _is_hidden(Path(entry.path)) else _remove_listed)(Path(entry.path))
    with contextlib.suppress(models.ModelError):
        for name in (*models.read_model_card(folder).get("files", {}), "card.toml"):
            if (folder / name).is_file() and not (folder / name).is_symlink() and Path(name).name == name:
                (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()  # what somebody has put there since keeps its folder


def _sync(folder: Path) -> None:
    """Files on the disk before they replace others: else a power cut may leave a name with nothing behind it."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
