"""How every stored picture moves into a new embedding space while the old one keeps answering.

    the encoder announces another space
      -> a next collection is made; from now on every write goes to both
      -> stored pictures are encoded again, batch by batch, until a whole
         comparison of the two collections finds no difference
      -> gate: equal counts, spot checks, the encoder holds the new space
      -> the pair (collection, space) changes in one step; the old collection
         is dropped some time later

Where the move stands is in the index itself: the next collection and what it
already holds. A process that starts again compares and goes on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retriever_svc.encoding import EncodedPicture, Encoder
from retriever_svc.index import ImagePoint, SpaceSpec, VectorIndex
from retriever_svc.pictures import PictureStore
from retriever_svc.spaces import Spaces
from sightline.errors import DataCorrupt, EmbeddingSpaceMismatch, Reindexing, SightlineError
from sightline.rpc.context import CallContext, IncomingCall

_MAX_PAUSE_S = 60.0
_STRIKES = 3
"""Looks in a row at which the encoder must announce the current space before a move to another is given up."""
_PROBES = 3
"""Calls in a row that the encoder must answer in the new space: a rolling update may leave replicas behind."""
_NUM_SPOTS = 4
_MIN_SPOT_COSINE = 0.999

logger = logging.getLogger("sightline.retriever")


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How a move goes."""

    poll_s: float = 2.0
    """How often the encoder is asked which space it serves."""
    batch: int = 32
    """Stored pictures that are encoded at once."""
    retire_after_s: float = 60.0
    """How long the old collection is kept after the switch; longer than any search takes."""
    call_timeout_s: float = 60.0
    """Deadline of each call to the encoder."""


@dataclass(frozen=True, kw_only=True)
class RolloutStatus:
    """Where a move stands."""

    target_space_id: str = ""
    """The new space; empty if no move is under way."""
    num_done: int = 0
    """Pictures that the new collection holds."""
    num_total: int = 0
    """Pictures that it must hold."""
    last_error: str = ""
    """Why the last attempt stopped; empty if none did."""


class Rollout:
    """Watches the encoder and moves the index after it. One per process."""

    def __init__(
        self,
        *,
        index: VectorIndex,
        spaces: Spaces,
        pictures: PictureStore,
        encoder: Encoder,
        settings: RolloutSettings,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._spaces = spaces
        self._pictures = pictures
        self._encoder = encoder
        self._settings = settings
        self._now = now
        self._wake = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._strikes = 0
        self._retired_since: dict[str, float] = {}
        self.status = RolloutStatus()

    def wake(self) -> None:
        """Look at the encoder at once."""
        self._wake.set()

    async def watch(self) -> None:
        """Look at the encoder again and again, for ever; failures are written down and tried again."""
        pause_s = self._settings.poll_s
        while True:
            is_fine = await self._step_quietly()
            pause_s = self._settings.poll_s if is_fine else min(2 * pause_s, _MAX_PAUSE_S)
            await self._pause(pause_s)

    async def step(self) -> None:
        """Look at the encoder once and, if it serves another space, move there. Raises what stopped the move."""
        async with self._stepping:
            layout = await self._spaces.refresh()
            await self._drop_retired()
            announced = await self._announced()
            if layout.current is None or announced is None:
                return
            target = await self._target(announced)
            if target is None:
                self.status = RolloutStatus()
                return
            await self._move_to(target)

    async def _step_quietly(self) -> bool:
        try:
            await self.step()
        except SightlineError as error:
            self.status = dataclasses.replace(self.status, last_error=error.message)
            logger.warning("move stopped", extra={"target": self.status.target_space_id, "error": error.message})
            return False
        except Exception as error:  # the boundary of a background task: it must outlive a defect
            self.status = dataclasses.replace(self.status, last_error=type(error).__name__)
            logger.exception("defect in the move", extra={"target": self.status.target_space_id})
            return False
        return True

    async def _announced(self) -> SpaceSpec | None:
        """The space that the encoder serves now, or None if it does not answer: then nothing is known to move to."""
        try:
            return await self._encoder.announced(call=self._call())
        except SightlineError as error:
            logger.info("encoder did not answer", extra={"error": error.message})
            return None

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    async def _target(self, announced: SpaceSpec) -> SpaceSpec | None:
        """The space to move to, or None if the index is where it should be."""
        layout = self._spaces.layout
        if announced.space_id == layout.current:
            self._strikes += 1
            if layout.next is not None and self._strikes >= _STRIKES:
                await self._spaces.give_up_move()
            return None
        self._strikes = 0
        # A move that has begun is finished while the encoder still holds its space:
        # the encoder keeps two, and beginning anew would outlast the older one.
        if layout.next not in {None, announced.space_id} and await self._is_held(layout.next):
            return layout.spaces[layout.next]
        return announced

    async def _is_held(self, space_id: str | None) -> bool:
        try:
            await self._encoder.encode_text("probe", space_id=space_id or "", call=self._call())
        except EmbeddingSpaceMismatch:
            return False
        return True

    async def _move_to(self, target: SpaceSpec) -> None:
        if self._spaces.layout.next != target.space_id:
            async with self._spaces.lock:
                await self._spaces.refresh()
                await self._spaces.begin_move(target)
        self._retired_since.pop(target.space_id, None)
        await self._report(last_error=self.status.last_error)
        await self._copy_over(target)
        while not await self._switch(target):
            await self._copy_over(target)
        self.status = RolloutStatus()
        logger.info("moved", extra={"space": target.space_id})

    async def _copy_over(self, target: SpaceSpec) -> None:
        """Make the next collection equal to the current one. Raises DataCorrupt naming what cannot be moved."""
        num_changed = 1
        while num_changed:
            self._spaces.is_next_behind = False
            lost: dict[str, str] = {}
            num_changed = await self._bring_over(target, lost=lost) + await self._weed_out(target)
            if lost:
                raise DataCorrupt(_lost_message(lost, target=target), detail=",".join(sorted(lost)[:8]))

    async def _bring_over(self, target: SpaceSpec, *, lost: dict[str, str]) -> int:
        """Encode what the next collection lacks or has otherwise; how many points that changed."""
        num_changed = 0
        start: uuid.UUID | None = None
        while True:
            page = await self._index.page(space_id=self._current(), limit=self._settings.batch, start=start)
            there = await self._index.get([point.image_id for point in page.points], space_id=target.space_id)
            behind = [point for point in page.points if _differs(point, there.get(point.image_id))]
            if behind:
                num_changed += await self._move(behind, target=target, there=there, lost=lost)
                await self._report(last_error=self.status.last_error)
            if page.next_id is None:
                return num_changed
            start = page.next_id

    async def _move(
        self,
        points: Sequence[ImagePoint],
        *,
        target: SpaceSpec,
        there: Mapping[str, ImagePoint],
        lost: dict[str, str],
    ) -> int:
        stale = [point for point in points if _other_picture(point, there.get(point.image_id))]
        encoded = await self._encode(stale, target=target, lost=lost)
        async with self._spaces.lock:
            await self._check_target(target)
            ids = [point.image_id for point in points]
            fresh = await self._index.get(ids, space_id=self._current())
            old = await self._index.get(ids, space_id=target.space_id, with_vector=True, with_tokens=True)
            moved = [_moved(point, encoded=encoded, old=old) for point in fresh.values()]
            changed = [point for point in moved if point is not None and _differs(point, old.get(point.image_id))]
            # A power cut may take these: the collection does not answer yet, and the next comparison brings them back.
            await self._index.upsert(changed, space_id=target.space_id, is_durable=False)
        return len(changed)

    async def _encode(
        self, points: Sequence[ImagePoint], *, target: SpaceSpec, lost: dict[str, str]
    ) -> dict[str, EncodedPicture]:
        """The vectors of stored pictures, by digest; those that have none are put into `lost` with the reason."""
        pictures: dict[str, bytes] = {}
        names = {point.sha256: point.image_id for point in points}
        for sha256, image_id in names.items():
            try:
                pictures[sha256] = await self._pictures.get(sha256)
            except DataCorrupt as error:
                lost[image_id] = error.message
        if not pictures:
            return {}
        batch = await self._encoder.encode_pictures(
            list(pictures.values()), space_id=target.space_id, with_tokens=True, call=self._call()
        )
        good: dict[str, EncodedPicture] = {}
        for sha256, item in zip(pictures, batch.items, strict=True):
            if isinstance(item, SightlineError):
                lost[names[sha256]] = item.message
            else:
                good[sha256] = item
        return good

    async def _weed_out(self, target: SpaceSpec) -> int:
        """Delete from the next collection what the current one does not have; how many points that were."""
        num_deleted = 0
        start: uuid.UUID | None = None
        while True:
            page = await self._index.page(space_id=target.space_id, limit=self._settings.batch, start=start)
            async with self._spaces.lock:
                await self._check_target(target)
                ids = [point.image_id for point in page.points]
                wanted = await self._index.get(ids, space_id=self._current())
                extra = [name for name in ids if name not in wanted]
                await self._index.delete(extra, space_id=target.space_id)
            num_deleted += len(extra)
            if page.next_id is None:
                return num_deleted
            start = page.next_id

    async def _switch(self, target: SpaceSpec) -> bool:
        """Let the new collection answer; False if it is not equal to the old one yet."""
        if not await self._counts_agree(target):
            return False
        await self._spot_check(target)
        for _ in range(_PROBES):
            if not await self._is_held(target.space_id):
                raise Reindexing(f"not every encoder holds space {target.space_id} yet")
        async with self._spaces.lock:
            await self._check_target(target)
            if self._spaces.is_next_behind or not await self._counts_agree(target):
                return False
            await self._index.sync(target.space_id)
            await self._spaces.complete_move()
        return True

    async def _counts_agree(self, target: SpaceSpec) -> bool:
        ours = await self._index.count(space_id=self._current())
        return ours == await self._index.count(space_id=target.space_id)

    async def _spot_check(self, target: SpaceSpec) -> None:
        """Raise DataCorrupt unless some stored pictures, encoded again, give the vectors that are stored for them."""
        page = await self._index.page(space_id=target.space_id, limit=_NUM_SPOTS, start=uuid.uuid4())
        if not page.points:
            page = await self._index.page(space_id=target.space_id, limit=_NUM_SPOTS)
        points = await self._index.get(
            [point.image_id for point in page.points], space_id=target.space_id, with_vector=True
        )
        encoded = await self._encode(list(points.values()), target=target, lost={})
        for point in points.values():
            again = encoded.get(point.sha256)
            if again is None or point.vector is None:
                continue
            cosine = float(np.dot(again.vector, point.vector))
            if cosine < _MIN_SPOT_COSINE:
                message = f"spot check of {point.image_id!r}: cosine {cosine:.4f}, limit {_MIN_SPOT_COSINE}"
                raise DataCorrupt(message, detail=point.image_id)

    async def _drop_retired(self) -> None:
        """Delete the collections that were replaced long enough ago."""
        retired = self._spaces.layout.retired
        self._retired_since = {name: self._retired_since.get(name, self._now()) for name in retired}
        for name in retired:
            if self._now() - self._retired_since[name] >= self._settings.retire_after_s:
                await self._index.drop(name)
                logger.info("dropped", extra={"space": name})
        await self._spaces.refresh()

    async def _check_target(self, target: SpaceSpec) -> None:
        layout = await self._spaces.refresh()
        if layout.next != target.space_id:
            raise Reindexing(f"the move to {target.space_id} was ended elsewhere")

    async def _report(self, *, last_error: str) -> None:
        layout = self._spaces.layout
        assert layout.next is not None
        self.status = RolloutStatus(
            target_space_id=layout.next,
            num_done=await self._index.count(space_id=layout.next),
            num_total=await self._index.count(space_id=self._current()),
            last_error=last_error,
        )

    def _current(self) -> str:
        current = self._spaces.layout.current
        assert current is not None
        return current

    def _call(self) -> CallContext:
        return IncomingCall(timeout_s=self._settings.call_timeout_s)


def _other_picture(point: ImagePoint, there: ImagePoint | None) -> bool:
    return there is None or there.sha256 != point.sha256


def _differs(point: ImagePoint, there: ImagePoint | None) -> bool:
    return there is None or (there.sha256, dict(there.metadata)) != (point.sha256, dict(point.metadata))


def _moved(
    point: ImagePoint, *, encoded: Mapping[str, EncodedPicture], old: Mapping[str, ImagePoint]
) -> ImagePoint | None:
    """`point` with the vectors of the new space; None if it has none there yet."""
    picture, there = encoded.get(point.sha256), old.get(point.image_id)
    if picture is not None:
        return dataclasses.replace(point, vector=picture.vector, tokens=picture.tokens)
    if there is not None and there.sha256 == point.sha256:
        return dataclasses.replace(point, vector=there.vector, tokens=there.tokens)
    return None


def _lost_message(lost: Mapping[str, str], *, target: SpaceSpec) -> str:
    named = "; ".join(f"{name}: {lost[name]}" for name in sorted(lost)[:3])
    return (
        f"{len(lost)} stored pictures cannot be moved to {target.space_id}: delete them or store them again ({named})"
    )
