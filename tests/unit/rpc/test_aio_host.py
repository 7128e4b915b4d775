"""What the standalone host adds to the servicer: TLS, tokens, health, reflection, limits and a drain."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sightline.errors import (
    DependencyUnavailable,
    Draining,
    NotReady,
    QueueFull,
    SettingInvalid,
    SightlineError,
    TokenInvalid,
)
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.status import error_from_rpc
from sightline.rpc.tokens import Secret
from sightline.v1 import encoder_pb2
from sightline.v1.encoder_pb2_grpc import EncoderServiceStub

TOKEN = "a-token-of-the-test-1"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Held:
    """A toy encoder whose EncodeTexts waits to be let go."""

    def __init__(self) -> None:
        self.running, self.let_go = asyncio.Event(), asyncio.Event()
        self.is_well = True
        self.is_stopped = False
        self.started = asyncio.Event()
        self.started.set()

    async def start(self) -> None:
        await self.started.wait()

    async def stop(self) -> None:
        self.is_stopped = True

    def is_ready(self) -> bool:
        return self.is_well

    async def EncodeTexts(self, request: Any, call: Any) -> encoder_pb2.EncodeTextsResponse:
        self.running.set()
        await self.let_go.wait()
        return encoder_pb2.EncodeTextsResponse()

    async def EncodeImages(self, request: Any, call: Any) -> encoder_pb2.EncodeImagesResponse:
        return encoder_pb2.EncodeImagesResponse()

    async def EncodeComposed(self, request: Any, call: Any) -> encoder_pb2.EncodeComposedResponse:
        return encoder_pb2.EncodeComposedResponse()

    async def DescribeEncoder(self, request: Any, call: Any) -> encoder_pb2.DescribeEncoderResponse:
        return encoder_pb2.DescribeEncoderResponse(dimension=7)


async def describe(address: str, **settings: Any) -> encoder_pb2.DescribeEncoderResponse:
    remote = Remote(ChannelSettings(address=address, application="encoder", **settings))
    try:
        stub = EncoderServiceStub(remote.channel)
        return await remote.unary(stub.DescribeEncoder, encoder_pb2.DescribeEncoderRequest(), timeout_s=1)
    finally:
        await remote.close()


async def refusal(address: str, **settings: Any) -> SightlineError:
    """The error of one attempt: the stub is called past the retries."""
    remote = Remote(ChannelSettings(address=address, application="encoder", **settings))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_call(remote.channel, "DescribeEncoder")
    await remote.close()
    return error_from_rpc(caught.value, service="encoder")


def raw_call(channel: grpc.aio.Channel, method: str = "EncodeTexts") -> Any:
    request = getattr(encoder_pb2, f"{method}Request")()
    return getattr(EncoderServiceStub(channel), method)(request, timeout=5)


async def health_of(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(reply.status)


@pytest.fixture
async def held(start_host: Callable[..., Awaitable[AioHost]]) -> Any:
    return Held()


def tls_settings(certificates: Any, **more: Any) -> dict[str, Any]:
    return {"tls_cert_file": certificates.server_cert, "tls_key_file": certificates.server_key} | more


async def test_tls_is_spoken_with_our_certificate(start_host: Any, held: Held, certificates: Any) -> None:
    host = await start_host(held, **tls_settings(certificates))
    reply = await describe(f"localhost:{host.port}", is_tls=True, tls_ca_file=certificates.ca)
    assert reply.dimension == 7


async def test_plain_text_is_refused_where_tls_is_spoken(start_host: Any, held: Held, certificates: Any) -> None:
    host = await start_host(held, **tls_settings(certificates))
    assert type(await refusal(f"localhost:{host.port}")) is DependencyUnavailable


async def test_a_certificate_of_a_stranger_is_not_believed(start_host: Any, held: Held, certificates: Any) -> None:
    host = await start_host(held, **tls_settings(certificates))
    error = await refusal(f"localhost:{host.port}", is_tls=True, tls_ca_file=certificates.stranger_cert)
    assert type(error) is DependencyUnavailable


async def test_mtls_lets_our_clients_in(start_host: Any, held: Held, certificates: Any) -> None:
    host = await start_host(held, **tls_settings(certificates, tls_client_ca_file=certificates.ca))
    ours = {"tls_cert_file": certificates.client_cert, "tls_key_file": certificates.client_key}
    reply = await describe(f"localhost:{host.port}", is_tls=True, tls_ca_file=certificates.ca, **ours)
    assert reply.dimension == 7


@pytest.mark.parametrize("who", ["nobody", "stranger"])
async def test_mtls_keeps_others_out(start_host: Any, held: Held, certificates: Any, who: str) -> None:
    host = await start_host(held, **tls_settings(certificates, tls_client_ca_file=certificates.ca))
    files = {"tls_cert_file": certificates.stranger_cert, "tls_key_file": certificates.stranger_key}
    mine = files if who == "stranger" else {}
    error = await refusal(f"localhost:{host.port}", is_tls=True, tls_ca_file=certificates.ca, **mine)
    assert type(error) is DependencyUnavailable


async def test_a_name_other_than_the_certificates_can_be_asked_for(
    start_host: Any, held: Held, certificates: Any
) -> None:
    host = await start_host(held, **tls_settings(certificates))
    reply = await describe(host.address, is_tls=True, tls_ca_file=certificates.ca, tls_server_name="localhost")
    assert reply.dimension == 7


async def test_tokens_come_from_settings_and_file(start_host: Any, held: Held, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# old\nanother-token-of-the-test\n\n")
    host = await start_host(held, tokens=(Secret(TOKEN),), token_file=file)
    for token in (TOKEN, "another-token-of-the-test"):
        assert (await describe(host.address, token=Secret(token))).dimension == 7
    with pytest.raises(TokenInvalid):
        await describe(host.address)


async def test_health_and_reflection_need_no_token(start_host: Any, held: Held) -> None:
    host = await start_host(held, tokens=(Secret(TOKEN),))
    async with grpc.aio.insecure_channel(host.address) as channel:
        assert await health_of(channel) == SERVING
        assert "sightline.v1.EncoderService" in await reflected_services(channel)


async def reflected_services(channel: grpc.aio.Channel) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
    reply = await call.read()
    return [service.name for service in reply.list_services_response.service]


async def test_reflection_names_our_service_and_health(start_host: Any, held: Held) -> None:
    host = await start_host(held)
    async with grpc.aio.insecure_channel(host.address) as channel:
        names = await reflected_services(channel)
    assert {"sightline.v1.EncoderService", "grpc.health.v1.Health"} <= set(names)


@pytest.mark.parametrize("service", ["", "sightline.v1.EncoderService"])
async def test_health_follows_readiness(start_host: Any, held: Held, service: str) -> None:
    host = await start_host(held)
    async with grpc.aio.insecure_channel(host.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=5)
        assert (await watch.read()).status == SERVING
        held.is_well = False
        assert (await watch.read()).status == NOT_SERVING
        held.is_well = True
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_calls_before_the_start_is_over_are_not_ready(start_host: Any, held: Held) -> None:
    held.started.clear()
    host = AioHost([ServiceBinding(service="EncoderService", servicer=held)], HostSettings(grace_s=1.0))
    starting = asyncio.create_task(host.start())
    while host.port == 0:
        await asyncio.sleep(0)
    async with grpc.aio.insecure_channel(host.address, options=[("grpc.enable_retries", 0)]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_call(channel, "DescribeEncoder")
        assert type(error_from_rpc(caught.value)) is NotReady
        assert await health_of(channel) == NOT_SERVING
        held.started.set()
        await starting
        assert (await raw_call(channel, "DescribeEncoder")).dimension == 7
        assert await health_of(channel) == SERVING
    await host.drain_and_stop()


async def test_a_servicer_that_does_not_start_leaves_no_open_port(free_port: int) -> None:
    class Broken(Held):
        async def start(self) -> None:
            raise SettingInvalid("registry: absent")

    binding = ServiceBinding(service="EncoderService", servicer=Broken())
    with pytest.raises(SettingInvalid, match="registry"):
        await AioHost([binding], HostSettings(port=free_port)).start()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", free_port)


async def test_one_call_too_many_is_told_to_come_back(start_host: Any, held: Held) -> None:
    host = await start_host(held, max_concurrent=1)
    async with grpc.aio.insecure_channel(host.address, options=[("grpc.enable_retries", 0)]) as channel:
        first = raw_call(channel)
        await held.running.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_call(channel, "DescribeEncoder")
        refused = error_from_rpc(caught.value)
        assert isinstance(refused, QueueFull)
        assert refused.metadata == {"limit": "1"}
        held.let_go.set()
        await first


async def test_a_drain_refuses_the_new_finishes_the_old_and_fails_health(start_host: Any, held: Held) -> None:
    host = await start_host(held)
    async with grpc.aio.insecure_channel(host.address, options=[("grpc.enable_retries", 0)]) as channel:
        running = raw_call(channel)
        await held.running.wait()
        draining = asyncio.create_task(host.drain_and_stop())
        while await health_of(channel) == SERVING:
            pass
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_call(channel, "DescribeEncoder")
        assert type(error_from_rpc(caught.value)) is Draining
        assert not held.is_stopped
        held.let_go.set()
        await running
        await draining
        assert held.is_stopped


async def test_calls_that_arrive_as_the_port_closes_are_answered_or_refused_by_name(
    start_host: Any, held: Held
) -> None:
    host = await start_host(held)
    async with grpc.aio.insecure_channel(host.address, options=[("grpc.enable_retries", 0)]) as channel:
        await raw_call(channel, "DescribeEncoder")
        calls = [asyncio.ensure_future(raw_call(channel, "DescribeEncoder")) for _ in range(64)]
        await host.drain_and_stop()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    codes = {one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)}
    assert codes <= {grpc.StatusCode.UNAVAILABLE}


async def test_a_watch_of_health_does_not_hold_the_stop_up(start_host: Any, held: Held) -> None:
    host = await start_host(held)
    async with grpc.aio.insecure_channel(host.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(host.drain_and_stop(), 5)
        assert (await watch.read()).status == NOT_SERVING


async def test_a_call_that_outlasts_the_grace_time_is_cut(start_host: Any, held: Held) -> None:
    host = await start_host(held, grace_s=0.05)
    async with grpc.aio.insecure_channel(host.address, options=[("grpc.enable_retries", 0)]) as channel:
        running = raw_call(channel)
        await held.running.wait()
        await host.drain_and_stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert held.is_stopped


async def test_a_signal_drains_and_ends(start_host: Any, held: Held) -> None:
    host = await start_host(held)
    serving = asyncio.create_task(host.serve_until_signal())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 5)
    assert held.is_stopped


async def test_metrics_are_served_while_the_host_runs(start_host: Any, held: Held, free_port: int) -> None:
    host = await start_host(held, metrics_port=free_port)
    await describe(host.address)
    url = f"http://127.0.0.1:{free_port}/metrics"
    told = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    assert 'sightline_rpc_calls_total{code="OK",method="/sightline.v1.EncoderService/DescribeEncoder"}' in told
    await host.drain_and_stop()
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)


async def test_a_taken_port_is_named(start_host: Any, held: Held) -> None:
    host = await start_host(held)
    with pytest.raises(SettingInvalid, match=f"127.0.0.1:{host.port}"):
        await start_host(Held(), port=host.port)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tls_cert_file": Path("a.pem")}, "go together"),
        ({"tls_client_ca_file": Path("a.pem")}, "needs tls_cert_file"),
        ({"max_concurrent": 0}, "max_concurrent: got 0"),
        ({"tokens": (Secret("short"),)}, "tokens, number 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingInvalid, match=told):
        HostSettings(**settings)


async def test_a_missing_tls_file_is_named(start_host: Any, held: Held, tmp_path: Path) -> None:
    missing = tmp_path / "absent.pem"
    with pytest.raises(SettingInvalid, match="absent"):
        await start_host(held, tls_cert_file=missing, tls_key_file=missing)


def test_settings_print_no_token() -> None:
    assert TOKEN not in repr(HostSettings(tokens=(Secret(TOKEN),)))
    assert TOKEN not in repr(ChannelSettings(address="x:1", token=Secret(TOKEN)))
