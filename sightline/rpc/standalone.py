"""A service as a process of its own: its settings from the environment, its servicer on the standalone host."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

from sightline.errors import DataCorrupt, UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.host_settings import read_host_settings
from sightline.rpc.services import APPLICATIONS, Servicer
from sightline.rpc.telemetry import LogSettings, configure_logging
from sightline.settings import read_settings


class PortSettings(Protocol):
    """What the settings of every service have."""

    @property
    def port(self) -> int:
        """TCP port of the standalone host."""


SettingsT = TypeVar("SettingsT", bound=PortSettings)


def run_standalone(service: str, *, kind: type[SettingsT], build: Callable[[SettingsT], Servicer]) -> int:
    """Serve until SIGTERM or SIGINT, then drain. `build` is called inside the event loop.

    The exit code: 0 after a drained stop, 2 if a setting, or what lies on the
    disk, is wrong.
    """
    section = APPLICATIONS[service]
    try:
        configure_logging(read_settings(LogSettings, section="log"))
        asyncio.run(_serve(service, settings=read_settings(kind, section=section), build=build))
    except (UsageError, DataCorrupt) as error:
        print(f"{section}_svc: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(service: str, *, settings: SettingsT, build: Callable[[SettingsT], Servicer]) -> None:
    binding = ServiceBinding(service=service, servicer=build(settings))
    host = AioHost([binding], dataclasses.replace(read_host_settings(), port=settings.port))
    await host.start()
    await host.serve_until_signal()
