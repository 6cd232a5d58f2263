"""A set of millions in little memory: 16-byte digests in sorted arrays, looked up and added by the thousand."""

import hashlib
from collections.abc import Iterable

import numpy as np

N_BYTES = 16  # so many that no two things ever share them by chance


def of_texts(texts: Iterable[str]) -> np.ndarray:
    """A digest for each text."""
    return _array(b"".join(hashlib.blake2b(text.encode(), digest_size=N_BYTES).digest() for text in texts))


def of_hex(ids: Iterable[str]) -> np.ndarray:
    """The digests that ids of 32 hex digits are already."""
    return _array(bytes.fromhex("".join(ids)))


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, f"S{N_BYTES}")


class Digests:
    """A set of digests; 16 bytes for each."""

    def __init__(self):
        self._sorted: list[np.ndarray] = []  # each more than twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._sorted))

    def has(self, digests: np.ndarray) -> np.ndarray:
        """Which of `digests` are in the set."""
        found = np.zeros(len(digests), bool)
        for known in self._sorted:
            at = np.minimum(np.searchsorted(known, digests), len(known) - 1)
            found |= known[at] == digests
        return found

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Add `digests`; True where one was not there before, nor earlier among them."""
        is_new = np.zeros(len(digests), bool)
        unique, first = np.unique(digests, return_index=True)
        lacking = ~self.has(unique)
        is_new[first[lacking]] = True
        added = unique[lacking]
        while len(added) and self._sorted and len(self._sorted[-1]) <= 2 * len(added):
            added = np.sort(np.concatenate([self._sorted.pop(), added]), kind="stable")  # merges sorted stretches
        if len(added):
            self._sorted.append(added)
        return is_new
