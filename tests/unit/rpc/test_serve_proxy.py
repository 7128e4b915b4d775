"""Streams on Serve's proxy: a cancel is heeded wherever it strikes. Across a cluster: tests/contract."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import grpc
import pytest

from sightline.rpc.serve_proxy import add_generator_service, heed_cancels
from sightline.v1.generator_pb2_grpc import GeneratorServiceServicer


class Proxied:
    """A stream as Serve's proxy has it: it is told of a cancel only while it waits for a frame, and then just ends."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.is_told = False
        self.waits = asyncio.Event()

    async def handle(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(self.frames):
            if await self.is_cancelled(asyncio.sleep(0)):
                return
            yield b"%d" % number
        self.waits.set()
        await self.is_cancelled(asyncio.Event().wait())

    async def is_cancelled(self, replica: Awaitable[object]) -> bool:
        try:
            await replica
        except asyncio.CancelledError:
            self.is_told = True
        return self.is_told


class Context:
    """A call's context whose writes end, after the first few, only when `unstick` is done."""

    def __init__(self, quick: int) -> None:
        self.quick = quick
        self.written: list[bytes] = []
        self.is_stuck = asyncio.Event()
        self.unstick: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(self, frame: bytes) -> None:
        if len(self.written) == self.quick:
            self.is_stuck.set()
            await self.unstick
        self.written.append(frame)


@pytest.fixture
def complaints() -> Iterator[list[dict[str, Any]]]:
    """What the event loop had to complain of, seen to be nothing at the end."""
    heard: list[dict[str, Any]] = []
    yield heard
    assert heard == []


async def answered(answering: asyncio.Task[None], complaints: list[dict[str, Any]]) -> BaseException | None:
    """What the call ended with, once nobody holds it any more."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    (ended,) = await asyncio.gather(answering, return_exceptions=True)
    gc.collect()
    await asyncio.sleep(0)
    return ended


async def test_a_cancel_while_a_frame_is_written_reaches_the_stream(complaints: list[dict[str, Any]]) -> None:
    proxied, context = Proxied(frames=9), Context(quick=2)
    answering = asyncio.ensure_future(heed_cancels(proxied.handle)(b"", context))
    await context.is_stuck.wait()
    answering.cancel()
    assert isinstance(await answered(answering, complaints), asyncio.CancelledError)
    assert (proxied.is_told, context.written) == (True, [b"0", b"1"])


async def test_a_cancel_while_the_stream_waits_reaches_it(complaints: list[dict[str, Any]]) -> None:
    proxied, context = Proxied(frames=2), Context(quick=9)
    answering = asyncio.ensure_future(heed_cancels(proxied.handle)(b"", context))
    await proxied.waits.wait()
    answering.cancel()
    await answered(answering, complaints)
    assert (proxied.is_told, context.written) == (True, [b"0", b"1"])


@pytest.mark.parametrize("is_cancelled_too", [False, True], ids=["write", "write, then cancel"])
async def test_a_write_that_fails_ends_the_stream(complaints: list[dict[str, Any]], is_cancelled_too: bool) -> None:
    """A caller's death makes a write fail, and gRPC's cancel may follow before the stream has been told."""
    proxied, context = Proxied(frames=9), Context(quick=2)
    answering = asyncio.ensure_future(heed_cancels(proxied.handle)(b"", context))
    await context.is_stuck.wait()
    context.unstick.set_exception(ConnectionError("the caller is gone"))
    if is_cancelled_too:
        asyncio.get_running_loop().call_soon(answering.cancel)
    assert isinstance(await answered(answering, complaints), ConnectionError | asyncio.CancelledError)
    assert (proxied.is_told, context.written) == (True, [b"0", b"1"])


async def test_a_caller_gets_every_frame_and_status_from_a_handler_that_heeds_cancels() -> None:
    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield request + b"%d" % number
        context.set_trailing_metadata((("left", "nothing"),))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no more")

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(heed_cancels(count))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("toy", {"Count": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    frames: list[bytes] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream("/toy/Count")(b"n")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            [frames.append(frame) async for frame in call]
    await server.stop(None)
    assert frames == [b"n0", b"n1", b"n2"]
    assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.NOT_FOUND, "no more")
    assert ("left", "nothing") in tuple(ended.value.trailing_metadata())


def test_a_handler_that_streams_nothing_stays_what_it_is() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return request

    assert heed_cancels(unary) is unary


@pytest.mark.slow
async def test_serves_own_server_streams_by_handlers_that_heed_cancels() -> None:
    """And Serve's handler of a stream is the async generator that we take it for."""
    from ray.serve._private.grpc_util import gRPCGenericServer
    from ray.serve._private.proxy import gRPCProxy

    server = gRPCGenericServer(lambda **method: gRPCProxy.service_handler_factory(object(), **method))
    add_generator_service(GeneratorServiceServicer(), server)
    (handlers,) = server.generic_rpc_handlers[0]
    streamed = handlers._method_handlers["/sightline.v1.GeneratorService/StreamReply"]
    assert inspect.iscoroutinefunction(streamed.unary_stream)
    assert not inspect.isasyncgenfunction(streamed.unary_stream)
