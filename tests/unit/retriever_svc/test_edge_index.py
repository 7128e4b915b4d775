"""What is the edge driver's own: its folder, its lock, what survives a kill, and building the index beside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from retriever_svc import edge_optimize
from retriever_svc.edge_index import EdgeIndex
from retriever_svc.index import Floats, ImagePoint, SpaceSpec
from sightline.errors import DataCorrupt, UsageError

SPACE = SpaceSpec(space_id="0123456789abcdef", dimension=16, token_width=4)


@asynccontextmanager
async def opened(
    folder: Path, *, build: Callable[[Path], Awaitable[None]] = edge_optimize.optimize_copy
) -> AsyncIterator[EdgeIndex]:
    index = EdgeIndex(folder, optimize_after=1_000_000, build=build)
    await index.open()
    await index.create(SPACE)
    await index.switch(SPACE.space_id)
    yield index
    await index.close()


def vectors(count: int) -> Floats:
    made = np.random.default_rng(0).normal(size=(count, SPACE.dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def points(vectors_ND: Floats, *, start: int = 0) -> list[ImagePoint]:
    tokens = np.ones((2, SPACE.token_width), dtype=np.float16)
    return [
        ImagePoint(image_id=f"p{start + n}", metadata={}, sha256="s", vector=vector, tokens=tokens)
        for n, vector in enumerate(vectors_ND)
    ]


async def best(index: EdgeIndex, query_D: Floats) -> str:
    (hit,) = await index.search(query_D, space_id=SPACE.space_id, k=1)
    return hit.point.image_id


async def test_what_was_stored_is_there_after_a_restart(folder: Path) -> None:
    made = vectors(5)
    async with opened(folder) as index:
        await index.upsert(points(made), space_id=SPACE.space_id)
        await index.delete(["p4"], space_id=SPACE.space_id)
    again = EdgeIndex(folder)
    await again.open()
    assert (await again.layout()).serving == SPACE
    assert await again.count(space_id=SPACE.space_id) == 4
    assert await best(again, made[2]) == "p2"
    await again.close()


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_edge_index import SPACE, opened, points, vectors

        async def main():
            async with opened(Path({str(tmp_path)!r})) as index:
                for number, vector in enumerate(vectors(1000)):
                    await index.upsert(points(vector[None], start=number), space_id=SPACE.space_id)
                    print(number, flush=True)

        asyncio.run(main())
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = -1
    while acknowledged < 25:
        acknowledged = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += len(process.stdout.readlines())
    process.stdout.close()
    process.wait()
    index = EdgeIndex(tmp_path)
    await index.open()
    assert await index.count(space_id=SPACE.space_id) >= acknowledged + 1
    for number, vector in enumerate(vectors(1000)[: acknowledged + 1]):
        assert await best(index, vector) == f"p{number}"
    await index.close()


async def test_a_folder_in_use_is_refused_by_name(folder: Path) -> None:
    async with opened(folder):
        with pytest.raises(UsageError, match=f"{folder}.*pid {os.getpid()}"):
            await EdgeIndex(folder).open()


async def test_a_folder_locked_by_another_process_is_refused_until_that_ends(folder: Path) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio, sys
        from pathlib import Path
        from retriever_svc.edge_index import EdgeIndex

        asyncio.run(EdgeIndex(Path({str(folder)!r})).open())
        print("open", flush=True)
        sys.stdin.read()
        """
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UsageError, match=f"{folder}.*pid {other.pid}"):
            await EdgeIndex(folder).open()
        other.kill()
    async with opened(folder) as index:
        assert await index.count(space_id=SPACE.space_id) == 0


async def test_a_folder_that_is_let_go_of_in_time_is_taken(folder: Path) -> None:
    first = EdgeIndex(folder)
    await first.open()
    second = EdgeIndex(folder, lock_wait_s=30.0)
    opening = asyncio.create_task(second.open())
    await asyncio.sleep(0)
    assert not opening.done()
    await first.close()
    await opening
    await second.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}'])
async def test_an_unreadable_pointer_is_refused_by_name(folder: Path, text: str) -> None:
    (folder / "current.json").write_text(text)
    index = EdgeIndex(folder)
    with pytest.raises(DataCorrupt, match=str(folder)):
        await index.open()
    (folder / "current.json").unlink()
    await index.open()
    await index.close()


async def test_a_damaged_shard_is_refused_by_name(folder: Path) -> None:
    async with opened(folder) as index:
        await index.upsert(points(vectors(3)), space_id=SPACE.space_id)
    shard = next((folder / "shards").iterdir())
    for path in (shard / "segments").rglob("segment.json"):
        path.write_text("{")
    with pytest.raises(DataCorrupt, match=shard.name):
        await EdgeIndex(folder).open()


async def test_leftovers_of_a_stopped_build_are_removed(folder: Path) -> None:
    async with opened(folder):
        pass
    leftover = folder / "shards" / f"{SPACE.space_id}-9"
    leftover.mkdir()
    (leftover / "half").write_text("written")
    async with opened(folder):
        assert not leftover.exists()


async def test_the_pointer_is_written_whole(folder: Path) -> None:
    async with opened(folder):
        document = json.loads((folder / "current.json").read_text())
        assert document["current"] == SPACE.space_id
        assert not (folder / "current.json.partial").exists()


async def test_building_keeps_what_changed_meanwhile_and_never_stops_searches(folder: Path) -> None:
    made = vectors(700)
    built, may_finish = asyncio.Event(), asyncio.Event()

    async def build_beside(path: Path) -> None:
        await asyncio.to_thread(edge_optimize.build, path)
        built.set()
        await may_finish.wait()

    async with opened(folder, build=build_beside) as index:
        await index.upsert(points(made[:600]), space_id=SPACE.space_id)
        building = asyncio.create_task(index.optimize(SPACE.space_id))
        await built.wait()
        await index.upsert(points(made[600:], start=600), space_id=SPACE.space_id)
        await index.delete(["p5"], space_id=SPACE.space_id)
        await index.upsert(points(made[7:8], start=6), space_id=SPACE.space_id)
        assert await best(index, made[650]) == "p650"
        may_finish.set()
        await building
        assert await index.count(space_id=SPACE.space_id) == 699
        assert await best(index, made[650]) == "p650"
        assert await best(index, made[5]) != "p5"
        assert await best(index, made[7]) == "p6"
        assert len(list((folder / "shards").iterdir())) == 1
    again = EdgeIndex(folder)
    await again.open()
    assert await again.count(space_id=SPACE.space_id) == 699
    await again.close()


async def test_a_build_that_fails_leaves_the_collection_as_it_was(folder: Path) -> None:
    async def fail(path: Path) -> None:
        raise UsageError("building the index failed (1)")

    made = vectors(20)
    async with opened(folder, build=fail) as index:
        await index.upsert(points(made), space_id=SPACE.space_id)
        with pytest.raises(UsageError):
            await index.optimize(SPACE.space_id)
        assert await best(index, made[3]) == "p3"
        assert len(list((folder / "shards").iterdir())) == 1


async def test_a_full_disk_stops_a_build_before_it_begins(folder: Path) -> None:
    (folder / "shard").mkdir()
    (folder / "shard" / "file").write_bytes(b"x" * 10_000)
    with pytest.raises(UsageError, match="0 MiB free"):
        await edge_optimize.copy_shard(folder / "shard", into=folder / "copy", free=lambda path: 15_000)
    assert not (folder / "copy").exists()
    await edge_optimize.copy_shard(folder / "shard", into=folder / "copy", free=lambda path: 100_000)
    assert (folder / "copy" / "file").read_bytes() == b"x" * 10_000


@pytest.mark.slow
async def test_enough_changes_build_the_index_in_a_process_of_its_own(folder: Path) -> None:
    space = SpaceSpec(space_id=SPACE.space_id, dimension=512, token_width=0)
    made = np.random.default_rng(1).normal(size=(6000, 512)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    index = EdgeIndex(folder, optimize_after=6000)
    await index.open()
    await index.create(space)
    await index.switch(space.space_id)
    for start in range(0, 6000, 1000):
        await index.upsert(points(made[start : start + 1000], start=start), space_id=space.space_id)
    longest = 0.0
    clock = asyncio.get_running_loop().time
    while (await index.describe(space_id=space.space_id)).num_indexed < 6000:
        began = clock()
        assert await best(index, made[17]) == "p17"
        longest = max(longest, clock() - began)
        await asyncio.sleep(0.01)
    assert longest < 1.0
    assert await best(index, made[5999]) == "p5999"
    await index.close()
