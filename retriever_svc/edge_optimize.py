"""Index building for the edge driver, in a process of its own: `python -m retriever_svc.edge_optimize FOLDER`.

The engine's `optimize()` holds the interpreter lock from its first to its last
moment (23 s for 20,000 vectors of 512 on two cores), so in the service it would
stop every search and every health check. Here it works on a copy of the shard.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import qdrant_edge as qdrant

from sightline.errors import UsageError

_NICENESS = 10
_SPACE_NEEDED = 2.5
"""Free disk that is asked for, in sizes of the shard: the copy, and what the build writes beside it."""


def free_bytes(folder: Path) -> int:
    """How much the disk of `folder` can still take."""
    return shutil.disk_usage(folder).free


async def copy_shard(source: Path, *, into: Path, free: Callable[[Path], int] = free_bytes) -> None:
    """A copy of the shard folder `source`, which must be flushed and not written to meanwhile.

    Raises UsageError if the disk does not have room for it and its index.
    """
    await asyncio.to_thread(_copy, source, into, free(source))


async def optimize_copy(folder: Path) -> None:
    """Build the index of a shard that no process has open. Raises UsageError with what the builder said."""
    command = [sys.executable, "-m", "retriever_svc.edge_optimize", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise UsageError(f"building the index failed ({process.returncode}): {said.decode(errors='replace')[-500:]}")


def build(folder: Path) -> None:
    """Load the shard in `folder`, index what is not indexed, flush and close."""
    shard = qdrant.EdgeShard.load(str(folder))
    shard.optimize()
    shard.flush()
    shard.close()


def _copy(source: Path, into: Path, free: int) -> None:
    size = sum(path.stat().st_blocks * 512 for path in source.rglob("*") if path.is_file())
    needed = int(size * _SPACE_NEEDED)
    if free < needed:
        raise UsageError(f"index folder {source.parent}: {free >> 20} MiB free, {needed >> 20} MiB needed")
    shutil.copytree(source, into)


if __name__ == "__main__":
    os.nice(_NICENESS)
    build(Path(sys.argv[1]))
