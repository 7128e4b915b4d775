"""How a service is called: a channel with retries, and calls that carry deadline, request id, trace and token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from sightline.errors import DeadlinePassed, SettingInvalid
from sightline.limits import MAX_MESSAGE_BYTES
from sightline.rpc.context import (
    APPLICATION_KEY,
    AUTHORIZATION_KEY,
    DEADLINE_KEY,
    REQUEST_ID_KEY,
    TRACEPARENT_KEY,
    CallContext,
    child_traceparent,
    new_request_id,
)
from sightline.rpc.host_settings import read_pem
from sightline.rpc.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_ATTEMPTS, RetryBudget, pause_before
from sightline.rpc.services import SERVICE_NAMES, service_descriptor, service_methods
from sightline.rpc.status import error_from_rpc, is_worth_a_retry
from sightline.rpc.tokens import Secret

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """Where a service is and how it is spoken to."""

    address: str
    """`host:port`, or any gRPC target such as `dns:///encoder:50051`."""
    application: str = ""
    """Ray Serve application that hosts the service; sent always, read by Ray Serve alone."""
    timeout_s: float = 30.0
    """How long a call may take, its retries included, unless it is told otherwise or its caller has less time."""
    token: Secret | None = None
    """Bearer token; None sends none."""
    is_tls: bool = False
    """Whether the service speaks TLS; by the machine's own roots unless `tls_ca_file` is set."""
    tls_ca_file: Path | None = None
    """PEM certificates that sign the service."""
    tls_cert_file: Path | None = None
    """PEM certificate of this caller, for mTLS; goes together with `tls_key_file`."""
    tls_key_file: Path | None = None
    """PEM private key of this caller."""
    tls_server_name: str = ""
    """Name that the service's certificate must carry, if it is not the one in `address`."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """Largest request or reply."""

    def __post_init__(self) -> None:
        if not self.address:
            raise SettingInvalid("address: got nothing, expected host:port")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise SettingInvalid("tls_cert_file and tls_key_file go together; one of them is not set")
        if not self.is_tls and (self.tls_ca_file or self.tls_cert_file):
            raise SettingInvalid("tls files are set but is_tls is not")
        if self.timeout_s <= 0:
            raise SettingInvalid(f"timeout_s: got {self.timeout_s}, expected more than 0")


def service_config() -> dict[str, Any]:
    """The gRPC service config of our services; `protos/service_config.json` holds it for clients of every language.

    Unary calls that met UNAVAILABLE or RESOURCE_EXHAUSTED are tried again with
    growing pauses, all of ours being safe to repeat; streams are not. A Remote
    retries by itself instead; see `sightline.rpc.retry`.
    """
    unary = [
        {"service": service_descriptor(service).full_name, "method": method.name}
        for service in SERVICE_NAMES
        for method in service_methods(service)
        if not method.is_streamed
    ]
    retry = {
        "maxAttempts": MAX_ATTEMPTS,
        "initialBackoff": f"{FIRST_PAUSE_S}s",
        "maxBackoff": f"{LONGEST_PAUSE_S}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": unary, "retryPolicy": retry}],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }


def open_channel(settings: ChannelSettings) -> grpc.aio.Channel:
    """A channel to the service for stubs of one's own; it connects when first used. Close it when done.

    Raises SettingInvalid if a TLS file cannot be read.
    """
    return _open(settings, options=channel_options(settings))


def _open(settings: ChannelSettings, *, options: list[tuple[str, Any]]) -> grpc.aio.Channel:
    if settings.is_tls:
        return grpc.aio.secure_channel(settings.address, _credentials(settings), options=options)
    return grpc.aio.insecure_channel(settings.address, options=options)


def channel_options(settings: ChannelSettings) -> list[tuple[str, Any]]:
    """The channel arguments: service config, message limits, keepalive."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(service_config())),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Ray Serve's server has gRPC's default ping policy: one ping in five minutes,
        # none without calls. More would be answered with GOAWAY.
        ("grpc.keepalive_time_ms", 310_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # A service that restarts is found again within the pauses of the retries.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Two channels of one process with equal arguments would share a connection,
        # and a connection carries about a hundred streams at once.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if settings.tls_server_name:
        options.append(("grpc.ssl_target_name_override", settings.tls_server_name))
    return options


class Remote:
    """One service behind one channel. Its stubs are made on `channel`; its calls go through `unary` and `stream`."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._settings = settings
        self._channel = _open(settings, options=[*channel_options(settings), ("grpc.enable_retries", 0)])
        self._budget = RetryBudget()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to make stubs on."""
        return self._channel

    async def unary(
        self,
        rpc: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        parent: CallContext | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ResponseT:
        """The reply to one call, made on behalf of `parent` if one is given and tried up to four times.

        All of it ends after `timeout_s`, else the channel's own timeout, and by the
        parent's deadline. Raises the SightlineError that the service raised,
        or DependencyUnavailable if nobody answered.
        """
        timeout, metadata = self._envelope(parent, timeout_s=timeout_s, request_id=request_id)
        ends, attempt = time.monotonic() + timeout, 1
        while True:
            try:
                reply = await rpc(request, timeout=max(0.0, ends - time.monotonic()), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                attempt += 1
                named = error_from_rpc(error, service=self._settings.application)
                pause_s = pause_before(attempt, error=named)
                is_over = attempt > MAX_ATTEMPTS or time.monotonic() + pause_s >= ends
                if not is_worth_a_retry(error) or not self._budget.fail() or is_over:
                    raise named from error
            else:
                self._budget.succeed()
                return reply
            await asyncio.sleep(pause_s)

    async def stream(
        self,
        rpc: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        parent: CallContext | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[ResponseT, None]:
        """The frames of one streamed call, never tried again; closing this generator cancels it.

        Limits and errors are those of `unary`. A frame without content is passed
        over: Ray Serve needs one to carry an error.
        """
        timeout, metadata = self._envelope(parent, timeout_s=timeout_s, request_id=request_id)
        call = rpc(request, timeout=timeout, metadata=metadata)
        try:
            async for frame in call:
                if frame.ByteSize():  # type: ignore[attr-defined]
                    yield frame
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, service=self._settings.application) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self._channel.close()

    def _envelope(
        self, parent: CallContext | None, *, timeout_s: float | None, request_id: str
    ) -> tuple[float, grpc.aio.Metadata]:
        remaining = parent.time_remaining() if parent is not None else None
        own = self._settings.timeout_s if timeout_s is None else timeout_s
        timeout = own if remaining is None else min(own, remaining)
        if timeout <= 0:
            raise DeadlinePassed("the caller's deadline passed before the call was made")
        return timeout, self._metadata(parent, timeout_s=timeout, request_id=request_id)

    def _metadata(self, parent: CallContext | None, *, timeout_s: float, request_id: str) -> grpc.aio.Metadata:
        pairs = dict(parent.outgoing_metadata()) if parent is not None else {}
        pairs.setdefault(REQUEST_ID_KEY, request_id or new_request_id())
        pairs.setdefault(TRACEPARENT_KEY, child_traceparent(""))
        pairs[DEADLINE_KEY] = str(int((time.time() + timeout_s) * 1000))
        if self._settings.application:
            pairs[APPLICATION_KEY] = self._settings.application
        if self._settings.token is not None:
            pairs[AUTHORIZATION_KEY] = f"Bearer {self._settings.token.reveal()}"
        return grpc.aio.Metadata(*pairs.items())


def _credentials(settings: ChannelSettings) -> grpc.ChannelCredentials:
    files = (settings.tls_ca_file, settings.tls_key_file, settings.tls_cert_file)
    return grpc.ssl_channel_credentials(*[read_pem(path) if path is not None else None for path in files])
