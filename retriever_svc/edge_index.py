"""The embedded driver: Qdrant's engine in this process, one process per folder, one shard per embedding space.

Measured with qdrant-edge-py 0.9.0 on two cores: every call holds the interpreter
lock (two threads search no faster than one), a search among 20,000 x 512 takes
0.4 ms indexed and 1.6 ms exactly, a flush 4 to 7 ms, `optimize()` 23 s. So calls
are short and run in one thread, off the event loop, and the index is built in
another process, on a copy that then takes the shard's place.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import shutil
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from retriever_svc.edge_folder import EdgeFolder
from retriever_svc.edge_optimize import copy_shard, optimize_copy
from retriever_svc.edge_shard import EdgeShard
from retriever_svc.index import (
    CollectionInfo,
    Floats,
    Hit,
    ImagePoint,
    Layout,
    Page,
    SpaceSpec,
    Where,
    best_hits,
    collection_name,
    with_fusion_tokens,
)
from sightline.errors import SightlineError

_CARRY = 256
"""Points that are carried over at once into a freshly built shard."""

ResultT = TypeVar("ResultT")

logger = logging.getLogger("sightline.retriever")


class EdgeIndex:
    """A VectorIndex in a folder. See `retriever_svc.index.VectorIndex`."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "images",
        optimize_after: int = 5000,
        lock_wait_s: float = 0.0,
        build: Callable[[Path], Awaitable[None]] = optimize_copy,
    ) -> None:
        self._folder = EdgeFolder(folder)
        self._name = name
        self._optimize_after = optimize_after
        self._lock_wait_s = lock_wait_s
        self._build = build
        self._shards: dict[str, EdgeShard] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edge-index")
        # Writes pass one by one; a copy of the shard is taken while none passes.
        self._gate = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._num_changed: dict[str, int] = {}
        self._journal: dict[str, set[str]] = {}
        self._optimizing: dict[str, asyncio.Task[None]] = {}

    @property
    def driver(self) -> str:
        """ "edge"."""
        return "edge"

    async def open(self) -> None:
        """Take the folder's lock and load its shards; raises UsageError or DataCorrupt naming the folder."""
        try:
            await self._folder.open(wait_s=self._lock_wait_s)
            for space in self._folder.state.layout.spaces.values():
                await self._load(space)
        except SightlineError:
            self._folder.close()
            raise

    async def close(self) -> None:
        """Finish what runs, flush, and let go of the folder."""
        for task in list(self._optimizing.values()):
            task.cancel()
        await asyncio.gather(*self._writes, *self._optimizing.values(), return_exceptions=True)
        for shard in self._shards.values():
            await self._run(shard.close)
        self._shards.clear()
        self._thread.shutdown()
        self._folder.close()

    def collection(self, space_id: str) -> str:
        """The name of the collection of a space."""
        return collection_name(self._name, space_id=space_id)

    async def layout(self) -> Layout:
        """Which collections there are."""
        return self._folder.state.layout

    async def create(self, space: SpaceSpec) -> None:
        """Create the collection of `space`; nothing happens if it is there."""
        async with self._gate:
            if space.space_id in self._shards:
                return
            name = self._folder.new_shard_name(space.space_id)
            path = self._folder.shard_path(name)
            shard = await self._run(lambda: EdgeShard.create(path, space=space))
            self._shards[space.space_id] = shard
            self._folder.add(space, shard=name)

    async def set_next(self, space_id: str | None) -> None:
        """Name the collection that is being filled, or none."""
        self._folder.arrange(dataclasses.replace(self._folder.state.layout, next=space_id))

    async def switch(self, space_id: str) -> None:
        """Make a collection current, and no longer next, in one step."""
        self._folder.arrange(dataclasses.replace(self._folder.state.layout, current=space_id, next=None))

    async def drop(self, space_id: str) -> None:
        """Delete a collection that is not current."""
        await self._stop_optimizing(space_id)
        async with self._gate:
            shard = self._shards.pop(space_id, None)
            if shard is None:
                return
            path = self._folder.path_of(space_id)
            self._folder.remove(space_id)
            await self._run(shard.close)
            await asyncio.to_thread(shutil.rmtree, path)

    async def upsert(self, points: Sequence[ImagePoint], *, space_id: str, is_durable: bool = True) -> None:
        """Store points with their vectors (and tokens), replacing those of the same ids.

        Without `is_durable` they outlive a killed process, but not a power cut until `sync`.
        """
        ids = [point.image_id for point in points]
        await self._write(space_id, ids, lambda: self._shards[space_id].upsert(points, is_durable=is_durable))

    async def sync(self, space_id: str) -> None:
        """Make every write to a collection durable."""
        await self._run(lambda: self._shards[space_id].flush())  # noqa: PLW0108  (looked up in the thread)

    async def delete(self, image_ids: Sequence[str], *, space_id: str) -> None:
        """Remove points; unknown ids are no error."""
        await self._write(space_id, image_ids, lambda: self._shards[space_id].delete(image_ids))

    async def get(
        self, image_ids: Sequence[str], *, space_id: str, with_vector: bool = False, with_tokens: bool = False
    ) -> dict[str, ImagePoint]:
        """The stored ones among `image_ids`, by id."""
        return await self._run(
            lambda: self._shards[space_id].get(image_ids, with_vector=with_vector, with_tokens=with_tokens)
        )

    async def page(
        self, *, space_id: str, limit: int, start: uuid.UUID | None = None, where: Where | None = None
    ) -> Page:
        """At most `limit` points from the point id `start` on, without vectors and tokens."""
        return await self._run(lambda: self._shards[space_id].page(limit=limit, start=start, where=where))

    async def search(
        self,
        query_D: Floats,
        *,
        space_id: str,
        k: int,
        where: Where | None = None,
        min_score: float | None = None,
        with_tokens: bool = False,
    ) -> list[Hit]:
        """The `k` points nearest to the unit vector `query_D`, best first, ties in the order of their ids."""

        async def fetch(limit: int) -> list[Hit]:
            return await self._run(
                lambda: self._shards[space_id].search(query_D, limit=limit, where=where, min_score=min_score)
            )

        hits = await best_hits(k, min_score=min_score, fetch=fetch)
        return await with_fusion_tokens(hits, index=self, space_id=space_id) if with_tokens else hits

    async def count(self, *, space_id: str, sha256: str | None = None) -> int:
        """How many points there are, or how many of them hold the picture with this digest."""
        return await self._run(lambda: self._shards[space_id].count(sha256=sha256))

    async def describe(self, *, space_id: str) -> CollectionInfo:
        """How much the collection holds and how much of it is indexed."""
        # The shard may be replaced before the call's turn comes, so it is looked up in the thread.
        return await self._run(lambda: self._shards[space_id].describe())  # noqa: PLW0108

    async def optimize(self, space_id: str) -> None:
        """Build the index of a collection now; reads go on meanwhile, writes wait while the shard is copied.

        Raises UsageError if the disk is too full or the build fails; the shard
        then stays as it was.
        """
        name = self._folder.new_shard_name(space_id)
        path = self._folder.shard_path(name)
        try:
            async with self._gate:
                await self._run(self._shards[space_id].flush)
                await copy_shard(self._folder.path_of(space_id), into=path)
                self._journal[space_id] = set()
                self._num_changed[space_id] = 0
            await self._build(path)
            await self._take_over(space_id, name=name)
        finally:
            self._journal.pop(space_id, None)
            if self._folder.state.shards.get(space_id) != name:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def _take_over(self, space_id: str, *, name: str) -> None:
        """Let the built copy take the shard's place, with every change that came since it was taken."""
        space = self._folder.state.layout.spaces[space_id]
        old_path = self._folder.path_of(space_id)
        built = await self._run(lambda: EdgeShard.load(self._folder.shard_path(name), space=space))
        while len(self._journal[space_id]) > _CARRY:
            await self._carry(space_id, built)
        async with self._gate:
            await self._carry(space_id, built)
            old, self._shards[space_id] = self._shards[space_id], built
            self._folder.replace(space_id, shard=name)
            await self._run(old.close)
        await asyncio.to_thread(shutil.rmtree, old_path, ignore_errors=True)

    async def _carry(self, space_id: str, built: EdgeShard) -> None:
        journal = self._journal[space_id]
        ids = [journal.pop() for _ in range(min(_CARRY, len(journal)))]

        def carry() -> None:
            points = self._shards[space_id].get(ids, with_vector=True, with_tokens=True)
            built.upsert(list(points.values()))
            built.delete([name for name in ids if name not in points])

        await self._run(carry)

    async def _load(self, space: SpaceSpec) -> None:
        path = self._folder.path_of(space.space_id)
        shard = await self._run(lambda: EdgeShard.load(path, space=space))
        self._shards[space.space_id] = shard
        info = await self._run(shard.describe)
        self._num_changed[space.space_id] = info.num_points - info.num_indexed

    async def _write(self, space_id: str, ids: Sequence[str], work: Callable[[], None]) -> None:
        # A caller that goes away must not leave a write behind that runs outside the gate.
        task = asyncio.create_task(self._write_now(space_id, ids, work))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        await asyncio.shield(task)

    async def _write_now(self, space_id: str, ids: Sequence[str], work: Callable[[], None]) -> None:
        async with self._gate:
            await self._run(work)
            if space_id in self._journal:
                self._journal[space_id].update(ids)
            self._num_changed[space_id] = self._num_changed.get(space_id, 0) + len(ids)
        await self._consider_optimizing(space_id)

    async def _consider_optimizing(self, space_id: str) -> None:
        changed = self._num_changed[space_id]
        if changed < self._optimize_after or space_id in self._optimizing:
            return
        # A tenth of the collection, so that building costs a bounded share of filling.
        if changed * 10 >= (await self.describe(space_id=space_id)).num_points and space_id not in self._optimizing:
            self._optimizing[space_id] = asyncio.create_task(self._optimize_quietly(space_id))

    async def _optimize_quietly(self, space_id: str) -> None:
        try:
            await self.optimize(space_id)
        except (SightlineError, OSError):
            # The collection answers all the same, only slower; the next changes try again.
            logger.exception("building the index failed", extra={"collection": self.collection(space_id)})
        finally:
            self._optimizing.pop(space_id, None)

    async def _stop_optimizing(self, space_id: str) -> None:
        task = self._optimizing.get(space_id)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
