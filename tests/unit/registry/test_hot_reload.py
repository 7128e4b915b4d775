"""The watcher: what it swaps, what it refuses, and when it frees."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sightline.errors import EmbeddingSpaceMismatch, NotReady, ReleaseInvalid
from sightline.registry import HotReloader, Manifest, Registry, ReloadSettings

Publish = Callable[..., Manifest]
SPACE_A, SPACE_B, SPACE_C = "a" * 16, "b" * 16, "c" * 16


class Model:
    """Stands for a loaded model; dies only when nobody refers to it."""

    def __init__(self, release_id: str) -> None:
        self.release_id = release_id


class Rig:
    """A reloader whose four callbacks are counted and can be told to fail."""

    def __init__(self, registry: Registry, *, cache_dir: Path, settings: ReloadSettings | None = None) -> None:
        self.registry = registry
        self.calls: list[str] = []
        self.released: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.gate: threading.Event | None = None
        self.reloader: HotReloader[Model] = HotReloader(
            registry=registry,
            channel="stable",
            cache_dir=cache_dir,
            load=self._load,
            warm_up=lambda model: self._step("warm_up"),
            probe=lambda model: self._step("probe"),
            release=lambda model: self.released.append(model.release_id),
            settings=settings or ReloadSettings(poll_interval_s=3600.0),
        )

    def _load(self, folder: Path, manifest: Manifest) -> Model:
        assert (folder / "model.safetensors").is_file()
        if self.gate is not None:
            assert self.gate.wait(10)
        self._step("load")
        return Model(manifest.release_id)

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def promote(self, manifest: Manifest) -> None:
        self.registry.promote("stable", manifest.release_id, expected_generation=None)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(Registry(str(tmp_path / "registry")), cache_dir=tmp_path / "cache")
    yield made
    await made.reloader.stop()


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


@pytest.mark.parametrize("step", ["load", "warm_up", "probe"])
async def test_a_bad_release_is_quarantined_and_the_old_one_keeps_serving(
    rig: Rig, publish: Publish, step: str
) -> None:
    good, bad = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(good)
    await rig.reloader.start()
    rig.promote(bad)
    rig.fail = {step: ReleaseInvalid("golden outputs differ")}
    assert not await rig.reloader.check_once()
    assert not await rig.reloader.check_once()
    with rig.reloader.lease() as loaded:
        assert loaded.value.release_id == good.release_id
    state = rig.reloader.status()
    assert state.quarantined == (bad.release_id,)
    assert (state.serving_generation, state.failures) == (1, 1)
    assert "golden outputs differ" in state.last_error


@pytest.mark.parametrize("step", ["warm_up", "probe"])
async def test_a_release_that_fails_its_checks_is_freed(rig: Rig, publish: Publish, step: str) -> None:
    manifest = publish(rig.registry)
    rig.promote(manifest)
    rig.fail = {step: ReleaseInvalid("no")}
    await rig.reloader.check_once()
    assert rig.released == [manifest.release_id]


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
