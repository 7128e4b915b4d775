"""Text pieces joined into chunks, so that a message carries more than one token."""

from __future__ import annotations

import time
from collections.abc import Callable


class ChunkBuffer:
    """Collects pieces and gives them back as chunks: the first piece at once, later ones by age or by number."""

    def __init__(self, *, flush_ms: float, flush_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._flush_s = flush_ms / 1000
        self._flush_tokens = flush_tokens
        self._clock = clock
        self._pieces: list[str] = []
        self._flushed_s: float | None = None

    def add(self, piece: str) -> str:
        """The chunk that `piece` completes, or an empty text if it waits for company.

        An empty piece still counts as a token: a token may hold half a character.
        """
        self._pieces.append(piece)
        return self.rest() if self._is_due() else ""

    def rest(self) -> str:
        """Everything that still waits; empty if nothing does."""
        text = "".join(self._pieces)
        self._pieces.clear()
        if text:
            self._flushed_s = self._clock()
        return text

    def _is_due(self) -> bool:
        if self._flushed_s is None or len(self._pieces) >= self._flush_tokens:
            return True
        return self._clock() - self._flushed_s >= self._flush_s
