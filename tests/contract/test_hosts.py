"""Both hosts keep the same promises, shown with toy servicers through real channels."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sightline import errors
from sightline.rpc.context import CallContext
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.status import error_classes, error_from_rpc
from sightline.rpc.tokens import Secret
from sightline.v1 import common_pb2, encoder_pb2, generator_pb2
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub
from sightline.v1.generator_pb2_grpc import GeneratorServiceStub

REASONS = sorted(error_classes())
FAMILIES = [errors.SightlineError, errors.InvalidInput, errors.Unavailable, errors.UsageError, errors.ChannelConflict]
TOKENS = (Secret("first-token-of-the-test"), Secret("second-token-of-the-test"))


def sample_error(kind: type[errors.SightlineError]) -> errors.SightlineError:
    if issubclass(kind, errors.QueueFull):
        return kind("queue: got 9, limit 8", retry_after_s=1.5, limit=8)
    return kind("texts: got 9, limit 8", value=9, limit=8)


class ToyEncoder:
    """Does what its first text tells: a reason or a class name to raise, or one of a few words."""

    def __init__(self) -> None:
        self.calls = 0
        self.running, self.cancelled = asyncio.Event(), asyncio.Event()
        self.is_started = False

    async def start(self) -> None:
        self.is_started = True

    async def stop(self) -> None:
        self.is_started = False

    def is_ready(self) -> bool:
        return self.is_started

    async def EncodeTexts(
        self, request: encoder_pb2.EncodeTextsRequest, call: CallContext
    ) -> encoder_pb2.EncodeTextsResponse:
        self.calls += 1
        word = request.texts[0]
        if word in error_classes():
            raise sample_error(error_classes()[word])
        if hasattr(errors, word):
            raise sample_error(getattr(errors, word))
        if word == "defect":
            raise ValueError("the password is swordfish")
        self.running.set()
        if word == "wait":
            await self._wait()
        if word == "nap":
            await asyncio.sleep(0.3)
        return encoder_pb2.EncodeTextsResponse(served=common_pb2.Served(request_id=call.request_id))

    async def EncodeImages(
        self, request: encoder_pb2.EncodeImagesRequest, call: CallContext
    ) -> encoder_pb2.EncodeImagesResponse:
        """Tells what it was told: the outgoing metadata as `key=value` items."""
        told = [f"{key}={value}" for key, value in call.outgoing_metadata()]
        told += [f"seen {key}" for key in call.metadata]
        items = [encoder_pb2.EncodedImage(sha256=text) for text in told]
        return encoder_pb2.EncodeImagesResponse(items=items)

    async def EncodeComposed(
        self, request: encoder_pb2.EncodeComposedRequest, call: CallContext
    ) -> encoder_pb2.EncodeComposedResponse:
        """Nothing: no rule of the hosts is told by it."""
        return encoder_pb2.EncodeComposedResponse()

    async def DescribeEncoder(
        self, request: encoder_pb2.DescribeEncoderRequest, call: CallContext
    ) -> encoder_pb2.DescribeEncoderResponse:
        """Counts calls of EncodeTexts, once one is running or one that waits was cancelled."""
        event = self.running if call.metadata["once"] == "running" else self.cancelled
        await asyncio.wait_for(event.wait(), 10)
        return encoder_pb2.DescribeEncoderResponse(num_tokens=self.calls)

    async def _wait(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class ToyGenerator:
    """Streams k chunks, then does what the dialogue tells."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.was_told = False

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    def is_ready(self) -> bool:
        return True

    async def StreamReply(
        self, request: generator_pb2.StreamReplyRequest, call: CallContext
    ) -> AsyncIterator[generator_pb2.StreamReplyResponse]:
        for seq in range(request.k):
            yield generator_pb2.StreamReplyResponse(chunk=generator_pb2.TextChunk(seq=seq, text="word"))
        word = request.dialogue[0].text
        if word == "fail":
            raise errors.IndexEmpty("the index holds no picture")
        if word == "wait":
            try:
                await asyncio.Event().wait()
            finally:
                self.was_told = call.is_cancelled() or call.time_remaining() is not None
                self.cancelled.set()

    async def Reply(self, request: generator_pb2.ReplyRequest, call: CallContext) -> generator_pb2.ReplyResponse:
        return generator_pb2.ReplyResponse(text="whole")

    async def DescribeGenerator(
        self, request: generator_pb2.DescribeGeneratorRequest, call: CallContext
    ) -> generator_pb2.DescribeGeneratorResponse:
        """Returns once a stream that waited was cancelled."""
        await asyncio.wait_for(self.cancelled.wait(), 45)
        return generator_pb2.DescribeGeneratorResponse(context_length=1)


class Caller:
    """Raw calls without our retries and envelopes, so that a test sees the wire."""

    def __init__(self, endpoint: Any) -> None:
        self.channel = grpc.aio.insecure_channel(endpoint.settings.address, options=[("grpc.enable_retries", 0)])
        self.application = ("application", endpoint.settings.application)
        self.encoder = EncoderServiceStub(self.channel)
        self.generator = GeneratorServiceStub(self.channel)

    def texts(self, word: str, *metadata: tuple[str, str], timeout: float = 20.0) -> Any:
        request = encoder_pb2.EncodeTextsRequest(texts=[word])
        return self.encoder.EncodeTexts(request, timeout=timeout, metadata=(self.application, *metadata))

    def images(self, *metadata: tuple[str, str]) -> Any:
        request = encoder_pb2.EncodeImagesRequest()
        return self.encoder.EncodeImages(request, timeout=20, metadata=(self.application, *metadata))

    async def count(self, *, once: str) -> int:
        request = encoder_pb2.DescribeEncoderRequest()
        metadata = (self.application, ("once", once))
        reply = await self.encoder.DescribeEncoder(request, timeout=20, metadata=metadata)
        return int(reply.num_tokens)

    def stream(self, word: str, *, chunks: int, timeout: float = 20.0) -> Any:
        turn = generator_pb2.Turn(text=word)
        request = generator_pb2.StreamReplyRequest(dialogue=[turn], k=chunks)
        return self.generator.StreamReply(request, timeout=timeout, metadata=(self.application,))


async def caller_of(host: Any, service: str, factory: Any, *, keep: bool = True, **changes: Any) -> Caller:
    settings = HostSettings(grace_s=2.0, **changes)
    return Caller(await host.start(service, factory, settings=settings, keep=keep))


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


@pytest.mark.parametrize("reason", REASONS)
async def test_every_error_crosses_the_wire_whole(host: Any, reason: str) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    error = await failure_of(caller.texts(reason))
    status = details_of(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    raised = sample_error(error_classes()[reason])
    assert (error.code().name, error.details()) == (raised.code, raised.message)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "sightline.v1", raised.metadata)
    arrived = error_from_rpc(error)
    assert type(arrived) is type(raised)
    assert (arrived.message, arrived.metadata) == (raised.message, raised.metadata)
    await caller.channel.close()


async def test_a_full_queue_says_when_to_come_back(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    error = await failure_of(caller.texts("QUEUE_FULL"))
    retry = error_details_pb2.RetryInfo()
    assert details_of(error).details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500
    arrived = error_from_rpc(error)
    assert isinstance(arrived, errors.QueueFull)
    assert arrived.retry_after_s == 1.5


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)
async def test_an_error_without_a_reason_is_our_defect(host: Any, kind: type[errors.SightlineError]) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    error = await failure_of(caller.texts(kind.__name__))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert type(error_from_rpc(error)) is errors.InternalError


async def test_a_defect_tells_the_request_id_and_nothing_else(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    error = await failure_of(caller.texts("defect", ("x-request-id", "defect-1")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error_from_rpc(error).metadata == {"request_id": "defect-1"}
    told = f"{error.details()} {list(error.trailing_metadata())} {details_of(error)}"
    assert not [word for word in ("swordfish", "ValueError", "Traceback", ".py") if word in told]


async def test_the_request_id_is_echoed_on_success_and_on_failure(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    call = caller.texts("fine", ("x-request-id", "mine-1"))
    assert (await call).served.request_id == "mine-1"
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-1"
    error = await failure_of(caller.texts("TOO_MANY_ITEMS", ("x-request-id", "mine-2")))
    assert dict(error.trailing_metadata())["x-request-id"] == "mine-2"


async def test_a_request_id_that_is_no_plain_text_is_replaced(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    reply = await caller.texts("fine", ("x-request-id", "a b" * 100))
    assert len(reply.served.request_id) == 36


async def test_deadline_and_trace_are_handed_down_and_credentials_are_not(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder)
    deadline_ms = int((time.time() + 20) * 1000)
    trace = "0af7651916cd43dd8448eb211c80319c"
    reply = await caller.images(
        ("x-request-id", "mine-3"),
        ("x-deadline-unix-ms", str(deadline_ms)),
        ("traceparent", f"00-{trace}-b7ad6b7169203331-01"),
        ("authorization", "Bearer something-secret-here"),
    )
    told = dict(item.sha256.partition("=")[::2] for item in reply.items)
    assert told["x-request-id"] == "mine-3"
    assert abs(int(told["x-deadline-unix-ms"]) - deadline_ms) < 1000
    assert told["traceparent"].startswith(f"00-{trace}-")
    assert "b7ad6b7169203331" not in told["traceparent"]
    assert not [key for key in told if "authorization" in key]


async def test_work_past_its_deadline_ends_with_a_reason(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, keep=False)
    soon = str(int((time.time() + 0.3) * 1000))
    began = time.monotonic()
    # gRPC's own deadline is absent: only the metadata tells.
    error = await failure_of(caller.texts("wait", ("x-deadline-unix-ms", soon), timeout=None))
    assert (error.code(), type(error_from_rpc(error))) == (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlinePassed)
    assert time.monotonic() - began < 5
    assert await caller.count(once="cancelled") == 1


async def test_work_whose_deadline_is_over_never_starts(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, keep=False)
    past = str(int((time.time() - 1) * 1000))
    error = await failure_of(caller.texts("wait", ("x-deadline-unix-ms", past), timeout=None))
    assert type(error_from_rpc(error)) is errors.DeadlinePassed
    await caller.texts("fine")
    assert await caller.count(once="running") == 1


async def test_a_cancelled_call_cancels_the_work(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, keep=False)
    call = caller.texts("wait")
    await caller.count(once="running")
    call.cancel()
    assert await caller.count(once="cancelled") == 1


async def test_a_stream_arrives_in_order_with_its_request_id(host: Any) -> None:
    caller = await caller_of(host, "GeneratorService", ToyGenerator)
    call = caller.stream("fine", chunks=5)
    assert [frame.chunk.seq async for frame in call] == [0, 1, 2, 3, 4]
    assert len(dict(await call.trailing_metadata())["x-request-id"]) == 36


@pytest.mark.parametrize("chunks", [0, 3])
async def test_a_stream_that_fails_keeps_its_frames_and_its_reason(host: Any, chunks: int) -> None:
    endpoint = await host.start("GeneratorService", ToyGenerator, settings=HostSettings(grace_s=2.0), keep=True)
    stub = GeneratorServiceStub(endpoint.remote.channel)
    request = generator_pb2.StreamReplyRequest(dialogue=[generator_pb2.Turn(text="fail")], k=chunks)
    frames = endpoint.remote.stream(stub.StreamReply, request, timeout_s=20)
    for _ in range(chunks):
        assert (await anext(frames)).WhichOneof("frame") == "chunk"
    with pytest.raises(errors.IndexEmpty):
        await anext(frames)


async def test_leaving_a_stream_cancels_its_work(host: Any) -> None:
    caller = await caller_of(host, "GeneratorService", ToyGenerator, keep=False)
    call = caller.stream("wait", chunks=1, timeout=90)  # past the wait below: no deadline may do the cancelling
    assert (await call.read()).chunk.seq == 0
    call.cancel()
    request = generator_pb2.DescribeGeneratorRequest()
    reply = await caller.generator.DescribeGenerator(request, timeout=50, metadata=(caller.application,))
    assert reply.context_length == 1


@pytest.mark.parametrize("token", [None, *[t.reveal() for t in TOKENS], "unknown-token-of-the-test"])
async def test_only_known_tokens_pass(host: Any, token: str | None) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, tokens=TOKENS)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    if token in {t.reveal() for t in TOKENS}:
        assert (await caller.texts("fine", *metadata)).served.request_id
    else:
        error = await failure_of(caller.texts("fine", *metadata))
        assert type(error_from_rpc(error)) is errors.TokenInvalid


async def test_a_request_over_the_size_limit_is_the_callers_fault(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, max_message_bytes=1000)
    error = await failure_of(caller.texts("x" * 2000))
    assert type(error_from_rpc(error)) is errors.TooManyItems


async def test_a_request_at_the_size_limit_passes_and_one_byte_more_is_refused(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, max_message_bytes=1000)
    longest = "x" * (1000 - encoder_pb2.EncodeTextsRequest(texts=["x" * 900]).ByteSize() + 900)
    assert encoder_pb2.EncodeTextsRequest(texts=[longest]).ByteSize() == 1000
    assert (await caller.texts(longest)).served.request_id
    assert type(error_from_rpc(await failure_of(caller.texts(longest + "x")))) is errors.TooManyItems


async def test_calls_at_the_limit_run_and_one_more_is_told_to_come_back(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, keep=False, max_concurrent=2)
    calls = {asyncio.ensure_future(caller.texts("wait")) for _ in range(3)}
    (over,), running = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    refused = error_from_rpc(over.exception())
    assert isinstance(refused, errors.QueueFull)
    assert (refused.metadata, len(running)) == ({"limit": "2"}, 2)
    for call in running:
        call.cancel()


async def test_a_stop_lets_the_running_call_finish(host: Any) -> None:
    caller = await caller_of(host, "EncoderService", ToyEncoder, keep=False)
    call = caller.texts("nap")
    await caller.count(once="running")
    await host.stop_all()
    assert (await call).served.request_id


@pytest.mark.parametrize("reason", ["NOT_READY", "QUEUE_FULL"])
async def test_our_channel_tries_again_what_may_pass(host: Any, reason: str) -> None:
    endpoint = await host.start("EncoderService", functools.partial(FailsTwice, reason), keep=False)
    stub = EncoderServiceStub(endpoint.remote.channel)
    reply = await endpoint.remote.unary(stub.EncodeTexts, encoder_pb2.EncodeTextsRequest(texts=["x"]), timeout_s=20)
    assert len(reply.items) == 3


class FailsTwice(ToyEncoder):
    """Fails twice with an error that may pass, then answers with one item per attempt."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    async def EncodeTexts(
        self, request: encoder_pb2.EncodeTextsRequest, call: CallContext
    ) -> encoder_pb2.EncodeTextsResponse:
        self.calls += 1
        if self.calls < 3:
            kind = error_classes()[self.reason]
            raise kind("later", retry_after_s=0.05) if kind is errors.QueueFull else kind("later")
        return encoder_pb2.EncodeTextsResponse(items=[encoder_pb2.EncodedText()] * self.calls)
