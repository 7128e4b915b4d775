"""One fixture that puts any servicer behind either host, so that a contract test is written once and runs on both.

Use it so:

    def make_encoder(release: Path) -> EncoderServicer: ...            # at module level

    async def test_texts_come_back_in_order(host: Host, tiny_release: Path) -> None:
        endpoint = await host.start("EncoderService", functools.partial(make_encoder, tiny_release))
        stub = EncoderServiceStub(endpoint.remote.channel)
        reply = await endpoint.remote.unary(stub.EncodeTexts, EncodeTextsRequest(texts=["a", "b"]))

* The test runs as `[aio]` (fast) and as `[serve]` (marked e2e; one Ray cluster a session).
* The factory runs in this process under aio and in a replica under Serve. It must be picklable: a
  module-level function or class, or a `functools.partial` of one; its own module travels by value.
* `start` may be called more than once, with other services: each gets an address of its own under aio and an
  application of its own under Serve. Everything is stopped after the test. `keep=True` leaves the Serve
  application up for the next test that asks for the same factory and settings; use it where the servicer
  holds no state (deploying one takes seconds).
* `endpoint.remote` is an open `Remote`; `endpoint.settings` what it was opened with, for clients of your own.
* `host.kind` is "aio" or "serve"; `host.stop_all()` stops before the test's end.
* With `RAY_SERVE_ENABLE_HA_PROXY=1` in the environment the same tests run behind Ray's HAProxy (some minutes longer).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import pytest

from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.services import Servicer

Factory = Callable[[], Servicer]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A started servicer, seen from a caller."""

    settings: ChannelSettings
    remote: Remote


class Host(Protocol):
    """What the `host` fixture gives."""

    kind: str

    async def start(
        self, service: str, factory: Factory, *, settings: HostSettings | None = None, keep: bool = False
    ) -> Endpoint:
        """The endpoint of a servicer that `factory` made, started and reachable."""

    async def stop_all(self) -> None:
        """Stop every servicer that this test started, letting running calls finish."""


@dataclass
class AioTestHost:
    """Each servicer behind a grpc.aio server of its own, in this process."""

    kind: str = "aio"
    _hosts: list[AioHost] = field(default_factory=list)
    _remotes: list[Remote] = field(default_factory=list)

    async def start(
        self, service: str, factory: Factory, *, settings: HostSettings | None = None, keep: bool = False
    ) -> Endpoint:
        host = AioHost([ServiceBinding(service=service, servicer=factory())], settings or HostSettings(grace_s=2.0))
        await host.start()
        self._hosts.append(host)
        return _endpoint(ChannelSettings(address=host.address, application="unused"), self._remotes)

    async def stop_all(self) -> None:
        while self._hosts:
            await self._hosts.pop().drain_and_stop()

    async def close(self) -> None:
        await _close(self._remotes)
        await self.stop_all()


@dataclass
class ServeTestHost:
    """Each servicer as a Ray Serve application of its own, behind one gRPC proxy."""

    cluster: ServeCluster
    kind: str = "serve"
    _remotes: list[Remote] = field(default_factory=list)

    async def start(
        self, service: str, factory: Factory, *, settings: HostSettings | None = None, keep: bool = False
    ) -> Endpoint:
        application = self.cluster.deploy(service, factory, settings=settings or HostSettings(), keep=keep)
        address = f"127.0.0.1:{self.cluster.grpc_port}"
        return _endpoint(ChannelSettings(address=address, application=application), self._remotes)

    async def stop_all(self) -> None:
        self.cluster.delete_unkept()

    async def close(self) -> None:
        await _close(self._remotes)
        await self.stop_all()


class ServeCluster:
    """A Ray cluster of this session's own, on free ports, in a folder of its own."""

    def __init__(self) -> None:
        self._ray = importlib.import_module("ray")
        self._serve = importlib.import_module("ray.serve")
        self._host = importlib.import_module("sightline.rpc.serve_host")
        self.grpc_port, self._http_port = _free_port(), _free_port()
        self._folder = tempfile.mkdtemp(prefix="slray")  # short: Ray puts sockets below it
        self._kept: dict[object, str] = {}
        self._unkept: list[str] = []
        self._count = 0

    def start(self) -> None:
        """Start Ray and Serve's gRPC proxy."""
        self._ray.init(
            num_cpus=64,  # logical, not cores: every application that a session keeps books some
            include_dashboard=False,
            object_store_memory=100 * 1024 * 1024,
            _temp_dir=self._folder,
            log_to_driver=False,
            namespace="sightline-tests",
        )
        self._serve.start(
            http_options={"host": "127.0.0.1", "port": self._http_port},
            grpc_options=self._host.grpc_options(port=self.grpc_port),
        )

    def deploy(self, service: str, factory: Factory, *, settings: HostSettings, keep: bool) -> str:
        """The name of a running application that answers `service`."""
        key = (service, _identity(factory), settings)
        if keep and key in self._kept:
            return self._kept[key]
        self._count += 1
        application = f"app{self._count}"
        _send_by_value(factory)
        hosted = self._host.deployment_class(factory, service, settings_factory=functools.partial(_same, settings))
        deployment = self._serve.deployment(
            hosted, name=service, max_ongoing_requests=64, graceful_shutdown_timeout_s=5.0
        )
        self._serve.run(deployment.bind(), name=application, route_prefix=f"/{application}")
        if keep:
            self._kept[key] = application
        else:
            self._unkept.append(application)
        return application

    def delete_unkept(self) -> None:
        """Stop the applications that nobody asked to keep."""
        while self._unkept:
            self._serve.delete(self._unkept.pop())

    def stop(self) -> None:
        """Stop Serve and this cluster."""
        self._serve.shutdown()
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="session")
def serve_cluster() -> Iterator[ServeCluster]:
    """A running Ray cluster with Serve's gRPC proxy."""
    cluster = ServeCluster()
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(params=["aio", pytest.param("serve", marks=pytest.mark.e2e)])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    """Either host; see the top of this file."""
    if request.param == "aio":
        chosen: Any = AioTestHost()
    else:
        chosen = ServeTestHost(request.getfixturevalue("serve_cluster"))
    yield chosen
    await chosen.close()


def _endpoint(settings: ChannelSettings, remotes: list[Remote]) -> Endpoint:
    endpoint = Endpoint(settings=settings, remote=Remote(settings))
    remotes.append(endpoint.remote)
    return endpoint


async def _close(remotes: list[Remote]) -> None:
    while remotes:
        await remotes.pop().close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _identity(factory: Factory) -> object:
    if isinstance(factory, functools.partial):
        return (factory.func, factory.args, tuple(sorted(factory.keywords.items())))
    return factory


def _same(value: HostSettings) -> HostSettings:
    return dataclasses.replace(value)


def _send_by_value(factory: Factory) -> None:
    # A replica cannot import test modules, this one included.
    cloudpickle = importlib.import_module("ray.cloudpickle")
    inner = factory.func if isinstance(factory, functools.partial) else factory
    for name in {inner.__module__, __name__}:
        module: ModuleType = sys.modules[name]
        if name.startswith("tests") or name.partition(".")[0] not in _SHIPPED:
            cloudpickle.register_pickle_by_value(module)


_SHIPPED = frozenset({"sightline", "encoder_svc", "retriever_svc", "generator_svc"})
