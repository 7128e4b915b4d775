"""The standalone host: servicers behind a grpc.aio server with TLS, tokens, health, reflection and a graceful drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIServer

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from sightline.errors import SettingInvalid, SightlineError
from sightline.rpc.context import REQUEST_ID_KEY, IncomingCall
from sightline.rpc.dispatch import Dispatcher
from sightline.rpc.host_settings import HostSettings, server_credentials
from sightline.rpc.services import Method, Servicer, service_descriptor, service_methods
from sightline.rpc.status import clip, error_trailers, status_code
from sightline.rpc.telemetry import CallMetrics, serve_metrics
from sightline.rpc.tokens import TokenCheck

_QUIET_S = 0.02
"""A drain closes the port once no call has come for so long: gRPC cancels calls that have arrived and were not looked
at, and a caller cannot tell that from a cancel of its own."""
_LONGEST_REFUSAL_S = 0.5
"""Callers who never pause are refused for so long."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

logger = logging.getLogger("sightline.rpc")


@dataclass(frozen=True, kw_only=True)
class ServiceBinding:
    """A service of the contract and the servicer that answers it."""

    service: str
    """Bare name of the service, such as "EncoderService"."""
    servicer: Servicer
    """What answers; see `sightline.rpc.services.Servicer`."""


class AioHost:
    """One server for one or more services. Start it, then wait for a signal or stop it."""

    def __init__(
        self, services: Sequence[ServiceBinding], settings: HostSettings, *, metrics: CallMetrics | None = None
    ) -> None:
        self._services = tuple(services)
        self._settings = settings
        self._dispatcher = Dispatcher(
            tokens=TokenCheck(settings.read_tokens()),
            max_concurrent=settings.max_concurrent,
            max_request_bytes=settings.max_message_bytes,
            metrics=metrics,
        )
        self._health = health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._health_task: asyncio.Task[None] | None = None
        self._metrics_server: WSGIServer | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The TCP port that is listened on; zero before `start`."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port` that is listened on."""
        return f"{self._settings.bind}:{self._port}"

    async def start(self) -> None:
        """Listen, then start the servicers; health tells NOT_SERVING until each of them is ready.

        Raises SettingInvalid if the port is taken or the TLS files do not load.
        """
        self._server = self._build_server()
        self._port = self._bind(self._server)
        await self._publish_health()
        await self._server.start()
        await self._start_servicers()
        self._dispatcher.mark_started()
        await self._publish_health()
        self._health_task = asyncio.create_task(self._watch_health())
        if self._settings.metrics_port:
            self._metrics_server, _ = serve_metrics(self._settings.metrics_port, host=self._settings.bind)
        logger.info("listening", extra={"address": self.address, "tls": self._settings.is_tls})

    async def serve_until_signal(self) -> None:
        """Return after SIGTERM or SIGINT came and the drain is over."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await stop.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        await self.drain_and_stop()

    async def drain_and_stop(self) -> None:
        """Fail readiness, refuse new calls, let running ones finish within the grace time, then close."""
        if self._health_task is not None:
            self._health_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._health_task
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_notice_s)
        self._dispatcher.begin_drain()
        if not await self._dispatcher.wait_idle(timeout_s=self._settings.grace_s):
            logger.warning("grace time is over", extra={"running": self._dispatcher.running})
        await self._dispatcher.wait_quiet(for_s=_QUIET_S, timeout_s=_LONGEST_REFUSAL_S)
        if self._server is not None:
            await self._server.stop(_QUIET_S)
        for binding in self._services:
            await binding.servicer.stop()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()

    async def _start_servicers(self) -> None:
        started: list[Servicer] = []
        try:
            for binding in self._services:
                await binding.servicer.start()
                started.append(binding.servicer)
        except BaseException:
            # Whoever catches this has no host to stop: the port is closed here.
            if self._server is not None:
                await self._server.stop(0)
            for servicer in started:
                await servicer.stop()
            raise

    def _build_server(self) -> grpc.aio.Server:
        limit = self._settings.max_message_bytes
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.so_reuseport", 0),
            # Clients behind middle boxes ping every minute; the default of five
            # minutes would answer them with GOAWAY.
            ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        server = grpc.aio.server(options=options)
        for binding in self._services:
            self._add_service(server, binding)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [service_descriptor(binding.service).full_name for binding in self._services]
        reflection.enable_server_reflection([*names, HEALTH_NAME, reflection.SERVICE_NAME], server)
        return server

    def _add_service(self, server: grpc.aio.Server, binding: ServiceBinding) -> None:
        handlers = {
            method.name: self._rpc_handler(method, getattr(binding.servicer, method.name))
            for method in service_methods(binding.service)
        }
        name = service_descriptor(binding.service).full_name
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    def _rpc_handler(self, method: Method, handler: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
        read, write = method.request.FromString, method.response.SerializeToString
        if method.is_streamed:
            return grpc.unary_stream_rpc_method_handler(self._streamed(method, handler), read, write)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler), read, write)

    def _unary(self, method: Method, handler: Callable[..., Any]) -> Callable[..., Awaitable[Message]]:
        async def answer(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
            call = _incoming(context)
            try:
                return await self._dispatcher.unary(method, handler, request=request, call=call)
            except SightlineError as error:
                await _abort(context, error, call=call)

        return answer

    def _streamed(self, method: Method, handler: Callable[..., Any]) -> Callable[..., AsyncIterator[Message]]:
        async def answer(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message]:
            call = _incoming(context)
            try:
                async for frame in self._dispatcher.stream(method, handler, request=request, call=call):
                    yield frame
            except SightlineError as error:
                await _abort(context, error, call=call)

        return answer

    def _bind(self, server: grpc.aio.Server) -> int:
        address = f"{self._settings.bind}:{self._settings.port}"
        try:
            if self._settings.is_tls:
                return server.add_secure_port(address, server_credentials(self._settings))
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise SettingInvalid(f"port: cannot listen on {address}") from error

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(self._settings.health_poll_s)
            await self._publish_health()

    async def _publish_health(self) -> None:
        # Before their start is over, servicers are not asked at all.
        started = self._dispatcher.is_started
        ready = {binding.service: started and binding.servicer.is_ready() for binding in self._services}
        for service, is_ready in ready.items():
            await self._health.set(service_descriptor(service).full_name, _SERVING if is_ready else _NOT_SERVING)
        await self._health.set("", _SERVING if all(ready.values()) else _NOT_SERVING)


def _incoming(context: grpc.aio.ServicerContext[Any, Any]) -> IncomingCall:
    pairs = context.invocation_metadata() or ()
    metadata = {key: value for key, value in pairs if isinstance(value, str)}
    call = IncomingCall(metadata, peer=context.peer(), timeout_s=context.time_remaining())
    context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
    return call


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: SightlineError, *, call: IncomingCall) -> NoReturn:
    trailers = ((REQUEST_ID_KEY, call.request_id), *error_trailers(error))
    await context.abort(status_code(error), clip(error.message), trailing_metadata=trailers)
