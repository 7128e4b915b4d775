"""The containers' health check tells serving from not serving from nobody there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sightline.rpc.probe import main


@pytest.fixture
def host() -> Iterator[tuple[str, health.HealthServicer]]:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None).wait()


def test_the_exit_code_follows_the_health_service(host: tuple[str, health.HealthServicer]) -> None:
    address, servicer = host
    for status, code in [("SERVING", 0), ("NOT_SERVING", 1), ("SERVING", 0)]:
        servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        assert main([address]) == code


def test_nobody_there_is_not_ready() -> None:
    assert main(["127.0.0.1:1"]) == 1


def test_a_missing_address_is_a_mistake_of_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
