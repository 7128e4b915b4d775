"""`python -m sightline.rpc.probe HOST:PORT`: whether a standalone host is ready, for a container's health check."""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def is_serving(address: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether every service at `address`, asked without TLS, can answer; False too if nothing listens."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are made at run time
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: list[str]) -> int:
    """Exit code: 0 if the host is ready, 1 if it is not, 2 without an address."""
    if len(arguments) != 1:
        print("usage: python -m sightline.rpc.probe HOST:PORT", file=sys.stderr)
        return 2
    return 0 if is_serving(arguments[0]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
