"""`python -m retriever_svc`: the retriever on the standalone host, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import dataclasses
import sys

from retriever_svc.building import build_servicer
from retriever_svc.settings import RetrieverSettings
from sightline.errors import DataCorrupt, UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.host_settings import read_host_settings
from sightline.rpc.telemetry import LogSettings, configure_logging
from sightline.settings import read_settings


async def serve(settings: RetrieverSettings) -> None:
    """Serve until a signal comes, then drain."""
    binding = ServiceBinding(service="RetrieverService", servicer=build_servicer(settings))
    host = AioHost([binding], dataclasses.replace(read_host_settings(), port=settings.port))
    await host.start()
    await host.serve_until_signal()


def main() -> int:
    """Exit code: 0 after a drained stop, 2 if a setting or the index folder is wrong."""
    try:
        configure_logging(read_settings(LogSettings, section="log"))
        asyncio.run(serve(read_settings(RetrieverSettings, section="retriever")))
    except (UsageError, DataCorrupt) as error:
        print(f"retriever_svc: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
