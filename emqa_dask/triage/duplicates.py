"""Micrographs that the archive holds twice: the same pixels, or the same frame saved again."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables

# the signature's parts, see featurise.signature
TONE_BYTES = 256
GRAIN_BYTES = 512
SIGNATURE_BYTES = TONE_BYTES + GRAIN_BYTES
TONE_LIMIT = 0.5  # correlation of the 16 x 16 tones
SUM_LIMIT = 1.5  # tones and grain together: a lattice keeps its grain when shifted, a smooth image its tones
TONE_ALONE_LIMIT = 0.995  # the same, where an image has no grain to compare
GRAIN_LIMIT = 0.5  # agreement of the grain's signs at the best shift; 0 = chance, 1 = all
# What file managers call a copy: "scan - Copy.tif", "Copy of scan.tif", "scan (2).tif", "scan copy 3.tif".
COPY_NAME = r"(?i)\b(?:copy|copie|kopie|copia)\b|\(\d{1,2}\)\.\w+$"
N_TABLES = 16
NEIGHBOURS = 8
SMALL = 2000  # archives up to this size are compared pair by pair, which is exact and still quick
# rows of the grain: in larger archives a few are compared first ...
WHOLE = (0, 64)
GLANCE = (28, 36)
GLANCE_MARGIN = 0.2  # ... which may agree so much less than the whole has to
BLOCK = 4096  # images, or pairs, at a time
PIXELS = ("pixel_sha256", "height_px", "width_px", "dtype")
CONTENT = ("content_sha256", "frame")

Read = Callable[[NDArray], NDArray]  # row numbers (m,) -> their signatures (m, SIGNATURE_BYTES) uint8


def flag_duplicates(micrographs: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Rows of `tables.FLAGS` for every micrograph that repeats an earlier one: `duplicate` or `near_duplicate`.

    micrographs: micrograph_id, uri, frame, content_sha256, pixel_sha256, height_px, width_px, dtype; features:
    micrograph_id, signature (bytes or None). The original is the first by (uri, frame), with files whose name says that
    they are a copy behind all others; it is not flagged, so the order of rows does not matter. find_duplicates() does
    the same for tables that are not in memory. No rows give an empty table.
    """
    rows = micrographs.assign(is_copy=is_copy_name(micrographs["uri"]))
    rows = rows.sort_values(["is_copy", "uri", "frame"], kind="stable", ignore_index=True)
    signatures = pack(rows["micrograph_id"].map(features.set_index("micrograph_id")["signature"]))
    same = (identities(*(rows[c] for c in columns)) for columns in (PIXELS, CONTENT))
    shapes = shape_numbers(rows["height_px"], rows["width_px"])
    original, agreement = find_duplicates(same, shapes, has_tones(signatures), signatures.__getitem__)
    copies = np.flatnonzero(original != np.arange(len(rows)))
    places = [place(rows["uri"][k], rows["frame"][k]) for k in original[copies]]
    found = [finding(agreement[k], where) for k, where in zip(copies, places, strict=True)]
    ids = rows["micrograph_id"].to_numpy(object)[copies]
    return tables.conform([{"micrograph_id": i} | f for i, f in zip(ids, found)], tables.FLAGS).to_pandas()


def place(uri: str, frame: int) -> str:
    """Where a micrograph is, in words."""
    return f"{uri} (frame {frame})" if frame else uri


def finding(agreement: float, where: str) -> dict:
    """The flag of a repetition of the micrograph at `where`, with find_duplicates()' agreement."""
    if np.isnan(agreement):
        return {"flag": "duplicate", "value": 1.0, "limit": 1.0, "text": f"the same pixels as {where}"}
    text = f"nearly the same as {where}: {100 * agreement:.0f} % agreement (limit {100 * GRAIN_LIMIT:.0f} %)"
    return {"flag": "near_duplicate", "value": float(agreement), "limit": GRAIN_LIMIT, "text": text}


def is_copy_name(uris: pd.Series) -> NDArray:
    """Does the file's name say that it is a copy? (n,) bool."""
    return uris.str.contains(COPY_NAME).to_numpy(bool)


def identities(*columns: Iterable) -> NDArray:
    """(n, 2) uint64 that are equal where all n entries of `columns` are; zeros where the first is unknown."""
    made = [_digest(values) if not pd.isna(values[0]) else bytes(16) for values in zip(*columns, strict=True)]
    return np.frombuffer(b"".join(made), np.uint64).reshape(-1, 2)


def _digest(values: tuple) -> bytes:
    return hashlib.blake2b("\0".join(map(str, values)).encode(), digest_size=16).digest()


def shape_numbers(height_px: pd.Series, width_px: pd.Series) -> NDArray:
    """(n,) uint32, one number for a shape of sides below 65536 px; larger ones may share theirs."""
    return (height_px.to_numpy("int64") << 16 ^ width_px.to_numpy("int64")).astype(np.uint32)


def pack(signatures: Iterable[bytes | None]) -> NDArray:
    """(n, SIGNATURE_BYTES) uint8; zeros where there is none."""
    packed = b"".join(s if isinstance(s, bytes) else bytes(SIGNATURE_BYTES) for s in signatures)
    return np.frombuffer(packed, np.uint8).reshape(-1, SIGNATURE_BYTES)


def has_tones(signatures: NDArray) -> NDArray:
    """(n,) bool: False for constant images, of which `blank` says enough, and without a signature."""
    return signatures[:, :TONE_BYTES].any(axis=1)


def find_duplicates(
    same: Iterable[NDArray], shapes: NDArray, is_solid: NDArray, read: Read, folder: str | None = None
) -> tuple[NDArray, NDArray]:
    """(original, agreement) of n images, rows in the order of precedence: each repeats row `original`, or is it.

    `same`: identities() of what makes two images the same, one array at a time; shapes: shape_numbers(); is_solid:
    has_tones(); `read` gives signatures. Agreement is NaN where the pixels are the same. Near-duplicates have the same
    shape, the same coarse tones and the same grain: another exposure of the same place has the tones, and the grain
    only as far as noise lets it.

    In memory are about 50 bytes per image. Up to 2000 images all pairs are compared. Beyond, cost is near-linear: only
    neighbours in buckets of random projections are (locality-sensitive hashing, Charikar, STOC 2002), one of 16 sets of
    buckets after the other. Of those, most are told apart by an eighth of the grain.
    """
    original = _first_of_same(same, len(shapes))
    agreement = np.full(len(shapes), np.nan)
    rows = np.flatnonzero((original == np.arange(len(shapes))) & is_solid).astype(np.int32)
    is_small = len(rows) <= SMALL
    for a, b in _all_pairs(rows, read) if is_small else _neighbours(rows, read, folder):
        _compare(rows[a], rows[b], shapes, read, original, agreement, glance=not is_small)
    return original, agreement


def _first_of_same(same: Iterable[NDArray], n: int) -> NDArray:
    """For every row the first row with the same identity of any kind."""
    first = np.arange(n, dtype=np.int32)
    for keys in same:
        order = np.argsort(keys[:, 0], kind="stable").astype(np.int32)  # stable; half tells enough
        starts = np.zeros(n, bool)
        for column in keys.T:  # one after the other: memory
            values = column[order]
            starts[1:] |= values[1:] != values[:-1]
        starts |= ~keys.any(axis=1)[order]  # zeros: unknown, so like no other
        starts[:1] = True
        group = np.cumsum(starts, dtype=np.int32) - 1
        first[order] = np.minimum(first[order], order[starts][group])
    return first[first]


def _tones(signatures: NDArray) -> NDArray:
    """Unit vectors (n, TONE_BYTES) float32."""
    tones = signatures[:, :TONE_BYTES].view(np.int8).astype(np.float32)
    return tones / np.linalg.norm(tones, axis=1)[:, None]


def _all_pairs(rows: NDArray, read: Read) -> Iterator[tuple[NDArray, NDArray]]:
    """Pairs (a, b), a < b, of numbers in `rows` with similar tones, the earliest first."""
    tones = _tones(read(rows))
    a, b = np.nonzero(np.triu(tones @ tones.T > TONE_LIMIT, 1))
    for k in range(0, len(a), BLOCK):
        yield a[k : k + BLOCK], b[k : k + BLOCK]


def _neighbours(rows: NDArray, read: Read, folder: str | None) -> Iterator[tuple[NDArray, NDArray]]:
    """Pairs (a, b), a < b, of numbers in `rows` whose tones are near one another in a bucket of random projections."""
    n = len(rows)
    rng = np.random.default_rng(20020519)
    n_bits = int(np.clip(np.ceil(np.log2(n)) - 1, 4, 24))
    directions = [rng.standard_normal((TONE_BYTES, n_bits + 1)).astype(np.float32) for _ in range(N_TABLES)]
    sample = _tones(read(rows[:: -(-n // BLOCK)]))
    middles = [np.median(sample @ d[:, 1:], axis=0) for d in directions]
    with tempfile.TemporaryFile(dir=folder) as kept:  # the keys of all sets of buckets are 128 bytes per image
        for k in range(0, n, BLOCK):
            tones = _tones(read(rows[k : k + BLOCK]))
            for t in range(N_TABLES):
                kept.seek(8 * (t * n + k))
                kept.write(_bucket_keys(tones @ directions[t], middles[t]).tobytes())
        for t in range(N_TABLES):
            kept.seek(8 * t * n)
            keys = np.frombuffer(kept.read(8 * n), np.uint64)
            order = np.argsort(keys, kind="stable").astype(np.int32)
            bucket = (keys >> np.uint64(32)).astype(np.uint32)[order]
            del keys
            for k in range(0, n, BLOCK):
                near = order[k : k + BLOCK + NEIGHBOURS]
                of = bucket[k : k + BLOCK + NEIGHBOURS]
                parts = []
                for step in range(1, NEIGHBOURS + 1):
                    together = np.flatnonzero(of[:-step] == of[step:])
                    together = together[together < BLOCK]
                    parts.append(np.stack([near[together], near[together + step]]))
                pairs = np.concatenate(parts, axis=1)
                yield pairs.min(axis=0), pairs.max(axis=0)


def _bucket_keys(projected: NDArray, middles: NDArray) -> NDArray:
    """(n,) uint64: the bucket in the upper half; in the lower one the first projection, so that keys sort by it."""
    bits = projected[:, 1:] > middles
    bucket = bits @ (np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64))
    raw = np.ascontiguousarray(projected[:, 0]).view(np.uint32)
    return bucket << np.uint64(32) | np.where(raw >> 31, ~raw, raw | np.uint32(1 << 31)).astype(np.uint64)


def _compare(a, b, shapes: NDArray, read: Read, original: NDArray, agreement: NDArray, glance: bool) -> None:
    """Enter rows `a` as the originals of rows `b` where they are near-duplicates, and earlier than what is there."""
    open_ = (a < original[b]) & (shapes[a] == shapes[b])
    a = a[open_]
    b = b[open_]
    there, at = np.unique(np.concatenate([a, b]), return_inverse=True)
    if not len(there):
        return
    signatures = read(there)
    at_a, at_b = np.split(at, 2)
    tone = _products(_tones(signatures), at_a, at_b)
    keep = tone > TONE_LIMIT
    if not keep.any():
        return
    from emqa_dask.triage import grain

    grains = np.ascontiguousarray(signatures[:, TONE_BYTES:]).view(">u8").astype(np.uint64)
    is_flat = (grains == grains[:, :1]).all(axis=1) & np.isin(grains[:, 0], (np.uint64(0), ~np.uint64(0)))
    is_flat = is_flat[at_a] | is_flat[at_b]
    if glance:
        some = np.flatnonzero(keep & ~is_flat)
        least = np.maximum(GRAIN_LIMIT, SUM_LIMIT - tone[some]) - GLANCE_MARGIN
        keep[some] = grain.agreement(grains, at_a[some], at_b[some], *GLANCE) > least
    rest = np.flatnonzero(keep)
    rest = rest[np.lexsort((a[rest], b[rest]))]
    while len(rest):  # the earliest original of each first: who has found one need not be compared with later ones
        is_next = np.ones(len(rest), bool)
        is_next[1:] = b[rest[1:]] != b[rest[:-1]]
        k = rest[is_next]
        rest = rest[~is_next]
        alone = np.where(tone[k] > TONE_ALONE_LIMIT, tone[k], 0)
        agreed = np.where(is_flat[k], alone, grain.agreement(grains, at_a[k], at_b[k], *WHOLE))
        hit = (agreed > GRAIN_LIMIT) & (agreed.astype(np.float32) + tone[k] > SUM_LIMIT)
        original[b[k[hit]]] = a[k[hit]]
        agreement[b[k[hit]]] = agreed[hit]
        rest = rest[a[rest] < original[b[rest]]]


def _products(vectors: NDArray, i: NDArray, j: NDArray) -> NDArray:
    parts = [
        np.einsum("ij,ij->i", vectors[i[k : k + BLOCK]], vectors[j[k : k + BLOCK]]) for k in range(0, len(i), BLOCK)
    ]
    return np.concatenate([np.zeros(0, np.float32), *parts])
