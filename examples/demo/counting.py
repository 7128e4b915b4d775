"""Every call of the demo, counted: how many were made and how many failed."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from sightline.errors import SightlineError

ResultT = TypeVar("ResultT")


@dataclass(kw_only=True)
class Tally:
    """Calls made and calls failed. For the tasks of one event loop."""

    requests: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    """The first few failures, as reason and message."""

    async def count(self, call: Awaitable[ResultT]) -> ResultT:
        """The result of `call`, counted; a failure is counted and raised."""
        self.requests += 1
        try:
            return await call
        except SightlineError as error:
            self.fail(error)
            raise

    def fail(self, error: SightlineError) -> None:
        """Count one failure."""
        self.failed += 1
        if len(self.errors) < 10:
            self.errors.append(f"{error.reason}: {error.message}")

    def add(self, other: Tally) -> None:
        """Take over the counts of `other`."""
        self.requests += other.requests
        self.failed += other.failed
        self.errors += other.errors
