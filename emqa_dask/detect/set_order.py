"""The order in which CPython iterates over a set of pairs of integers, which scikit-image's pruning depends on."""

import numba
import numpy as np


def order_as_set(pairs: np.ndarray) -> np.ndarray:
    """Indices into `pairs` (n x 2, distinct, non-negative) in the order of `list({(i, j), ...})` filled row by row.

    CPython's set without its objects (Objects/setobject.c, tuplehash in Objects/tupleobject.c, both unchanged from
    3.8 to 3.13): ten million pairs take about a second instead of ten, and 0.2 GB instead of 2 GB.
    """
    return _order_as_set(np.ascontiguousarray(pairs, dtype=np.int64))


@numba.njit(cache=True)
def _hash_pair(i, j):
    prime_1 = np.uint64(11400714785074694791)
    prime_2 = np.uint64(14029467366897019727)
    prime_5 = np.uint64(2870177450012600261)
    acc = prime_5
    for lane in (np.uint64(i), np.uint64(j)):
        acc += lane * prime_2
        acc = (acc << np.uint64(31)) | (acc >> np.uint64(33))
        acc *= prime_1
    acc += np.uint64(2) ^ (prime_5 ^ np.uint64(3527539))
    return np.uint64(1546275796) if acc == np.uint64(0xFFFFFFFFFFFFFFFF) else acc


@numba.njit(cache=True)
def _insert(table, mask, key, hashed):
    """Put `key` into the first free slot of its probe sequence: up to ten neighbours, then a jump."""
    perturb = hashed
    slot = np.int64(hashed & np.uint64(mask))
    while True:
        n_neighbour_slots = 10 if slot + 9 <= mask else 1
        for s in range(slot, slot + n_neighbour_slots):
            if table[s] < 0:
                table[s] = key
                return
        perturb >>= np.uint64(5)
        slot = np.int64((np.uint64(slot) * np.uint64(5) + np.uint64(1) + perturb) & np.uint64(mask))


@numba.njit(cache=True)
def _list_keys(table, n):
    """The `n` keys in the order of their slots; without a branch, which would be guessed wrongly half of the time."""
    keys = np.empty(n + 1, np.int32)
    k = 0
    for key in table:
        keys[k] = key
        k += key >= 0
    return keys[:n]


@numba.njit(cache=True)
def _order_as_set(pairs):
    hashes = np.empty(len(pairs), np.uint64)
    for p in range(len(pairs)):
        hashes[p] = _hash_pair(pairs[p, 0], pairs[p, 1])
    size = 8
    table = np.full(size, -1, np.int32)
    for p in range(len(pairs)):
        _insert(table, size - 1, p, hashes[p])
        used = p + 1
        if used * 5 >= (size - 1) * 3:
            min_size = used * 2 if used > 50000 else used * 4
            size = 8
            while size <= min_size:
                size *= 2
            keys = _list_keys(table, used)
            table = np.full(size, -1, np.int32)
            for key in keys:
                _insert(table, size - 1, key, hashes[key])
    return _list_keys(table, len(pairs))
