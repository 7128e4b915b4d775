"""How pictures come in and go out: stored in the collection that answers and in the one that is being filled."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from retriever_svc.encoding import EncodedPicture, Encoder
from retriever_svc.index import ImagePoint, Layout, SpaceSpec, VectorIndex
from retriever_svc.pictures import PictureStore, digest
from retriever_svc.spaces import Spaces
from sightline.errors import DataCorrupt, EmbeddingSpaceMismatch, QueueFull, Reindexing, SightlineError
from sightline.rpc.context import CallContext
from sightline.rpc.timings import StageClock

_ATTEMPTS = 3
_RETRY_AFTER_S = 1.0

Outcome = EncodedPicture | SightlineError
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """One picture to store."""

    image_id: str
    data: bytes
    """The encoded picture."""
    metadata: Mapping[str, str]
    sha256: str = ""
    """Hex digest of `data`; filled by the writer."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Some pictures with their vectors, ready to be stored in one layout."""

    images: Sequence[NewImage]
    layout: Layout
    space: SpaceSpec | None
    """The space of the current collection; None if there is none and no picture could found one."""
    encoded: Mapping[str, Mapping[str, Outcome]]
    """By space id, then by digest; a picture that is stored already is absent."""

    def errors(self) -> list[SightlineError | None]:
        """Why each picture was refused, in order; None if it was not."""
        return [self._error(image) for image in self.images]

    def accepted(self) -> dict[str, NewImage]:
        """The pictures to store, by id; of two with one id the later."""
        return {image.image_id: image for image in self.images if self._error(image) is None}

    def _error(self, image: NewImage) -> SightlineError | None:
        outcomes = [by_digest.get(image.sha256) for by_digest in self.encoded.values()]
        return next((outcome for outcome in outcomes if isinstance(outcome, SightlineError)), None)


class Writer:
    """Writes of one process. Calls may run concurrently; what they store, they store one by one."""

    def __init__(
        self, *, index: VectorIndex, spaces: Spaces, pictures: PictureStore, encoder: Encoder, max_pending: int
    ) -> None:
        self._index = index
        self._spaces = spaces
        self._pictures = pictures
        self._encoder = encoder
        self._max_pending = max_pending
        self._num_pending = 0
        self._running: set[asyncio.Task[Any]] = set()

    async def finish(self) -> None:
        """Return once every write that has begun is stored."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def upsert(
        self, images: Sequence[NewImage], *, call: CallContext, clock: StageClock
    ) -> list[SightlineError | None]:
        """Store pictures, each with an outcome of its own: None, or why it was refused.

        A picture whose bytes are stored under its id already is not encoded again.
        Raises Reindexing if the encoder holds the index's space no more, and
        QueueFull if too many writes wait.
        """
        if self._num_pending >= self._max_pending:
            limit = self._max_pending
            raise QueueFull(f"writes: {limit} are under way, limit {limit}", retry_after_s=_RETRY_AFTER_S, limit=limit)
        self._num_pending += 1
        try:
            return await self._upsert(images, call=call, clock=clock)
        finally:
            self._num_pending -= 1

    async def delete(self, image_ids: Sequence[str]) -> int:
        """Remove pictures with all that is stored of them; how many of the ids were there."""
        return await self._to_the_end(self._delete(list(dict.fromkeys(image_ids))))

    async def _upsert(
        self, images: Sequence[NewImage], *, call: CallContext, clock: StageClock
    ) -> list[SightlineError | None]:
        named = await asyncio.to_thread(_with_digests, images)
        for _ in range(_ATTEMPTS):
            with clock.stage("encode"):
                layout = await self._spaces.refresh()
                try:
                    prepared = await self._prepare(named, layout=layout, call=call)
                except EmbeddingSpaceMismatch as error:
                    if _is_same(layout, await self._spaces.refresh()):
                        raise _left_behind(layout) from error
                    continue
            with clock.stage("search"):
                if await self._to_the_end(self._store(prepared)):
                    return prepared.errors()
        raise Reindexing(f"the index changed {_ATTEMPTS} times while the pictures were encoded")

    async def _prepare(self, images: Sequence[NewImage], *, layout: Layout, call: CallContext) -> _Prepared:
        if layout.serving is None:
            return await self._prepare_first(images, layout=layout, call=call)
        stored = await self._index.get([image.image_id for image in images], space_id=layout.serving.space_id)
        changed = {image.sha256: image.data for image in images if _is_new_picture(image, stored=stored)}
        encoded = {
            space_id: await self._encode(changed, space_id=space_id, call=call)
            for space_id in (layout.serving.space_id, layout.next)
            if space_id is not None
        }
        return _Prepared(images=images, layout=layout, space=layout.serving, encoded=encoded)

    async def _prepare_first(self, images: Sequence[NewImage], *, layout: Layout, call: CallContext) -> _Prepared:
        pictures = {image.sha256: image.data for image in images}
        batch = await self._encoder.encode_pictures(list(pictures.values()), space_id="", with_tokens=True, call=call)
        good = next((item for item in batch.items if isinstance(item, EncodedPicture)), None)
        space = None if good is None else _space_of(good, space_id=batch.space_id)
        encoded = {batch.space_id: dict(zip(pictures, batch.items, strict=True))}
        return _Prepared(images=images, layout=layout, space=space, encoded=encoded)

    async def _encode(self, pictures: Mapping[str, bytes], *, space_id: str, call: CallContext) -> dict[str, Outcome]:
        if not pictures:
            return {}
        batch = await self._encoder.encode_pictures(
            list(pictures.values()), space_id=space_id, with_tokens=True, call=call
        )
        return dict(zip(pictures, batch.items, strict=True))

    async def _store(self, prepared: _Prepared) -> bool:
        """Store what was prepared; False if the index is not as it was then."""
        accepted = prepared.accepted()
        if not accepted:
            return True
        await self._pictures.put([image.data for image in accepted.values()])
        async with self._spaces.lock:
            layout = await self._spaces.refresh()
            if not _is_same(layout, prepared.layout):
                return False
            if layout.current is None and prepared.space is not None:
                await self._spaces.found(prepared.space)
                layout = self._spaces.layout
            return await self._store_locked(prepared, accepted, layout=layout)

    async def _store_locked(self, prepared: _Prepared, accepted: dict[str, NewImage], *, layout: Layout) -> bool:
        assert layout.current is not None
        before = await self._index.get(list(accepted), space_id=layout.current)
        points = await self._points(accepted, prepared=prepared, space_id=layout.current)
        if len(points) < len(accepted):
            return False
        await self._keep_pictures(accepted.values())
        await self._index.upsert(
            [point for point in points if _is_change(point, stored=before)], space_id=layout.current
        )
        if layout.next is not None:
            await self._follow(accepted, prepared=prepared, space_id=layout.next)
        kept = {image.sha256 for image in accepted.values()}
        await self._forget_pictures({point.sha256 for point in before.values()} - kept, layout=layout)
        return True

    async def _points(
        self, accepted: Mapping[str, NewImage], *, prepared: _Prepared, space_id: str
    ) -> list[ImagePoint]:
        """The points to store in a space. A picture that was neither encoded nor is stored as it was is left out."""
        encoded = prepared.encoded.get(space_id, {})
        known = [name for name, image in accepted.items() if image.sha256 not in encoded]
        stored = await self._index.get(known, space_id=space_id, with_vector=True, with_tokens=True)
        points = []
        for name, image in accepted.items():
            outcome, old = encoded.get(image.sha256), stored.get(name)
            if isinstance(outcome, EncodedPicture):
                points.append(_point(image, encoded=outcome))
            elif old is not None and old.sha256 == image.sha256:
                points.append(dataclasses.replace(old, metadata=dict(image.metadata)))
        return points

    async def _follow(self, accepted: Mapping[str, NewImage], *, prepared: _Prepared, space_id: str) -> None:
        # What is not in the next collection yet will be carried there by the move.
        with self._spaces.next_may_fall_behind():
            points = await self._points(accepted, prepared=prepared, space_id=space_id)
            await self._index.upsert(points, space_id=space_id)

    async def _keep_pictures(self, images: Iterable[NewImage]) -> None:
        # A delete between the first look and the lock may have removed the last use of a picture.
        by_digest = {image.sha256: image.data for image in images}
        missing = await self._pictures.missing(by_digest)
        await self._pictures.put([by_digest[sha256] for sha256 in missing])

    async def _forget_pictures(self, digests: Iterable[str], *, layout: Layout) -> None:
        spaces = [space_id for space_id in (layout.current, layout.next) if space_id is not None]
        unused = []
        for sha256 in digests:
            counts = [await self._index.count(space_id=space_id, sha256=sha256) for space_id in spaces]
            if not any(counts):
                unused.append(sha256)
        await self._pictures.remove(unused)

    async def _delete(self, image_ids: Sequence[str]) -> int:
        async with self._spaces.lock:
            layout = await self._spaces.refresh()
            if layout.current is None:
                return 0
            stored = await self._index.get(image_ids, space_id=layout.current)
            await self._index.delete(image_ids, space_id=layout.current)
            if layout.next is not None:
                with self._spaces.next_may_fall_behind():
                    await self._index.delete(image_ids, space_id=layout.next)
            await self._forget_pictures({point.sha256 for point in stored.values()}, layout=layout)
            return len(stored)

    async def _to_the_end(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        # A caller that goes away must not leave one collection written and the other not.
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def _left_behind(layout: Layout) -> Reindexing:
    wanted = " and ".join(space_id for space_id in (layout.current, layout.next) if space_id is not None)
    return Reindexing(f"the encoder does not hold {wanted}; writes wait until the pictures have moved")


def _is_same(layout: Layout, other: Layout) -> bool:
    return (layout.current, layout.next) == (other.current, other.next)


def _with_digests(images: Sequence[NewImage]) -> list[NewImage]:
    return [dataclasses.replace(image, sha256=digest(image.data)) for image in images]


def _is_new_picture(image: NewImage, *, stored: Mapping[str, ImagePoint]) -> bool:
    old = stored.get(image.image_id)
    return old is None or old.sha256 != image.sha256


def _is_change(point: ImagePoint, *, stored: Mapping[str, ImagePoint]) -> bool:
    old = stored.get(point.image_id)
    return old is None or (old.sha256, dict(old.metadata)) != (point.sha256, dict(point.metadata))


def _point(image: NewImage, *, encoded: EncodedPicture) -> ImagePoint:
    return ImagePoint(
        image_id=image.image_id,
        metadata=dict(image.metadata),
        sha256=image.sha256,
        vector=encoded.vector,
        tokens=encoded.tokens,
    )


def _space_of(encoded: EncodedPicture, *, space_id: str) -> SpaceSpec:
    if not space_id:
        raise DataCorrupt("the encoder named no embedding space", detail="embedding_space_id")
    token_width = 0 if encoded.tokens is None else encoded.tokens.shape[-1]
    return SpaceSpec(space_id=space_id, dimension=encoded.vector.shape[0], token_width=token_width)
