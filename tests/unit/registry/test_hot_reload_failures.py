"""The watcher in trouble: bad releases, a dead registry, restarts at a bad moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from sightline.errors import EmbeddingSpaceMismatch, ReleaseInvalid
from sightline.registry import Manifest

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Rig

Publish = Callable[..., Manifest]
MakeRig = Callable[..., "Rig"]
SPACE_A, SPACE_B = "a" * 16, "b" * 16


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


async def test_a_tampered_release_is_quarantined_unloaded(rig: Rig, publish: Publish) -> None:
    good, bad = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(good)
    await rig.reloader.start()
    rig.promote(bad)
    (Path(rig.registry.uri) / "releases" / bad.release_id / "config.json").write_text("tampered")
    assert not await rig.reloader.check_once()
    assert rig.reloader.status().quarantined == (bad.release_id,)
    assert rig.calls.count("load") == 1


async def test_a_quarantined_release_is_tried_again_under_a_new_generation(rig: Rig, publish: Publish) -> None:
    manifest = publish(rig.registry)
    rig.promote(manifest)
    rig.fail = {"probe": ReleaseInvalid("no")}
    await rig.reloader.start()
    rig.fail = {}
    assert not await rig.reloader.check_once()
    rig.promote(manifest)
    assert await rig.reloader.check_once()
    assert rig.reloader.status().quarantined == ()


async def test_a_release_newer_than_a_bad_one_is_taken_up(rig: Rig, publish: Publish) -> None:
    bad, good = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(bad)
    rig.fail = {"load": ReleaseInvalid("no")}
    await rig.reloader.start()
    rig.fail = {}
    rig.promote(good)
    assert await rig.reloader.check_once()
    assert rig.reloader.status().quarantined == (bad.release_id,)


async def test_other_failures_are_tried_a_few_times(rig: Rig, publish: Publish) -> None:
    manifest = publish(rig.registry)
    rig.promote(manifest)
    rig.fail = {"load": MemoryError("12 GiB")}
    for _ in range(5):
        await rig.reloader.check_once()
    assert rig.calls.count("load") == 3
    assert rig.reloader.status().quarantined == (manifest.release_id,)


async def test_a_failure_that_passes_leaves_no_quarantine(rig: Rig, publish: Publish) -> None:
    rig.promote(publish(rig.registry))
    rig.fail = {"warm_up": RuntimeError("busy")}
    await rig.reloader.check_once()
    rig.fail = {}
    assert await rig.reloader.check_once()
    state = rig.reloader.status()
    assert (state.quarantined, state.failures) == ((), 1)
    assert "warming: busy" in state.last_error


async def test_a_dead_registry_never_quarantines_and_never_stops_serving(
    make_rig: MakeRig, faulty_bucket: Any, publish: Publish
) -> None:
    rig = make_rig(uri="faulty://dead/registry", poll_jitter=0.0, poll_interval_s=1.0)
    first, second = publish(rig.registry, seed=1), publish(rig.registry, seed=2)
    rig.promote(first)
    await rig.reloader.check_once()
    rig.promote(second)
    faulty_bucket.is_dead = True
    delays = []
    for _ in range(8):
        assert not await rig.reloader.check_once()
        delays.append(rig.reloader.next_delay_s())
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert "does not answer" in rig.reloader.status().last_error
    with rig.reloader.lease() as loaded:
        assert loaded.value.release_id == first.release_id
    faulty_bucket.is_dead = False
    assert await rig.reloader.check_once()
    assert rig.reloader.next_delay_s() == 1.0
    assert rig.reloader.status().quarantined == ()


async def test_a_registry_that_dies_while_fetching_never_quarantines(
    make_rig: MakeRig, faulty_bucket: Any, publish: Publish
) -> None:
    rig = make_rig(uri="faulty://dying/registry")
    rig.promote(publish(rig.registry))
    for num_answers in range(2, 6):
        faulty_bucket.answers = num_answers
        assert not await rig.reloader.check_once()
    faulty_bucket.answers = 10**6
    assert await rig.reloader.check_once()
    assert rig.reloader.status().quarantined == ()


async def test_waits_are_jittered_around_the_interval(make_rig: MakeRig) -> None:
    reloader = make_rig(poll_interval_s=10.0, poll_jitter=0.2).reloader
    delays = [reloader.next_delay_s() for _ in range(200)]
    assert 8.0 <= min(delays) < 9.0
    assert 11.0 < max(delays) <= 12.0


async def test_a_replica_that_starts_on_a_bad_release_serves_the_last_good_one(
    make_rig: MakeRig, publish: Publish
) -> None:
    rig = make_rig()
    manifests = [publish(rig.registry, seed=seed) for seed in range(3)]
    for manifest in manifests:
        rig.promote(manifest)
    for manifest in manifests[1:]:
        (Path(rig.registry.uri) / "releases" / manifest.release_id / "config.json").write_text("tampered")
    await rig.reloader.start()
    with rig.reloader.lease() as loaded:
        assert (loaded.value.release_id, loaded.generation) == (manifests[0].release_id, 1)
    assert not await rig.reloader.check_once()
    assert len(rig.reloader.status().quarantined) == 2


async def test_a_replica_that_starts_in_a_migration_serves_both_spaces(make_rig: MakeRig, publish: Publish) -> None:
    rig = make_rig()
    old = [publish(rig.registry, seed=seed, space_id=SPACE_A) for seed in range(2)]
    new = [publish(rig.registry, seed=seed, space_id=SPACE_B) for seed in range(2)]
    for manifest in old + new:
        rig.promote(manifest)
    await rig.reloader.start()
    assert rig.reloader.spaces() == [SPACE_B, SPACE_A]
    with rig.reloader.lease(SPACE_A) as loaded:
        assert (loaded.value.release_id, loaded.generation) == (old[1].release_id, 2)
    assert rig.reloader.status().serving_generation == 4


async def test_a_replica_looks_back_again_after_the_registry_died_meanwhile(
    make_rig: MakeRig, faulty_bucket: Any, publish: Publish
) -> None:
    rig = make_rig(uri="faulty://migration/registry")
    for seed, space_id in enumerate([SPACE_A, SPACE_B]):
        rig.promote(publish(rig.registry, seed=seed, space_id=space_id))
    rig.on_step = {"probe": lambda: setattr(faulty_bucket, "is_dead", True)}
    await rig.reloader.start()
    assert rig.reloader.spaces() == [SPACE_B]
    rig.on_step = {}
    faulty_bucket.is_dead = False
    await rig.reloader.check_once()
    assert rig.reloader.spaces() == [SPACE_B, SPACE_A]


async def test_a_deleted_older_release_does_not_hinder_a_start(make_rig: MakeRig, publish: Publish) -> None:
    rig = make_rig()
    manifests = [publish(rig.registry, seed=seed) for seed in range(2)]
    for manifest in manifests:
        rig.promote(manifest)
    shutil.rmtree(Path(rig.registry.uri) / "releases" / manifests[0].release_id)
    await rig.reloader.start()
    assert rig.reloader.is_ready
    assert rig.reloader.status().failures == 0


async def test_a_replica_may_be_told_to_load_one_space_only(make_rig: MakeRig, publish: Publish) -> None:
    rig = make_rig(is_previous_space_kept=False)
    for seed, space_id in enumerate([SPACE_A, SPACE_B]):
        rig.promote(publish(rig.registry, seed=seed, space_id=space_id))
    await rig.reloader.start()
    with pytest.raises(EmbeddingSpaceMismatch), rig.reloader.lease(SPACE_A):
        pass


async def test_a_release_that_cannot_be_freed_stops_nothing(rig: Rig, publish: Publish) -> None:
    rig.fail = {"release": RuntimeError("stuck")}
    for seed in range(3):
        rig.promote(publish(rig.registry, seed=seed))
        assert await rig.reloader.check_once()


async def test_attempts_are_counted_for_prometheus(rig: Rig, publish: Publish) -> None:
    def count(result: str) -> float:
        labels = {"channel": "stable", "result": result}
        return REGISTRY.get_sample_value("sightline_reload_attempts_total", labels) or 0.0

    before = {result: count(result) for result in ("swapped", "failed", "quarantined")}
    rig.promote(publish(rig.registry, seed=1))
    await rig.reloader.check_once()
    rig.promote(publish(rig.registry, seed=2))
    rig.fail = {"probe": ReleaseInvalid("no")}
    await rig.reloader.check_once()
    assert {result: count(result) - before[result] for result in before} == dict.fromkeys(before, 1.0)
    assert REGISTRY.get_sample_value("sightline_serving_generation", {"channel": "stable"}) == 1.0
