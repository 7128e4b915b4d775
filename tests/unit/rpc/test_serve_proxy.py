"""Streams on Serve's proxy: a cancel is heeded wherever it strikes. Across a cluster: tests/contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest

from sightline.rpc.serve_proxy import heed_cancels


class Proxied:
    """A stream as Serve's proxy has it: it waits for every frame, and is told of a cancel only while it waits."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.is_told = False
        self.waits = asyncio.Event()

    async def handle(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(self.frames):
            await self.wait(asyncio.sleep(0))
            yield b"%d" % number
        self.waits.set()
        await self.wait(asyncio.Event().wait())

    async def wait(self, replica: Awaitable[object]) -> None:
        try:
            await replica
        except asyncio.CancelledError:
            self.is_told = True
            raise


class Context:
    """A call's context whose writes after the first few never end, as those of a slow caller."""

    def __init__(self, quick: int) -> None:
        self.quick = quick
        self.written: list[bytes] = []
        self.is_stuck = asyncio.Event()

    async def write(self, frame: bytes) -> None:
        if len(self.written) == self.quick:
            self.is_stuck.set()
            await asyncio.Event().wait()
        self.written.append(frame)


async def cancel(answering: asyncio.Task[None], *, once: asyncio.Event) -> None:
    await once.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering


async def test_a_cancel_while_a_frame_is_written_reaches_the_stream() -> None:
    proxied, context = Proxied(frames=9), Context(quick=2)
    answering = asyncio.ensure_future(heed_cancels(proxied.handle)(b"", context))
    await cancel(answering, once=context.is_stuck)
    assert (proxied.is_told, context.written) == (True, [b"0", b"1"])


async def test_a_cancel_while_the_stream_waits_reaches_it() -> None:
    proxied, context = Proxied(frames=2), Context(quick=9)
    answering = asyncio.ensure_future(heed_cancels(proxied.handle)(b"", context))
    await cancel(answering, once=proxied.waits)
    assert (proxied.is_told, context.written) == (True, [b"0", b"1"])


async def test_a_caller_gets_every_frame_from_a_handler_that_heeds_cancels() -> None:
    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield request + b"%d" % number
        context.set_trailing_metadata((("left", "nothing"),))

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(heed_cancels(count))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("toy", {"Count": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream("/toy/Count")(b"n")
        assert [frame async for frame in call] == [b"n0", b"n1", b"n2"]
        assert ("left", "nothing") in tuple(await call.trailing_metadata())
    await server.stop(None)


def test_a_handler_that_streams_nothing_stays_what_it_is() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return request

    assert heed_cancels(unary) is unary
