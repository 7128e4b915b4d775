"""Where the time of one call went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sightline.v1 import common_pb2


class StageClock:
    """Adds up the wall time of the stages of one call, in the order in which they first began. For one task."""

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._began = now()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as stage `name`; a stage that runs twice counts both."""
        began = self._now()
        self._seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._seconds[name] += self._now() - began

    def add(self, name: str, *, seconds: float) -> None:
        """Count `seconds` that were measured elsewhere, such as the wait in a queue, as stage `name`."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self, name: str) -> float:
        """How long stage `name` has taken so far; zero if it never ran."""
        return self._seconds.get(name, 0.0)

    def timings(self) -> list[common_pb2.StageTiming]:
        """Every stage so far and, last, "total": the wall time since this clock was made."""
        pairs = [*self._seconds.items(), ("total", self._now() - self._began)]
        return [common_pb2.StageTiming(stage=name, duration_us=round(s * 1e6)) for name, s in pairs]
