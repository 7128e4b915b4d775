"""`python -m encoder_svc`: the encoder on the standalone host, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import dataclasses
import sys

from encoder_svc.settings import THREAD_ENVIRONMENT, EncoderSettings
from sightline.errors import UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.host_settings import read_host_settings
from sightline.rpc.telemetry import LogSettings, configure_logging
from sightline.settings import environment, read_settings, set_environment


async def serve(settings: EncoderSettings) -> None:
    """Serve until a signal comes, then drain."""
    from encoder_svc.servicer import build_servicer  # only now, since OpenMP reads its environment when torch loads

    binding = ServiceBinding(service="EncoderService", servicer=build_servicer(settings))
    host = AioHost([binding], dataclasses.replace(read_host_settings(), port=settings.port))
    await host.start()
    await host.serve_until_signal()


def main() -> int:
    """Exit code: 0 after a drained stop, 2 if a setting is wrong."""
    for name, value in THREAD_ENVIRONMENT.items():
        set_environment(name, environment(name, default=value))
    try:
        configure_logging(read_settings(LogSettings, section="log"))
        asyncio.run(serve(read_settings(EncoderSettings, section="encoder")))
    except UsageError as error:
        print(f"encoder_svc: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
