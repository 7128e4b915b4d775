"""GeneratorService: protobuf to domain and back. No model work happens here."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from generator_svc.encoder_client import EncoderClient
from generator_svc.engine import Chunk, Finished, Prepared, ReplyEngine, ReplyJob, StopSignal, build_reloader
from generator_svc.evidence import Evidence, EvidenceGatherer
from generator_svc.orders import AnyReplyRequest, ReplyOrder, read_order
from generator_svc.retriever_client import RetrieverClient
from generator_svc.settings import GeneratorSettings
from sightline.models.generator_model import GeneratorModel, ImageEvidence
from sightline.registry import HotReloader
from sightline.rpc.context import CallContext
from sightline.rpc.served import reload_status, served_by
from sightline.rpc.timings import StageClock
from sightline.v1 import common_pb2
from sightline.v1 import generator_pb2 as pb

_FINISH_REASONS = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


@dataclass(frozen=True, kw_only=True)
class _Reply:
    """One reply under way: what was asked, what is looked at, and where the time goes."""

    order: ReplyOrder
    evidence: Evidence
    call: CallContext
    clock: StageClock
    stop: StopSignal

    @property
    def model(self) -> GeneratorModel:
        return self.evidence.loaded.value

    @property
    def job(self) -> ReplyJob:
        images = [ImageEvidence(tokens=image.tokens, score=image.score) for image in self.evidence.images]
        order = self.order
        return ReplyJob(
            turns=order.turns, images=images, max_new_tokens=order.max_new_tokens, num_beams=order.num_beams
        )


class GeneratorServicer:
    """Answers dialogues with the loaded release, looking at the pictures that the caller's grounding names."""

    def __init__(
        self,
        *,
        settings: GeneratorSettings,
        reloader: HotReloader[GeneratorModel],
        engine: ReplyEngine,
        gatherer: EvidenceGatherer,
    ) -> None:
        self._settings = settings
        self._reloader = reloader
        self._engine = engine
        self._gatherer = gatherer

    async def start(self) -> None:
        """Load the channel's release, or keep watching for the first one."""
        await self._reloader.start()

    async def stop(self) -> None:
        """Finish what decodes, then let the releases go."""
        await asyncio.to_thread(self._engine.close)
        await self._gatherer.close()
        await self._reloader.stop()

    def is_ready(self) -> bool:
        """True once a release is loaded."""
        return self._reloader.is_ready

    async def Reply(self, request: pb.ReplyRequest, call: CallContext) -> pb.ReplyResponse:
        """The whole answer."""
        async with self._begin(request, call) as reply:
            prepared, finished = await self._engine.generate(reply.model, reply.job, stop=reply.stop)
            _count_time(reply.clock, prepared)
            _count_time(reply.clock, finished)
            return pb.ReplyResponse(
                text=finished.result.text,
                images=_used_images(reply.evidence, prepared),
                finish_reason=_FINISH_REASONS[finished.result.finish_reason],
                usage=_usage(prepared, finished),
                served=_served(reply),
            )

    async def StreamReply(
        self, request: pb.StreamReplyRequest, call: CallContext
    ) -> AsyncIterator[pb.StreamReplyResponse]:
        """A header, the answer in chunks, and a finish."""
        async with (
            self._begin(request, call) as reply,
            aclosing(self._engine.stream(reply.model, reply.job, stop=reply.stop)) as events,
        ):
            numbers = itertools.count()
            async for event in events:
                match event:
                    case Prepared():
                        prepared = event
                        yield _header(reply, prepared)
                    case Chunk(text):
                        yield pb.StreamReplyResponse(chunk=pb.TextChunk(seq=next(numbers), text=text))
                    case Finished():
                        yield _finish(reply, prepared, event)

    async def DescribeGenerator(
        self, request: pb.DescribeGeneratorRequest, call: CallContext
    ) -> pb.DescribeGeneratorResponse:
        """The release that answers, what it reads, and the state of the hot reload."""
        clock = StageClock()
        with self._reloader.lease() as loaded:
            return pb.DescribeGeneratorResponse(
                served=served_by(loaded, call=call, clock=clock),
                context_length=loaded.value.context_length,
                num_image_tokens=loaded.value.num_image_tokens,
                image_token_width=loaded.value.image_token_width,
                reload=reload_status(self._reloader.status()),
            )

    @asynccontextmanager
    async def _begin(self, request: AnyReplyRequest, call: CallContext) -> AsyncIterator[_Reply]:
        """A checked order with its evidence, holding a place of the engine and a lease on the release."""
        order = read_order(request, default_min_score=self._settings.min_score)
        clock = StageClock()
        stop = StopSignal(time_remaining=self._time_left(call), is_cancelled=call.is_cancelled)
        with self._engine.admit():
            async with self._gatherer.gather(order, call=call, clock=clock) as evidence:
                yield _Reply(order=order, evidence=evidence, call=call, clock=clock, stop=stop)

    def _time_left(self, call: CallContext) -> Callable[[], float | None]:
        """The caller's remaining time, or what is left of the default for a caller that names no deadline."""
        if call.time_remaining() is not None:
            return call.time_remaining
        ends_s = time.monotonic() + self._settings.default_timeout_s
        return lambda: max(0.0, ends_s - time.monotonic())


def build_servicer(settings: GeneratorSettings) -> GeneratorServicer:
    """A servicer that follows the channel of `settings` once it is started. Call it inside the event loop."""
    reloader = build_reloader(settings)
    gatherer = EvidenceGatherer(
        releases=reloader,
        retriever=RetrieverClient(settings.retriever_channel()),
        encoder=EncoderClient(settings.encoder_channel()),
        space_wait_s=settings.space_wait_s,
    )
    engine = ReplyEngine(settings)
    return GeneratorServicer(settings=settings, reloader=reloader, engine=engine, gatherer=gatherer)


def _header(reply: _Reply, prepared: Prepared) -> pb.StreamReplyResponse:
    _count_time(reply.clock, prepared)
    images = _used_images(reply.evidence, prepared)
    return pb.StreamReplyResponse(header=pb.ReplyHeader(images=images, served=_served(reply)))


def _finish(reply: _Reply, prepared: Prepared, finished: Finished) -> pb.StreamReplyResponse:
    _count_time(reply.clock, finished)
    reason = _FINISH_REASONS[finished.result.finish_reason]
    usage = _usage(prepared, finished)
    return pb.StreamReplyResponse(finish=pb.ReplyFinish(finish_reason=reason, usage=usage, served=_served(reply)))


def _count_time(clock: StageClock, event: Prepared | Finished) -> None:
    match event:
        case Prepared(queue_s=queue_s, fuse_s=fuse_s):
            clock.add("queue", seconds=queue_s)
            clock.add("fuse", seconds=fuse_s)
        case Finished(generate_s=generate_s):
            clock.add("generate", seconds=generate_s)


def _used_images(evidence: Evidence, prepared: Prepared) -> list[pb.UsedImage]:
    pairs = zip(evidence.images, prepared.context.image_weights, strict=True)
    used = [
        pb.UsedImage(image_id=image.image_id, score=image.score, weight=weight, metadata=image.metadata)
        for image, weight in pairs
    ]
    return sorted(used, key=lambda image: -image.weight)


def _usage(prepared: Prepared, finished: Finished) -> pb.Usage:
    context = prepared.context
    return pb.Usage(
        context_tokens=context.context_tokens,
        generated_tokens=finished.result.num_tokens,
        dropped_turns=context.dropped_turns,
        num_images=len(context.image_weights),
    )


def _served(reply: _Reply) -> common_pb2.Served:
    return served_by(reply.evidence.loaded, call=reply.call, clock=reply.clock)
