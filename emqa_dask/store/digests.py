"""A set of millions in little memory: 16-byte digests in sorted arrays, looked up and added by the thousand."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

N_BYTES = 16  # so many that no two things ever share them by chance


def digest_texts(texts: Iterable[str]) -> np.ndarray:
    """A digest for each text: (n, 2) uint64."""
    return _to_array(b"".join([hashlib.blake2b(text.encode(), digest_size=N_BYTES).digest() for text in texts]))


def digest_contents(rows: pd.DataFrame) -> np.ndarray:
    """A digest for each file with its content, of the columns uri and content_sha256: (n, 2) uint64."""
    pairs = zip(rows["uri"], rows["content_sha256"], strict=True)
    return digest_texts(f"{uri}\0{content}" for uri, content in pairs)


def parse_hex_ids(ids: Iterable[str]) -> np.ndarray:
    """The digests that ids of 32 hex digits are already: (n, 2) uint64."""
    return _to_array(bytes.fromhex("".join(ids)))


def _to_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<u8").reshape(-1, 2)


class DigestSet:
    """A set of digests; 16 bytes for each."""

    def __init__(self):
        self._sorted: list[np.ndarray] = []  # (2, n), sorted by the first row; each over twice as long as the next

    def __len__(self) -> int:
        return sum(block.shape[1] for block in self._sorted)

    def has(self, digests: np.ndarray) -> np.ndarray:
        """Which of `digests` are in the set."""
        is_member = np.zeros(len(digests), bool)
        for heads, tails in self._sorted:
            candidates = np.arange(len(digests))
            positions = np.searchsorted(heads, digests[:, 0])
            while len(candidates):  # twice where two digests have one half in common, which is next to never
                is_near = heads[np.minimum(positions, len(heads) - 1)] == digests[candidates, 0]
                is_near &= positions < len(heads)
                candidates = candidates[is_near]
                positions = positions[is_near]
                is_it = tails[positions] == digests[candidates, 1]
                is_member[candidates[is_it]] = True
                candidates = candidates[~is_it]
                positions = positions[~is_it] + 1
        return is_member

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Add `digests`; True where one was not there before, nor earlier among them."""
        order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal ones the first comes first
        sorted_digests = digests[order]
        is_new = np.zeros(len(digests), bool)
        is_new[order] = _differs_from_previous(sorted_digests)
        is_new &= ~self.has(digests)
        new_digests = sorted_digests[is_new[order]].T
        while new_digests.shape[1] and self._sorted and self._sorted[-1].shape[1] <= 2 * new_digests.shape[1]:
            merged_digests = np.concatenate([self._sorted.pop(), new_digests], axis=1)
            new_digests = merged_digests[:, np.argsort(merged_digests[0], kind="stable")]  # merges sorted stretches
        if new_digests.shape[1]:
            self._sorted.append(np.ascontiguousarray(new_digests))
        return is_new


def _differs_from_previous(sorted_digests: np.ndarray) -> np.ndarray:
    """Which rows are not the row before them."""
    return np.r_[np.ones(min(len(sorted_digests), 1), bool), (sorted_digests[1:] != sorted_digests[:-1]).any(axis=1)]
