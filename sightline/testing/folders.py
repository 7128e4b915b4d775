"""Folders for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108  (a file system, not a guessable name: the folder's own name is random)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, in memory where there is a file system for it.

    An index syncs every write, which on a disk that others keep busy takes a
    hundred times as long.
    """
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix="sightline-test-") as name:
        yield Path(name)
