"""`python -m generator_svc`: the generator on the standalone host, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import dataclasses
import sys

from generator_svc.servicer import build_servicer
from generator_svc.settings import GeneratorSettings
from sightline.errors import UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.host_settings import read_host_settings
from sightline.rpc.telemetry import LogSettings, configure_logging
from sightline.settings import read_settings


async def serve(settings: GeneratorSettings) -> None:
    """Serve until a signal comes, then drain."""
    binding = ServiceBinding(service="GeneratorService", servicer=build_servicer(settings))
    host = AioHost([binding], dataclasses.replace(read_host_settings(), port=settings.port))
    await host.start()
    await host.serve_until_signal()


def main() -> int:
    """Exit code: 0 after a drained stop, 2 if a setting is wrong."""
    try:
        configure_logging(read_settings(LogSettings, section="log"))
        asyncio.run(serve(read_settings(GeneratorSettings, section="generator")))
    except UsageError as error:
        print(f"generator_svc: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
