"""Wait until the three services answer: `python -m examples.wait_ready --address 127.0.0.1:9000`."""

from __future__ import annotations

import argparse
import asyncio
import time

from rich.console import Console

from sightline.client import AsyncClient
from sightline.errors import SightlineError

POLL_INTERVAL_S = 1.0


async def wait_until_ready(client: AsyncClient, *, timeout_s: float) -> None:
    """Return once encoder, retriever and generator answer; the last error is raised after `timeout_s`."""
    end = time.monotonic() + timeout_s
    for describe in (client.describe_encoder, client.describe_index, client.describe_generator):
        while True:
            try:
                await describe()
                break
            except SightlineError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(POLL_INTERVAL_S)


async def _main(address: str, *, timeout_s: float) -> None:
    console = Console()
    with console.status(f"waiting for {address}"):
        async with AsyncClient(address) as client:
            await wait_until_ready(client, timeout_s=timeout_s)
    console.print(f"[green]ready[/green] {address}: encoder, retriever, generator")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:9000")
    parser.add_argument("--timeout-s", type=float, default=180.0)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.address, timeout_s=arguments.timeout_s))
