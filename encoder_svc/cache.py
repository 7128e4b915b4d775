"""Results that need not be computed again, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

ResultT = TypeVar("ResultT")


class CacheKey(NamedTuple):
    """What fixes a result: the release that made it and the digest of the content."""

    release_id: str
    digest: bytes


class ResultCache(Generic[ResultT]):
    """The most recently used results, at most `max_bytes` of them. Safe to use from many threads."""

    def __init__(self, *, max_bytes: int) -> None:
        """A `max_bytes` of zero keeps nothing."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[CacheKey, tuple[ResultT, int]] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """How many bytes the kept results were said to take."""
        return self._num_bytes

    def get(self, key: CacheKey) -> ResultT | None:
        """The result of `key`, which then counts as just used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: CacheKey, result: ResultT, *, num_bytes: int) -> None:
        """Keep `result`, which takes `num_bytes`, and drop the least recently used until all fit."""
        if num_bytes > self._max_bytes:
            return
        with self._lock:
            self._drop(key)
            self._entries[key] = (result, num_bytes)
            self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: CacheKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._num_bytes -= entry[1]
