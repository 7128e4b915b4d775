"""Load from a process of its own, kept cheap: requests are serialised beforehand and replies are counted, not parsed.

`python -m bench.encoder.client ADDRESS FOLDER --kind pictures --callers 32 --seconds 10` prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc

from sightline.v1 import common_pb2, encoder_pb2

_METHODS = {"pictures": "EncodeImages", "texts": "EncodeTexts"}


def read_requests(folder: Path, *, kind: str) -> list[bytes]:
    """One serialised single-item request per picture or caption in `folder`."""
    if kind == "texts":
        captions = (folder / "captions.txt").read_text().splitlines()
        return [encoder_pb2.EncodeTextsRequest(texts=[caption]).SerializeToString() for caption in captions]
    files = sorted((folder / "pictures").glob("*.jpg"))
    pictures = [common_pb2.Picture(data=path.read_bytes()) for path in files]
    return [encoder_pb2.EncodeImagesRequest(pictures=[picture]).SerializeToString() for picture in pictures]


async def run_load(
    address: str, requests: list[bytes], *, kind: str, callers: int, seconds: float, warm_up_s: float
) -> dict[str, float]:
    """Closed loop: each caller sends its next request when the last is answered. Counts replies after the warm-up."""
    latencies: list[float] = []
    feed = cycle(requests)
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/sightline.v1.EncoderService/{_METHODS[kind]}")
        began = time.perf_counter() + warm_up_s
        ends = began + seconds

        async def caller() -> None:
            while (sent := time.perf_counter()) < ends:
                await call(next(feed), metadata=(("application", "encoder"),), timeout=60)
                answered = time.perf_counter()
                if began <= answered < ends:
                    latencies.append(answered - sent)

        await asyncio.gather(*(caller() for _ in range(callers)))
    latencies.sort()
    return {
        "per_s": round(len(latencies) / seconds, 2),
        "items": len(latencies),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1),
        "p95_ms": round(1000 * latencies[int(len(latencies) * 0.95)], 1),
    }


def main() -> None:
    """Read the arguments, put the load on, print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=sorted(_METHODS), required=True)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up-s", type=float, default=2.0)
    args = parser.parse_args()
    requests = read_requests(args.folder, kind=args.kind)
    result = asyncio.run(
        run_load(
            args.address,
            requests,
            kind=args.kind,
            callers=args.callers,
            seconds=args.seconds,
            warm_up_s=args.warm_up_s,
        )
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
