"""A move into a new embedding space: nothing fails, nothing is mixed, nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from retriever_svc.index import Floats
from retriever_svc.pictures import digest
from retriever_svc.rollout import RolloutStatus
from retriever_svc.writing import NewImage
from sightline.errors import (
    DataCorrupt,
    DependencyUnavailable,
    EmbeddingSpaceMismatch,
    Reindexing,
)
from sightline.rpc.context import CallContext
from sightline.testing.encoder import (
    FIRST_SPACE,
    SECOND_SPACE,
    colour_tokens,
)

THIRD_SPACE = "cccccccccccccccc"
COLOURS = [(step, (step * 7) % 256, (step * 13) % 256) for step in range(0, 250, 19)]


def image(name: str, rgb: tuple[int, int, int], **metadata: str) -> NewImage:
    return NewImage(image_id=name, data=bytes(rgb), metadata=metadata)


async def test_nothing_moves_while_the_space_is_the_same(bench: Any) -> None:
    await bench.engine.rollout.step()
    await bench.fill()
    await bench.engine.rollout.step()
    assert bench.engine.rollout.status == RolloutStatus()
    assert bench.encoder.num_encoded == len(COLOURS)


async def test_every_picture_is_found_in_the_new_space_after_the_move(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    await bench.assert_all_found(space_id=FIRST_SPACE)
    await bench.engine.rollout.step()
    await bench.assert_all_found(space_id=SECOND_SPACE)
    point = await bench.engine.get("p3", with_vector=True, with_tokens=True)
    assert point.tokens is not None
    np.testing.assert_array_equal(point.tokens, colour_tokens(COLOURS[3], space_id=SECOND_SPACE))


async def test_searches_and_writes_under_load_never_fail_and_never_mix_spaces(bench: Any) -> None:
    await bench.fill()
    done = asyncio.Event()
    answers: list[tuple[int, tuple[str, float, str]]] = []

    async def search() -> None:
        number = 0
        while not done.is_set():
            number = (number + 1) % len(COLOURS)
            answers.append((number, await bench.nearest(COLOURS[number])))

    async def write() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            name = f"p{turn % len(COLOURS)}"
            outcome = await bench.store(image(name, COLOURS[turn % len(COLOURS)], turn=str(turn)))
            assert outcome == [None]
            await bench.store(image("passing", (255, 255, 255)))
            await bench.engine.delete(["passing"])

    workers = [asyncio.create_task(search()) for _ in range(3)] + [asyncio.create_task(write())]
    for newest in (SECOND_SPACE, THIRD_SPACE):
        bench.encoder.spaces = [newest, bench.encoder.spaces[0]]
        await bench.engine.rollout.step()
    done.set()
    await asyncio.gather(*workers)
    assert {space for _, (_, _, space) in answers} >= {FIRST_SPACE, SECOND_SPACE}
    assert bench.engine.space_id == THIRD_SPACE
    for number, (name, score, _) in answers:
        assert name == f"p{number}"
        assert score == pytest.approx(1.0, abs=1e-5)
    await bench.assert_all_found(space_id=THIRD_SPACE)
    assert (await bench.engine.describe()).info.num_points == len(COLOURS)


async def test_writes_during_the_move_reach_the_new_space(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    bench.encoder.gate.clear()
    moving = asyncio.create_task(bench.engine.rollout.step())
    while (await bench.index.layout()).next is None:
        await asyncio.sleep(0)
    writing = asyncio.create_task(bench.store(image("late", (200, 10, 99)), image("p0", (9, 200, 9))))
    await bench.engine.delete(["p1", "p10"])
    bench.encoder.gate.set()
    assert await writing == [None, None]
    await moving
    assert await bench.nearest((200, 10, 99)) == ("late", pytest.approx(1.0, abs=1e-5), SECOND_SPACE)
    assert (await bench.nearest((9, 200, 9)))[0] == "p0"
    assert (await bench.engine.describe()).info.num_points == len(COLOURS) - 1


async def test_progress_is_told_while_the_move_is_under_way(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    bench.encoder.gate.clear()
    moving = asyncio.create_task(bench.engine.rollout.step())
    while not bench.engine.rollout.status.target_space_id:
        await asyncio.sleep(0)
    described = await bench.engine.describe()
    assert described.rollout == RolloutStatus(target_space_id=SECOND_SPACE, num_done=0, num_total=len(COLOURS))
    bench.encoder.gate.set()
    await moving
    assert (await bench.engine.describe()).rollout == RolloutStatus()


async def test_a_move_goes_on_after_a_restart_without_encoding_twice(bench: Any) -> None:
    await bench.fill()
    broken = bytes(COLOURS[11])
    bench.encoder.unreadable.add(broken)
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    with pytest.raises(DataCorrupt):
        await bench.engine.rollout.step()
    await bench.engine.stop()
    bench.encoder.unreadable.clear()
    before = bench.encoder.num_encoded
    await bench.open()
    assert (await bench.index.layout()).next == SECOND_SPACE
    await bench.engine.rollout.step()
    spot_checks = 4
    assert bench.encoder.num_encoded - before <= 1 + spot_checks
    await bench.assert_all_found(space_id=SECOND_SPACE)


async def test_a_picture_that_cannot_be_moved_stops_the_switch_and_is_named(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    bench.encoder.unreadable.add(bytes(COLOURS[7]))
    with pytest.raises(DataCorrupt, match="p7"):
        await bench.engine.rollout.step()
    assert bench.engine.space_id == FIRST_SPACE
    await bench.engine.delete(["p7"])
    await bench.engine.rollout.step()
    assert bench.engine.space_id == SECOND_SPACE


async def test_a_lost_picture_file_stops_the_switch_until_it_is_stored_again(bench: Any) -> None:
    await bench.fill()
    sha256 = digest(bytes(COLOURS[7]))
    (bench.folder / "pictures" / sha256[:2] / sha256).unlink()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    with pytest.raises(DataCorrupt, match="p7"):
        await bench.engine.rollout.step()
    assert await bench.store(image("p7", COLOURS[7])) == [None]
    await bench.engine.rollout.step()
    await bench.assert_all_found(space_id=SECOND_SPACE)


async def test_the_old_collection_is_dropped_after_the_grace_period(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    await bench.engine.rollout.step()
    await bench.engine.rollout.step()
    assert (await bench.index.layout()).retired == (FIRST_SPACE,)
    bench.now = 59.0
    await bench.engine.rollout.step()
    assert (await bench.index.layout()).retired == (FIRST_SPACE,)
    bench.now = 60.0
    await bench.engine.rollout.step()
    assert (await bench.index.layout()).retired == ()
    await bench.assert_all_found(space_id=SECOND_SPACE)


async def test_a_rollback_to_the_old_space_takes_its_collection_up_again(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    await bench.engine.rollout.step()
    await bench.store(image("p0", (9, 200, 9)))
    await bench.engine.delete(["p1"])
    before = bench.encoder.num_encoded
    bench.encoder.spaces = [FIRST_SPACE, SECOND_SPACE]
    await bench.engine.rollout.step()
    assert bench.engine.space_id == FIRST_SPACE
    assert bench.encoder.num_encoded - before <= 1 + 4
    assert (await bench.nearest((9, 200, 9)))[0] == "p0"
    assert (await bench.engine.describe()).info.num_points == len(COLOURS) - 1


async def test_a_move_is_given_up_when_the_encoder_goes_back_for_good(bench: Any) -> None:
    await bench.fill()
    bench.encoder.unreadable.add(bytes(COLOURS[7]))
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    with pytest.raises(DataCorrupt):
        await bench.engine.rollout.step()
    bench.encoder.spaces = [FIRST_SPACE]
    for expected in (SECOND_SPACE, SECOND_SPACE, None):
        await bench.engine.rollout.step()
        assert (await bench.index.layout()).next == expected


async def test_a_newer_space_waits_for_the_move_that_has_begun(bench: Any) -> None:
    await bench.fill()
    bench.encoder.unreadable.add(bytes(COLOURS[7]))
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    with pytest.raises(DataCorrupt):
        await bench.engine.rollout.step()
    bench.encoder.unreadable.clear()
    bench.encoder.spaces = [THIRD_SPACE, SECOND_SPACE]
    with pytest.raises(DependencyUnavailable, match=FIRST_SPACE):
        await bench.nearest(COLOURS[0])
    await bench.engine.rollout.step()
    await bench.assert_all_found(space_id=SECOND_SPACE)
    await bench.engine.rollout.step()
    await bench.assert_all_found(space_id=THIRD_SPACE)


async def test_writes_wait_when_the_encoder_has_left_the_index_behind(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE]
    with pytest.raises(Reindexing, match=FIRST_SPACE):
        await bench.store(image("new", (1, 2, 3)))
    assert await bench.store(image("p0", COLOURS[0], only="metadata")) == [None]


async def test_a_move_needs_every_encoder_to_hold_the_new_space(bench: Any) -> None:
    await bench.fill()
    bench.encoder.spaces = [SECOND_SPACE, FIRST_SPACE]
    probes = iter([True, False])
    answer = bench.encoder.encode_text

    async def flaky(text: str, *, space_id: str, call: CallContext) -> Floats:
        if space_id == SECOND_SPACE and not next(probes, True):
            raise EmbeddingSpaceMismatch("an older replica", expected=FIRST_SPACE, got=space_id)
        return await answer(text, space_id=space_id, call=call)

    bench.encoder.encode_text = flaky  # type: ignore[method-assign]
    with pytest.raises(Reindexing):
        await bench.engine.rollout.step()
    assert bench.engine.space_id == FIRST_SPACE
    await bench.engine.rollout.step()
    assert bench.engine.space_id == SECOND_SPACE
