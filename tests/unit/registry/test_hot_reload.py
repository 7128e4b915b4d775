"""The watcher at its work: what it swaps, what it serves meanwhile, and when it frees."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from sightline.errors import EmbeddingSpaceMismatch, NotReady
from sightline.registry import Manifest

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Model, Rig

Publish = Callable[..., Manifest]
SPACE_A, SPACE_B, SPACE_C = "a" * 16, "b" * 16, "c" * 16


async def test_before_the_first_release_it_is_not_ready_and_takes_it_up_later(rig: Rig, publish: Publish) -> None:
    await rig.reloader.start()
    assert not rig.reloader.is_ready
    with pytest.raises(NotReady), rig.reloader.lease():
        pass
    rig.promote(publish(rig.registry))
    assert await rig.reloader.check_once()
    assert rig.reloader.is_ready


async def test_a_promoted_release_serves_after_the_next_look(rig: Rig, publish: Publish) -> None:
    first, second = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(first)
    await rig.reloader.start()
    rig.promote(second)
    assert await rig.reloader.check_once()
    with rig.reloader.lease() as loaded:
        assert (loaded.value.release_id, loaded.generation) == (second.release_id, 2)
    state = rig.reloader.status()
    assert (state.phase, state.serving_generation, state.reloads, state.failures) == ("idle", 2, 1, 0)


async def test_the_phases_come_in_order(rig: Rig, publish: Publish) -> None:
    rig.promote(publish(rig.registry))
    await rig.reloader.check_once()
    assert rig.calls == ["load", "warm_up", "probe"]


async def test_an_unmoved_channel_loads_nothing_again(rig: Rig, publish: Publish) -> None:
    rig.promote(publish(rig.registry))
    await rig.reloader.check_once()
    assert not await rig.reloader.check_once()
    assert rig.calls.count("load") == 1


async def test_the_old_release_is_freed_after_its_last_lease_ends(rig: Rig, publish: Publish) -> None:
    first, second = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(first)
    await rig.reloader.start()
    with rig.reloader.lease() as one:
        with rig.reloader.lease():
            rig.promote(second)
            await rig.reloader.check_once()
        await rig.reloader.check_once()
        assert rig.released == []
        assert one.value.release_id == first.release_id
        with rig.reloader.lease() as other:
            assert other.value.release_id == second.release_id
    await rig.reloader.check_once()
    assert rig.released == [first.release_id]


async def test_leases_taken_before_a_swap_stay_on_their_release(rig: Rig, publish: Publish) -> None:
    manifests = [publish(rig.registry, seed=seed) for seed in range(4)]
    rig.promote(manifests[0])
    await rig.reloader.start()
    with contextlib.ExitStack() as running:
        held = [running.enter_context(rig.reloader.lease()) for _ in range(8)]
        for manifest in manifests[1:]:
            rig.promote(manifest)
            assert await rig.reloader.check_once()
            held += [running.enter_context(rig.reloader.lease()) for _ in range(8)]
        expected = [manifest.release_id for manifest in manifests for _ in range(8)]
        assert [loaded.value.release_id for loaded in held] == expected
        assert rig.released == []
    await rig.reloader.check_once()
    assert sorted(rig.released) == sorted(manifest.release_id for manifest in manifests[:3])


async def test_the_old_release_serves_while_the_new_one_loads(rig: Rig, publish: Publish) -> None:
    first, second = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(first)
    await rig.reloader.start()
    rig.promote(second)
    rig.gate = threading.Event()
    check = asyncio.create_task(rig.reloader.check_once())
    while rig.reloader.status().phase != "loading":
        await asyncio.sleep(0)
    with rig.reloader.lease() as loaded:
        assert loaded.value.release_id == first.release_id
    rig.gate.set()
    assert await check


async def test_fifty_reloads_keep_no_old_release_alive(rig: Rig, publish: Publish) -> None:
    manifests = [publish(rig.registry, seed=seed) for seed in range(2)]
    alive: list[weakref.ref[Model]] = []
    for turn in range(50):
        rig.promote(manifests[turn % 2])
        assert await rig.reloader.check_once()
        with rig.reloader.lease() as loaded:
            alive.append(weakref.ref(loaded.value))
        del loaded
    await rig.reloader.stop()
    gc.collect()
    assert [reference() for reference in alive] == [None] * 50
    assert len(rig.released) == 50


async def test_the_previous_space_can_still_be_leased(rig: Rig, publish: Publish) -> None:
    a, b = publish(rig.registry, seed=1, space_id=SPACE_A), publish(rig.registry, seed=2, space_id=SPACE_B)
    for manifest in (a, b):
        rig.promote(manifest)
        await rig.reloader.check_once()
    assert rig.reloader.spaces() == [SPACE_B, SPACE_A]
    with rig.reloader.lease(SPACE_A) as loaded:
        assert loaded.value.release_id == a.release_id
    with pytest.raises(EmbeddingSpaceMismatch), rig.reloader.lease(SPACE_C):
        pass


async def test_a_third_space_pushes_the_oldest_out(rig: Rig, publish: Publish) -> None:
    for seed, space in enumerate([SPACE_A, SPACE_B, SPACE_C]):
        rig.promote(publish(rig.registry, seed=seed, space_id=space))
        await rig.reloader.check_once()
    await rig.reloader.check_once()
    assert rig.reloader.spaces() == [SPACE_C, SPACE_B]
    assert len(rig.released) == 1


async def test_rolling_back_to_the_previous_space_loads_nothing(rig: Rig, publish: Publish) -> None:
    a, b = publish(rig.registry, seed=1, space_id=SPACE_A), publish(rig.registry, seed=2, space_id=SPACE_B)
    for manifest in (a, b):
        rig.promote(manifest)
        await rig.reloader.check_once()
    rig.registry.rollback("stable")
    assert await rig.reloader.check_once()
    with rig.reloader.lease() as loaded:
        assert (loaded.value.release_id, loaded.generation) == (a.release_id, 3)
    assert rig.calls.count("load") == 2
    assert rig.released == []


async def test_promoting_the_same_release_again_only_raises_the_generation(rig: Rig, publish: Publish) -> None:
    manifest = publish(rig.registry)
    rig.promote(manifest)
    await rig.reloader.check_once()
    rig.promote(manifest)
    assert not await rig.reloader.check_once()
    with rig.reloader.lease() as loaded:
        assert loaded.generation == 2
    assert rig.calls.count("load") == 1


async def test_a_lease_may_be_taken_and_ended_in_another_thread(rig: Rig, publish: Publish) -> None:
    first, second = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(first)
    await rig.reloader.check_once()
    is_taken, may_end = threading.Event(), threading.Event()

    def work() -> str:
        with rig.reloader.lease() as loaded:
            is_taken.set()
            assert may_end.wait(10)
            return loaded.value.release_id

    worker = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.to_thread(is_taken.wait, 10)
    rig.promote(second)
    await rig.reloader.check_once()
    assert rig.released == []
    may_end.set()
    assert await worker == first.release_id
    await rig.reloader.check_once()
    assert rig.released == [first.release_id]


async def test_the_poller_takes_up_a_release_by_itself(make_rig: Callable[..., Rig], publish: Publish) -> None:
    rig = make_rig(poll_interval_s=0.01)
    await rig.reloader.start()
    rig.gate = threading.Event()
    rig.promote(publish(rig.registry))
    while rig.reloader.status().phase != "loading":
        await asyncio.sleep(0.001)
    rig.gate.set()
    while not rig.reloader.is_ready:
        await asyncio.sleep(0.001)


async def test_stopping_during_a_load_frees_what_was_loaded(rig: Rig, publish: Publish) -> None:
    manifest = publish(rig.registry)
    rig.promote(manifest)
    rig.gate = threading.Event()
    check = asyncio.create_task(rig.reloader.check_once())
    while rig.reloader.status().phase != "loading":
        await asyncio.sleep(0)
    stop = asyncio.create_task(rig.reloader.stop())
    await asyncio.sleep(0)
    rig.gate.set()
    await asyncio.gather(check, stop)
    assert rig.calls == ["load", "release"]
    assert rig.released == [manifest.release_id]


async def test_stopping_frees_everything_and_a_late_lease_frees_its_own(rig: Rig, publish: Publish) -> None:
    manifest = publish(rig.registry)
    rig.promote(manifest)
    await rig.reloader.start()
    with rig.reloader.lease():
        await rig.reloader.stop()
        assert rig.released == []
    assert rig.released == [manifest.release_id]
