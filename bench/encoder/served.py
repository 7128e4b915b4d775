"""The encoder as a process of its own, on either host, and the client process that puts load on it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from sightline.settings import set_environment
from sightline.v1 import encoder_pb2, encoder_pb2_grpc

_MODULES = {"aio": "encoder_svc", "serve": "bench.encoder.serve_host"}
_START_S = 180.0


@contextmanager
def running_service(host: str, *, folder: Path, cores: int) -> Iterator[str]:
    """The address of an encoder that serves the release in `folder`, with caches off; stopped at the end."""
    port = _free_port()
    settings = {
        "REGISTRY": str(folder / "registry"),
        "CACHE_DIR": str(folder / f"cache-{host}"),
        "PORT": str(port),
        "TEXT_CACHE_BYTES": "0",
        "IMAGE_CACHE_BYTES": "0",
        "NUM_CPUS": str(cores),
    }
    for name, value in settings.items():
        set_environment(f"SIGHTLINE_ENCODER_{name}", value)
    with (folder / f"{host}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", _MODULES[host]], stdout=log, stderr=log)
        try:
            address = f"127.0.0.1:{port}"
            _wait_ready(address, process=process)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def load(address: str, *, folder: Path, kind: str, callers: int, seconds: float) -> dict[str, float]:
    """What the client process measured."""
    command = [sys.executable, "-m", "bench.encoder.client", address, str(folder), "--kind", kind]
    command += ["--callers", str(callers), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _wait_ready(address: str, *, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _START_S
    with grpc.insecure_channel(address) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        while not _is_ready(stub):
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(
                    f"the encoder at {address} did not become ready; its exit code: {process.returncode}"
                )
            time.sleep(0.2)


def _is_ready(stub: encoder_pb2_grpc.EncoderServiceStub) -> bool:
    try:
        stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest(), metadata=(("application", "encoder"),), timeout=10)
    except grpc.RpcError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
