"""Micrographs in their stacks: write a partition's shard and verify it, read pixels back bit for bit."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from emqa_dask.partition import Partition
from emqa_dask.store import files, shards, stacks
from emqa_dask.store.shards import Grid


def hash_pixels(frame: np.ndarray | Iterable[np.ndarray]) -> str:
    """SHA-256 of the pixels' bytes in C order, little endian, of a micrograph or its windows of full rows."""
    total = hashlib.sha256()
    for window in [frame] if isinstance(frame, np.ndarray) else frame:
        total.update(np.ascontiguousarray(window, stacks.to_little_endian(window.dtype)).data.cast("B"))
    return total.hexdigest()


def write_partition(
    root: str,
    partition: Partition,
    read_frame: Callable[[int], np.ndarray | Iterable[np.ndarray]],
    sha256: Sequence[str],
    names: Sequence[str],
) -> dict:
    """Write the shard of `partition` whole, read it back, and compare each micrograph's SHA-256 with `sha256`.

    `read_frame(i)` gives the i-th micrograph of the partition: an array (y, x), or its windows of full rows from top to
    bottom when it is too large for memory. `names` are the files' names, for messages. Gives n_images, bytes (of
    pixels), stored_bytes, and `lost`: {i: why} of the micrographs that could not be read, or are not what was surveyed;
    their slots stay absent, and reading them raises. A shard that is there and right is not written again. Of one that
    is damaged, the micrographs that are right are kept, and the others are read from their files again. Raises OSError
    when the store gives other pixels than were written, and deletes the shard if it is a new one.
    """
    grid = stacks.read_grid(root, partition.stack)
    if partition.start % grid.shard_length or not len(partition) == len(sha256) == len(names) <= grid.shard_length:
        raise ValueError(
            f"{partition.name}: {len(partition)} slots, {len(sha256)} checksums, shards of {grid.shard_length}"
        )
    uri = stacks.shard_uri(root, partition, grid.shard_length)
    valid_slots = _find_valid_slots(uri, grid, sha256) if files.exists(uri) else None
    stored_bytes = 0
    failures = {}
    if valid_slots is None or len(valid_slots) < len(partition):
        files.remove_partial_files(uri.rpartition("/")[0])
        stored_bytes = _write_shard(uri, grid, read_frame, names, failures, valid_slots or set())
        try:
            change_messages = _find_changed_files(uri, grid, read_frame, sha256, names, failures)
        except Exception:
            if valid_slots is None:
                files.remove_file(uri)
            raise
        if change_messages:
            failures |= change_messages
            stored_bytes = _write_shard(
                uri, grid, read_frame, names, failures, set(range(len(names))) - failures.keys()
            )
    return {
        "n_images": len(partition) - len(failures),
        "bytes": len(partition) * grid.height * grid.width * grid.dtype.itemsize,
        "stored_bytes": stored_bytes,
        "lost": failures,
    }


def _find_valid_slots(uri: str, grid: Grid, sha256: Sequence[str]) -> set[int]:
    """The slots of the shard at `uri` that hold the micrographs with these checksums."""
    valid_slots = set()
    for slot, expected in enumerate(sha256):
        try:
            checksums = list(_hash_stored(uri, grid, [slot]))
        except OSError:
            continue
        if checksums == [expected]:
            valid_slots.add(slot)
    return valid_slots


def _write_shard(
    uri: str, grid: Grid, read_frame: Callable, names: Sequence[str], failures: dict[int, str], valid_slots: set[int]
) -> int:
    """Write the shard without the micrographs in `failures`, to which those are added that cannot be read.

    The slots in `valid_slots` are copied from the shard that is there.
    """

    def windows(i: int) -> Iterator[np.ndarray]:
        if i in failures:
            raise shards.LostFrame(failures[i])
        if i in valid_slots:
            yield from _read_stored_windows(uri, grid, i)
            return
        try:
            yield from _check_windows(read_frame(i), names[i], grid)
        except MemoryError:
            raise
        except Exception as error:
            failures[i] = (
                str(error) if isinstance(error, shards.LostFrame) else f"{names[i]}: {type(error).__name__}: {error}"
            )
            raise shards.LostFrame(failures[i]) from error

    return shards.write_shard(uri, grid, (windows(i) for i in range(len(names))))


def _read_stored_windows(uri: str, grid: Grid, slot: int) -> Iterator[np.ndarray]:
    """The micrograph in `slot` of the shard at `uri`, by windows of a chunk each."""
    for top in range(0, grid.height, grid.rows):
        yield from shards.read_micrographs(uri, grid, [slot], (top, min(top + grid.rows, grid.height)))


def find_damaged_slots(root: str, partition: Partition) -> list[int]:
    """The slots of `partition` whose stored bytes do not fit their checksums; all of them without a shard.

    A slot that was left absent when the shard was written is not damaged.
    """
    grid = stacks.read_grid(root, partition.stack)
    uri = stacks.shard_uri(root, partition, grid.shard_length)
    return shards.find_damaged_slots(uri, grid, len(partition))


def _find_changed_files(
    uri: str, grid: Grid, read_frame: Callable, sha256: Sequence[str], names: Sequence[str], failures: dict[int, str]
) -> dict[int, str]:
    """Read the shard back; gives {i: why} of micrographs whose file changed. OSError when it is the store's fault."""
    slots = [i for i in range(len(sha256)) if i not in failures]
    change_messages = {}
    for i, stored_sha256 in zip(slots, _hash_stored(uri, grid, slots), strict=True):
        if stored_sha256 == sha256[i]:
            continue
        if hash_pixels(read_frame(i)) == sha256[i]:
            raise OSError(f"{names[i]} does not read back from {uri} as it was written: check the disk")
        change_messages[i] = f"{names[i]} changed since it was surveyed: its pixels are others now"
    return change_messages


def _check_windows(frame: np.ndarray | Iterable[np.ndarray], name: str, grid: Grid) -> Iterator[np.ndarray]:
    """The windows of one micrograph, in the stack's byte order; LostFrame when it is not what was surveyed."""
    height = 0
    for window in [frame] if isinstance(frame, np.ndarray) else frame:
        if window.ndim != 2 or window.shape[1] != grid.width or stacks.to_little_endian(window.dtype) != grid.dtype:
            raise shards.LostFrame(f"{name} changed since it was surveyed: it has {window.dtype} {window.shape} now")
        height += len(window)
        yield window.astype(grid.dtype, copy=False)
    if height != grid.height:
        raise shards.LostFrame(f"{name} changed since it was surveyed: it has {height} rows now, not {grid.height}")


def _hash_stored(uri: str, grid: Grid, slots: Sequence[int]) -> Iterator[str]:
    """SHA-256 of the micrographs in `slots` of a shard, a chunk in memory at a time."""
    sums = [hashlib.sha256() for _ in slots]
    for top in range(0, grid.height, grid.rows):
        rows = (top, min(top + grid.rows, grid.height))
        for total, window in zip(sums, shards.read_micrographs(uri, grid, slots, rows), strict=True):
            total.update(window.data.cast("B"))
    return (total.hexdigest() for total in sums)


def read_partition(root: str, partition: Partition) -> np.ndarray:
    """The micrographs of `partition` as one array (n, y, x), dtype as acquired.

    OSError when one is missing or damaged: a missing chunk never reads as black.
    """
    grid = stacks.read_grid(root, partition.stack)
    images = np.empty((len(partition), grid.height, grid.width), grid.dtype)
    uri = stacks.shard_uri(root, partition, grid.shard_length)
    for i, image in enumerate(shards.read_micrographs(uri, grid, range(len(partition)))):
        images[i] = image
    return images


def iterate_micrographs(root: str, partition: Partition, indices: Iterable[int] | None = None) -> Iterator[np.ndarray]:
    """The micrographs (y, x) of `partition`, or those at `indices` of the stack's n axis, one in memory at a time."""
    grid = stacks.read_grid(root, partition.stack)
    slots = range(len(partition)) if indices is None else [int(i) - partition.start for i in indices]
    if any(not 0 <= slot < len(partition) for slot in slots):
        raise IndexError(f"{partition.name} holds {partition.start}...{partition.stop - 1}")
    return shards.read_micrographs(stacks.shard_uri(root, partition, grid.shard_length), grid, slots)


def read_window(
    root: str, stack: str, index: int, rows: slice = slice(None), columns: slice = slice(None)
) -> np.ndarray:
    """A window (y, x) of the micrograph at `index` of `stack`; only the chunks that it touches are read."""
    grid = stacks.read_grid(root, stack)
    start, stop, step = rows.indices(grid.height)
    if step != 1:
        raise ValueError("rows of a window are consecutive")
    partition = Partition(stack, index // grid.shard_length * grid.shard_length, index + 1)
    uri = stacks.shard_uri(root, partition, grid.shard_length)
    (image,) = shards.read_micrographs(uri, grid, [index % grid.shard_length], (start, max(start, stop)))
    return image[:, columns]
