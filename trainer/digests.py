"""Rows by digest: millions of them in the memory of two plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

DIGEST_BYTES = 16
DIGEST = np.dtype(f"S{DIGEST_BYTES}")
"""Compared byte by byte; NumPy leaves out zeros at the end alike on both sides."""
_MOST_RECENT = 16_384
"""Digests held in a dictionary before they are sorted in; it bounds the memory that dictionaries take."""

Digests = np.ndarray[Any, np.dtype[np.bytes_]]


class DigestIndex:
    """A growing map from digest to row: 24 bytes an entry, and a dictionary of the newest few thousand."""

    def __init__(self, digests: Digests, *, rows: np.ndarray[Any, Any]) -> None:
        self._recent: dict[bytes, int] = {}
        self._keys, self._rows = np.array(digests, dtype=DIGEST), np.asarray(rows, dtype=np.int64)
        self._sort()

    def row(self, digest: bytes) -> int | None:
        """The row of a digest, or None."""
        if digest in self._recent:
            return self._recent[digest]
        key = np.frombuffer(digest, dtype=DIGEST)[0]
        place = int(np.searchsorted(self._keys, key))
        is_found = place < len(self._keys) and self._keys[place] == key
        return int(self._rows[place]) if is_found else None

    def known(self, digest: bytes) -> int:
        """The row of a digest that is there."""
        row = self.row(digest)
        assert row is not None, "the digest was added before"
        return row

    def add(self, digest: bytes, *, row: int) -> None:
        """Map a new digest to its row."""
        self._recent[digest] = row
        if len(self._recent) >= _MOST_RECENT:
            self._keys = np.concatenate([self._keys, np.array(list(self._recent), dtype=DIGEST)])
            self._rows = np.concatenate([self._rows, np.array(list(self._recent.values()), dtype=np.int64)])
            self._recent = {}
            self._sort()

    def _sort(self) -> None:
        order = np.argsort(self._keys)
        self._keys, self._rows = self._keys[order], self._rows[order]
