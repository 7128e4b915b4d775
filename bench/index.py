"""`python -m bench.index`: the edge driver filled and searched, before and after its index is built."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.machine import machine, mib, resident_peak_kib, write_result
from retriever_svc.edge_index import EdgeIndex
from retriever_svc.index import Floats, ImagePoint, SpaceSpec

OUT = Path(__file__).parent / "results" / "index.json"
_SPACE_ID = "0" * 16
_NUM_TOKENS = 50
_BATCH = 64


async def main() -> None:
    """Measure, print and write the results."""
    args = _arguments()
    vectors_ND, queries_QD = _clustered(args.points, dimension=args.dimension, num_queries=args.queries)
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        index = EdgeIndex(Path(name), optimize_after=10 * args.points)
        await index.open()
        token_width = args.dimension if args.tokens else 0
        await index.create(SpaceSpec(space_id=_SPACE_ID, dimension=args.dimension, token_width=token_width))
        await index.switch(_SPACE_ID)
        result = {
            "points": args.points,
            "dimension": args.dimension,
            "tokens": _NUM_TOKENS if args.tokens else 0,
            "stored_per_s": await _fill(index, vectors_ND, token_width=token_width),
            "exact": await _search(index, queries_QD, vectors_ND=vectors_ND, with_tokens=args.tokens),
            "build": await _build(index, queries_QD),
            "indexed": await _search(index, queries_QD, vectors_ND=vectors_ND, with_tokens=args.tokens),
        }
        await index.close()
    # Of the whole process: its own vectors lie in memory beside the index.
    result |= {"vectors_mib": mib(vectors_ND.nbytes), "resident_peak_mib": mib(1024 * resident_peak_kib())}
    write_result(args.out, result={"machine": machine(), **result})
    print(json.dumps(result, indent=2))


async def _fill(index: EdgeIndex, vectors_ND: Floats, *, token_width: int) -> float:
    tokens = np.ones((_NUM_TOKENS, token_width), dtype=np.float16) if token_width else None
    began = time.perf_counter()
    for start in range(0, len(vectors_ND), _BATCH):
        points = [
            ImagePoint(image_id=str(start + n), metadata={}, sha256="0", vector=vector, tokens=tokens)
            for n, vector in enumerate(vectors_ND[start : start + _BATCH])
        ]
        await index.upsert(points, space_id=_SPACE_ID)
    return round(len(vectors_ND) / (time.perf_counter() - began), 1)


async def _search(index: EdgeIndex, queries_QD: Floats, *, vectors_ND: Floats, with_tokens: bool) -> dict[str, float]:
    """Latency of searches one after the other, and their recall at 10 against exhaustive search."""
    times, found = [], 0
    for query_D in queries_QD:
        began = time.perf_counter()
        hits = await index.search(query_D, space_id=_SPACE_ID, k=10, with_tokens=with_tokens)
        times.append(time.perf_counter() - began)
        best = np.argpartition(-(vectors_ND @ query_D), 10)[:10]
        found += len({int(hit.point.image_id) for hit in hits} & set(best.tolist()))
    return {
        "p50_ms": round(statistics.median(times) * 1e3, 3),
        "p99_ms": round(float(np.quantile(times, 0.99)) * 1e3, 3),
        "recall_at_10": round(found / (10 * len(queries_QD)), 4),
    }


async def _build(index: EdgeIndex, queries_QD: Floats) -> dict[str, float]:
    """How long building takes, and the longest search meanwhile."""
    began = time.perf_counter()
    building = asyncio.create_task(index.optimize(_SPACE_ID))
    longest, number = 0.0, 0
    while not building.done():
        number += 1
        asked = time.perf_counter()
        await index.search(queries_QD[number % len(queries_QD)], space_id=_SPACE_ID, k=10)
        longest = max(longest, time.perf_counter() - asked)
        await asyncio.sleep(0.005)
    await building
    return {"seconds": round(time.perf_counter() - began, 2), "longest_search_ms": round(longest * 1e3, 2)}


def _clustered(count: int, *, dimension: int, num_queries: int) -> tuple[Floats, Floats]:
    # Pictures lie in clusters; uniform noise would make every neighbour equally far.
    rng = np.random.default_rng(0)
    centres_CD = rng.normal(size=(max(1, count // 50), dimension))
    made = centres_CD[rng.integers(0, len(centres_CD), count + num_queries)]
    made = made + 0.5 * rng.normal(size=made.shape)
    unit = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit[:count], unit[count:]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--tokens", action="store_true", help="Store and return 50 fusion tokens a picture.")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
