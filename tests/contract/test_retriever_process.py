"""`python -m retriever_svc` as a process of its own, and the Ray Serve entry."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sightline.client import AsyncClient, NewImage
from sightline.errors import DeadlinePassed, DependencyUnavailable, NotReady, SettingInvalid
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.host_settings import HostSettings
from sightline.testing.encoder import FakeEncoder, colour_picture
from sightline.testing.folders import quick_folder

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def process(**settings: object) -> AsyncIterator[asyncio.subprocess.Process]:
    named = {f"SIGHTLINE_RETRIEVER_{name.upper()}": str(value) for name, value in settings.items()}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "retriever_svc",
        cwd=ROOT,
        env=os.environ | named,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    yield started
    if started.returncode is None:
        started.kill()
    await started.communicate()


async def until_ready(client: AsyncClient) -> None:
    while True:
        try:
            await client.describe_index(timeout_s=1.0)
        except (DependencyUnavailable, DeadlinePassed, NotReady):
            continue
        return


@pytest.mark.e2e
async def test_a_killed_process_finds_everything_again_and_a_stopped_one_exits_with_zero() -> None:
    host = AioHost([ServiceBinding(service="EncoderService", servicer=FakeEncoder())], HostSettings(grace_s=0.5))
    await host.start()
    port = free_port()
    with quick_folder() as folder:
        settings = {"path": folder, "port": port, "encoder_address": host.address}
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            async with process(**settings) as first:
                await until_ready(client)
                stored = await client.upsert_images([NewImage(image_id="red", picture=colour_picture("red"))])
                assert stored.errors == (None,)
                first.send_signal(signal.SIGKILL)
                await first.wait()
            async with process(**settings) as second:
                await until_ready(client)
                assert [image.image_id for image in (await client.search_images("red", k=1)).images] == ["red"]
                async with process(**(settings | {"port": free_port(), "lock_wait_s": 0})) as rival:
                    _, said = await rival.communicate()
                    assert rival.returncode == 2
                    assert f"index folder {folder} is in use by another process (pid {second.pid})" in said.decode()
                second.send_signal(signal.SIGTERM)
                await second.communicate()
                assert second.returncode == 0
    await host.drain_and_stop()


@pytest.mark.e2e
async def test_several_replicas_of_the_edge_driver_do_not_start() -> None:
    async with process(num_replicas=2) as refused:
        _, said = await refused.communicate()
        assert refused.returncode == 2
        assert b"num_replicas: got 2, limit 1 with driver 'edge'" in said


@pytest.mark.slow
def test_the_serve_entry_is_an_application_and_refuses_replicas_too(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = importlib.import_module("retriever_svc.deployment")
    serve = importlib.import_module("ray.serve")
    assert isinstance(deployment.app, serve.Application)
    monkeypatch.setenv("SIGHTLINE_RETRIEVER_NUM_REPLICAS", "3")
    with pytest.raises(SettingInvalid, match="num_replicas"):
        importlib.reload(deployment)
    monkeypatch.undo()
    importlib.reload(deployment)
