"""What happens to files: flipped bits, zeroed stretches, cuts, splices, lengths set to extremes, lost chunks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fuzz_seeds import zarr_chunks, zarr_documents

EXTREMES = (0, 1, 0x7F, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
HEADER_BYTES = 1024


def flip_bits(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for at in rng.integers(0, len(out), rng.integers(1, 21)):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def zero_run(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    n = int(rng.integers(16, max(17, len(data) // 3)))
    return data[:at] + bytes(min(n, len(data) - at)) + data[at + n :]


def cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def drop_run(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    n = int(rng.integers(1, max(2, len(data) // 4)))
    return data[:at] + data[at + n :]


def splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of another file of the same format in place of its own."""
    at = int(rng.integers(0, len(data)))
    n = int(rng.integers(16, max(17, len(data) // 3)))
    stretch = other[at : at + n]
    return data[:at] + stretch + data[at + len(stretch) :]


def set_extremes(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Numbers of one to eight bytes set to extremes, mostly where headers are."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        size = int(rng.choice([1, 2, 4, 8]))
        top = len(out)
        if rng.random() < 0.8:
            top = min(top, HEADER_BYTES)
        at = int(rng.integers(0, max(1, top - size)))
        value = int(EXTREMES[int(rng.integers(len(EXTREMES)))]) & (256**size - 1)
        out[at : at + size] = value.to_bytes(size, str(rng.choice(["little", "big"])))
    return bytes(out[: len(data)])


CHANGES: dict[str, Callable[[bytes, bytes, np.random.Generator], bytes]] = {
    "bits flipped": flip_bits,
    "run zeroed": zero_run,
    "cut": cut,
    "run dropped": drop_run,
    "spliced": splice,
    "extremes": set_extremes,
}


def touches(before: bytes, after: bytes, ranges: tuple[tuple[int, int], ...]) -> bool:
    """Whether a byte of `ranges` is another one, or gone."""
    return any(before[start:stop] != after[start:stop] for start, stop in ranges)


def lose_chunk(path: Path, rng: np.random.Generator) -> None:
    chunks = zarr_chunks(path)
    for k in rng.permutation(len(chunks))[: int(rng.integers(1, max(2, len(chunks) // 2)))]:
        chunks[k].unlink()


def change_chunk(change: Callable, path: Path, rng: np.random.Generator) -> None:
    chunks = zarr_chunks(path)
    chunk = chunks[int(rng.integers(len(chunks)))]
    other = chunks[int(rng.integers(len(chunks)))]
    chunk.write_bytes(change(chunk.read_bytes(), other.read_bytes(), rng))


def zero_chunk(path: Path, rng: np.random.Generator) -> None:
    chunks = zarr_chunks(path)
    chunk = chunks[int(rng.integers(len(chunks)))]
    chunk.write_bytes(bytes(chunk.stat().st_size))


def change_document(path: Path, rng: np.random.Generator) -> None:
    """Metadata with flipped bits, cut, gone, or a value of another kind."""
    documents = zarr_documents(path)
    document = documents[int(rng.integers(len(documents)))]
    data = document.read_bytes()
    how = int(rng.integers(4))
    if how == 0:
        document.write_bytes(flip_bits(data, data, rng))
    elif how == 1:
        document.write_bytes(cut(data, data, rng))
    elif how == 2:
        document.unlink()
    else:
        tree = json.loads(data)
        key = str(rng.choice([*tree, "shape"]))
        tree[key] = [None, -1, 2**63, [], {}, "x", 1e308, [0, 0], [2**40, 2**40]][int(rng.integers(9))]
        document.write_text(json.dumps(tree))


def cut_folder(path: Path, rng: np.random.Generator) -> None:
    """A copy that stopped: files after some place are gone."""
    files = [*zarr_documents(path), *zarr_chunks(path)]
    for lost in files[int(rng.integers(1, len(files))) :]:
        lost.unlink()
    for folder in [p for p in sorted(path.rglob("*"), reverse=True) if p.is_dir()]:
        if not any(folder.iterdir()):
            shutil.rmtree(folder)


ZARR_CHANGES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "chunks lost": lose_chunk,
    "chunk zeroed": zero_chunk,
    "chunk cut": lambda path, rng: change_chunk(cut, path, rng),
    "chunk flipped": lambda path, rng: change_chunk(flip_bits, path, rng),
    "metadata": change_document,
    "copy stopped": cut_folder,
}
