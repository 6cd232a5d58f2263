"""Guard against Zarr folders that run code, read other folders, or fill the memory from a few bytes."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.checks.decompressed_size import (
    COMPRESSORS,
    MAX_DEFLATE_RATIO,
    SIZED_COMPRESSORS,
    SLACK_BYTES,
    check_decompressed_size,
)
from emqa_dask.archive.source import ReadError

MAX_CHUNK_BYTES = 2 * 2**30  # of one chunk after decompression
MAX_METADATA_BYTES = 64 * 2**20
_HEADER_BYTES = 32  # of a chunk: they contain its stated size
_METADATA_FILES = {"zarr.json", ".zarray", ".zmetadata"}
_ATTRIBUTE_FILES = {".zattrs", ".zgroup"}


def check_zarr(folder: Path) -> None:
    """Raises ReadError for a Zarr folder with links out of it, pickles, or chunks that decompress to too much."""
    root = os.path.join(os.path.realpath(folder), "")
    compression: dict[str, tuple[str, int]] = {}  # folder of an array -> compressor and bytes of a chunk
    for parent, folders, names in os.walk(folder):
        _check_links(folder, root, parent, (*folders, *names))
        for name in _METADATA_FILES & set(names):
            document = _load_metadata(os.path.join(parent, name))
            if any("pickle" in str(codec).lower() for codec in _find_values(document, ("id", "name"))):
                raise ReadError("its chunks are pickles, which run any code that they hold: not read")
            if "shape" in document:
                compression[parent] = _read_compression(document)
        array = next((p for p in (parent, *map(str, Path(parent).parents)) if p in compression), None)
        if array is not None:
            for name in set(names) - _METADATA_FILES - _ATTRIBUTE_FILES:
                _check_chunk(os.path.join(parent, name), *compression[array])


def _check_links(folder: Path, root: str, parent: str, names: Iterable[str]) -> None:
    for name in names:
        path = os.path.join(parent, name)
        if os.path.islink(path) and not os.path.realpath(path).startswith(root):
            raise ReadError(f"{os.path.relpath(path, folder)} is a symbolic link to another folder: not followed")


def _load_metadata(path: str) -> dict:
    """The JSON object in file `path`; an empty one for any other JSON."""
    if os.path.getsize(path) > MAX_METADATA_BYTES:
        raise ReadError("its metadata are too large")
    with open(path, "rb") as file:
        document = json.load(file)
    return document if isinstance(document, dict) else {}


def _find_values(tree: object, keys: tuple[str, ...]) -> list:
    """Values of `keys` anywhere in a tree of dictionaries and lists."""
    values = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            values += [node[key] for key in keys if key in node]
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    return values


def _read_compression(array: dict) -> tuple[str, int]:
    """(compressor or "", bytes of a chunk) of an array; ReadError for two compressors and for too large chunks."""
    if array.get("zarr_format") == 2:
        codecs = [c for c in (*(array.get("filters") or ()), array.get("compressor")) if c]
        names = [c.get("id") for c in codecs]
        shape = array.get("chunks", [])
        dtype = array.get("dtype")
    else:
        names = [c.get("name") for c in array.get("codecs", [])]
        dtype = array.get("data_type")
        shape = array.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape", [])
    n_bytes = math.prod(int(n) for n in shape) * _count_item_bytes(dtype)
    if n_bytes > MAX_CHUNK_BYTES:
        raise ReadError(f"its chunks are of {n_bytes:,} bytes")
    names = [str(name).removeprefix("numcodecs.") for name in names]
    compressors = [name for name in names if name in COMPRESSORS]
    if len(compressors) > 1:
        raise ReadError("its chunks are compressed twice")
    return (compressors[0] if compressors else "", n_bytes)


def _count_item_bytes(dtype: Any) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError:  # no type of numpy
        return 8


def _check_chunk(path: str, compressor: str, n_bytes: int) -> None:
    if compressor not in COMPRESSORS:
        return
    is_small = os.path.getsize(path) * MAX_DEFLATE_RATIO <= n_bytes + SLACK_BYTES
    if compressor in ("zlib", "gzip") and is_small:
        return
    with open(path, "rb") as file:
        data = file.read(_HEADER_BYTES if compressor in SIZED_COMPRESSORS else n_bytes + SLACK_BYTES)
    check_decompressed_size(compressor, data, n_bytes, os.path.basename(path))
