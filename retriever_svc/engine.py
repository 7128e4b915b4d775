"""The retriever's work: a question becomes a vector in the index's own space, and the vector finds pictures."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from retriever_svc.composed import ComposedSearch, Reference, from_reference
from retriever_svc.encoding import Encoder
from retriever_svc.index import CollectionInfo, Floats, Hit, ImagePoint, Page, SpaceSpec, VectorIndex, Where
from retriever_svc.pictures import PictureStore
from retriever_svc.rollout import Rollout, RolloutSettings, RolloutStatus
from retriever_svc.spaces import Spaces
from retriever_svc.writing import NewImage, Writer
from sightline.errors import (
    DependencyUnavailable,
    EmbeddingSpaceMismatch,
    ImageNotFound,
    IndexEmpty,
    SightlineError,
)
from sightline.rpc.context import CallContext
from sightline.rpc.timings import StageClock
from sightline.rpc.validate import check_space
from sightline.rpc.vectors import check_dimension


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a search is after, beside its query."""

    k: int
    """How many pictures at most."""
    where: Where | None = None
    """What a picture must satisfy."""
    min_score: float | None = None
    """Least cosine similarity."""
    with_tokens: bool = False
    """Whether the fusion tokens come along."""
    space_id: str = ""
    """The space that the caller means; empty means the one that answers."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found, and the space that it looked in."""

    hits: tuple[Hit, ...]
    space_id: str


@dataclass(frozen=True, kw_only=True)
class IndexDescription:
    """What the index holds."""

    space: SpaceSpec | None
    info: CollectionInfo
    driver: str
    collection: str
    rollout: RolloutStatus


class RetrieverEngine:
    """The engine. Its methods may be called concurrently."""

    def __init__(
        self,
        *,
        index: VectorIndex,
        pictures: PictureStore,
        encoder: Encoder,
        rollout: RolloutSettings | None = None,
        max_pending_writes: int = 8,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._pictures = pictures
        self._encoder = encoder
        self._spaces = Spaces(index)
        self._writer = Writer(
            index=index, spaces=self._spaces, pictures=pictures, encoder=encoder, max_pending=max_pending_writes
        )
        self.rollout = Rollout(
            index=index,
            spaces=self._spaces,
            pictures=pictures,
            encoder=encoder,
            settings=rollout or RolloutSettings(),
            now=now,
        )
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the index and begin to watch the encoder for a new embedding space."""
        await self._index.open()
        await self._spaces.refresh()
        self._watching = asyncio.create_task(self.rollout.watch())

    async def stop(self) -> None:
        """Finish the writes that have begun and let go of the index."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._writer.finish()
        await self._index.close()
        await self._encoder.close()

    @property
    def space_id(self) -> str:
        """The space that the index answers in; empty while it has none."""
        return self._spaces.layout.current or ""

    async def search_text(self, text: str, *, ask: Ask, call: CallContext, clock: StageClock) -> Found:
        """The pictures nearest to a text."""

        async def encode(space_id: str) -> Floats:
            return await self._encoder.encode_text(text, space_id=space_id, call=call)

        query_D, space = await self._encoded(encode, ask=ask, clock=clock)
        return await self._search(query_D, space=space, ask=ask, clock=clock)

    async def search_picture(self, data: bytes, *, ask: Ask, call: CallContext, clock: StageClock) -> Found:
        """The pictures nearest to an example; raises what the encoder says of an unreadable one."""

        async def encode(space_id: str) -> Floats:
            batch = await self._encoder.encode_pictures([data], space_id=space_id, with_tokens=False, call=call)
            (picture,) = batch.items
            if isinstance(picture, SightlineError):
                raise picture
            return picture.vector

        query_D, space = await self._encoded(encode, ask=ask, clock=clock)
        return await self._search(query_D, space=space, ask=ask, clock=clock)

    async def search_composed(self, search: ComposedSearch, *, ask: Ask, call: CallContext, clock: StageClock) -> Found:
        """The pictures nearest to what an edit makes of a reference, which itself is left out.

        Raises ImageNotFound for an unknown reference, CapabilityMissing where
        the encoder has no composer, and what the encoder says of a picture.
        """

        async def encode(space_id: str) -> Floats:
            async def compose(reference: Reference) -> Floats:
                return await self._encoder.encode_composed(reference, edit=search.edit, space_id=space_id, call=call)

            return await from_reference(search, compose, index=self._index, pictures=self._pictures, space_id=space_id)

        narrowed = replace(ask, where=await search.narrowed(ask.where))
        query_D, space = await self._encoded(encode, ask=narrowed, clock=clock)
        return await self._search(query_D, space=space, ask=narrowed, clock=clock)

    async def search_vector(self, query_D: Floats, *, ask: Ask, clock: StageClock) -> Found:
        """The pictures nearest to a unit vector of the space that `ask` names."""
        space = self._space_for(ask)
        check_dimension(query_D, name="vector", dimension=space.dimension)
        return await self._search(query_D, space=space, ask=ask, clock=clock)

    async def upsert(
        self, images: Sequence[NewImage], *, call: CallContext, clock: StageClock
    ) -> list[SightlineError | None]:
        """Store pictures; see `Writer.upsert`."""
        return await self._writer.upsert(images, call=call, clock=clock)

    async def delete(self, image_ids: Sequence[str]) -> int:
        """Remove pictures; how many of the ids were there."""
        return await self._writer.delete(image_ids)

    async def get(self, image_id: str, *, with_vector: bool, with_tokens: bool) -> ImagePoint:
        """One stored picture; raises ImageNotFound."""
        space = self._spaces.layout.serving
        found = (
            await self._index.get([image_id], space_id=space.space_id, with_vector=with_vector, with_tokens=with_tokens)
            if space is not None
            else {}
        )
        if image_id not in found:
            raise ImageNotFound(f"image_id: no picture has the id {image_id!r}", image_id=image_id)
        return found[image_id]

    async def picture(self, sha256: str) -> bytes:
        """The bytes of a stored picture; raises DataCorrupt."""
        return await self._pictures.get(sha256)

    async def page(self, *, limit: int, start: uuid.UUID | None, where: Where | None) -> Page:
        """At most `limit` stored pictures from the point id `start` on."""
        space = self._spaces.layout.serving
        if space is None:
            return Page(points=(), next_id=None)
        return await self._index.page(space_id=space.space_id, limit=limit, start=start, where=where)

    async def describe(self) -> IndexDescription:
        """What the index holds."""
        space = self._spaces.layout.serving
        info = CollectionInfo(num_points=0, num_indexed=0)
        if space is not None:
            info = await self._index.describe(space_id=space.space_id)
        return IndexDescription(
            space=space,
            info=info,
            driver=self._index.driver,
            collection=self._index.collection(space.space_id) if space is not None else "",
            rollout=self.rollout.status,
        )

    def _space_for(self, ask: Ask) -> SpaceSpec:
        space = self._spaces.serving()
        check_space(ask.space_id, serving=space.space_id)
        return space

    async def _encoded(
        self, encode: Callable[[str], Awaitable[Floats]], *, ask: Ask, clock: StageClock
    ) -> tuple[Floats, SpaceSpec]:
        """The query's vector, and the space of the index that it was encoded in."""
        space = self._space_for(ask)
        with clock.stage("encode"):
            try:
                return await encode(space.space_id), space
            except EmbeddingSpaceMismatch as error:
                # The encoder has moved on. Either the index has too, since the first look, or it is behind.
                await self._spaces.refresh()
                self.rollout.wake()
                moved = self._space_for(ask)
                if moved.space_id == space.space_id:
                    raise _left_behind(space) from error
            try:
                return await encode(moved.space_id), moved
            except EmbeddingSpaceMismatch as error:
                raise _left_behind(moved) from error

    async def _search(self, query_D: Floats, *, space: SpaceSpec, ask: Ask, clock: StageClock) -> Found:
        with clock.stage("search"):
            hits = await self._index.search(
                query_D,
                space_id=space.space_id,
                k=ask.k,
                where=ask.where,
                min_score=ask.min_score,
                with_tokens=ask.with_tokens,
            )
            if not hits and await self._index.count(space_id=space.space_id) == 0:
                raise IndexEmpty("the index holds no picture")
        return Found(hits=tuple(hits), space_id=space.space_id)


def _left_behind(space: SpaceSpec) -> DependencyUnavailable:
    # The caller asked for nothing wrong, so this is no EMBEDDING_SPACE_MISMATCH of theirs.
    return DependencyUnavailable(f"no encoder holds space {space.space_id} of the index", service="encoder")
