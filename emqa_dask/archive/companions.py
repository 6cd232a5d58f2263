"""Companions: the names that files may have which belong to an image, in a folder and in the listing of a bucket.

A sidecar holds metadata of an image. Other companions hold a part of it (the .raw of an .rpl).
"""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

SIDECAR_SUFFIXES = (".txt", ".hdr", ".xml", ".mdoc", ".json", ".idoc")
_COMMON_SUFFIXES = SIDECAR_SUFFIXES[:5]  # of sidecars that are called as their image
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")
MAX_SIDECAR_BYTES = 2**22  # the largest known are metadata of montages with thousands of tiles
# What EPU and SerialEM add to the name of an exposure for the file of its frames.
_FRAMES = re.compile(r"(?:[_-]fractions(?:_\d+)?|_eer|(?:-\d+)?_frames)$", re.IGNORECASE)
_DIRECT_ELECTRON = re.compile(r"\d{8}_\d+_")  # the date and number of an acquisition
_TIFF_SUFFIXES = (".tif", ".tiff", ".tf2", ".tf8", ".btf")
_METADATA_FILE = re.compile(rb"<(?:\w+:)?BinaryOnly\s[^>]*MetadataFile\s*=\s*[\"']([^\"'\n]+\.(?:ome|xml))[\"']")
_DESCRIPTION_BYTES = 2**16  # at the start and at the end of a file, where the description of its first page stands
_SETTLED_S = 2.0  # age of a folder's date at which its listing may be kept; the clocks of file systems are coarse


def is_sidecar_name(name: str) -> bool:
    """Whether the suffix of `name` is one that sidecars have, in upper or lower case."""
    return name.lower().endswith(SIDECAR_SUFFIXES)


def list_sidecar_names(name: str) -> list[str]:
    """Names, in lower case, that a sidecar of the image `name` may have; the likeliest first."""
    (stem, suffix) = os.path.splitext(name.lower())
    if suffix in _PACKED_SUFFIXES:  # a.mrc.gz: as of a.mrc
        return list_sidecar_names(stem)
    names = [f"{stem}{sidecar}" for sidecar in _COMMON_SUFFIXES]  # a.tif: a.txt
    names += [f"{name.lower()}{sidecar}" for sidecar in _COMMON_SUFFIXES]  # a.mrc: a.mrc.mdoc
    names.append(f"{stem}-{suffix[1:]}.hdr")  # a.tif: a-tif.hdr, as TESCAN names it
    exposure = _FRAMES.sub("", stem)
    if exposure != stem:
        names += [f"{exposure}{sidecar}" for sidecar in (".xml", ".mdoc", ".mrc.mdoc", ".tif.mdoc")]
    series = re.sub(r"[_-]?\d+$", "", stem)
    if series != stem:  # a0001.tif: a.idoc, as SerialEM names it
        names.append(f"{series}.idoc")
    if _DIRECT_ELECTRON.match(stem):  # 20241021_00405_movie.mrc: 20241021_00405_info.txt
        parts = stem.split("_")
        names += [f"{'_'.join(parts[:n])}_info.txt" for n in range(len(parts) - 1, 1, -1)]
    return names


def name_owner(name: str) -> str:
    """Name of the image that the sidecar `name` belongs to, as far as its own name tells it: a.tif or a."""
    stem = os.path.splitext(name)[0]
    return re.sub(r"-(tiff?|png|jpe?g|bmp)$", r".\1", stem, flags=re.IGNORECASE).removesuffix("_info")


def list_part_names(name: str) -> list[str]:
    """Names that the file may have without which the image `name` cannot be read, or only in part."""
    (stem, suffix) = os.path.splitext(name)
    if suffix.lower() == ".ser":
        stem = re.sub(r"_[0-9]+$", "", stem)
    parts = {".ser": (".emi", ".EMI"), ".rpl": (".raw", ".RAW")}.get(suffix.lower(), ())
    return [f"{stem}{part}" for part in parts]


def find_ome_companion(path: str) -> str:
    """Name of the file that holds the metadata of the OME-TIFF at `path`; "" where it holds its own.

    The names of the two have nothing in common: the description of the first page names the companion.
    """
    if not path.lower().endswith(_TIFF_SUFFIXES):
        return ""
    with open(path, "rb") as file:
        text = file.read(_DESCRIPTION_BYTES)
        file.seek(max(0, file.seek(0, os.SEEK_END) - _DESCRIPTION_BYTES))
        text += file.read()
    match = _METADATA_FILE.search(text)
    return match[1].decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2] if match else ""


def index_sidecars(names: Iterable[str]) -> dict[str, list[str]]:
    """Those of `names` that may be sidecars, by their name in lower case."""
    index: dict[str, list[str]] = {}
    for name in filter(is_sidecar_name, names):
        index.setdefault(name.lower(), []).append(name)
    return index


def find_sidecars(name: str, index: Mapping[str, list[str]]) -> Iterator[str]:
    """Names in `index` that may be sidecars of the image `name`, the likeliest first; one of each kind.

    A file system may hold A.txt and a.txt: the one whose letters agree with the image's counts.
    """
    if is_sidecar_name(name):
        return
    stem = os.path.splitext(name)[0]
    for sidecar in list_sidecar_names(name):
        if sidecar in index:
            yield max(index[sidecar], key=lambda candidate: candidate.startswith(stem))


def find_local_sidecars(path: Path) -> list[Path]:
    """Files beside the image at `path` that may be its sidecars, the likeliest first."""
    folder = os.path.dirname(path) or "."
    try:
        modified_ns = os.stat(folder).st_mtime_ns
        is_settled = time.time_ns() - modified_ns > _SETTLED_S * 1e9
        index = _list_sidecars(folder, modified_ns) if is_settled else index_sidecars(os.listdir(folder))
    except OSError:
        return []
    if not index:
        return []
    return [path.with_name(name) for name in find_sidecars(path.name, index) if _is_file_beside(path, name)]


def _is_file_beside(path: Path, name: str) -> bool:
    """Whether the sidecar `name` is a file in the folder of the image at `path`, or of the target of its link.

    A link that leads elsewhere is not followed, because the owner of an archive must not choose which other files are
    read; and to open a named pipe waits for ever.
    """
    sidecar = path.with_name(name)
    folders = {os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))}
    return sidecar.is_file() and os.path.dirname(os.path.realpath(sidecar)) in folders


@lru_cache(maxsize=8)
def _list_sidecars(folder: str, modified_ns: int) -> dict[str, list[str]]:
    """The sidecars in a folder, kept while its date stays the same: its files follow one another."""
    return index_sidecars(os.listdir(folder))
