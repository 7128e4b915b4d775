"""Puts the contract's services on Serve's gRPC proxy, and lets a caller's cancel end a stream wherever it strikes.

Serve names these functions by import path (`grpc_servicer_functions`) and calls
them, where its gRPC port is, with a servicer that answers nothing. Its proxy passes
a cancel on to the replica only while it waits for the next frame. One that strikes
while a frame is being written is lost, and the replica works on until its deadline
for a caller that has left (ray-project/ray#42665 suspected it and was never merged).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from sightline.v1 import encoder_pb2_grpc, generator_pb2_grpc, retriever_pb2_grpc

Handler = Callable[[Any, Any], Any]
"""What the proxy answers an RPC with, from its request and its context."""


def add_encoder_service(servicer: Any, server: Any) -> None:
    """Add EncoderService to Serve's proxy."""
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server)


def add_retriever_service(servicer: Any, server: Any) -> None:
    """Add RetrieverService to Serve's proxy."""
    retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(servicer, server)


def add_generator_service(servicer: Any, server: Any) -> None:
    """Add GeneratorService to Serve's proxy, its stream by `heed_cancels`."""
    make_handler = server.service_handler_factory
    server.service_handler_factory = lambda **method: heed_cancels(make_handler(**method))
    generator_pb2_grpc.add_GeneratorServiceServicer_to_server(servicer, server)


def heed_cancels(handler: Handler) -> Handler:
    """A handler that answers as `handler` does, and cancels its stream if a frame can't be written.

    One that isn't an async generator streams nothing and comes back as it is.
    """
    if not inspect.isasyncgenfunction(handler):
        return handler

    async def stream(request: Any, context: Any) -> None:
        frames = handler(request, context)
        async for frame in frames:
            try:
                await context.write(frame)
            except (asyncio.CancelledError, Exception):
                await _cancel_in_wait(frames)
                raise

    return stream


async def _cancel_in_wait(frames: AsyncGenerator[Any, None]) -> None:
    """Cancel `frames` where it heeds a cancel: in its first wait for the next frame.

    In the call's own task, which gRPC may cancel at any moment: a task more could be left behind.
    """
    task = asyncio.current_task()
    assert task is not None, "a call is answered in a task"
    task.cancel()
    with suppress(asyncio.CancelledError, StopAsyncIteration):
        await anext(frames)
