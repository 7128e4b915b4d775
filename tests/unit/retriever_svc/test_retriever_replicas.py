"""Several retrievers on one Qdrant server: any of them may move the index, and none loses or mixes anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from retriever_svc.engine import Ask, RetrieverEngine
from retriever_svc.pictures import FolderPictures
from retriever_svc.rollout import RolloutSettings
from retriever_svc.server_index import ServerIndex
from retriever_svc.settings import QdrantSettings
from retriever_svc.writing import NewImage
from sightline.rpc.context import IncomingCall
from sightline.rpc.timings import StageClock
from sightline.testing.encoder import FIRST_SPACE, SECOND_SPACE
from sightline.testing.qdrant import FakeQdrant

COLOURS = [(step, (step * 7) % 256, (step * 13) % 256) for step in range(0, 250, 19)]


@pytest.fixture
async def replicas(bench: Any, folder: Path) -> AsyncIterator[list[RetrieverEngine]]:
    """Two engines with the encoder of `bench`, one server and one picture store."""
    fake = FakeQdrant()
    await fake.start()
    engines = [
        RetrieverEngine(
            index=ServerIndex(QdrantSettings(url="http://127.0.0.1:1", grpc_port=fake.port)),
            pictures=FolderPictures(folder / "shared"),
            encoder=bench.encoder,
            rollout=RolloutSettings(poll_s=3600.0, batch=5, retire_after_s=0.0),
        )
        for _ in range(2)
    ]
    for engine in engines:
        await engine.start()
    yield engines
    for engine in engines:
        await engine.stop()
    await fake.stop()


async def store(engine: RetrieverEngine, *images: NewImage) -> None:
    outcome = await engine.upsert(images, call=IncomingCall(), clock=StageClock())
    assert set(outcome) == {None}


def image(number: int, **metadata: str) -> NewImage:
    return NewImage(image_id=f"p{number}", data=bytes(COLOURS[number]), metadata=metadata)


async def assert_all_found(engine: RetrieverEngine, *, space_id: str) -> None:
    for number, colour in enumerate(COLOURS):
        found = await engine.search_picture(bytes(colour), ask=Ask(k=1), call=IncomingCall(), clock=StageClock())
        assert (found.hits[0].point.image_id, found.space_id) == (f"p{number}", space_id)
        assert found.hits[0].score == pytest.approx(1.0, abs=1e-5)


async def test_one_replica_finds_what_the_other_stored(replicas: list[RetrieverEngine]) -> None:
    first, second = replicas
    await store(first, *[image(number) for number in range(len(COLOURS))])
    await second.rollout.step()
    await assert_all_found(second, space_id=FIRST_SPACE)


async def test_a_replica_that_has_not_looked_yet_answers_in_the_old_space(
    replicas: list[RetrieverEngine], bench: Any
) -> None:
    first, second = replicas
    await store(first, *[image(number) for number in range(len(COLOURS))])
    await second.rollout.step()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    await first.rollout.step()
    await assert_all_found(first, space_id=SECOND_SPACE)
    await assert_all_found(second, space_id=FIRST_SPACE)
    await second.rollout.step()
    await assert_all_found(second, space_id=SECOND_SPACE)


async def test_writes_of_another_replica_during_the_move_reach_the_new_space(
    replicas: list[RetrieverEngine], bench: Any
) -> None:
    first, second = replicas
    await store(first, *[image(number) for number in range(len(COLOURS) - 1)])
    await second.rollout.step()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    bench.encoder.gate.clear()
    moving = asyncio.create_task(first.rollout.step())
    while not first.rollout.status.target_space_id:
        await asyncio.sleep(0)
    writing = asyncio.create_task(store(second, image(len(COLOURS) - 1), image(0, turn="2")))
    bench.encoder.gate.set()
    await asyncio.gather(moving, writing)
    await second.rollout.step()
    await assert_all_found(second, space_id=SECOND_SPACE)
    assert dict((await first.get("p0", with_vector=False, with_tokens=False)).metadata) == {"turn": "2"}


async def test_two_replicas_that_move_at_once_end_in_one_collection(
    replicas: list[RetrieverEngine], bench: Any
) -> None:
    first, second = replicas
    await store(first, *[image(number) for number in range(len(COLOURS))])
    await second.rollout.step()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    await asyncio.gather(first.rollout.step(), second.rollout.step(), return_exceptions=True)
    for engine in replicas:
        await engine.rollout.step()
        await assert_all_found(engine, space_id=SECOND_SPACE)
        assert (await engine.describe()).info.num_points == len(COLOURS)
