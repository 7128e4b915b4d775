"""`python -m encoder_svc` as a user runs it, and the Serve entry as a manifest names it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.e2e


def environment(**settings: str) -> dict[str, str]:
    return dict(os.environ) | {f"SIGHTLINE_ENCODER_{name}": value for name, value in settings.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_process_serves_until_it_is_told_to_stop(shelf: Any) -> None:
    port = free_port()
    settings = environment(REGISTRY=shelf.uri, CACHE_DIR=str(shelf.folder / "process-cache"), PORT=str(port))
    process = subprocess.Popen([sys.executable, "-m", "encoder_svc"], env=settings)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert _becomes_healthy(channel)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_a_wrong_setting_ends_the_process_with_its_name(shelf: Any) -> None:
    settings = environment(REGISTRY=shelf.uri, MAX_TEXT_BACH="8")
    done = subprocess.run(
        [sys.executable, "-m", "encoder_svc"], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "MAX_TEXT_BACH names no setting; did you mean max_text_batch" in done.stderr


def test_the_serve_entry_is_an_application() -> None:
    code = (
        "from ray.serve import Application; from encoder_svc.deployment import app; assert isinstance(app, Application)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def _becomes_healthy(channel: grpc.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="sightline.v1.EncoderService")
    ends = time.monotonic() + 60
    for reply in stub.Watch(request, wait_for_ready=True, timeout=60):
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            return True
        assert time.monotonic() < ends
    return False
