"""`python -m bench.encoder.serve_host`: the encoder under Ray Serve on a cluster of its own, until SIGTERM."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import threading

import ray
from ray import serve

from encoder_svc.deployment import app
from encoder_svc.settings import EncoderSettings
from sightline.rpc.serve_host import grpc_options
from sightline.settings import read_settings


def main() -> None:
    """Serve until a signal comes. The gRPC port is the encoder's own setting here."""
    settings = read_settings(EncoderSettings, section="encoder")
    stop = threading.Event()
    folder = tempfile.mkdtemp(prefix="slbench")  # short: Ray puts sockets below it
    ray.init(num_cpus=8, include_dashboard=False, _temp_dir=folder, object_store_memory=200 * 1024 * 1024)
    serve.start(http_options={"host": "127.0.0.1", "port": _free_port()}, grpc_options=grpc_options(port=settings.port))
    serve.run(app, name="encoder", route_prefix="/encoder")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
