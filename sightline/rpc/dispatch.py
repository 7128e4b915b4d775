"""What happens around every call, whichever host took it: admission, deadline, errors, log and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.message import Message

from sightline.errors import DeadlinePassed, Draining, NotReady, QueueFull, SightlineError, TooManyItems
from sightline.rpc.context import CallContext, IncomingCall
from sightline.rpc.services import Method
from sightline.rpc.status import internal_error, sendable
from sightline.rpc.telemetry import CallMetrics
from sightline.rpc.tokens import TokenCheck

UnaryHandler = Callable[[Any, CallContext], Awaitable[Message]]
StreamHandler = Callable[[Any, CallContext], AsyncIterator[Message]]

_RETRY_AFTER_S = 0.2

logger = logging.getLogger("sightline.rpc")


class Dispatcher:
    """Runs the calls of one host. What leaves it is a response, a SightlineError with a reason, or a cancellation."""

    def __init__(
        self, *, tokens: TokenCheck, max_concurrent: int, max_request_bytes: int, metrics: CallMetrics | None = None
    ) -> None:
        self._tokens = tokens
        self._max_request_bytes = max_request_bytes
        self._max_concurrent = max_concurrent
        self._metrics = metrics or CallMetrics.shared()
        self._running = 0
        self._num_come = 0
        self._is_draining = False
        self._is_started = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """How many calls run now."""
        return self._running

    @property
    def is_started(self) -> bool:
        """True once calls are let in."""
        return self._is_started

    def mark_started(self) -> None:
        """Let calls in; until then they are refused with NOT_READY."""
        self._is_started = True

    def begin_drain(self) -> None:
        """Refuse every new call with DRAINING from now on."""
        self._is_draining = True

    async def wait_idle(self, *, timeout_s: float) -> bool:
        """True once no call runs, or False if some still do after `timeout_s`."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def wait_quiet(self, *, for_s: float, timeout_s: float) -> None:
        """Return once no call has come for `for_s`, or after `timeout_s` though they still come."""
        ends, seen = time.monotonic() + timeout_s, -1
        while seen != self._num_come and time.monotonic() < ends:
            seen = self._num_come
            await asyncio.sleep(for_s)

    async def unary(self, method: Method, handler: UnaryHandler, *, request: Message, call: IncomingCall) -> Message:
        """The response of `handler`. Raises a SightlineError with a reason, or CancelledError."""
        with self._around(method, request, call):
            async with _deadline(call):
                return await handler(request, call)

    async def stream(
        self, method: Method, handler: StreamHandler, *, request: Message, call: IncomingCall
    ) -> AsyncIterator[Message]:
        """The frames of `handler`. Raises a SightlineError with a reason, or CancelledError."""
        with self._around(method, request, call):
            async with aclosing(handler(request, call)) as frames:  # type: ignore[type-var]
                while True:
                    # The deadline stands around each step and not around the loop: a timeout
                    # that is left open across a yield would cancel the host's own code.
                    async with _deadline(call):
                        frame = await anext(frames, None)
                    if frame is None:
                        return
                    yield frame

    @contextmanager
    def _around(self, method: Method, request: Message, call: IncomingCall) -> Iterator[None]:
        began, code = time.perf_counter(), "OK"
        self._enter()
        try:
            self._admit(request, call)
            yield
        except SightlineError as error:
            sent = sendable(error, request_id=call.request_id)
            code = sent.code
            if sent is not error:
                logger.exception("defect", extra=_fields(method, call))
                raise sent from error
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "DEADLINE_EXCEEDED" if call.time_remaining() == 0.0 else "CANCELLED"
            raise
        except Exception as error:  # the process boundary
            sent, code = internal_error(call.request_id), "INTERNAL"
            logger.exception("defect", extra=_fields(method, call))
            raise sent from error
        finally:
            # Work in threads watches this flag; after the call nobody waits for it.
            call.mark_cancelled()
            self._leave()
            seconds = time.perf_counter() - began
            self._metrics.observe(method.path, code=code, seconds=seconds)
            self._log(method, call, code=code, seconds=seconds)

    def _log(self, method: Method, call: IncomingCall, *, code: str, seconds: float) -> None:
        # A line for people takes a millisecond, more than the rest of a short call. Calls
        # that went well are counted by the metrics, and logged for those who ask for DEBUG.
        level = logging.DEBUG if code == "OK" else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "call", extra=_fields(method, call) | {"code": code, "ms": round(seconds * 1e3, 3)})

    def _enter(self) -> None:
        self._running += 1
        self._num_come += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    def _admit(self, request: Message, call: IncomingCall) -> None:
        self._tokens.check(call.authorization)
        if self._is_draining:
            raise Draining("the service is finishing accepted work before it stops")
        if not self._is_started:
            raise NotReady("the service is starting")
        if self._running > self._max_concurrent:
            limit = self._max_concurrent
            raise QueueFull(f"calls: {limit} are running, limit {limit}", retry_after_s=_RETRY_AFTER_S, limit=limit)
        if call.time_remaining() == 0.0:
            raise _deadline_passed()
        # Ray Serve's own limit is 2 GiB for the whole cluster.
        size, limit = request.ByteSize(), self._max_request_bytes
        if size > limit:
            raise TooManyItems(f"request: got {size} bytes, limit {limit}", value=size, limit=limit)


class _deadline:  # noqa: N801 - reads like the context manager that it is
    """Raises DeadlinePassed if the block outlasts the call's deadline."""

    def __init__(self, call: IncomingCall) -> None:
        self._timeout = asyncio.timeout(call.time_remaining())

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            await self._timeout.__aexit__(*exc_info)
        except TimeoutError as error:
            raise _deadline_passed() from error


def _deadline_passed() -> DeadlinePassed:
    return DeadlinePassed("the caller's deadline passed before the work was done")


def _fields(method: Method, call: IncomingCall) -> dict[str, object]:
    return {"method": method.path, "request_id": call.request_id, "trace": call.traceparent, "peer": call.peer}
