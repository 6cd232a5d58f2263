"""Micrographs that the archive holds twice: the same pixels, or the same frame saved again."""

import numpy as np
import pandas as pd
from scipy import fft

from emqa_dask import tables

TONE_BYTES, GRAIN_PX = 256, 64  # the signature's parts, see featurise.signature
TONE_LIMIT = 0.5  # correlation of the 16 x 16 tones
SUM_LIMIT = 1.5  # tones and grain together: a lattice keeps its grain when shifted, a smooth image its tones
TONE_ALONE_LIMIT = 0.995  # the same, where an image has no grain to compare
GRAIN_LIMIT = 0.5  # agreement of the grain's signs at the best shift; 0 = chance, 1 = all
REACH_PX = 16  # largest shift of the grain that is tried
# What file managers call a copy: "scan - Copy.tif", "Copy of scan.tif", "scan (2).tif", "scan copy 3.tif".
COPY_NAME = r"(?i)\b(?:copy|copie|kopie|copia)\b|\(\d{1,2}\)\.\w+$"
N_TABLES, NEIGHBOURS = 16, 8
SMALL = 2000  # archives up to this size are compared pair by pair, which is exact and still quick


def flag_duplicates(micrographs: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Rows of `tables.FLAGS` for every micrograph that repeats an earlier one: `duplicate` or `near_duplicate`.

    micrographs: micrograph_id, uri, frame, content_sha256, pixel_sha256, height_px, width_px, dtype; features:
    micrograph_id, signature (bytes or None). The original is the first by (uri, frame), with files whose name says that
    they are a copy behind all others; it is not flagged, so the order of rows does not matter. Near-duplicates have the
    same shape, the same coarse tones and the same grain: another exposure of the same place has the tones, and the
    grain only as far as noise lets it. Cost is near-linear: beyond 2000 images only neighbours in buckets of random
    projections are compared (locality-sensitive hashing, Charikar, STOC 2002). No rows give an empty table.
    """
    is_copy = micrographs["uri"].str.contains(COPY_NAME)
    rows = micrographs.assign(is_copy=is_copy).sort_values(
        ["is_copy", "uri", "frame"], kind="stable", ignore_index=True
    )
    first = _first_of_same(rows)
    places = [_place(uri, frame) for uri, frame in zip(rows["uri"], rows["frame"])]
    found = [(k, "duplicate", 1.0, 1.0, f"the same pixels as {places[o]}") for k, o in enumerate(first) if o != k]
    signatures = rows["micrograph_id"].map(features.set_index("micrograph_id")["signature"])
    use = np.array([o == k and isinstance(s, bytes) for k, (o, s) in enumerate(zip(first, signatures))], bool)
    for k, o, grain in _near(rows, signatures, np.flatnonzero(use)):
        text = f"nearly the same as {places[o]}: {100 * grain:.0f} % agreement (limit {100 * GRAIN_LIMIT:.0f} %)"
        found.append((k, "near_duplicate", grain, GRAIN_LIMIT, text))
    table = pd.DataFrame(found, columns=["row", "flag", "value", "limit", "text"])
    table["micrograph_id"] = rows["micrograph_id"].to_numpy()[table["row"].to_numpy(int)]
    table = table.sort_values("row", kind="stable")
    return tables.conform(table[tables.FLAGS.names], tables.FLAGS).to_pandas()


def _place(uri: str, frame: int) -> str:
    return f"{uri} (frame {frame})" if frame else uri


def _first_of_same(rows: pd.DataFrame) -> np.ndarray:
    """For every row the first row with the same pixels (shape and dtype too) or the same frame of the same content."""
    index = pd.Series(np.arange(len(rows)))
    first = index.copy()
    for keys in (["pixel_sha256", "height_px", "width_px", "dtype"], ["content_sha256", "frame"]):
        known = rows[keys[0]].notna()
        same = index[known].groupby([rows.loc[known, key] for key in keys]).transform("min")
        first[known] = np.minimum(first[known], same)
    first = first.to_numpy()
    return first[first] if len(first) else first


def _near(rows: pd.DataFrame, signatures: pd.Series, candidates: np.ndarray):
    """(row, earliest row that it repeats, agreement) for `candidates`, rows in the order of (uri, frame)."""
    if len(candidates) < 2:
        return
    raw = np.frombuffer(b"".join(signatures.iloc[candidates]), np.uint8).reshape(len(candidates), -1)
    tones = raw[:, :TONE_BYTES].view(np.int8).astype(np.float32)
    length = np.linalg.norm(tones, axis=1)
    solid = length > 0  # constant images have no tones: `blank` says enough
    candidates, raw, tones = candidates[solid], raw[solid], tones[solid] / length[solid, None]
    a, b = _pairs(tones)
    shape = rows[["height_px", "width_px"]].to_numpy()[candidates]
    same = (shape[a] == shape[b]).all(axis=1)
    a, b = a[same], b[same]
    alike = np.concatenate(
        [
            np.zeros(0, np.float32),
            *(  # in blocks: a million pairs of 256 numbers are 2 GB
                np.einsum("ij,ij->i", tones[a[k : k + 50_000]], tones[b[k : k + 50_000]])
                for k in range(0, len(a), 50_000)
            ),
        ]
    )
    keep = alike > TONE_LIMIT
    done = set()
    for i, j, tone in zip(a[keep], b[keep], alike[keep]):  # sorted: the earliest original comes first
        if j in done:
            continue
        score = _agreement(raw[i, TONE_BYTES:], raw[j, TONE_BYTES:], float(tone))
        if score > GRAIN_LIMIT and score + tone > SUM_LIMIT:
            done.add(j)
            yield int(candidates[j]), int(candidates[i]), score


def _pairs(tones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (earlier, later) of unit vectors (n, d) that share a bucket; sorted, each once. O(n log n)."""
    n = len(tones)
    if n <= SMALL:
        return np.nonzero(np.triu(tones @ tones.T > TONE_LIMIT, 1))
    rng = np.random.default_rng(20020519)
    n_bits = int(np.clip(np.ceil(np.log2(n)) - 1, 4, 24))
    keys = []
    for _ in range(N_TABLES):
        projected = tones @ rng.standard_normal((tones.shape[1], n_bits + 1)).astype(np.float32)
        bits = projected[:, 1:] > np.median(projected[:, 1:], axis=0)
        bucket = bits @ (1 << np.arange(n_bits))
        order = np.lexsort((np.arange(n), projected[:, 0], bucket))
        for step in range(1, min(NEIGHBOURS, n - 1) + 1):
            i, j = order[:-step], order[step:]
            together = bucket[i] == bucket[j]
            if not together.any():
                break
            i, j = i[together], j[together]
            keys.append(np.minimum(i, j) * n + np.maximum(i, j))
    unique = np.unique(np.concatenate([np.zeros(0, int), *keys]))
    return unique // n, unique % n


def _agreement(one: np.ndarray, other: np.ndarray, tone: float) -> float:
    """Agreement of two grains (packed bits) at the best shift; without grain, the tones' if almost 1."""
    a, b = (2.0 * np.unpackbits(v).reshape(GRAIN_PX, GRAIN_PX) - 1 for v in (one, other))
    if abs(a.mean()) == 1 or abs(b.mean()) == 1:
        return tone if tone > TONE_ALONE_LIMIT else 0.0
    size = 2 * GRAIN_PX
    crossed = fft.irfft2(fft.rfft2(a, (size, size)) * fft.rfft2(b, (size, size)).conj(), (size, size))
    shift = np.arange(-REACH_PX, REACH_PX + 1)
    overlap = GRAIN_PX - np.abs(shift)
    return float((crossed[np.ix_(shift, shift)] / np.outer(overlap, overlap)).max())
