"""Sets of digests, so that a run can remember every item of an archive of any size."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

DIGEST_BYTES = 16
RECENT = 1 << 16
"""Digests that are kept as Python objects before they are sorted into the array."""


def digest(*values: Any) -> bytes:
    """Digest values that JSON can express."""
    return blake2b(orjson.dumps(values), digest_size=DIGEST_BYTES).digest()


class DigestSet:
    """A set of digests that takes 16 bytes for each.

    Args:
        pairs: Digests to begin with, as from `as_pairs`, (n, 2); None for none.
    """

    def __init__(self, pairs: NDArray[np.uint64] | None = None) -> None:
        self._sorted = np.zeros((0, 2), np.uint64) if pairs is None else np.unique(pairs, axis=0)
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, key: bytes) -> bool:
        if key in self._recent:
            return True
        first, second = np.frombuffer(key, np.uint64)
        position = int(np.searchsorted(self._sorted[:, 0], first))
        while position < len(self._sorted) and self._sorted[position, 0] == first:
            if self._sorted[position, 1] == second:
                return True
            position += 1
        return False

    def add(self, key: bytes) -> bool:
        """Add a digest; return whether it is new."""
        if key in self:
            return False
        self._recent.add(key)
        if len(self._recent) >= max(RECENT, len(self._sorted) // 16):
            self._merge()
        return True

    def _merge(self) -> None:
        merged = np.concatenate((self._sorted, as_pairs(self._recent)))
        self._sorted = np.ascontiguousarray(merged[np.lexsort((merged[:, 1], merged[:, 0]))])
        self._recent = set()


def as_pairs(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """Return digests as an array (n, 2)."""
    return np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)


def superseded(keys: NDArray[np.uint64], times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Find the rows of which there is a newer version.

    Args:
        keys: Digests of the items of rows, (n, 2).
        times: When each was inspected, (n,).

    Returns:
        True for each row whose item was inspected again later, (n,).
    """
    order = np.lexsort((times, keys[:, 1], keys[:, 0]))
    ordered, found = keys[order], np.zeros(len(keys), np.bool_)
    if not len(keys):
        return found
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    ends = np.r_[starts[1:], len(keys)]
    newest = np.repeat(times[order][ends - 1], ends - starts)
    found[order] = times[order] < newest
    return found
