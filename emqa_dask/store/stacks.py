"""OME-Zarr 0.5 stacks on Zarr v3: make or grow them, and say how they are cut.

A stack is the group micrographs.zarr/<stack> with one array "0" of axes (n, y, x). A chunk is one micrograph, or a band
of rows of a very large one; a shard is one partition. The driver writes this metadata before workers write shards
(`micrographs.write_partition`). Slots that no micrograph will ever fill (a shard is never extended) lie outside
`attributes.emqa_dask.occupied`. Each document has its own SHA-256 in `attributes.emqa_dask.sha256`, and that of the
group has a copy of that of the array: where one is damaged, it is made again from the other and the ledger.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numcodecs.abc import Codec
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from emqa_dask.checksummed_text import hash_document
from emqa_dask.partition import Partition
from emqa_dask.settings import Store
from emqa_dask.store import files, layout, shards
from emqa_dask.store.layout import Workspace
from emqa_dask.store.shards import Grid

ATTRIBUTE_KEY = "emqa_dask"  # the key of what we keep in a document's attributes
_GROUP_DOCUMENT = {"zarr_format": 3, "node_type": "group", "attributes": {}}
STORABLE_KINDS = "buifc"  # numpy kinds that Zarr v3 has: boolean, integers, floats, complex


def to_little_endian(dtype: np.dtype) -> np.dtype:
    """`dtype` in the byte order that stacks have."""
    return np.dtype(dtype).newbyteorder("<")


def prepare_stacks(
    root: str, runs: Mapping[str, Sequence[tuple[int, int]]], shard_lengths: Mapping[str, int], settings: Store
) -> None:
    """Make or grow the stacks of `shard_lengths`, whose slots `runs` (half-open, in order) are given away.

    Writes metadata only; a shard that exists is not touched. ValueError for a shape or dtype that Zarr cannot hold.
    """
    write_root(root)
    for name, length in shard_lengths.items():
        *shape, dtype = layout.parse_shape(name)
        open_or_grow(root, name, tuple(shape), dtype, occupied=runs[name], shard_length=length, settings=settings)


def open_or_grow(
    root: str,
    name: str,
    shape: tuple[int, int],
    dtype: str,
    *,
    occupied: Sequence[tuple[int, int]],
    shard_length: int,
    settings: Store,
) -> None:
    """Make stack `name` for micrographs of `shape` (y, x) px and `dtype`, or grow it to the slots `occupied`."""
    stored_dtype = to_little_endian(np.dtype(dtype))
    if stored_dtype.kind not in STORABLE_KINDS or stored_dtype.itemsize > (16 if stored_dtype.kind == "c" else 8):
        raise ValueError(f"stack {name}: Zarr v3 has no dtype {stored_dtype.name}")
    if min(shape) < 1:
        raise ValueError(f"stack {name}: a micrograph of {shape[0]} x {shape[1]} px has no pixels")
    length = occupied[-1][1] if occupied else 0
    try:
        array = read_array_document(root, name)
    except FileNotFoundError:
        array = _describe_array(stored_dtype, shape, length, shard_length, settings)
    if array["shape"][0] < length:
        array = array | {"shape": [length, *array["shape"][1:]]}
    write_documents(root, name, array, occupied)


def write_documents(root: str, name: str, array: dict, occupied: Sequence[tuple[int, int]]) -> None:
    """Write the documents of stack `name`, as far as they are not there as they should be, the array's last.

    A stack is there once its array's is, whatever a run that was killed in here has left.
    """
    attributes = {"occupied": [list(run) for run in occupied], "array": array}
    group = _GROUP_DOCUMENT | {
        "attributes": _describe_multiscales(name, *layout.parse_pixel_sizes_nm(name)) | {ATTRIBUTE_KEY: attributes}
    }
    folder = Workspace(root).stack(name)
    _write_changed(files.join(folder, "zarr.json"), group)
    _write_changed(files.join(folder, "0", "zarr.json"), array)


def write_root(root: str) -> None:
    """Write the document of all stacks, unless it is there as it should be."""
    _write_changed(files.join(Workspace(root).stacks, "zarr.json"), _GROUP_DOCUMENT)


def _write_changed(uri: str, document: dict) -> None:
    if _read_document(uri) != document:
        _write_document(uri, document)


def is_damaged(root: str, name: str) -> bool:
    """Is a document of stack `name`, or that of all stacks, missing or damaged?"""
    folder = Workspace(root).stack(name)
    folders = Workspace(root).stacks, folder, files.join(folder, "0")
    return any(_read_document(files.join(group_folder, "zarr.json")) is None for group_folder in folders)


def find_shard_length(root: str, partition: Partition) -> int:
    """Micrographs per shard as the index of the only shard of a stack says, `partition`'s; 0 without a whole one."""
    height, width, dtype = layout.parse_shape(partition.stack)
    bands = -(-height // shards.choose_band_rows(height, width, np.dtype(dtype).itemsize))
    return shards.find_shard_length(shard_uri(root, partition, len(partition)), bands, len(partition))


def read_array_document(root: str, name: str) -> dict:
    """Zarr's metadata of the array of stack `name`, from its own document or else from the copy in the group's.

    FileNotFoundError where there is neither.
    """
    folder = Workspace(root).stack(name)
    if array := _read_document(files.join(folder, "0", "zarr.json")):
        return array
    if group := _read_document(files.join(folder, "zarr.json")):
        return group["attributes"][ATTRIBUTE_KEY]["array"]
    raise FileNotFoundError(f"{folder} is missing or damaged: `emqa triage` on its workspace stores it again")


# Zarr v3's metadata are JSON, which we read and write ourselves; the tests hold them against zarr-python. Importing it
# takes half a second and, where cupy is installed, 190 MB of every process, and its stores need several requests for
# each document of a bucket. Specification: zarr-specs.readthedocs.io, v3 core 3.1.
_CRC32C = {"name": "crc32c"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


def _describe_array(dtype: np.dtype, shape: tuple[int, int], length: int, shard_length: int, settings: Store) -> dict:
    """Zarr's metadata of an array of `length` micrographs."""
    rows = shards.choose_band_rows(*shape, dtype.itemsize)
    bands = -(-shape[0] // rows)
    as_bytes = _LITTLE_ENDIAN if dtype.itemsize > 1 else {"name": "bytes"}
    sharding = {
        "chunk_shape": [1, rows, shape[1]],
        "codecs": [as_bytes, *_choose_compressors(settings, dtype.itemsize), _CRC32C],
        "index_codecs": [_LITTLE_ENDIAN, _CRC32C],
        "index_location": "end",
    }
    shard_grid = {"chunk_shape": [shard_length, bands * rows, shape[1]]}
    zero = np.zeros((), dtype).item()
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length, *shape],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": shard_grid},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": [zero.real, zero.imag] if isinstance(zero, complex) else zero,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": ["n", "y", "x"],
        "storage_transformers": [],
    }


def _choose_compressors(settings: Store, itemsize: int) -> list[dict]:
    """What compresses a chunk.

    Measured: noisy 16-bit micrographs pack 2.4-fold in 0.9 ms per megapixel with bit-shuffled LZ4, 2.1-fold in 4.7 ms
    with zstd; 8-bit ones pack up to 10 % better with zstd at about the same cost.
    """
    if settings.compression == "none":
        return []
    if settings.compression == "auto" and itemsize > 1:
        blosc = {"typesize": itemsize, "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        return [{"name": "blosc", "configuration": blosc}]
    return [{"name": "zstd", "configuration": {"level": settings.compression_level, "checksum": False}}]


def _make_codec(compressors: Sequence[dict]) -> Codec | None:
    """The numcodecs codec that does what a stack's compressors do."""
    for codec in compressors:
        configuration = codec.get("configuration", {})
        if codec["name"] == "zstd":
            return Zstd(level=configuration["level"])
        if codec["name"] == "blosc":
            return Blosc(
                configuration["cname"],
                configuration["clevel"],
                Blosc.BITSHUFFLE,
                configuration["blocksize"],
                configuration["typesize"],
            )
    return None


def _describe_multiscales(name: str, y_nm: float, x_nm: float) -> dict:
    """OME-Zarr 0.5 `multiscales` metadata: axis n is of no standard type, y and x are nanometres where known."""
    is_known = x_nm == x_nm
    unit = {"unit": "nanometer"} if is_known else {}
    scale = [1.0, y_nm, x_nm] if is_known else [1.0, 1.0, 1.0]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    axes = [{"name": "n"}, {"name": "y", "type": "space", **unit}, {"name": "x", "type": "space", **unit}]
    return {"ome": {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": levels}]}}


def _read_document(uri: str) -> dict | None:
    """The document at `uri` as it was given to _write(); None where there is none, or where it is damaged."""
    try:
        document = json.loads(files.read_bytes(uri))
        sha256 = document["attributes"][ATTRIBUTE_KEY].pop("sha256")
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if not document["attributes"][ATTRIBUTE_KEY]:
        del document["attributes"][ATTRIBUTE_KEY]
    return document if sha256 == hash_document(document) else None


def _write_document(uri: str, document: dict) -> None:
    """Write `document` with its own SHA-256 among its attributes."""
    attributes = document["attributes"]
    stack_attributes = attributes.get(ATTRIBUTE_KEY, {}) | {"sha256": hash_document(document)}
    document = document | {"attributes": attributes | {ATTRIBUTE_KEY: stack_attributes}}
    files.write_text(uri, json.dumps(document, indent=2) + "\n")


def list_stacks(root: str) -> list[str]:
    """Sorted names of the stacks of a workspace."""
    return [name for name in files.list_names(Workspace(root).stacks) if name != "zarr.json"]


def read_shard_lengths(root: str) -> dict[str, int]:
    """Micrographs per shard of every stack in the workspace; empty when there is none."""
    lengths = {}
    for name in list_stacks(root):
        try:
            array = read_array_document(root, name)
        except FileNotFoundError:
            continue
        lengths[name] = array["chunk_grid"]["configuration"]["chunk_shape"][0]
    return lengths


def read_grid(root: str, name: str) -> Grid:
    """How stack `name` is cut; FileNotFoundError when there is no such stack."""
    metadata = read_array_document(root, name)
    (sharding,) = metadata["codecs"]
    chunk_shape = sharding["configuration"]["chunk_shape"]
    codecs = sharding["configuration"]["codecs"]
    shard_length = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    _, height, width = metadata["shape"]
    dtype = to_little_endian(np.dtype(metadata["data_type"]))
    return Grid(height, width, dtype, chunk_shape[1], shard_length, _make_codec(codecs))


def shard_uri(root: str, partition: Partition, shard_length: int) -> str:
    """Where the shard of `partition` lies."""
    return files.join(Workspace(root).stack(partition.stack), "0", "c", str(partition.start // shard_length), "0", "0")
