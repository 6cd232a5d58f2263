"""Micrographs that the archive holds twice: the same pixels, or the same frame saved again."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TONE_BYTES = 256  # of a signature (see featurise.signature): 16 x 16 coarse tones
SIGN_BYTES = 512  # of a signature: 64 x 64 signs of the fine detail in the middle
SIGNATURE_BYTES = TONE_BYTES + SIGN_BYTES
IDENTITY_BYTES = 16  # of a digest that stands for what makes two images the same
MIN_TONE_CORRELATION = 0.5
MIN_SIGN_CORRELATION = 0.5  # at the best shift; 0 = chance, 1 = all signs equal
# Of tones and signs together: a lattice keeps its signs when it is shifted, a smooth image keeps its tones.
MIN_SUM = 1.5
MIN_TONE_CORRELATION_ALONE = 0.995  # of images without fine detail, whose signs say nothing
# What file managers call a copy: "scan - Copy.tif", "Copy of scan.tif", "scan (2).tif", "scan copy 3.tif".
COPY_NAME = r"(?i)\b(?:copy|copie|kopie|copia)\b|\(\d{1,2}\)\.\w+$"
MAX_EXHAUSTIVE = 2000  # archives up to this size are compared pair by pair, which is exact and still quick
N_TABLES = 16  # sets of buckets in larger archives: with these, tests find 98 of 100 near-duplicates
N_NEIGHBOURS = 8  # in the order of a bucket that each image is compared with
ALL_ROWS = (0, 64)  # of the signs
FIRST_ROWS = (28, 36)  # of the signs, compared first in larger archives, as most pairs differ there already ...
FIRST_ROWS_MARGIN = 0.2  # ... by so much more than the correlation of eight rows scatters
BLOCK = 4096  # images, or pairs, that are compared together
PIXELS = ("pixel_sha256", "height_px", "width_px", "dtype")
CONTENT = ("content_sha256", "frame")

PairBlocks = Iterator[tuple[NDArray, NDArray]]  # positions (m,) and (m,) of images to compare
FindSame = Callable[[NDArray, NDArray], NDArray]  # row numbers (m,) and (m,) -> whether they are the same frame
ReadSignatures = Callable[[NDArray], NDArray]  # row numbers (m,) -> their signatures (m, SIGNATURE_BYTES) uint8


def describe_copy(agreement: float, original: str) -> dict:
    """Flag, value, limit and text of a copy; `agreement` is that of find_duplicates(), `original` a name_frame()."""
    if np.isnan(agreement):
        return {"flag": "duplicate", "value": 1.0, "limit": 1.0, "text": f"the same pixels as {original}"}
    percent = 100 * MIN_SIGN_CORRELATION
    text = f"nearly the same as {original}: {100 * agreement:.0f} % agreement (limit {percent:.0f} %)"
    return {"flag": "near_duplicate", "value": float(agreement), "limit": MIN_SIGN_CORRELATION, "text": text}


def is_copy_name(uris: pd.Series) -> NDArray:
    """(n,) bool: whether a file manager has named the file as a copy."""
    return uris.str.contains(COPY_NAME).to_numpy(bool)


def compute_identities(*columns: Iterable) -> NDArray:
    """(n, 2) uint64 that are equal where all n entries of `columns` are; zeros where the first is unknown."""
    digests = [
        _digest_values(values) if not pd.isna(values[0]) else bytes(IDENTITY_BYTES)
        for values in zip(*columns, strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _digest_values(values: tuple) -> bytes:
    return hashlib.blake2b("\0".join(map(str, values)).encode(), digest_size=IDENTITY_BYTES).digest()


def encode_shapes(height_px: pd.Series, width_px: pd.Series) -> NDArray:
    """(n,) uint32, one number for a shape of sides below 65536 px; larger ones may share theirs."""
    return (height_px.to_numpy("int64") << 16 ^ width_px.to_numpy("int64")).astype(np.uint32)


def decode_shapes(shapes: NDArray) -> tuple[NDArray, NDArray]:
    """Heights and widths (n,) in px of encode_shapes(), of sides below 65536 px."""
    return shapes >> np.uint32(16), shapes & np.uint32(0xFFFF)


def pack_bytes(values: Iterable[bytes | None], n_bytes: int) -> NDArray:
    """(n, n_bytes) uint8 of signatures or landmarks; zeros where there are none."""
    packed = b"".join(value if isinstance(value, bytes) else bytes(n_bytes) for value in values)
    return np.frombuffer(packed, np.uint8).reshape(-1, n_bytes)


def has_tones(signatures: NDArray) -> NDArray:
    """(n,) bool: False for constant images, of which `blank` says enough, and without a signature."""
    return signatures[:, :TONE_BYTES].any(axis=1)


def find_duplicates(
    identities: Iterable[NDArray],
    shapes: NDArray,
    is_toned: NDArray,
    read: ReadSignatures,
    folder: str | None = None,
    find_same: FindSame | None = None,
) -> tuple[NDArray, NDArray]:
    """(original, agreement) of n images: the row that each repeats, or its own; and how well they agree.

    Rows come in the order of precedence: an original is the first of its copies. `same`: compute_identities() of what
    makes two images the same, one array at a time; shapes: encode_shapes(); is_toned: has_tones(); `read` returns
    signatures. Agreement is the sign correlation; NaN where the pixels are the same, or in an original. Near-duplicates
    have the same shape, coarse tones and fine detail. Another exposure of the same area has the tones, too, but noise
    changes its fine detail. `find_same` has the last word, for instance about different areas of one lattice, whose
    signatures can agree.

    In memory are about 50 bytes per image. Up to 2000 images all pairs are compared. Beyond, cost is near-linear: only
    neighbours in buckets of random projections are compared (locality-sensitive hashing, Charikar, STOC 2002), one of
    16 sets of buckets after the other. Most of these pairs differ in the first eight rows of signs already.
    """
    original = _find_first_equal(identities, len(shapes))
    agreement = np.full(len(shapes), np.nan)
    rows = np.flatnonzero((original == np.arange(len(shapes))) & is_toned).astype(np.int32)
    is_small = len(rows) <= MAX_EXHAUSTIVE
    pairs = _list_similar_pairs(rows, read) if is_small else _list_bucket_neighbours(rows, read, folder)
    for a, b in pairs:
        _compare_candidate_copies(rows[a], rows[b], shapes, read, original, agreement, is_small, find_same)
    return original, agreement


def _find_first_equal(identities: Iterable[NDArray], n: int) -> NDArray:
    """(n,) the first row with the same identity of any kind, for every row."""
    first = np.arange(n, dtype=np.int32)
    for keys in identities:
        order = np.argsort(keys[:, 0], kind="stable").astype(np.int32)  # half of an identity is enough to sort by
        starts = np.zeros(n, bool)
        for column in keys.T:  # one after the other: memory
            values = column[order]
            starts[1:] |= values[1:] != values[:-1]
        starts |= ~keys.any(axis=1)[order]  # zeros: unknown, so like no other
        starts[:1] = True
        group = np.cumsum(starts, dtype=np.int32) - 1
        first[order] = np.minimum(first[order], order[starts][group])
    return first[first]


def _normalise_tones(signatures: NDArray) -> NDArray:
    """Unit vectors (n, TONE_BYTES) float32."""
    tones = signatures[:, :TONE_BYTES].view(np.int8).astype(np.float32)
    return tones / np.linalg.norm(tones, axis=1)[:, None]


def _list_similar_pairs(rows: NDArray, read: ReadSignatures) -> PairBlocks:
    """Pairs (a, b), a < b, of numbers in `rows` with similar tones, the earliest first."""
    tones = _normalise_tones(read(rows))
    a, b = np.nonzero(np.triu(tones @ tones.T > MIN_TONE_CORRELATION, 1))
    for k in range(0, len(a), BLOCK):
        yield a[k : k + BLOCK], b[k : k + BLOCK]


def _list_bucket_neighbours(rows: NDArray, read: ReadSignatures, folder: str | None) -> PairBlocks:
    """Pairs (a, b), a < b, of numbers in `rows` whose tones are neighbours in a bucket of random projections."""
    n = len(rows)
    rng = np.random.default_rng(20020519)
    n_bits = int(np.clip(np.ceil(np.log2(n)) - 1, 4, 24))
    directions = [rng.standard_normal((TONE_BYTES, n_bits + 1)).astype(np.float32) for _ in range(N_TABLES)]
    sample = _normalise_tones(read(rows[:: -(-n // BLOCK)]))
    projection_medians = [np.median(sample @ d[:, 1:], axis=0) for d in directions]
    with tempfile.TemporaryFile(dir=folder) as key_file:  # the keys of all sets of buckets are 128 bytes per image
        for k in range(0, n, BLOCK):
            tones = _normalise_tones(read(rows[k : k + BLOCK]))
            for t in range(N_TABLES):
                key_file.seek(8 * (t * n + k))
                key_file.write(_compute_bucket_keys(tones @ directions[t], projection_medians[t]).tobytes())
        for t in range(N_TABLES):
            key_file.seek(8 * t * n)
            yield from _pair_neighbours(np.frombuffer(key_file.read(8 * n), np.uint64))


def _pair_neighbours(keys: NDArray) -> PairBlocks:
    """Pairs (a, b), a < b, of positions in `keys` that are at most N_NEIGHBOURS apart in the order of one bucket."""
    order = np.argsort(keys, kind="stable").astype(np.int32)
    bucket = (keys >> np.uint64(32)).astype(np.uint32)[order]
    for k in range(0, len(keys), BLOCK):
        positions = order[k : k + BLOCK + N_NEIGHBOURS]
        buckets = bucket[k : k + BLOCK + N_NEIGHBOURS]
        parts = []
        for step in range(1, N_NEIGHBOURS + 1):
            first = np.flatnonzero(buckets[:-step] == buckets[step:])
            first = first[first < BLOCK]
            parts.append(np.stack([positions[first], positions[first + step]]))
        pairs = np.concatenate(parts, axis=1)
        yield pairs.min(axis=0), pairs.max(axis=0)


def _compute_bucket_keys(projected: NDArray, projection_medians: NDArray) -> NDArray:
    """(n,) uint64: the bucket in the upper half; in the lower one the first projection, so that keys sort by it."""
    bits = projected[:, 1:] > projection_medians
    bucket = bits @ (np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64))
    float_bits = np.ascontiguousarray(projected[:, 0]).view(np.uint32)
    return bucket << np.uint64(32) | np.where(float_bits >> 31, ~float_bits, float_bits | np.uint32(1 << 31)).astype(
        np.uint64
    )


def _compare_candidate_copies(
    a: NDArray,
    b: NDArray,
    shapes: NDArray,
    read: ReadSignatures,
    original: NDArray,
    agreement: NDArray,
    is_small: bool,
    find_same: FindSame | None,
) -> None:
    """Enter rows `a` as the originals of rows `b` where they are near-duplicates, and earlier than those entered."""
    is_open = (a < original[b]) & (shapes[a] == shapes[b])
    a = a[is_open]
    b = b[is_open]
    rows, positions = np.unique(np.concatenate([a, b]), return_inverse=True)
    if not len(rows):
        return
    signatures = read(rows)
    i, j = np.split(positions, 2)
    tone_correlation = _multiply_rows(_normalise_tones(signatures), i, j)
    is_similar = tone_correlation > MIN_TONE_CORRELATION
    if not is_similar.any():
        return
    # Imported here, since the compiler takes a second and most archives have no such pair.
    from emqa_dask.triage.sign_correlation import correlate_signs

    signs = np.ascontiguousarray(signatures[:, TONE_BYTES:]).view(">u8").astype(np.uint64)
    has_no_detail = (signs == signs[:, :1]).all(axis=1) & np.isin(signs[:, 0], (np.uint64(0), ~np.uint64(0)))
    has_no_detail = has_no_detail[i] | has_no_detail[j]
    if not is_small:
        k = np.flatnonzero(is_similar & ~has_no_detail)
        min_correlation = np.maximum(MIN_SIGN_CORRELATION, MIN_SUM - tone_correlation[k]) - FIRST_ROWS_MARGIN
        is_similar[k] = correlate_signs(signs, i[k], j[k], *FIRST_ROWS) > min_correlation
    open_pairs = np.flatnonzero(is_similar)
    open_pairs = open_pairs[np.lexsort((a[open_pairs], b[open_pairs]))]
    # The earliest candidate of each row comes first: a row with an original need not be compared with later ones.
    while len(open_pairs):
        is_next = np.ones(len(open_pairs), bool)
        is_next[1:] = b[open_pairs[1:]] != b[open_pairs[:-1]]
        k = open_pairs[is_next]
        open_pairs = open_pairs[~is_next]
        by_tone = np.where(tone_correlation[k] > MIN_TONE_CORRELATION_ALONE, tone_correlation[k], 0)
        by_signs = correlate_signs(signs, i[k], j[k], *ALL_ROWS)
        correlation = np.where(has_no_detail[k], by_tone, by_signs)
        is_copy = correlation > MIN_SIGN_CORRELATION
        is_copy &= correlation.astype(np.float32) + tone_correlation[k] > MIN_SUM
        if find_same and is_copy.any():
            is_copy[is_copy] = find_same(a[k[is_copy]], b[k[is_copy]])
        original[b[k[is_copy]]] = a[k[is_copy]]
        agreement[b[k[is_copy]]] = correlation[is_copy]
        open_pairs = open_pairs[a[open_pairs] < original[b[open_pairs]]]


def _multiply_rows(vectors: NDArray, i: NDArray, j: NDArray) -> NDArray:
    parts = [
        np.einsum("ij,ij->i", vectors[i[k : k + BLOCK]], vectors[j[k : k + BLOCK]]) for k in range(0, len(i), BLOCK)
    ]
    return np.concatenate([np.zeros(0, np.float32), *parts])
