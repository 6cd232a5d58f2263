"""What emqa tune log writes, settings and a folder of figures, and nothing that somebody else wrote."""

import hashlib
import os

from emqa_dask import models, output_folders
from emqa_dask.store import files

HEADER = "# Written by emqa tune log, which replaces this file as long as nobody changes it: SHA-256 "


def check_out(out: str) -> None:
    """FileExistsError, with the remedy, where `out` or the folder beside it has what no tuning wrote."""
    if files.is_local(out):
        output_folders.check_parents(output_folders.absolute(files.locate(out)[1]))
        output_folders.check_collection(files.locate(locate_figures(out))[1])
    elif files.names(locate_figures(out)):  # of folders in a bucket nobody knows whose they are
        raise FileExistsError(f"{files.redact(locate_figures(out))} is there already: give another --out")
    _check_file(out)


def _check_file(out: str) -> None:
    fs, path = files.locate(out)
    if (fs.exists(path) or os.path.islink(path)) and not _is_ours(out):
        raise FileExistsError(
            f"{files.redact(out)} is there and is not a settings file that emqa tune log wrote and nobody changed: it "
            "is not replaced; give another --out, or move it away"
        )


def write_settings(out: str, content: bytes) -> None:
    """The settings file `out`, with a first line by which a later tuning knows it; check_out()'s errors."""
    _check_file(out)  # somebody may have put something there meanwhile
    files.write_bytes(out, _header(content) + b"\n" + content)


def _is_ours(out: str) -> bool:
    """Is `out` a settings file as a tuning wrote it?"""
    fs, path = files.locate(out)
    if not fs.isfile(path) or (files.is_local(out) and os.path.islink(path)):
        return False
    header, _, content = files.read_bytes(out).partition(b"\n")
    return header == _header(content)


def _header(content: bytes) -> bytes:
    return f"{HEADER}{hashlib.sha256(content).hexdigest()}".encode()


def locate_figures(out: str) -> str:
    """The folder of traces and figures beside the settings file `out`."""
    return out.removesuffix(".toml") + ".tune"


def write_figures(folder: str, made: dict[str, bytes]) -> None:
    """The files `made`, as a whole on a disk."""
    if not files.is_local(folder):
        for name, content in made.items():
            files.write_bytes(files.join(folder, name), content)
        return
    with output_folders.write_folder(files.locate(folder)[1]) as fresh:
        for name, content in made.items():
            (fresh / name).write_bytes(content)
        models.write_card(fresh, {"task": "traces and figures of emqa tune log"})
