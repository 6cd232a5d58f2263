"""Guard against Zarr data that run code, read other folders, or fill the memory from a few bytes."""

import json
import math
from typing import Any

import numpy as np

from emqa_dask.archive.checks.decompressed_size import (
    COMPRESSORS,
    MAX_DEFLATE_RATIO,
    SIZED_COMPRESSORS,
    SLACK_BYTES,
    check_decompressed_size,
)
from emqa_dask.archive.checks.zarr_files import METADATA_NAMES, ZarrFiles
from emqa_dask.archive.source import ReadError

MAX_CHUNK_BYTES = 2 * 2**30  # of one chunk after decompression
MAX_METADATA_BYTES = 64 * 2**20
_HEADER_BYTES = 32  # of a chunk: they contain its stated size
_DOCUMENTS = ("zarr.json", ".zarray", ".zmetadata")


def check_zarr(files: ZarrFiles) -> None:
    """Raises ReadError for Zarr data with links out of them, pickles, or chunks that decompress to too much."""
    compression: dict[str, tuple[str, int]] = {}  # folder of an array -> compressor and bytes of a chunk
    for name in files.iterate_names():
        parent, _, file_name = name.rpartition("/")
        if file_name in METADATA_NAMES:
            files.check_size(name, MAX_METADATA_BYTES)
        if file_name in _DOCUMENTS:
            document = _load_metadata(files, name)
            if any("pickle" in str(codec).lower() for codec in _find_values(document, ("id", "name"))):
                raise ReadError("its chunks are pickles, which run any code that they hold: not read")
            if "shape" in document:
                compression[parent] = _read_compression(document)
        elif file_name not in METADATA_NAMES:
            array_folder = _find_array_folder(parent, compression)
            if array_folder is not None:
                _check_chunk(files, name, *compression[array_folder])


def _find_array_folder(folder: str, compression: dict) -> str | None:
    """`folder` or the nearest one above it that is an array; None without one."""
    while folder not in compression:
        if not folder:
            return None
        folder = folder.rpartition("/")[0]
    return folder


def _load_metadata(files: ZarrFiles, name: str) -> dict:
    """The JSON object in file `name`; an empty one for any other text, which zarr-python refuses."""
    try:
        document = json.loads(files.read(name, MAX_METADATA_BYTES))
    except ValueError:
        return {}
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


def _check_chunk(files: ZarrFiles, name: str, compressor: str, n_bytes: int) -> None:
    limit = n_bytes + SLACK_BYTES
    files.check_size(name, limit)
    if compressor not in COMPRESSORS:
        return
    if compressor in ("zlib", "gzip") and files.get_size(name) * MAX_DEFLATE_RATIO <= limit:
        return
    data = files.read(name, _HEADER_BYTES if compressor in SIZED_COMPRESSORS else limit)
    check_decompressed_size(compressor, data, n_bytes, name.rpartition("/")[2])
