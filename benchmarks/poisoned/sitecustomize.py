"""Poison for poison.py: Python imports this module at its start in every process that has this folder in PYTHONPATH.

EMQA_POISON names a JSON file {"log": file, "detect": {SHA-256 of pixels: kind}, "survey": {SHA-256 of file: kind}}.
The product has no hook for it: the two functions are wrapped as their modules are imported, a line goes to the log for
every image or file that is looked at, and the guilty, known by their content, do to the process what their kind says.
"""

import ctypes
import functools
import hashlib
import importlib.machinery
import json
import mmap
import os
import sys
import time

LEAST_FREE_BYTES = 5 * 2**30
MOST_BYTES = 6 * 2**30
STEP_BYTES = 2**25
WRAPPED = {"emqa_dask.detect.log": ("detect_image", "detect"), "emqa_dask.archive.readers": ("open_source", "survey")}


class Poisoned(Exception):
    """What a guilty image of kind "raise" raises."""


def segfault() -> None:
    ctypes.string_at(0)


def hang() -> None:
    """Stand still in C, with the GIL, and deaf to signals: a mutex that is locked twice."""
    mutex = ctypes.create_string_buffer(64)  # zeros are PTHREAD_MUTEX_INITIALIZER
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)


def sleep() -> None:
    """Stand still without the GIL, so that the process looks healthy from outside."""
    while True:
        time.sleep(3600)


def memory() -> None:
    """Take memory until somebody ends it; by itself it ends before the machine is in danger, with a code of its own."""
    import psutil

    taken = []
    while len(taken) * STEP_BYTES < MOST_BYTES and psutil.virtual_memory().available > LEAST_FREE_BYTES:
        taken.append(mmap.mmap(-1, STEP_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
        time.sleep(0.01)  # some 2 GB/s: a decoder is no faster
    os._exit(86)


def error() -> None:
    raise Poisoned("this micrograph is poisoned")


KINDS = {"segfault": segfault, "hang": hang, "sleep": sleep, "memory": memory, "raise": error}


def sha256(what) -> str:
    """Of a file's bytes, or of an image's in C order and little endian."""
    if isinstance(what, str | os.PathLike):
        with open(what, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(what, what.dtype.newbyteorder("<")).data).hexdigest()


def poisoned(function, stage: str, table: dict):
    @functools.wraps(function)
    def look(what, *args, **kwargs):
        if not (isinstance(what, str | os.PathLike) and os.path.isdir(what)):
            content = sha256(what)
            log = os.open(table["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f"{stage} {content}\n".encode())
            os.close(log)
            if kind := table.get(stage, {}).get(content):
                KINDS[kind]()
        return function(what, *args, **kwargs)

    return look


class Finder:
    """Finds the two modules as Python does, and wraps their function once they are executed."""

    def __init__(self, table: dict):
        self.table = table

    def find_spec(self, name: str, path=None, target=None):
        if name not in WRAPPED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        (attribute, stage) = WRAPPED[name]

        def exec_module(module) -> None:
            execute(module)
            setattr(module, attribute, poisoned(getattr(module, attribute), stage, self.table))

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("EMQA_POISON"):
    with open(os.environ["EMQA_POISON"], encoding="utf-8") as stream:
        sys.meta_path.insert(0, Finder(json.load(stream)))
