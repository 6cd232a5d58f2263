"""Micrographs that show the same field as an earlier one, shifted, rescaled, or with other grey values."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.landmark_codes import DESCRIPTION_BITS, LANDMARK, N_LANDMARKS, decode_places

N_TABLES = 6  # sets of buckets, each with another order of the bits
N_NEIGHBOURS = 8  # in a bucket that each landmark is compared with
MIN_HITS = 2  # close landmarks of two images before their maps are fitted
MAX_CANDIDATES = 8  # earlier images that an image is fitted to: bounds the cost of a film of one field
MIN_AGREEING = 6  # landmarks: tests find at most 2 in images of different fields that are not periodic
MAX_NEXT_SHARE = 0.6  # of them that may agree at another shift: in different areas of a lattice 0.73 to 1 do
MIN_AGREEMENT = 0.2  # of the landmarks of the common field; a scale bar alone has less
MIN_COMMON_FRACTION = 0.4  # of the area of the smaller field; a shift of 25 % along both axes leaves 0.56
MIN_LANDMARKS = 8  # of both images; fewer do not decide whether they are the same frame
MIN_SAME_SHARE = 0.25  # of landmarks at the same places: in saved copies 0.4 to 1, in areas of one lattice mostly 0
WHOLE_FIELD = 0.97  # of both areas: the same field
LEAST_RESCALE_OCTAVES = 0.03  # 2 %
BLOCK = 4096  # images that are read together
BLOCKS_PER_PASS = 24  # 3 million landmarks, of some 50 bytes each, are in memory at a time

ReadLandmarks = Callable[[NDArray], NDArray]  # row numbers (m,) -> (m, LANDMARKS_BYTES) uint8


class FieldCopies(NamedTuple):
    """Images that show the field of an earlier one, in the order of their rows; all arrays are (m,)."""

    row: NDArray[np.int32]
    original: NDArray[np.int32]  # row of the earliest image that agrees
    agreement: NDArray[np.float64]  # share of the landmarks of the common field that agree
    scale: NDArray[np.float64]  # y = scale * y_original + shift_y_px
    shift_y_px: NDArray[np.float64]
    shift_x_px: NDArray[np.float64]
    is_whole: NDArray[np.bool_]  # both show the same field, with other pixels


def find_field_copies(rows: NDArray, heights_px: NDArray, widths_px: NDArray, read: ReadLandmarks) -> FieldCopies:
    """Copies among the images `rows` (n,), ascending in the order of precedence; of heights and widths (n,) in px.

    Landmarks are sorted by their descriptions in six orders of the bits, and compared with their neighbours (locality-
    sensitive hashing). Images with close landmarks are fitted with one scale and one shift, which have to be unique:
    periodic images that agree at several shifts are left out. Cost is near-linear in n.
    """
    candidates = _list_candidates(rows, read)
    batches = [
        _fit_candidates(candidates[k : k + BLOCK], rows, heights_px, widths_px, read)
        for k in range(0, max(len(candidates), 1), BLOCK)
    ]
    columns = [np.concatenate(column) for column in zip(*batches)]
    order = np.lexsort((columns[1], columns[0]))
    columns = [column[order] for column in columns]
    is_first = np.diff(columns[0], prepend=-1) != 0
    types = (np.int32, np.int32, float, float, float, float, bool)
    return FieldCopies(*(column[is_first].astype(kind) for column, kind in zip(columns, types, strict=True)))


def find_same_frames(
    a: NDArray, b: NDArray, heights_px: NDArray, widths_px: NDArray, read: ReadLandmarks
) -> NDArray[np.bool_]:
    """(m,) whether the images `a` (m,) and `b` (m,), numbers of rows, have their landmarks at the same places.

    Different areas of one lattice have not. Images with few landmarks are taken for the same. heights_px, widths_px:
    (n,) of all rows.
    """
    from emqa_dask.triage.landmark_pairs import count_same_places

    numbers, positions = np.unique(np.concatenate([a, b]), return_inverse=True)
    landmarks = _view_landmarks(read(numbers))
    places = decode_places(landmarks, heights_px[numbers], widths_px[numbers])
    codes = np.ascontiguousarray(landmarks["code"])
    n_landmarks = (codes != 0).sum(axis=1)
    is_same = np.ones(len(a), bool)
    for k, (i, j) in enumerate(zip(*np.split(positions, 2), strict=True)):
        n_fewer = min(n_landmarks[i], n_landmarks[j])
        if n_fewer >= MIN_LANDMARKS:
            n_same = count_same_places(codes[i], places[i], codes[j], places[j])
            is_same[k] = n_same >= MIN_SAME_SHARE * n_fewer
    return is_same


def _list_candidates(rows: NDArray, read: ReadLandmarks) -> NDArray[np.uint64]:
    """(m,) a << 32 | b of numbers a < b in `rows` with close landmarks, at most MAX_CANDIDATES for each b."""
    rng = np.random.default_rng(20040901)
    n_bits = int(np.clip(np.ceil(np.log2(max(len(rows), 1) * N_LANDMARKS)) - 2, 12, 24))
    n_passes = -(-len(rows) // (BLOCK * BLOCKS_PER_PASS))
    pairs = np.zeros(0, np.uint64)
    n_hits = np.zeros(0, np.int64)
    for _ in range(N_TABLES):
        order = rng.permutation(DESCRIPTION_BITS)
        for number in range(n_passes):
            hits = _compare_neighbours(rows, read, order, n_bits, (number, n_passes))
            pairs, n_hits = _count_hits(np.concatenate([pairs, *hits]), n_hits)
    return np.sort(pairs[n_hits >= MIN_HITS])


def _compare_neighbours(rows, read, order, n_bits, part: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """Pairs with close landmarks, among the landmarks of one part of the buckets: (number, of how many)."""
    from emqa_dask.triage.landmark_pairs import list_close_neighbours

    columns = list(zip(*_iterate_bucketed(rows, read, order, n_bits, part)))
    keys, codes, images = (np.concatenate(column) for column in columns)
    positions = np.argsort(keys, kind="stable")
    shift = DESCRIPTION_BITS - n_bits
    return [list_close_neighbours(keys[positions], codes[positions], images[positions], shift, N_NEIGHBOURS)]


def _iterate_bucketed(rows, read, order, n_bits, part) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Keys, codes and images (numbers in `rows`) of the landmarks of one part of the buckets, a block at a time."""
    number, n_parts = part
    for start in range(0, len(rows), BLOCK):
        landmarks = _view_landmarks(read(rows[start : start + BLOCK]))
        codes = landmarks["code"].ravel()
        images = np.repeat(np.arange(start, start + len(landmarks), dtype=np.int32), N_LANDMARKS)
        keys = _permute_bits(codes, order)
        is_listed = (codes != 0) & ((keys >> np.uint64(DESCRIPTION_BITS - n_bits)) % np.uint64(n_parts) == number)
        yield keys[is_listed], codes[is_listed], images[is_listed]


def _permute_bits(codes: NDArray[np.uint64], order: NDArray) -> NDArray[np.uint64]:
    """The descriptions of `codes` (n,) with their bits in another order."""
    one = np.uint64(1)
    keys = np.zeros_like(codes)
    for target, source in enumerate(order.tolist()):
        keys |= (codes >> np.uint64(source) & one) << np.uint64(target)
    return keys


def _count_hits(pairs: NDArray[np.uint64], n_hits: NDArray) -> tuple[NDArray[np.uint64], NDArray]:
    """Distinct `pairs` and their hits, at most MAX_CANDIDATES for each later image: those with the most hits.

    The first len(n_hits) of `pairs` count n_hits, the others 1.
    """
    weights = np.concatenate([n_hits, np.ones(len(pairs) - len(n_hits), np.int64)])
    distinct, inverse = np.unique(pairs, return_inverse=True)
    counts = np.bincount(inverse, weights, len(distinct)).astype(np.int64)
    later = distinct & np.uint64(2**32 - 1)
    order = np.lexsort((distinct, -counts, later))
    starts = np.flatnonzero(np.diff(later[order], prepend=np.uint64(2**32)) != 0)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    order = order[rank < MAX_CANDIDATES]
    return distinct[order], counts[order]


def _view_landmarks(packed: NDArray[np.uint8]) -> NDArray:
    """(m, N_LANDMARKS) of LANDMARK."""
    return np.ascontiguousarray(packed).view(LANDMARK).reshape(-1, N_LANDMARKS)


def _fit_candidates(pairs, rows, heights_px, widths_px, read) -> tuple[NDArray, ...]:
    """Columns of FieldCopies of those of `pairs` whose landmarks agree."""
    from emqa_dask.triage.landmark_pairs import fit_similarity

    a = (pairs >> np.uint64(32)).astype(np.int64)
    b = (pairs & np.uint64(2**32 - 1)).astype(np.int64)
    numbers, positions = np.unique(np.concatenate([a, b]), return_inverse=True)
    landmarks = _view_landmarks(read(rows[numbers]))
    places = decode_places(landmarks, heights_px[numbers], widths_px[numbers])
    codes = np.ascontiguousarray(landmarks["code"])
    copies = []
    for i, j in np.split(positions, 2) and zip(*np.split(positions, 2)):
        similarity = fit_similarity(codes[i], places[i], codes[j], places[j])
        n_agreeing, n_next = similarity[:2]
        if n_agreeing < MIN_AGREEING or n_next > MAX_NEXT_SHARE * n_agreeing:
            continue
        scale, shift = similarity[2], similarity[3:]
        sides_a, sides_b = ((int(heights_px[numbers[k]]), int(widths_px[numbers[k]])) for k in (i, j))
        common, is_whole = _measure_common_field(sides_a, sides_b, scale, shift)
        n_common = _count_inside(codes[i], places[i], scale, shift, sides_b)
        agreement = n_agreeing / max(n_common, n_agreeing)
        if common >= MIN_COMMON_FRACTION and agreement >= MIN_AGREEMENT:
            copies.append((rows[numbers[j]], rows[numbers[i]], agreement, scale, *shift, is_whole))
    return tuple(np.array(column) for column in zip(*copies)) if copies else (np.zeros(0),) * len(FieldCopies._fields)


def _measure_common_field(sides_a, sides_b, scale: float, shift: tuple[float, float]) -> tuple[float, bool]:
    """Share of the smaller field of two that both show, and whether both show the same with another pixel size."""
    common = 1.0
    for length_a, length_b, offset in zip(sides_a, sides_b, shift, strict=True):
        first = scale * -0.5 + offset
        common *= max(min(first + scale * length_a, length_b - 0.5) - max(first, -0.5), 0.0)
    areas = (scale**2 * sides_a[0] * sides_a[1], float(sides_b[0]) * float(sides_b[1]))
    is_rescaled = abs(np.log2(scale)) > LEAST_RESCALE_OCTAVES
    return common / min(areas), bool(is_rescaled and common >= WHOLE_FIELD * max(areas))


def _count_inside(codes, places, scale: float, shift: tuple[float, float], sides) -> int:
    """Landmarks of an image that another of `sides` shows, well inside, after the map."""
    y, x = (scale * places[:, k] + shift[k] for k in (0, 1))
    margin = 4 * scale * places[:, 2]  # nearer to the rim a landmark has no description
    is_inside = (y >= margin) & (x >= margin) & (y < sides[0] - margin) & (x < sides[1] - margin)
    return int(np.count_nonzero(is_inside & (codes != 0)))
