"""Folder for temporary files of this process, and removal of the folders of killed processes."""

import atexit
import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from emqa_dask.processes import identify_boot, start_since_boot_s

PREFIX = "emqa-run-"
MARKER = ".owner.json"
SHORT_ROOT = "/tmp"  # where the temporary folder's path is too long for the fork server's socket in a folder of it
MAX_ROOT_LENGTH = 57  # characters: a socket's path has at most 107, and ours is up to 50 longer than this
_folders_by_pid: dict[int, str] = {}  # process -> its folder: a forked child has none yet


def get_scratch_folder() -> str:
    """Folder of this process in the temporary folder; only this user can enter it. Removed at exit.

    The first call also removes the folders of processes that have ended without that.
    """
    folder = _folders_by_pid.get(os.getpid(), "")
    if not os.path.isdir(folder):
        remove_abandoned_folders()
        folder = _folders_by_pid[os.getpid()] = tempfile.mkdtemp(prefix=PREFIX, dir=find_root())
        owner = {"pid": os.getpid(), "start_s": start_since_boot_s(psutil.Process()), "machine": identify_boot()}
        Path(folder, MARKER).write_text(json.dumps(owner))
        atexit.register(_remove_at_exit, os.getpid(), folder)
    return folder


def remove_abandoned_folders() -> None:
    """Remove the folders of ended processes of this user and machine, and nothing else."""
    with contextlib.suppress(OSError), os.scandir(find_root()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False) and is_abandoned(entry):
                shutil.rmtree(entry.path, ignore_errors=True)


def find_root() -> str:
    """The temporary folder, or SHORT_ROOT where its path is too long."""
    root = tempfile.gettempdir()
    is_long = len(os.fsencode(root)) > MAX_ROOT_LENGTH
    return SHORT_ROOT if is_long and os.access(SHORT_ROOT, os.W_OK | os.X_OK) else root


def is_abandoned(entry: os.DirEntry) -> bool:
    """Whether a process of this user that has ended made the folder; False where that is unknown."""
    try:
        if entry.stat(follow_symlinks=False).st_uid != os.getuid():
            return False
        owner = json.loads(Path(entry.path, MARKER).read_text())
        if owner["machine"] != identify_boot():
            return False
        return abs(start_since_boot_s(psutil.Process(owner["pid"])) - owner["start_s"]) >= 1
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False


def _remove_at_exit(pid: int, folder: str) -> None:
    if pid == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
