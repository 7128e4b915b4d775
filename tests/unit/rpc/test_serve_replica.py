"""What a replica does around its RPCs, without a cluster: start, health, stop. The RPCs are in tests/contract."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import NotReady, SettingInvalid
from sightline.registry.metrics import ReloadMetrics
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.services import APPLICATIONS, SERVICE_NAMES, service_methods
from sightline.rpc.telemetry import MetricsMirror

pytestmark = pytest.mark.slow  # importing ray.serve takes two seconds


class Toy:
    def __init__(self) -> None:
        self.is_started = self.is_stopped = False
        self.is_well = True

    async def start(self) -> None:
        self.is_started = True

    async def stop(self) -> None:
        assert not self.is_stopped
        self.is_stopped = True

    def is_ready(self) -> bool:
        return self.is_well


@pytest.fixture
async def replica_of() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Makes replicas as Serve does, and stops those that the test did not."""
    from sightline.rpc.serve_host import deployment_class

    replicas = []
    handlers, level = logging.root.handlers[:], logging.root.level

    async def make(toy: Toy, **settings: Any) -> Any:
        hosted = deployment_class(lambda: toy, "EncoderService", settings_factory=lambda: HostSettings(**settings))
        replica = hosted.__new__(hosted)
        await replica.__init__()
        replicas.append(replica)
        return replica

    yield make
    for replica in replicas:
        if (closing := replica.__del__()) is not None:
            await closing
    logging.root.handlers[:], logging.root.level = handlers, level  # a replica sets up its process's log


async def test_a_replica_is_up_once_the_servicer_has_started(replica_of: Any) -> None:
    toy = Toy()
    await replica_of(toy)
    assert toy.is_started


async def test_a_servicer_that_never_was_ready_is_not_restarted(replica_of: Any) -> None:
    toy = Toy()
    toy.is_well = False
    replica = await replica_of(toy)
    await replica.check_health()
    toy.is_well = True
    await replica.check_health()


async def test_a_servicer_that_was_ready_and_is_no_more_is_restarted(replica_of: Any) -> None:
    toy = Toy()
    replica = await replica_of(toy)
    await replica.check_health()
    toy.is_well = False
    for _ in range(3):  # Serve asks three times before it restarts
        with pytest.raises(NotReady):
            await replica.check_health()


async def test_a_health_check_hands_our_metrics_to_ray(replica_of: Any) -> None:
    replica = await replica_of(Toy())
    ReloadMetrics.shared().set_generation("of-the-test", generation=7)
    told = {}

    class Recorded:
        def __init__(self, name: str, description: str, keys: tuple[str, ...]) -> None:
            self.name, self.keys = name, keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.keys)
            told[(self.name, *tags.values())] = value

    replica._metrics = MetricsMirror(Recorded)
    await replica.check_health()
    assert told["sightline_serving_generation", "of-the-test"] == 7


async def test_a_stop_closes_the_servicer_once(replica_of: Any) -> None:
    toy = Toy()
    replica = await replica_of(toy)
    await replica.__del__()
    assert toy.is_stopped
    assert replica.__del__() is None


async def test_tls_is_refused_where_it_cannot_be_spoken(replica_of: Any) -> None:
    with pytest.raises(SettingInvalid, match="speaks no TLS"):
        await replica_of(Toy(), tls_cert_file=Path("a.pem"), tls_key_file=Path("a.key"))


def test_every_rpc_is_a_method_that_serve_understands() -> None:
    from sightline.rpc.serve_host import deployment_class

    for service in SERVICE_NAMES:
        hosted = deployment_class(Toy, service)
        for method in service_methods(service):
            function = getattr(hosted, method.name)
            is_right = inspect.isasyncgenfunction if method.is_streamed else inspect.iscoroutinefunction
            assert is_right(function), method.name
            assert "grpc_context" in inspect.signature(function).parameters


def test_serves_options_import_every_service() -> None:
    from sightline.rpc.serve_host import grpc_options, servicer_functions

    options = grpc_options(port=9000)
    assert options.grpc_servicer_functions == servicer_functions()
    assert [function.__name__ for function in options.grpc_servicer_func_callable] == [
        f"add_{APPLICATIONS[service]}_service" for service in SERVICE_NAMES
    ]
