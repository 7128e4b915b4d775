"""Gathers what a reply looks at, together with the loaded release whose embedding space the pictures belong to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from generator_svc.encoder_client import EncoderClient
from generator_svc.orders import PictureSource, ReplyOrder
from generator_svc.pictures import LookedAt, PicturesOfSpace
from generator_svc.retriever_client import RetrieverClient
from sightline.data.dialogues import query_text
from sightline.errors import CapabilityMissing, EmbeddingSpaceMismatch
from sightline.limits import MAX_TEXT_CHARS
from sightline.models.generator_model import GeneratorModel
from sightline.registry import Loaded
from sightline.rpc.context import CallContext
from sightline.rpc.timings import StageClock

_SPACE_POLL_S = 0.2
_LOWEST_SCORE = -1.0


class LoadedReleases(Protocol):
    """The releases that are loaded now."""

    def lease(self, space_id: str | None = None) -> AbstractContextManager[Loaded[GeneratorModel]]:
        """The newest release, or the newest of a space, kept loaded while the block runs."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The release that answers and the pictures that it looks at, all of one embedding space."""

    loaded: Loaded[GeneratorModel]
    images: tuple[LookedAt, ...]


class EvidenceGatherer:
    """Asks retriever or encoder for pictures and picks the loaded release of the space in which they answered."""

    def __init__(
        self,
        *,
        releases: LoadedReleases,
        retriever: RetrieverClient,
        encoder: EncoderClient,
        space_wait_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._releases = releases
        self._retriever = retriever
        self._encoder = encoder
        self._space_wait_s = space_wait_s
        self._sleep = sleep

    async def close(self) -> None:
        """Close the channels to retriever and encoder."""
        await self._retriever.close()
        await self._encoder.close()

    @asynccontextmanager
    async def gather(self, order: ReplyOrder, *, call: CallContext, clock: StageClock) -> AsyncIterator[Evidence]:
        """The evidence for `order`; its release stays loaded while the block runs.

        Raises NotReady without a release, EmbeddingSpaceMismatch if none of the
        space came within the wait, and what retriever and encoder refuse with.
        """
        with ExitStack() as leases:
            found, loaded = await self._find(order, leases=leases, call=call, clock=clock)
            _check_tokens(found, model=loaded.value)
            yield Evidence(loaded=loaded, images=_worth_looking_at(found.images, order=order, model=loaded.value))

    async def _find(
        self, order: ReplyOrder, *, leases: ExitStack, call: CallContext, clock: StageClock
    ) -> tuple[PicturesOfSpace, Loaded[GeneratorModel]]:
        """Pictures and a release of one space.

        The retriever and this service enter a new space at times of their own,
        so a mismatch is asked again until the other has followed.
        """
        waited_s = 0.0
        while True:
            try:
                found = await self._ask(order, call=call, clock=clock)
                return found, leases.enter_context(self._releases.lease(found.embedding_space_id or None))
            except EmbeddingSpaceMismatch:
                if waited_s > self._space_wait_s:
                    raise
            pause_s = min(_SPACE_POLL_S, self._space_wait_s)
            await self._sleep(pause_s)
            waited_s += max(pause_s, _SPACE_POLL_S)

    async def _ask(self, order: ReplyOrder, *, call: CallContext, clock: StageClock) -> PicturesOfSpace:
        newest_space_id = self._newest().manifest.embedding_space_id
        if order.source is PictureSource.NONE:
            return PicturesOfSpace(images=(), embedding_space_id=newest_space_id)
        if order.source is PictureSource.GIVEN:
            with clock.stage("encode"):
                return await self._encode(order.picture, space_id=newest_space_id, call=call)
        with clock.stage("retrieve"):
            return await self._retrieve(order, call=call)

    async def _retrieve(self, order: ReplyOrder, *, call: CallContext) -> PicturesOfSpace:
        text = query_text(order.turns)[-MAX_TEXT_CHARS:]
        if order.source is PictureSource.NAMED:
            return await self._retriever.look_up(text, image_ids=order.image_ids, call=call)
        # The release's own floor waits until it is known which release answers: see _worth_looking_at.
        min_score = _LOWEST_SCORE if order.min_score is None else order.min_score
        return await self._retriever.search(text, k=order.k, min_score=min_score, call=call)

    async def _encode(self, picture: bytes, *, space_id: str, call: CallContext) -> PicturesOfSpace:
        try:
            return await self._encoder.encode(picture, space_id=space_id, call=call)
        except EmbeddingSpaceMismatch:
            # The encoder has not loaded our newest release yet, or is past it: take its own space.
            return await self._encoder.encode(picture, space_id="", call=call)

    def _newest(self) -> Loaded[GeneratorModel]:
        """What serves by default, for its manifest alone: it is not leased. Raises NotReady."""
        with self._releases.lease() as newest:
            return newest


def _worth_looking_at(
    images: tuple[LookedAt, ...], *, order: ReplyOrder, model: GeneratorModel
) -> tuple[LookedAt, ...]:
    """The searched pictures; none if the best is below the release's floor and nobody else named one."""
    if order.source is not PictureSource.SEARCHED or order.min_score is not None:
        return images
    return images if max((image.score for image in images), default=_LOWEST_SCORE) >= model.min_score else ()


def _check_tokens(found: PicturesOfSpace, *, model: GeneratorModel) -> None:
    expected = (model.num_image_tokens, model.image_token_width)
    for image in found.images:
        if image.tokens.shape != expected:
            message = f"picture {image.image_id!r}: fusion tokens {image.tokens.shape}, the release reads {expected}"
            raise CapabilityMissing(message, detail=f"fusion tokens {image.tokens.shape}")
